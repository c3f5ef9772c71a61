import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from sptsr.core.errors import UserError
from sptsr.images.decode import decode_rgb, encode_png, image_digest
from sptsr.images.folder import ImageFolder, image_key
from tests.conftest import photograph


def _encode(image, suffix='.png', *options):
    ok, content = cv2.imencode(suffix, image, list(options))
    assert ok
    return content.tobytes()


def test_png_round_trip_is_exact_and_rgb():
    image = photograph('astronaut.png')
    assert image[..., 0].mean() > image[..., 2].mean()  # a red suit, not a blue one
    assert np.array_equal(decode_rgb(encode_png(image), 'x'), image)


@pytest.mark.parametrize(
    ('pixels', 'kind'),
    [
        (np.full((5, 7), 9, np.uint8), 'gray'),
        (np.full((5, 7, 4), 9, np.uint8), 'RGBA'),
        (np.full((5, 7, 3), 900, np.uint16), '16-bit'),
        (np.full((5, 7), 900, np.uint16), 'gray, 16-bit'),
    ],
)
def test_unusual_pixels_are_refused_or_converted(pixels, kind):
    content = _encode(pixels)
    with pytest.raises(UserError, match=f'photo.png: {kind}, but 8-bit RGB is needed.*--to-rgb'):
        decode_rgb(content, 'photo.png')
    converted = decode_rgb(content, 'photo.png', to_rgb=True)
    assert converted.shape == (5, 7, 3)
    assert converted.dtype == np.uint8
    expected = 9 if pixels.dtype == np.uint8 else round(900 / 257)
    assert (converted == expected).all()


def test_16_bit_conversion_rounds_and_meets_the_ends():
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    converted = decode_rgb(_encode(ramp), 'x', to_rgb=True)[..., 0]
    assert np.array_equal(converted, np.round(ramp / 257).astype(np.uint8))


_PNG = encode_png(photograph('coffee.png'))
_JPEG = _encode(photograph('coffee.png'), '.jpg')


@pytest.mark.parametrize('content', [b'', b'no image', _PNG[:200], _PNG[:-20], _PNG[:99] + _PNG[140:], _JPEG[:-300]])
def test_empty_and_corrupt_files_are_named(content):
    with pytest.raises(UserError, match='broken.png: .*(empty|not a readable image)'):
        decode_rgb(content, 'broken.png')


def test_gray_jpeg_is_seen_as_gray():
    with pytest.raises(UserError, match='gray'):
        decode_rgb(_encode(np.zeros((8, 8), np.uint8), '.jpg'), 'x.jpg')


def test_keys_are_cut_at_the_last_dot_only():
    assert image_key('a.0.png') == 'a.0'
    assert image_key('sub/b.1.jpg') == 'sub/b.1'


def test_folder_is_sorted_recursive_and_survives_a_link_loop(tmp_path: Path):
    for name in ('b.png', 'a.0.png', 'a.1.png', 'sub/ü.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode_png(photograph('coffee.png', 8, 8)))
    os.symlink(tmp_path, tmp_path / 'sub' / 'loop')
    folder = ImageFolder(tmp_path)
    assert folder.keys == ['a.0', 'a.1', 'b', 'sub/ü']
    assert folder.read('sub/ü').shape == (8, 8, 3)
    assert ImageFolder(tmp_path, include=['sub/*']).keys == ['sub/ü']


def test_folder_mistakes(tmp_path: Path):
    with pytest.raises(UserError, match='no such folder'):
        ImageFolder(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='no images here'):
        ImageFolder(tmp_path)
    (tmp_path / 'a.png').write_bytes(b'1')
    (tmp_path / 'a.jpg').write_bytes(b'2')
    with pytest.raises(UserError, match="'a.jpg' and 'a.png' share the key 'a'"):
        ImageFolder(tmp_path)


def test_digest_depends_on_pixels_and_shape_only():
    image = photograph('chelsea.png', 8, 16)
    assert image_digest(image) == image_digest(decode_rgb(encode_png(image, 9), 'x'))
    assert image_digest(image) != image_digest(image.reshape(16, 8, 3))
    changed = image.copy()
    changed[0, 0, 0] ^= 1
    assert image_digest(image) != image_digest(changed)


@pytest.mark.parametrize('name', ['../../escaped.png', '/tmp/absolute.png', 'a/../../b.png'])
def test_a_name_in_an_lmdb_stays_below_its_folder(name: str, tmp_path: Path):
    lmdb = tmp_path / 'x.lmdb'
    lmdb.mkdir()
    (lmdb / 'meta_info.txt').write_text(f'a.png (4,4,3) 1\n{name} (4,4,3) 1\n')
    with pytest.raises(UserError, match='is no name below a folder; make the LMDB again'):
        ImageFolder(lmdb)
