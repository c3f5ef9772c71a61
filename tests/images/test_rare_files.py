"""Files that one of two decoders reads otherwise, or that are no images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sptsr.core.errors import UserError
from sptsr.images.any_image import read_any
from sptsr.images.decode import decode_rgb, write_png
from sptsr.images.folder import ImageFolder
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
