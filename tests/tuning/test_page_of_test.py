"""`sptsr test --report`."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from sptsr.archs.adapter import save_adapter
from sptsr.archs.spt_arch import SPTNet
from sptsr.images.decode import decode_rgb
from tests.conftest import run_cli
from tests.report.test_page import data_of, pixels


@pytest.fixture
def tuned(here: Path) -> Path:
    """The folder of `here`, with an adapter whose units do something in `test.yml`."""
    options = yaml.safe_load(Path('test.yml').read_text())
    section = {key: value for key, value in options['network_g'].items() if key != 'type'}
    net = SPTNet(**section)
    with torch.no_grad():
        for parameter in net.units.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_adapter('adapter.safetensors', net, options['network_g'], 1)
    options['path'] = {'pretrain_network_g': 'adapter.safetensors'}
    Path('test.yml').write_text(yaml.safe_dump(options))
    return here


@pytest.mark.parametrize('tile', ['~', 16])
def test_the_page_has_the_images_and_figures_of_the_test_beside_those_of_the_frozen_network(tuned, tile):
    forced = [f'val:tile={tile}', 'val:tile_overlap=4', 'val:save_img=true']
    result = run_cli('test', '-opt', 'test.yml', '--report', '--force_yml', *forced)
    assert result.returncode == 0, result.stderr
    home = Path('results/tiny')
    metrics = json.loads((home / 'metrics.json').read_text())['datasets']['photographs']
    frozen = run_cli('test', '-opt', 'test.yml', '--force_yml', *forced, 'name=frozen', 'path:pretrain_network_g=~')
    assert frozen.returncode == 0, frozen.stderr
    bare = json.loads(Path('results/frozen/metrics.json').read_text())['datasets']['photographs']
    data = data_of(home / 'report.html')
    assert (data['tuned'], data['reference']) == ('tuned', 'frozen')
    assert len(data['pictures']) == len(metrics['psnr']['per_image']) == 4
    for card in data['pictures']:
        key, (left, top), (width, height) = card['name'], card['corner'], card['size']
        assert list(card['images']) == ['LQ', 'frozen', 'tuned', 'GT']
        assert card['masks']
        for metric in ('psnr', 'ssim'):
            assert card['figures'][metric]['tuned'] == metrics[metric]['per_image'][key]
            assert card['figures'][metric]['frozen'] == bare[metric]['per_image'][key]
        for arm, name in (('tuned', 'tiny'), ('frozen', 'frozen')):
            path = Path('results') / name / 'visualization/photographs' / f'{key}.png'
            whole = decode_rgb(path.read_bytes(), key)
            assert (pixels(card['images'][arm]) == whole[top : top + height, left : left + width]).all()
        assert (pixels(card['images']['tuned']) != pixels(card['images']['frozen'])).any()
    losses = [card['figures']['psnr']['tuned'] - card['figures']['psnr']['frozen'] for card in data['pictures']]
    assert losses == sorted(losses)


def test_a_network_without_units_has_no_frozen_one(here):
    options = yaml.safe_load(Path('test.yml').read_text())
    weights = options['network_g'].pop('backbone_weights')
    options['network_g'] = options['network_g']['backbone']
    options['path'] = {'pretrain_network_g': weights}
    Path('test.yml').write_text(yaml.safe_dump(options))
    result = run_cli('test', '-opt', 'test.yml', '--report')
    assert result.returncode == 0, result.stderr
    data = data_of(Path('results/tiny/report.html'))
    assert data['reference'] is None
    assert [list(card['images']) for card in data['pictures']] == [['LQ', 'tuned', 'GT']] * 4
    figures = [card['figures']['psnr']['tuned'] for card in data['pictures']]
    assert figures == sorted(figures)
    assert all(card['masks'] is None for card in data['pictures'])


def test_a_report_of_several_processes_is_refused(here):
    result = run_cli('test', '-opt', 'test.yml', '--report', '--launcher', 'pytorch')
    assert result.returncode == 2
    assert result.stderr == 'sptsr: --report: needs all images in one process; leave out --launcher\n'
