"""Makes image files of all the kinds that people have, from scikit-image's photographs.

    python scripts/odd_files.py OUT

`sptsr restore -i OUT -o RESTORED -a ADAPTER` then shows what becomes of each; docs/restoring.md has the table. Those
below `broken/` are to be refused by name.
"""

from __future__ import annotations

import argparse
import io
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from PIL import Image, ImageCms

SHIPPED = Path(skimage.data.__file__).parent
ORIENTATION = 0x0112


def cut(name: str, height: int = 60, width: int = 80) -> np.ndarray:
    """Returns the middle of a photograph, uint8 [height, width, 3]."""
    image = np.asarray(Image.open(SHIPPED / name).convert('RGB'))
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def make(out: Path) -> list[Path]:
    """Writes all files below a folder and returns their paths."""
    cat, coffee, rocket = (cut(name) for name in ('chelsea.png', 'coffee.png', 'rocket.jpg'))
    ramp = np.tile(np.linspace(0, 255, 80).astype(np.uint8), (60, 1))
    photo, cup = Image.fromarray(cat), Image.fromarray(coffee)
    made: list[Path] = []

    def path(name: str) -> Path:
        made.append(out / name)
        made[-1].parent.mkdir(parents=True, exist_ok=True)
        return made[-1]

    def save(name: str, image: Image.Image, **options: object) -> None:
        image.save(path(name), **options)

    def encode(name: str, planes: np.ndarray) -> None:
        path(name).write_bytes(cv2.imencode(Path(name).suffix, planes)[1].tobytes())

    def write(name: str, content: bytes) -> None:
        path(name).write_bytes(content)

    def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    # colour models
    save('rgb.png', photo)
    save('rgb.jpg', photo, quality=90)
    save('progressive.jpg', photo, quality=90, progressive=True)
    save('gray.png', photo.convert('L'))
    save('gray.jpg', photo.convert('L'))
    save('bilevel.png', photo.convert('1'))
    save('gray_alpha.png', Image.merge('LA', (photo.convert('L'), Image.fromarray(ramp))))
    save('rgba.png', Image.merge('RGBA', (*photo.split(), Image.fromarray(ramp))))
    save('rgba.webp', Image.merge('RGBA', (*photo.split(), Image.fromarray(ramp))), lossless=True)
    save('palette.png', photo.quantize(32))
    save('palette_transparent.png', photo.quantize(32), transparency=0)
    save('palette.bmp', photo.quantize(32))
    save('cmyk.jpg', photo.convert('CMYK'), quality=95)
    save('cmyk.tif', photo.convert('CMYK'))
    save(
        'lab.tif',
        ImageCms.profileToProfile(
            photo, ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB'), outputMode='LAB'
        ),
    )
    # depths
    deep = (cat.astype(np.uint16) * 257) ^ 9
    encode('deep_rgb.png', deep[:, :, ::-1])
    encode('deep_gray.png', deep[:, :, 1])
    encode('deep_rgba.png', np.dstack([deep[:, :, ::-1], ramp.astype(np.uint16) * 257]))
    encode('deep_rgb.tif', deep[:, :, ::-1])
    # orientation and profile
    for orientation, suffix in ((6, 'jpg'), (3, 'png'), (8, 'webp'), (5, 'tif')):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        save(f'turned_{orientation}.{suffix}', cup, exif=exif.tobytes())
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    save('profile.png', cup, icc_profile=srgb)
    save('profile.jpg', cup, icc_profile=srgb, quality=95)
    # animations
    frames = [Image.fromarray(np.roll(rocket, 8 * n, axis=1)) for n in range(4)]
    for suffix in ('webp', 'png', 'tif'):
        save(f'moving.{suffix}', frames[0], save_all=True, append_images=frames[1:])
    save('moving.gif', frames[0], save_all=True, append_images=frames[1:])
    # more bytes than an image
    write('motion_photo.jpg', encoded(photo, 'JPEG', quality=90) + b'\x00\x00\x00\x18ftypmp42' + bytes(range(256)) * 64)
    write('trailing.png', encoded(photo, 'PNG') + bytes(9000))
    # sizes and names
    save('one_pixel.png', photo.crop((0, 0, 1, 1)))
    save('one_row.png', photo.crop((0, 30, 80, 31)))
    save('3x2.png', photo.crop((0, 0, 3, 2)))
    save('wide.png', Image.fromarray(cut('coffee.png', 33, 401)))
    save('urlaub/größe (1).png', cup)
    save('urlaub/日本/猫.jpg', photo)
    save('urlaub/a.b.c.png', cup)
    save('UPPER.PNG', cup, format='PNG')
    # broken
    png, jpg = encoded(photo, 'PNG'), encoded(photo, 'JPEG')
    write('broken/empty.png', b'')
    write('broken/text.jpg', b'not an image\n')
    write('broken/cut.png', png[: len(png) // 2])
    write('broken/cut.jpg', jpg[: len(jpg) // 2])
    write('broken/huge.png', blank_png(60000, 60000))
    Image.fromarray(cat[:, :, 0].astype(np.float32)).save(path('broken/float.tif'))
    return made


def blank_png(width: int, height: int) -> bytes:
    """Returns a small file that says it is a large gray image."""
    import struct

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', metavar='OUT', type=Path)
    made = make(parser.parse_args().out)
    print(f'{len(made)} files')
    return 0


if __name__ == '__main__':
    sys.exit(main())
