"""`sptsr restore` makes the very masks that the adapter was trained with, as its metadata says them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import sptsr
from sptsr.archs.backbones.denoisers_arch import FFDNet
from sptsr.archs.spt_arch import SPTNet
from sptsr.images.folder import ImageFolder
from sptsr.masks.prior import Prior
from sptsr.priors.store import PriorStore, PriorWriter, close_reader
from sptsr.restoring.through import Frozen
from tests.conftest import run_cli, write_options

SOURCE = ['--source', 'felzenszwalb', '--set', 'min_size=4']
NAMES = ('astronaut', 'chelsea', 'coffee', 'rocket')


@pytest.fixture
def denoiser(here: Path) -> SPTNet:
    """A tuned FFDNet, whose backbone is in `ffdnet.pth` and `ffdnet.yml`."""
    torch.manual_seed(2)
    torch.save(FFDNet(nc=12, nb=4).state_dict(), 'ffdnet.pth')
    backbone = {'type': 'FFDNet', 'nc': 12, 'nb': 4}
    write_options(Path('ffdnet.yml'), {'network_g': backbone, 'path': {'pretrain_network_g': 'ffdnet.pth'}})
    net = SPTNet(backbone, backbone_weights='ffdnet.pth', sites=['model.2', 'model.4'])
    for parameter in net.adapter_parameters().values():
        torch.nn.init.normal_(parameter, std=0.1)
    return net


def _save(net: SPTNet, store: str) -> None:
    header = PriorStore(store).header
    prior = {key: getattr(header, key) for key in ('source', 'params', 'weights_sha256', 'max_masks', 'fine')}
    net.trained_with = {'dataset': 'a set', 'seed': 0, 'sigma': 25, 'prior': prior}
    sptsr.save(net, 'a.safetensors')


def _restore(out: str, *arguments: str) -> str:
    done = run_cli('restore', '-i', 'set/LRx4', '-o', out, '-a', 'a.safetensors', *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def _results(out: str) -> list[bytes]:
    return [Path(out, f'{name}.png').read_bytes() for name in NAMES]


@pytest.mark.parametrize('more', [[], ['--through', 'ffdnet.yml']])
def test_the_noise_level_that_made_the_masks_is_told_for_them(denoiser: SPTNet, more: list[str]):
    extract = ['prior', 'extract', '-i', 'set/LRx4', *SOURCE, '--through', 'ffdnet.yml', '--sigma']
    assert run_cli(*extract, '50', '-o', 'through').returncode == 0
    assert run_cli(*extract, '25', '-o', 'as_the_network').returncode == 0
    _save(denoiser, 'through')
    assert 'made otherwise' not in _restore('own', *more)
    _restore('stored', '--prior', 'through')
    _restore('other', '--prior', 'as_the_network')
    assert _results('own') == _results('stored')
    assert _results('own') != _results('other')


def test_as_many_masks_are_made_as_in_training(denoiser: SPTNet):
    for count in (2, 64):
        extract = ['prior', 'extract', '-i', 'set/LRx4', '-o', f'at_most_{count}', *SOURCE]
        assert run_cli(*extract, '--max-masks', str(count)).returncode == 0
    _save(denoiser, 'at_most_2')
    assert 'made otherwise' not in _restore('own')
    assert 'made otherwise' not in _restore('stored', '--prior', 'at_most_2')
    assert 'made otherwise (here != there: max_masks: 64 != 2)' in _restore('other', '--prior', 'at_most_64')
    assert _results('own') == _results('stored')
    assert _results('own') != _results('other')


def test_an_image_whose_stored_masks_changed_is_restored_again(denoiser: SPTNet):
    extract = ['prior', 'extract', '-i', 'set/LRx4', '--source', 'felzenszwalb', '--set']
    assert run_cli(*extract, 'min_size=4', '-o', 'store').returncode == 0
    _save(denoiser, 'store')
    assert '4 images restored' in _restore('out', '--prior', 'store')
    before = _results('out')
    assert '0 images restored, 4 were there' in _restore('out', '--prior', 'store')
    # the same header, other masks: as where the files changed that a source reads
    header = PriorStore('store').header
    images, whole = ImageFolder('set/LRx4'), PriorStore('store')
    priors = {key: whole.get(key) for key in images.keys}
    with PriorWriter('changed', header) as writer:
        for key in images.keys:
            prior = priors[key]
            if key == 'rocket':
                prior = Prior.encode(prior.decode()[:, ::-1, ::-1])
            writer.put(key, images.read(key), prior)
    close_reader('store')
    Path('store').rename('gone')
    Path('changed').rename('store')
    assert '1 image restored, 3 were there' in _restore('out', '--prior', 'store')
    after = _results('out')
    assert after[:3] == before[:3]
    assert after[3] != before[3]


def test_masks_of_labels_are_as_fine_as_in_training(denoiser: SPTNet):
    Path('labels_of_these').mkdir()
    for key in NAMES:
        image = ImageFolder('set/LRx4').read(key)
        rows, columns = np.ogrid[: 2 * image.shape[0], : 2 * image.shape[1]]
        np.save(f'labels_of_these/{key}.npy', (rows + columns) // 9 + 1)
    labels = ['--source', 'labels', '--set', 'dir=labels_of_these']
    for name, more in {'fine': ['--fine', '2'], 'coarse': []}.items():
        done = run_cli('prior', 'extract', '-i', 'set/LRx4', '-o', name, *labels, *more)
        assert done.returncode == 0, done.stderr
    assert run_cli('prior', 'shuffle', 'fine', '-o', 'shuffled').returncode == 0
    finer = SPTNet(
        denoiser.options['backbone'],
        backbone_weights='ffdnet.pth',
        sites=['model.2', 'model.4'],
        unit={'stem': {'type': 'geometry', 'fine': 2}},
    )
    for parameter in finer.adapter_parameters().values():
        torch.nn.init.normal_(parameter, std=0.1)
    _save(finer, 'fine')
    Path('labels_of_these').rename('elsewhere')  # where labels lie decides nothing
    assert 'made otherwise' not in _restore('own', '--source', 'labels', '--set', 'dir=elsewhere')
    assert 'made otherwise' not in _restore('stored', '--prior', 'fine')
    assert 'made otherwise (here != there: fine: 1 != 2)' in _restore('other', '--prior', 'coarse')
    assert 'made otherwise (here != there: shuffled: 0 != None)' in _restore('wrong', '--prior', 'shuffled')
    assert _results('own') == _results('stored')
    assert _results('own') != _results('other')


def test_training_writes_what_decides_the_masks_into_the_adapter(here: Path):
    assert run_cli('train', '-opt', 'train.yml').returncode == 0
    (adapter,) = Path('experiments').glob('*/models/net_g_latest.safetensors')
    header = PriorStore('set/prior').header
    prior = sptsr.load(adapter).trained_with['prior']
    assert prior['max_masks'] == header.max_masks
    assert prior['fine'] == header.fine


def test_masks_of_a_network_that_is_tuned_too_are_of_what_it_was(denoiser: SPTNet):
    """`adapter+lora`: the masks of the training were those of the frozen network."""
    extract = ['prior', 'extract', '-i', 'set/LRx4', *SOURCE, '--through', 'ffdnet.yml', '--sigma', '25']
    assert run_cli(*extract, '-o', 'through').returncode == 0
    both = SPTNet(
        denoiser.options['backbone'],
        backbone_weights='ffdnet.pth',
        sites=['model.2', 'model.4'],
        tune='adapter+lora',
        rank=2,
    )
    for parameter in both.adapter_parameters().values():
        torch.nn.init.normal_(parameter, std=0.2)
    _save(both, 'through')
    assert 'made otherwise' not in _restore('own', '--report')
    _restore('stored', '--prior', 'through')
    assert _results('own') == _results('stored')
    frozen = Frozen.of_adapter(both.eval().merge(), {'weights_sha256': both.backbone_digest()})
    assert frozen is not None
    lq, sigma = torch.rand(1, 3, 16, 16), torch.tensor([0.1])
    assert not torch.equal(both.backbone(lq, sigma), frozen.net(lq, sigma))
    with both.units_off():
        assert torch.equal(both(lq, sigma=sigma), frozen.net(lq, sigma))


@pytest.mark.parametrize('source', ['labels', 'random'])
def test_an_image_whose_labels_changed_is_restored_again(denoiser: SPTNet, source: str):
    for folder in ('one', 'two'):
        Path(folder, 'labels').mkdir(parents=True)
        for number, key in enumerate(NAMES):
            height, width = ImageFolder('set/LRx4').read(key).shape[:2]
            step = 5 if (folder, number) == ('two', 3) else 9
            np.save(f'{folder}/labels/{key}.npy', np.add.outer(np.arange(height), np.arange(width)) // step + 1)
        labels = ['--source', 'labels', '--set', f'dir={folder}/labels']
        assert run_cli('prior', 'extract', '-i', 'set/LRx4', '-o', f'{folder}/store', *labels).returncode == 0
    _save(denoiser, 'one/store')

    def restore(folder: str) -> str:
        given = f'dir={folder}/labels' if source == 'labels' else f'like={folder}/store'
        return _restore('out', '--source', source, '--set', given)

    assert '4 images restored' in restore('one')
    before = _results('out')
    assert '1 image restored, 3 were there' in restore('two')
    assert _results('out')[:3] == before[:3]
    assert _results('out')[3] != before[3]
