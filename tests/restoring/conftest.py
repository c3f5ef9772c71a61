"""Folders of images, and an adapter that restores them."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import sptsr
from tests.conftest import photograph
from tests.restoring.folders import small_denoiser


@pytest.fixture(scope='module')
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Arguments that name an adapter of a small FFDNet."""
    folder = tmp_path_factory.mktemp('denoiser')
    net = small_denoiser()
    torch.save(net.backbone.state_dict(), folder / 'ffdnet.pth')
    sptsr.save(net.eval(), folder / 'adapter.safetensors')
    return ['-a', folder / 'adapter.safetensors', '--weights', folder / 'ffdnet.pth', '--source', 'felzenszwalb']


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A nested folder of five images of different kinds."""
    folder = tmp_path / 'photos'
    (folder / 'urlaub/größe').mkdir(parents=True)
    cat = photograph('chelsea.png', 20, 28)
    Image.fromarray(cat).save(folder / 'cat.png')
    Image.fromarray(cat[:, :, 0]).save(folder / 'gray.png')
    picture = Image.fromarray(photograph('coffee.png', 16, 24))
    picture.putalpha(128)
    picture.save(folder / 'urlaub' / 'alpha.png')
    picture.convert('RGB').save(folder / 'urlaub/größe' / 'tasse (1).jpg')
    Image.fromarray(cat[:1, :1]).save(folder / 'one.png')
    return folder
