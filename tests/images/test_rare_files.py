"""Files that one of two decoders reads otherwise, or that are no images."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sptsr.core.errors import UserError
from sptsr.images.any_image import read_any
from sptsr.images.decode import decode_rgb, write_png
from sptsr.images.folder import ImageFolder
from sptsr.images.headers import said_depth
from sptsr.restoring.folder_run import find_images
from tests.conftest import photograph


@pytest.mark.parametrize('kind', [2, 3, 5, 6])
@pytest.mark.parametrize('white', [15, 255, 1023, 65535])
def test_white_of_a_pnm_is_what_its_header_says(tmp_path: Path, kind: int, white: int):
    channels = 3 if kind in (3, 6) else 1
    values = np.repeat(np.array([0, white // 3, white])[:, None], channels, 1)
    is_text = kind in (2, 3)
    body = b' '.join(str(value).encode() for value in values.ravel()) + b'\n'
    pixels = body if is_text else values.astype('>u2' if white > 255 else 'u1').tobytes()
    (tmp_path / 'a.ppm').write_bytes(f'P{kind}\n# a comment\n3 1\n{white}\n'.encode() + pixels)
    shares = [0, (white // 3) / white, 1]
    decoded = decode_rgb((tmp_path / 'a.ppm').read_bytes(), 'a', to_rgb=True)
    assert np.abs(decoded[0, :, 0] / 255 - shares).max() < 1 / 255
    image = read_any(tmp_path / 'a.ppm', 10**6)
    assert image.white == (65535 if white > 255 else 255)
    assert np.abs(image.colour[0, :, 0] / image.white - shares).max() < 1 / image.white


def test_a_tiff_whose_white_is_0_is_no_negative_for_data_either(tmp_path: Path):
    ramp = np.linspace(1000, 60000, 16).astype(np.uint16).reshape(2, 8)
    Image.fromarray(ramp).save(tmp_path / 'a.tif', tiffinfo={262: 0})
    image = read_any(tmp_path / 'a.tif', 10**6)
    assert image.colour[0, 0, 0] > image.colour[-1, -1, 0]
    decoded = decode_rgb((tmp_path / 'a.tif').read_bytes(), 'a', to_rgb=True)
    assert np.abs(decoded[:, :, 0] - image.colour[:, :, 0] / 257).max() <= 0.5


def test_a_gray_jpeg_2000_of_16_bits(tmp_path: Path):
    ramp = np.linspace(1000, 60000, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / 'a.png')
    Image.open(tmp_path / 'a.png').save(tmp_path / 'a.jp2', irreversible=False)
    image = read_any(tmp_path / 'a.jp2', 10**6)
    assert image.colour.shape == (64, 64, 1)
    assert np.array_equal(image.colour[:, :, 0], ramp)


@pytest.mark.skipif(not cv2.haveImageWriter('a.jp2'), reason='this OpenCV writes no JPEG 2000')
def test_bits_that_are_not_read_are_said(tmp_path: Path):
    planes = photograph('coffee.png', 40, 50)
    for name, factor in (('deep.jp2', np.uint16(257)), ('plain.jp2', np.uint8(1))):
        assert cv2.imwrite(str(tmp_path / name), planes * factor)
    assert read_any(tmp_path / 'deep.jp2', 10**6).notes == ['16 bits read as 8']
    assert read_any(tmp_path / 'plain.jp2', 10**6).notes == []


def test_bits_that_an_avif_says():
    box = b'\0\0\0\x10pixi\0\0\0\0\x03'
    assert [said_depth(b'\0\0\0\x20ftypavif' + box + bytes([bits] * 3)) for bits in (8, 10, 12)] == [8, 10, 12]
    assert said_depth(b'\0\0\0\x20ftypavif' + box) == 8  # cut off


def test_bytes_between_the_segments_of_a_jpeg_are_passed_over(tmp_path: Path):
    Image.fromarray(photograph('coffee.png', 40, 50)).save(tmp_path / 'a.jpg')
    content = (tmp_path / 'a.jpg').read_bytes()
    tables = content.index(b'\xff\xdb')
    filled = content[:tables] + b'\0\0' + content[tables:]
    assert np.array_equal(decode_rgb(filled, 'a'), decode_rgb(content, 'a'))
    with pytest.raises(UserError, match='cut off'):
        decode_rgb(filled[:-40], 'a')


def test_images_in_hidden_folders_are_none(tmp_path: Path):
    write_png(tmp_path / 'a.png', photograph('coffee.png', 40, 50))
    write_png(tmp_path / '.ipynb_checkpoints' / 'a-checkpoint.png', photograph('coffee.png', 40, 50))
    assert ImageFolder(tmp_path).keys == ['a']
    assert list(find_images(tmp_path, tmp_path / 'out')) == ['a.png']


@pytest.mark.parametrize(
    'kind', ['.jp2', '.gif', '.avif', '.pam', '.ras', 'old.bmp', 'os2.bmp', 'signed.tif', 'twice.tif']
)
def test_no_format_escapes_the_bound(kind: str, monkeypatch: pytest.MonkeyPatch):
    image = photograph('coffee.png', 40, 60)
    if kind == 'old.bmp':  # OS/2's header of 12 bytes
        content = struct.pack('<2sIHHIIHHHH', b'BM', 26 + 40 * 180, 0, 0, 26, 12, 60, 40, 1, 24) + bytes(40 * 180)
    elif kind == 'os2.bmp':  # a header of 36 bytes, with sides of 32 bits
        content = struct.pack('<2sIHHIIiiHH5I', b'BM', 50 + 40 * 180, 0, 0, 50, 36, 60, 40, 1, 24, 0, 40 * 180, 0, 0, 0)
        content += bytes(40 * 180)
    elif kind == 'twice.tif':  # its sides stand there twice; decoders take the first
        raw = cv2.imencode('.tif', image)[1].tobytes()
        (start,) = struct.unpack_from('<I', raw, 4)
        (count,) = struct.unpack_from('<H', raw, start)
        tags = raw[start + 2 : start + 2 + 12 * count]
        more = b''.join(struct.pack('<HHII', tag, 3, 1, 5) for tag in (256, 257))
        content = raw[:4] + struct.pack('<I', len(raw)) + raw[8:]
        content += struct.pack('<H', count + 2) + tags + more + struct.pack('<I', 0)
    elif kind == 'signed.tif':
        raw = cv2.imencode('.tif', image)[1].tobytes()
        size = struct.pack('<HHI', 256, 3, 1), struct.pack('<HHI', 257, 3, 1)
        assert all(raw.count(tag) == 1 for tag in size)
        for tag in size:
            raw = raw.replace(tag, tag[:2] + struct.pack('<H', 9) + tag[4:])
        content = raw
    else:
        try:
            content = cv2.imencode(kind, image)[1].tobytes()
        except cv2.error:
            pytest.skip(f'this OpenCV writes no {kind}')
    if cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) is None:
        pytest.skip(f'this OpenCV reads no {kind}')
    monkeypatch.setenv('SPTSR_MAX_PIXELS', '2399')
    with pytest.raises(UserError, match='more than 2399 pixels|not a readable image'):
        decode_rgb(content, kind, to_rgb=True)
    monkeypatch.setenv('SPTSR_MAX_PIXELS', '2400')
    if kind in ('old.bmp', 'signed.tif', 'os2.bmp', 'twice.tif'):
        assert decode_rgb(content, kind, to_rgb=True).shape == (40, 60, 3)
