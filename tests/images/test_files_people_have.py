"""Files and lists as people have them, and files that would never end or take all memory."""

import io
import os
import socket
import struct
import unicodedata
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from sptsr.core.errors import UserError
from sptsr.images.any_image import read_any
from sptsr.images.decode import decode_rgb, encode_png, write_png
from sptsr.images.folder import ImageFolder, image_key, list_lines, listed_name
from sptsr.images.headers import read_header
from sptsr.images.prepare import prepare
from sptsr.priors.extract import build_source, extract
from sptsr.priors.store import PriorStore
from tests.conftest import SHIPPED, photograph, run_cli

PICTURE = Image.fromarray(photograph('coffee.png', 40, 60))


def _encoded(kind: str, picture: Image.Image = PICTURE, orientation: int = 1, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    if kind == 'TIFF':
        picture.save(file, kind, tiffinfo={274: orientation}, **options)
    elif kind in ('BMP', 'PPM'):
        picture.save(file, kind)
    else:
        quality = {'JPEG': {'quality': 95}, 'WEBP': {'lossless': True}}.get(kind, {})
        picture.save(file, kind, exif=exif, **{**quality, **options})
    return file.getvalue()


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'RGBA'])
def test_every_format_is_turned_as_pillow_turns_it(kind, orientation, mode):
    if (kind, mode) == ('JPEG', 'RGBA') or (kind, mode) == ('WEBP', 'L'):
        pytest.skip('this format has no such images')
    content = _encoded(kind, PICTURE.convert(mode), orientation)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert turned is not None
    image = decode_rgb(content, 'x', to_rgb=True)
    assert image.shape == (turned.height, turned.width, 3)
    assert np.abs(image.astype(int) - np.asarray(turned.convert('RGB'))).max() <= 1  # JPEG: rounding


def test_a_progressive_jpeg_and_one_with_a_thumbnail():
    thumbnail = _encoded('JPEG', PICTURE.resize((20, 12)))
    exif = b'Exif\0\0' + b'II*\0\x08\0\0\0\0\0' + thumbnail
    for options in ({'progressive': True}, {}):
        content = _encoded('JPEG', **options)
        segment = b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
        content = content[:2] + segment + content[2:]
        assert decode_rgb(content, 'x').shape == (40, 60, 3)
        cut = content[: len(content) * 2 // 3]
        assert b'\xff\xd9' in cut  # the thumbnail's end
        with pytest.raises(UserError, match='cut off'):
            decode_rgb(cut, 'x')


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'BMP', 'PPM', 'TIFF'])
def test_what_follows_an_image_does_not_matter_and_a_cut_one_is_refused(kind):
    content = _encoded(kind)
    whole = decode_rgb(content, 'x')
    rng = np.random.default_rng(0)
    for extra in (6008, 100_000):
        assert np.array_equal(decode_rgb(content + rng.bytes(extra), 'x'), whole)  # motion photos: a video follows
        assert np.array_equal(decode_rgb(content + bytes(extra), 'x'), whole)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(UserError, match=r'not a readable image \((cut off|corrupt)\)'):
            decode_rgb(content[: int(share * len(content))], 'x')


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'BMP', 'PPM', 'TIFF'])
def test_the_header_tells_the_size(kind):
    header = read_header(_encoded(kind))
    assert (header.width, header.height) == (60, 40)
    if kind == 'WEBP':
        for options in ({'lossless': False}, {'lossless': True}):
            file = io.BytesIO()
            PICTURE.save(file, kind, **options)
            header = read_header(file.getvalue())
            assert (header.width, header.height) == (60, 40)


def test_headers_of_damaged_files_raise_nothing():
    rng = np.random.default_rng(1)
    for kind in ('JPEG', 'PNG', 'WEBP', 'BMP', 'PPM', 'TIFF'):
        content = np.frombuffer(_encoded(kind, orientation=6 if kind != 'PPM' else 1), np.uint8)
        for _ in range(150):
            damaged = content[: int(rng.integers(1, len(content)))].copy()
            places = rng.integers(0, min(len(damaged), 200), 3)
            damaged[places] = rng.integers(0, 256, 3)
            read_header(damaged.tobytes())


def _huge_png(side: int) -> bytes:
    """A gray PNG of side x side black pixels, in little more than a thousandth of their bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, 'big') + kind + body + zlib.crc32(kind + body).to_bytes(4, 'big')

    packer = zlib.compressobj(1)
    rows = b''.join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    size = side.to_bytes(4, 'big')
    header = chunk(b'IHDR', size + size + b'\x08\0\0\0\0')
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', rows) + chunk(b'IEND', b'')


def test_memory_is_asked_for_before_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'huge.png').write_bytes(_huge_png(12000))
    command = ('prior', 'extract', '-i', tmp_path / 'images', '-o', tmp_path / 's', '--to-rgb', '--source')
    done = run_cli(*command, 'felzenszwalb')
    assert done.returncode == 2
    assert 'huge.png: 12000x12000 (height x width) are more than 134217728 pixels; make it smaller' in done.stderr
    assert 'SPTSR_MAX_PIXELS=144000000' in done.stderr
    assert not (tmp_path / 's').exists()
    (tmp_path / 'images' / 'huge.png').rename(tmp_path / 'huge.png')
    write_png(tmp_path / 'images' / 'huge.png', np.asarray(PICTURE))
    done = run_cli(*command, 'labels', '--set', f'dir={tmp_path}')
    assert done.returncode == 2
    assert 'more than 134217728 pixels' in done.stderr
    monkeypatch.setenv('SPTSR_MAX_PIXELS', '2399')
    with pytest.raises(UserError, match='40x60 .* are more than 2399 pixels'):
        decode_rgb(_encoded('PNG'), 'x')
    monkeypatch.setenv('SPTSR_MAX_PIXELS', '2400')
    assert decode_rgb(_encoded('PNG'), 'x').shape == (40, 60, 3)


def test_special_files_are_refused_before_they_are_opened(tmp_path: Path):
    write_png(tmp_path / 'a.png', np.asarray(PICTURE))
    os.mkfifo(tmp_path / 'pipe.png')
    with pytest.raises(UserError, match=r'pipe\.png: is a FIFO, not a file; remove it'):
        ImageFolder(tmp_path)
    (tmp_path / 'pipe.png').unlink()
    here = Path.cwd()
    os.chdir(tmp_path)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind('s.png')
            with pytest.raises(UserError, match=r's\.png: is a socket, not a file'):
                ImageFolder(tmp_path)
    finally:
        os.chdir(here)
    (tmp_path / 's.png').unlink()
    (tmp_path / 'zero.png').symlink_to('/dev/zero')
    with pytest.raises(UserError, match=r'zero\.png: is a device, not a file'):
        ImageFolder(tmp_path)
    with pytest.raises(UserError, match='is a device, not a file'):
        list_lines('/dev/zero')
    (tmp_path / 'zero.png').unlink()
    os.mkfifo(tmp_path / 'a.npy')
    with pytest.raises(UserError, match=r'a\.npy: is a FIFO, not a file'):
        build_source('labels', [f'dir={tmp_path}'])


def test_names_that_look_equal_are_equal(tmp_path: Path):
    composed, decomposed = (unicodedata.normalize(form, 'Åre/café') for form in ('NFC', 'NFD'))
    assert composed != decomposed
    for form in (composed, decomposed):
        assert image_key(f'{form}.png') == composed
    write_png(tmp_path / 'gt' / f'{decomposed}.png', np.asarray(PICTURE))
    folder = ImageFolder(tmp_path / 'gt')
    assert folder.keys == [composed]
    assert np.array_equal(folder.read(composed), np.asarray(PICTURE))
    prepare(folder, tmp_path / 'set', 2, as_lmdb=True)
    assert ImageFolder(tmp_path / 'set' / 'LRx2.lmdb').keys == [composed]
    write_png(tmp_path / 'gt' / f'{composed}.png', np.asarray(PICTURE))
    with pytest.raises(UserError, match='share the key'):
        ImageFolder(tmp_path / 'gt')


def test_labels_and_stores_of_decomposed_names_are_found(tmp_path: Path):
    composed, decomposed = (unicodedata.normalize(form, 'é') for form in ('NFC', 'NFD'))
    write_png(tmp_path / 'images' / f'{composed}.png', np.asarray(PICTURE))
    (tmp_path / 'labels' / decomposed).mkdir(parents=True)
    np.save(tmp_path / 'labels' / decomposed / '0.npy', np.ones((40, 60), int))
    images = ImageFolder(tmp_path / 'images')
    extract(images, tmp_path / 'store', build_source('labels', [f'dir={tmp_path}/labels']))
    assert PriorStore(tmp_path / 'store').get(composed, images.read(composed)).count == 1


def test_a_name_that_is_not_utf_8_is_named(tmp_path: Path):
    write_png(tmp_path / 'a.png', np.asarray(PICTURE))
    try:
        (tmp_path / 'a.png').rename(os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9.png'))
    except OSError:
        pytest.skip('this file system takes UTF-8 only')
    done = run_cli('prior', 'extract', '-i', tmp_path, '-o', tmp_path / 's', '--source', 'felzenszwalb')
    assert done.returncode == 2
    assert r'caf\xe9.png: its name is not UTF-8; rename it' in done.stderr


@pytest.mark.parametrize(
    ('line', 'name'),
    [
        ('0001.png (480,320,3)', '0001.png'),
        ('photo (1).png', 'photo (1).png'),
        ('photo (1).png (480,320,3) 1', 'photo (1).png'),
        ('a b.0.png (480, 320, 3)', 'a b.0.png'),
        ('(1).png', '(1).png'),
        ('x.png (32)', 'x.png'),
    ],
)
def test_names_of_lists(line, name):
    assert listed_name(line) == name


def test_lists_as_people_write_them(tmp_path: Path):
    path = tmp_path / 'list.txt'
    path.write_bytes('\ufeffa.png\r\n\r\n  ü.png (3,4,3)\r\n'.encode())
    assert list_lines(path) == ['a.png', 'ü.png (3,4,3)']
    for content, match in (
        (b'', 'lists no images'),
        (b'\r\n \n', 'lists no images'),
        ('ü.png'.encode('latin-1'), r'is not UTF-8 \(byte 0\); save it as UTF-8'),
        ('ü.png'.encode('utf-16'), 'is not UTF-8'),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=match):
            list_lines(path)
    with pytest.raises(UserError, match='cannot read it'):
        list_lines(tmp_path / 'none.txt')


def test_long_keys_are_refused_before_an_lmdb_is_begun(tmp_path: Path):
    deep = tmp_path / 'raw' / ('d' * 200) / ('e' * 200)
    write_png(tmp_path / 'raw' / 'a.png', np.asarray(PICTURE))
    write_png(deep / f'{"f" * 106}.png', np.asarray(PICTURE))
    for sub_image, length in ((0, 508), (20, 515)):
        out = tmp_path / f'out{sub_image}'
        if sub_image:
            with pytest.raises(UserError, match=rf'a key of {length} bytes, LMDB takes 511; shorten the path'):
                prepare(ImageFolder(tmp_path / 'raw'), out, 2, as_lmdb=True, sub_image=sub_image)
            assert not out.exists()
        else:
            assert prepare(ImageFolder(tmp_path / 'raw'), out, 2, as_lmdb=True) == 2


def test_jpegs_and_pngs_that_skimage_ships_are_whole():
    seen = 0
    for path in sorted(SHIPPED.glob('*.*')):
        if path.suffix in ('.png', '.jpg', '.jpeg'):
            header = read_header(path.read_bytes())
            assert header.is_whole, path
            with Image.open(path) as picture:
                assert (header.width, header.height) == picture.size
            seen += 1
    assert seen >= 5
    assert encode_png(np.asarray(PICTURE))[:4] == b'\x89PNG'


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
@pytest.mark.parametrize('gray', [False, True])
def test_sixteen_bits_are_turned_once(kind: str, orientation: int, gray: bool, tmp_path: Path):
    """OpenCV, which reads them, turns a TIFF and no PNG."""
    deep = np.asarray(PICTURE).astype(np.uint16) * 257
    deep = deep[:, :, 0] if gray else deep
    path = tmp_path / f'a.{kind.lower()}'
    ok, content = cv2.imencode(f'.{kind.lower()}', deep if gray else deep[:, :, ::-1])
    assert ok
    content = content.tobytes()
    if kind == 'PNG':
        exif = Image.Exif()
        exif[0x0112] = orientation
        body = exif.tobytes().removeprefix(b'Exif\0\0')
        chunk = b'eXIf' + body
        content = (
            content[:33] + struct.pack('>I', len(body)) + chunk + struct.pack('>I', zlib.crc32(chunk)) + content[33:]
        )
    else:
        content = _with_tag(content, 274, orientation)
    path.write_bytes(content)
    plain = Image.fromarray(np.asarray(PICTURE)[:, :, 0] if gray else np.asarray(PICTURE))
    exif = plain.getexif()
    exif[0x0112] = orientation
    turned = np.asarray(ImageOps.exif_transpose(plain))
    read = read_any(path, 10**6)
    assert read.colour.dtype == np.uint16
    assert np.array_equal(read.colour.squeeze(), turned.astype(np.uint16) * 257)
    assert ('turned upright' in read.notes) == (orientation > 1)


def test_a_tiff_of_sixteen_bits_whose_white_is_0_is_no_negative(tmp_path: Path):
    ok, content = cv2.imencode('.tiff', np.full((4, 6), 40000, np.uint16))
    assert ok
    (tmp_path / 'a.tiff').write_bytes(_with_tag(content.tobytes(), 262, 0))
    assert (read_any(tmp_path / 'a.tiff', 10**6).colour == 65535 - 40000).all()


def _with_tag(content: bytes, tag: int, value: int) -> bytes:
    """Returns a little-endian TIFF of one page whose `tag` is a short of this value."""
    (at,) = struct.unpack_from('<I', content, 4)
    (count,) = struct.unpack_from('<H', content, at)
    entries = {}
    for number in range(count):
        entry = content[at + 2 + 12 * number : at + 14 + 12 * number]
        entries[struct.unpack_from('<H', entry)[0]] = entry
    entries[tag] = struct.pack('<HHIHH', tag, 3, 1, value, 0)
    directory = struct.pack('<H', len(entries)) + b''.join(entries[name] for name in sorted(entries)) + bytes(4)
    content += b'\0' * (len(content) % 2)
    return content[:4] + struct.pack('<I', len(content)) + content[8:] + directory
