"""Masks of what the frozen network makes of an image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sptsr.archs.adapter import save_adapter
from sptsr.archs.backbones.denoisers_arch import FFDNet
from sptsr.archs.spt_arch import SPTNet
from sptsr.images.decode import RGB, decode_rgb, write_png
from sptsr.images.degrade import degrade
from sptsr.images.draws import Degradation
from sptsr.images.folder import ImageFolder
from sptsr.masks.prior import Prior
from sptsr.masks.regions import Regions, to_size
from sptsr.priors.controls import FromOtherImages
from sptsr.priors.extract import build_source, extract
from sptsr.priors.likeness import likeness_of
from sptsr.priors.shards import merge
from sptsr.priors.store import PriorStore
from sptsr.restoring.through import Frozen, Through, noise_levels
from tests.conftest import run_cli, write_options

SOURCE = ['felzenszwalb', '--set', 'min_size=4']


def _by_hand(net: torch.nn.Module, image: RGB, scale: int, sigma: float | None = None, fine: int = 1) -> Prior:
    """Plain torch, no padding, no batches: the output, the source on it, and the majority of each block."""
    lq = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        output = net(lq) if sigma is None else net(lq, sigma=torch.tensor([sigma / 255]))
    pixels = (output[0].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    masks = build_source('felzenszwalb', ['min_size=4'])(np.ascontiguousarray(pixels), '', 64).decode()
    height, width = (side * fine for side in image.shape[:2])
    return Prior.from_regions(Regions.from_masks(to_size(masks, (height, width), scale // fine, '')).select(64))


def _same(one: Prior, other: Prior) -> bool:
    return one.count == other.count and np.array_equal(one.palette[one.index], other.palette[other.index])


def test_a_frozen_network_needs_nothing_else_imported(here: Path):
    code = "from sptsr.restoring.through import Frozen; print(Frozen.of_options('test.yml').scale)"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.stdout == '4\n', done.stderr


def test_a_store_of_masks_through_a_network(here: Path):
    command = ['prior', 'extract', '-i', 'set/LRx4', '-o', 'through', '--source', *SOURCE, '--through', 'test.yml']
    first = run_cli(*command, '--include', 'a*')
    assert first.returncode == 0, first.stderr
    done = run_cli(*command)
    assert '3 priors made, 1 were there' in done.stdout, done.stderr
    section = yaml.safe_load(Path('test.yml').read_text())['network_g']
    net = SPTNet(section['backbone'], section['backbone_weights'])
    store, images = PriorStore('through'), ImageFolder('set/LRx4')
    assert len(store) == len(images) == 4
    for key in images.keys:
        image = images.read(key)
        assert _same(store.get(key, image), _by_hand(net.backbone, image, 4))
    assert store.header.saw_image
    through = store.header.params['through']
    assert through == {
        'backbone': section['backbone'],
        'weights_sha256': net.backbone_digest(),
        'options': 'test.yml',
    }
    direct = PriorStore('set/prior')
    assert not any(_same(store.get(key), direct.get(key)) for key in images.keys)
    info = run_cli('prior', 'info', 'through').stdout
    assert f'through=IMDN {net.backbone_digest()[:12]} of test.yml' in info
    fine = ['prior', 'extract', '-i', 'set/LRx4', '-o', 'fine', '--source', *SOURCE, '--through', 'test.yml']
    assert run_cli(*fine, '--fine', '4', '--include', 'r*').returncode == 0
    found = PriorStore('fine').get('rocket', images.read('rocket'))
    assert PriorStore('fine').header.fine == found.fine == 4
    whole = _by_hand(net.backbone, images.read('rocket'), 4, fine=4)
    assert _same(found, whole)
    assert 'does not divide the scale of the network, 4' in run_cli(*fine, '--fine', '3').stderr
    write_options(Path('other.yml'), yaml.safe_load(Path('train.yml').read_text()))  # of the same network
    assert '0 priors made, 4 were there' in run_cli(*command[:-1], 'other.yml').stdout


def test_images_of_one_size_go_together_and_ranks_share_them(here: Path):
    source, frozen = build_source('felzenszwalb', ['min_size=4']), Frozen.of_options('test.yml')
    images = ImageFolder('set/LRx4')
    pixels = [images.read(key) for key in ('astronaut', 'coffee', 'astronaut', 'rocket')]
    sizes = []
    run = frozen.net.forward

    def noting(lq: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(lq.shape))
        return run(lq)

    frozen.net.forward = noting
    together = Through(source, frozen, batch=4)
    found = list(together.several(pixels, ['a', 'b', 'c', 'd'], 64))
    assert together.group == 4
    assert sorted(size[0] for size in sizes) == [1, 1, 2]
    assert _same(found[0], found[2])
    alone = Through(source, frozen)
    assert [prior.size for prior in found] == [image.shape[:2] for image in pixels]
    for prior, image in zip(found, pixels, strict=True):  # sums in another order may round otherwise
        assert likeness_of(prior, alone(image, '', 64)).iou > 0.95
    extract(images, 'one', alone)
    for rank in (0, 1):
        extract(images, 'two', alone, rank=rank, world=2)
    merge('two', alone.header(64))
    one, two = PriorStore('one'), PriorStore('two')
    assert [one.raw(key) for key in images.keys] == [two.raw(key) for key in images.keys]
    assert len(one) == 4


def test_a_denoiser_is_told_the_level_of_each_draw(here: Path):
    torch.manual_seed(2)
    net = FFDNet(nc=12, nb=4).eval()
    torch.save(net.state_dict(), 'ffdnet.pth')
    options = {'network_g': {'type': 'FFDNet', 'nc': 12, 'nb': 4}, 'path': {'pretrain_network_g': 'ffdnet.pth'}}
    write_options(Path('ffdnet.yml'), options)
    clean = ImageFolder('set/LRx4')
    degradation = Degradation('noise', 5, 50, 3, draws=2)
    degrade(clean, 'noisy', degradation)
    command = ['prior', 'extract', '-o', 'through', '--source', *SOURCE, '--through', 'ffdnet.yml']
    done = run_cli(*command, '-i', 'noisy')
    assert done.returncode == 0, done.stderr
    store, images = PriorStore('through'), ImageFolder('noisy')
    assert store.degradation == degradation
    levels, checked = set(), 0
    for key in clean.keys:
        for draw in (0, 1):
            entry = degradation.key(key, draw)
            level = degradation.level(key, draw)
            assert noise_levels(images)(entry, None) == level
            image = images.read(entry)
            even = np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])
            if even.shape == image.shape:  # FFDNet's input is padded else
                assert _same(store.get(entry, image), _by_hand(net, image, 1, level))
                checked += 1
            levels.add(level)
    assert len(levels) == 8
    assert checked == 6
    unknown = run_cli(*command, '-i', 'set/LRx4')
    assert unknown.returncode == 2
    assert '--through: the network takes a noise level, and that of these images is not known' in unknown.stderr
    command[3] = 'said'
    for sigma in ('300', 'nan'):
        assert run_cli(*command, '-i', 'set/LRx4', '--sigma', sigma).returncode == 2
    assert run_cli(*command, '-i', 'set/LRx4', '--sigma', '25').returncode == 0
    said, image = PriorStore('said'), clean.read('rocket')
    assert said.header.params['through']['sigma'] == 25
    assert 'of ffdnet.yml, told sigma 25' in run_cli('prior', 'info', 'said').stdout
    assert _same(said.get('rocket', image), _by_hand(net, image, 1, 25))
    assert 'through: ' in run_cli(*command, '-i', 'set/LRx4', '--sigma', '26').stderr  # another store


def test_an_adapter_trained_so_restores_so(here: Path):
    section = yaml.safe_load(Path('test.yml').read_text())['network_g']
    section = {key: value for key, value in section.items() if key != 'type'}
    assert run_cli('prior', 'extract', '-i', 'set/LRx4', '-o', 'through', '--source', *SOURCE, '--through',
                   'test.yml').returncode == 0  # fmt: skip
    net = SPTNet(section.pop('backbone'), **section)
    torch.manual_seed(4)
    for parameter in net.adapter_parameters().values():
        torch.nn.init.normal_(parameter, std=0.1)
    header = PriorStore('through').header
    prior = {'source': header.source, 'params': header.params, 'weights_sha256': None}
    save_adapter('a.safetensors', net, net.options, 1, trained_with={'prior': prior})
    own = run_cli('restore', '-i', 'set/LRx4', '-o', 'own', '-a', 'a.safetensors')
    assert own.returncode == 0, own.stderr
    assert 'trained with masks' not in own.stderr
    assert (
        run_cli('restore', '-i', 'set/LRx4', '-o', 'stored', '-a', 'a.safetensors', '--prior', 'through').returncode
        == 0
    )
    direct = ['--prior', 'set/prior']
    assert run_cli('restore', '-i', 'set/LRx4', '-o', 'direct', '-a', 'a.safetensors', *direct).returncode == 0
    for name in ('astronaut', 'chelsea', 'coffee', 'rocket'):
        results = [decode_rgb((here / out / f'{name}.png').read_bytes(), name) for out in ('own', 'stored', 'direct')]
        assert np.array_equal(results[0], results[1])
        assert not np.array_equal(results[0], results[2])
    prior['params'] = {**header.params, 'through': {**header.params['through'], 'weights_sha256': 'f' * 64}}
    save_adapter('b.safetensors', net, net.options, 1, trained_with={'prior': prior})
    other = run_cli('restore', '-i', 'set/LRx4', '-o', 'other', '-a', 'b.safetensors')
    assert other.returncode == 2
    assert 'trained with masks of what another network made of the images; say --through' in other.stderr
    said = run_cli('restore', '-i', 'set/LRx4', '-o', 'other', '-a', 'b.safetensors', '--through', 'test.yml')
    assert said.returncode == 0, said.stderr
    assert (here / 'other' / 'rocket.png').read_bytes() == (here / 'own' / 'rocket.png').read_bytes()


def test_what_makes_no_sense_is_refused(here: Path):
    command = ['prior', 'extract', '-i', 'set/LRx4', '-o', 'new', '--source']
    (here / 'labels').mkdir()
    (here / 'labels' / 'a.npy').touch()
    options = yaml.safe_load(Path('test.yml').read_text())
    options['network_g'].pop('backbone_weights')
    write_options(Path('untrained.yml'), options)
    for arguments, message in (
        (['labels', '--set', 'dir=labels', '--through', 'test.yml'], 'labels makes masks without looking at an image'),
        (['felzenszwalb', '--through', 'test.yml', '--oracle', 'set/GTx4'], 'two images to look at'),
        (['felzenszwalb', '--through', 'none.yml'], 'none.yml: cannot read it'),
        (['felzenszwalb', '--through', 'untrained.yml'], 'names no weights of IMDN'),
    ):
        done = run_cli(*command, *arguments)
        assert (done.returncode, done.stderr.count('\n')) == (2, 1), done.stderr
        assert message in done.stderr
    assert not (here / 'new').exists()


@pytest.mark.data
@pytest.mark.parametrize('network', ['IMDN', 'FFDNet'])
def test_masks_through_a_pretrained_network_are_nearer_to_those_of_the_clean_image(network: str, real_data: Path):
    """felzenszwalb of the LQ or noisy image, and through the network, against felzenszwalb of the clean image."""
    source = build_source('felzenszwalb')
    if network == 'IMDN':
        clean, lq = (ImageFolder(real_data / 'sr/Set5' / name, include=['img_00[235]']) for name in ('GTx4', 'LRx4'))
        options = {'type': 'IMDN', 'upscale': 4}, real_data / 'weights/IMDN_x4.pth'
    else:
        whole = ImageFolder(real_data / 'denoise/CBSD68')
        for key in whole.keys[:5]:  # parts: felzenszwalb takes seconds on a whole noisy image
            write_png(Path('clean') / f'{key}.png', np.ascontiguousarray(whole.read(key)[100:228, 100:228]))
        clean = ImageFolder('clean')
        degrade(clean, 'noisy', Degradation('noise', 50, 50))
        lq = ImageFolder('noisy')
        options = {'type': 'FFDNet'}, real_data / 'weights/ffdnet_color.pth'
    section = {'type': 'SPTNet', 'backbone': options[0], 'backbone_weights': str(options[1])}
    write_options(Path('net.yml'), {'network_g': section})
    oracle = FromOtherImages(source, clean)
    through = Through(source, Frozen.of_options('net.yml'), noise_levels(lq))
    direct_iou, through_iou = [], []
    for key in lq.keys:
        image = lq.read(key)
        reference = oracle(image, key, 64)
        direct_iou.append(likeness_of(reference, source(image, key, 64)).iou)
        through_iou.append(likeness_of(reference, through(image, key, 64)).iou)
    assert len(through_iou) >= 3
    assert np.mean(through_iou) > np.mean(direct_iou) + 0.05
