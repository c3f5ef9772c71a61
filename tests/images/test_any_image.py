"""Images as people have them: each kind is made from a photograph and read back."""

import io
from pathlib import Path

import cv2
import numpy as np
import odd_files
import pytest
from PIL import Image, ImageCms, ImageOps

from sptsr.core.errors import UserError
from sptsr.images.any_image import AnyImage, read_any, write_any
from tests.conftest import photograph

ROOM = 10**8
RGB = photograph('chelsea.png', 24, 32)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def _save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_colour_gray_and_alpha_are_kept_apart(tmp_path):
    alpha = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32)
    picture = Image.fromarray(RGB)
    picture.putalpha(Image.fromarray(alpha))
    kinds = {
        'RGB': (Image.fromarray(RGB), 3, None),
        'RGBA': (picture, 3, alpha),
        'L': (Image.fromarray(RGB[:, :, 0]), 1, None),
        'LA': (picture.convert('LA'), 1, alpha),
        '1': (Image.fromarray(RGB[:, :, 0]).convert('1'), 1, None),
    }
    for name, (made, channels, expected) in kinds.items():
        image = read_any(_save(tmp_path / f'{name}.png', made), ROOM)
        assert image.colour.shape == (24, 32, channels), name
        assert (image.alpha is None) == (expected is None), name
        if expected is not None:
            assert np.array_equal(image.alpha, expected), name
    assert np.array_equal(read_any(tmp_path / 'RGB.png', ROOM).colour, RGB)


@pytest.mark.parametrize('suffix', ['png', 'tif'])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_16_bits_stay_16_bits(tmp_path, suffix, channels):
    deep = (RGB.astype(np.uint16) * 257) ^ 3
    planes = {1: deep[:, :, 0], 3: deep[:, :, ::-1], 4: np.dstack([deep[:, :, ::-1], deep[:, :, 0]])}[channels]
    path = tmp_path / f'deep.{suffix}'
    path.write_bytes(cv2.imencode(f'.{suffix}', planes)[1].tobytes())
    image = read_any(path, ROOM)
    assert image.white == 65535
    assert np.array_equal(image.colour, deep[:, :, :1] if channels == 1 else deep)
    assert np.array_equal(image.rgb8()[:, :, 0], RGB[:, :, 0])
    write_any(tmp_path / f'again.{suffix}', image)
    again = read_any(tmp_path / f'again.{suffix}', ROOM)
    assert np.array_equal(again.colour, image.colour)
    assert (again.alpha is None) == (channels != 4)


def test_palettes_and_cmyk_are_converted_and_said(tmp_path):
    palette = Image.fromarray(RGB).quantize(16)
    image = read_any(_save(tmp_path / 'palette.png', palette), ROOM)
    assert image.notes == ['palette converted to RGB']
    assert np.array_equal(image.colour, np.asarray(palette.convert('RGB')))
    transparent = read_any(_save(tmp_path / 'transparent.png', palette, transparency=0), ROOM)
    assert np.array_equal(transparent.alpha == 0, np.asarray(palette) == 0)
    cmyk = read_any(_save(tmp_path / 'cmyk.jpg', Image.fromarray(RGB).convert('CMYK'), quality=95), ROOM)
    assert cmyk.notes == ['CMYK converted to RGB']
    assert np.abs(cmyk.colour.astype(int) - RGB).mean() < 6


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tif'])
def test_orientation_is_applied_whatever_the_format(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _save(tmp_path / f'turned.{suffix}', Image.fromarray(RGB), exif=exif.tobytes())
    image = read_any(path, ROOM)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert('RGB'))
    assert np.array_equal(image.colour, expected)
    assert image.notes == ([] if orientation == 1 else ['turned upright'])


@pytest.mark.parametrize('depth', [8, 16])
def test_a_colour_profile_is_kept(tmp_path, depth):
    colour = RGB if depth == 8 else RGB.astype(np.uint16) * 257
    write_any(tmp_path / 'a.png', AnyImage(colour, None, SRGB))
    image = read_any(tmp_path / 'a.png', ROOM)
    assert image.profile == SRGB
    assert np.array_equal(image.colour, colour)


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    frames = [Image.fromarray(np.roll(RGB, n, axis=1)) for n in range(3)]
    for suffix in ('png', 'webp'):
        options = {'lossless': True} if suffix == 'webp' else {}
        path = _save(tmp_path / f'moving.{suffix}', frames[0], save_all=True, append_images=frames[1:], **options)
        image = read_any(path, ROOM)
        assert image.notes == ['first of 3 frames']
        assert np.array_equal(image.colour, RGB)


@pytest.mark.parametrize('suffix', ['png', 'jpg'])
def test_bytes_behind_the_end_are_passed_over_and_cut_files_are_not(tmp_path, suffix):
    path = _save(tmp_path / f'a.{suffix}', Image.fromarray(RGB))
    plain = read_any(path, ROOM).colour
    content = path.read_bytes()
    path.write_bytes(content + bytes(range(256)) * 30)
    assert np.array_equal(read_any(path, ROOM).colour, plain)
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UserError, match='not a readable image'):
        read_any(path, ROOM)


def test_what_is_no_image_is_one_line(tmp_path):
    (tmp_path / 'text.png').write_text('not an image')
    (tmp_path / 'empty.png').write_bytes(b'')
    Image.fromarray(RGB[:, :, 0].astype(np.float32)).save(tmp_path / 'float.tif')
    Image.fromarray(np.zeros((2000, 2000), np.uint8)).save(tmp_path / 'large.png')
    (tmp_path / 'bomb.png').write_bytes(odd_files.blank_png(60000, 60000))
    expected = {
        'text.png': 'not an image that can be read',
        'empty.png': 'an empty file; copy',
        'float.tif': 'pixels of 32 bits',
        'large.png': '2000x2000 needs more memory',
        'bomb.png': 'more than 178956970 pixels',
        'missing.png': 'no such file',
    }
    for name, message in expected.items():
        with pytest.raises(UserError, match=message) as caught:
            read_any(tmp_path / name, 10**6)
        assert '\n' not in str(caught.value)


def test_a_format_that_keeps_less_says_so(tmp_path):
    deep = AnyImage(RGB.astype(np.uint16) * 257, np.full((24, 32), 7, np.uint16))
    assert write_any(tmp_path / 'a.jpg', deep) == ['16 bits not kept', 'alpha not kept']
    assert write_any(tmp_path / 'a.webp', deep) == ['16 bits not kept']
    assert Image.open(io.BytesIO((tmp_path / 'a.webp').read_bytes())).mode == 'RGBA'


@pytest.mark.parametrize('kind', ['EPS', 'PCX', 'ICNS'])
def test_files_of_other_kinds_are_not_given_to_their_readers(tmp_path, monkeypatch, kind):
    """PostScript called photo.png would start Ghostscript."""
    photo = tmp_path / 'photo.png'
    Image.fromarray(RGB).save(photo, kind)
    Image.init()
    monkeypatch.setitem(Image.OPEN, kind, (pytest.fail, None))
    with pytest.raises(UserError, match=r'photo\.png: not an image that can be read; convert it to PNG'):
        read_any(photo, ROOM)


@pytest.mark.parametrize('profile', [None, b'of gray'])
def test_deep_gray_with_alpha_is_said_to_become_colour(tmp_path: Path, profile: bytes | None):
    ramp = np.linspace(0, 65535, 20).astype(np.uint16).reshape(4, 5)
    lost = write_any(tmp_path / 'a.png', AnyImage(ramp[:, :, None], ramp, profile))
    assert lost == ['gray not kept', *(['colour profile not kept'] if profile else [])]
    image = read_any(tmp_path / 'a.png', 10**6)
    assert image.profile is None
    assert np.array_equal(image.colour, np.repeat(ramp[:, :, None], 3, axis=2))
    assert np.array_equal(image.alpha, ramp)
