"""TIFFs as other programs write them, read alike for restoring (`read_any`) and for data (`decode_rgb`)."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from sptsr.core.errors import UserError
from sptsr.images.any_image import read_any
from sptsr.images.decode import decode_rgb
from tests.conftest import photograph

SHAPE = 36, 48


def _tiff(path: Path, pixels: np.ndarray, deep: bool, **options: object) -> bytes:
    tifffile.imwrite(path, pixels.astype(np.uint16) * 257 if deep else pixels, photometric='rgb', **options)
    return path.read_bytes()


@pytest.mark.parametrize('deep', [False, True])
@pytest.mark.parametrize('kind', ['unassalpha', 'assocalpha'])
def test_colours_are_not_multiplied_by_alpha(tmp_path: Path, deep: bool, kind: str):
    colour = photograph('coffee.png', *SHAPE).astype(int)
    alpha = np.full((*SHAPE, 1), 128)
    alpha[:9] = 255
    stored = colour * alpha // 255 if kind == 'assocalpha' else colour
    pixels = np.concatenate([stored, alpha], axis=2).astype(np.uint8)
    content = _tiff(tmp_path / 'a.tif', pixels, deep, extrasamples=[kind])
    image = read_any(tmp_path / 'a.tif', 10**6)
    assert image.alpha is not None
    assert np.array_equal(image.alpha, alpha[:, :, 0] * (257 if deep else 1))
    most = 2 if kind == 'assocalpha' else 0  # what was rounded
    assert np.abs(image.rgb8().astype(int) - colour).max() <= most
    assert np.array_equal(decode_rgb(content, 'a', to_rgb=True), image.rgb8())


def test_planes_of_8_bits_are_read_and_of_16_refused(tmp_path: Path):
    colour = photograph('coffee.png', *SHAPE)
    planes = np.moveaxis(colour, -1, 0)
    content = _tiff(tmp_path / 'a.tif', planes, False, planarconfig='separate')
    assert np.array_equal(decode_rgb(content, 'a'), colour)
    assert np.array_equal(read_any(tmp_path / 'a.tif', 10**6).colour, colour)
    content = _tiff(tmp_path / 'b.tif', planes, True, planarconfig='separate')
    with pytest.raises(UserError, match='plane for each colour'):
        decode_rgb(content, 'b', to_rgb=True)
    with pytest.raises(UserError, match='plane for each colour'):
        read_any(tmp_path / 'b.tif', 10**6)


@pytest.mark.parametrize('profile', [b'nonsense' * 20, 'sRGB'])
def test_a_cmyk_image_with_a_profile_of_no_use_is_read(tmp_path: Path, profile: bytes | str):
    if isinstance(profile, str):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    plain, tagged = io.BytesIO(), tmp_path / 'a.jpg'
    picture = Image.fromarray(photograph('coffee.png', *SHAPE)).convert('CMYK')
    picture.save(plain, 'JPEG')
    picture.save(tagged, icc_profile=profile)
    image = read_any(tagged, 10**6)
    assert 'colour profile not usable' in image.notes
    (tmp_path / 'b.jpg').write_bytes(plain.getvalue())
    assert np.array_equal(image.colour, read_any(tmp_path / 'b.jpg', 10**6).colour)
