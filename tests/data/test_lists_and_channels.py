"""Lists of names, templates, one-channel images, and BasicSR's own errors in one line."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from basicsr.data import build_dataset
from basicsr.utils.color_util import bgr2ycbcr

from sptsr.core.errors import UserError
from sptsr.data.loader import SeededIndex
from sptsr.images.decode import luminance
from sptsr.images.folder import ImageFolder
from tests.conftest import run_cli, write_options
from tests.data.test_paired import _options


@pytest.fixture
def copy(photographs: Path, tmp_path: Path) -> Path:
    """The photographs, of which rocket is called `photo (1)`."""
    shutil.copytree(photographs, tmp_path / 'set')
    for folder in ('GTx4', 'LRx4'):
        (tmp_path / 'set' / folder / 'rocket.png').rename(tmp_path / 'set' / folder / 'photo (1).png')
    return tmp_path / 'set'


def _pairs(copy: Path, content: bytes, **changes: object) -> list[tuple[str, str]]:
    (copy / 'list.txt').write_bytes(content)
    options = _options(copy, phase='val', dataroot_prior=None, meta_info_file=str(copy / 'list.txt'), **changes)
    return build_dataset(options).pairs


@pytest.mark.parametrize(
    ('content', 'keys'),
    [
        ('photo (1).png', ['photo (1)']),
        ('photo (1).png (128,128,3)\ncoffee.png (160,128,3)\n', ['coffee', 'photo (1)']),
        ('\ufeffcoffee.png\r\nphoto (1).png\r\n', ['coffee', 'photo (1)']),
        ('.\\coffee.png\r\n./chelsea.png', ['chelsea', 'coffee']),
        ('coffee.png, coffee.png\nphoto (1).png,photo (1).png', ['coffee', 'photo (1)']),
    ],
)
def test_lists_are_read_as_people_write_them(copy: Path, content: str, keys: list[str]):
    assert _pairs(copy, content.encode()) == [(key, key) for key in keys]


def test_a_list_may_name_both_images_of_a_pair(copy: Path):
    (copy / 'LRx4' / 'coffee.png').rename(copy / 'LRx4' / 'beans, small.png')
    assert _pairs(copy, b'coffee.png, beans, small.png\n') == [('coffee', 'beans, small')]


@pytest.mark.parametrize(
    ('content', 'match'),
    [
        (b'coffee.png\ncoffee.png', "'coffee' is listed twice"),
        (b'', 'lists no images'),
        (b'\xff\xfec\x00', 'is not UTF-8'),
        (b'cofee.png', "no GT image 'cofee'; did you mean"),
    ],
)
def test_other_lists_end_in_one_line(copy: Path, content: bytes, match: str):
    with pytest.raises(UserError, match=match):
        _pairs(copy, content)


@pytest.mark.parametrize(
    'template',
    ['{x}', '{1}', '{0}', '{0.__init__.__globals__}', '{:9999999999}', '{}{}', '{{}}', 'x4', '{', '{!r}'],
)
@pytest.mark.parametrize('kind', ['PriorPairedImageDataset', 'PairedImageDataset'])
def test_a_template_takes_a_pair_of_braces_and_nothing_else(here: Path, template: str, kind: str):
    options = yaml.safe_load(Path('test.yml').read_text())
    options['datasets']['test'] |= {'filename_tmpl': template, 'type': kind}
    write_options(here / 'x.yml', options)
    done = run_cli('test', '-opt', 'x.yml')
    assert done.returncode == 2
    assert 'filename_tmpl' in done.stderr
    assert 'Traceback' not in done.stderr
    if kind == 'PriorPairedImageDataset':
        with pytest.raises(UserError, match=r'must hold \{\} once'):
            build_dataset(_options(here / 'set', filename_tmpl=template))


@pytest.mark.parametrize(('changes', 'name'), [({'gray': True}, 'gray'), ({'color': 'y'}, 'y')])
def test_one_channel_of_both_images(photographs: Path, changes: dict, name: str):
    dataset = build_dataset(_options(photographs, phase='val', **changes))
    colour = build_dataset(_options(photographs, phase='val'))
    for number in range(4):
        item, rgb = dataset[number], colour[number]
        assert item['lq'].shape == (1, *rgb['lq'].shape[1:])
        assert item['gt'].shape == (1, *rgb['gt'].shape[1:])
        assert item['prior'].size == item['lq'].shape[1:]
        image = ImageFolder(photographs / 'GTx4').read(item['key'])
        stock = bgr2ycbcr(image[:, :, ::-1].astype(np.float32) / 255, y_only=True)
        expected = luminance(image)[:, :, 0] / 255 if name == 'gray' else stock
        assert np.abs(item['gt'][0].numpy() - expected).max() < 1e-6
    train = build_dataset(_options(photographs, **changes))
    crop, rgb = (data[SeededIndex(0, 3)] for data in (train, build_dataset(_options(photographs))))
    weights = [0.299, 0.587, 0.114] if name == 'gray' else [65.481 / 255, 128.553 / 255, 24.966 / 255]
    mixed = sum(weight * plane for weight, plane in zip(weights, rgb['lq'], strict=True))
    assert (crop['lq'][0] - (mixed if name == 'gray' else mixed + 16 / 255)).abs().max() < 0.003
    assert torch.is_tensor(mixed)
    with pytest.raises(UserError, match='choose one'):
        build_dataset(_options(photographs, gray=True, color='y'))


def test_channels_are_checked_against_the_network(here: Path):
    options = yaml.safe_load(Path('train.yml').read_text())
    options['datasets']['train']['gray'] = True
    write_options(here / 'x.yml', options)
    done = run_cli('train', '-opt', 'x.yml')
    assert done.returncode == 2
    assert 'datasets.train: its images have 1 channels, but IMDN takes 3; leave out gray' in done.stderr
    options['network_g'] = {
        'type': 'SPTNet',
        'backbone': {'type': 'MSRResNet', 'num_in_ch': 1, 'num_out_ch': 1, 'num_feat': 8, 'num_block': 2, 'upscale': 4},
        'sites': 'auto',
        'unit': {'type': 'ModulationUnit', 'width': 4},
        'num_masks': 64,
    }
    options['train']['total_iter'] = 2
    write_options(here / 'x.yml', options)
    done = run_cli('train', '-opt', 'x.yml')
    assert done.returncode == 0, done.stderr
    del options['datasets']['train']['gray']
    write_options(here / 'y.yml', options | {'name': 'y'})
    done = run_cli('train', '-opt', 'y.yml')
    assert done.returncode == 2
    assert 'datasets.train: its images have 3 channels, but MSRResNet takes 1; set gray: true' in done.stderr


def test_folders_of_different_length_for_basicsrs_own_dataset(here: Path):
    options = yaml.safe_load(Path('test.yml').read_text())
    options['network_g']['unit'] = {'type': 'PlainUnit', 'width': 8}
    section = options['datasets']['test']
    section |= {'type': 'PairedImageDataset', 'io_backend': {'type': 'disk'}}
    del section['dataroot_prior']
    write_options(here / 'x.yml', options)
    (here / 'set' / 'LRx4' / 'coffee.png').unlink()
    done = run_cli('test', '-opt', 'x.yml')
    assert done.returncode == 2
    assert 'photographs: PairedImageDataset refuses it (lq and gt datasets have different number' in done.stderr
    assert 'Traceback' not in done.stderr


def test_a_list_that_names_an_image_twice_in_two_ways(copy: Path):
    """A training may draw it more often; a figure is of an image."""
    content = b'coffee.png\ncoffee.png, coffee.png\n'
    with pytest.raises(UserError, match="'coffee' is listed twice; an image has one figure, so list it once"):
        _pairs(copy, content)
    options = _options(copy, dataroot_prior=None, meta_info_file=str(copy / 'list.txt'))
    assert build_dataset(options).pairs == [('coffee', 'coffee')] * 2
