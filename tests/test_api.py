"""The public API: its names, the page that shows it, and its refusals."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sptsr
from sptsr.images.decode import write_png
from sptsr.masks.batch import PriorBatch
from sptsr.restoring.restorer import OVERLAP
from sptsr.restoring.tiling import cuts
from tests.archs.cases import make_net
from tests.conftest import photograph

SMALL = photograph('coffee.png', 20, 24)
PAGE = Path(__file__).parents[1] / 'docs' / 'own-loop.md'
OLD = Path(__file__).parent / 'old' / '0.1'


def test_the_public_names_are_these():
    assert sptsr.__all__ == [
        'UserError', '__version__', 'attach', 'detach', 'load', 'make_prior', 'register', 'restore', 'save',
    ]  # fmt: skip
    for name in sptsr.__all__:
        assert getattr(sptsr, name).__doc__ or name == '__version__'
    assert set(sptsr.__all__) <= set(dir(sptsr))
    with pytest.raises(AttributeError, match='attachh'):
        _ = sptsr.attachh


def test_importing_it_loads_nothing_heavy():
    code = 'import sys, sptsr; print([n for n in ("torch", "basicsr", "cv2", "numpy", "scipy") if n in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


def test_the_page_runs_as_it_stands(tmp_path):
    blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.S)
    assert len(blocks) == 4
    (tmp_path / 'page.py').write_text('\n'.join(blocks) + '\nprint(restored.shape, restored.dtype)\n')
    done = subprocess.run(
        [sys.executable, 'page.py'], cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr
    assert '(96, 96, 3) uint8' in done.stdout
    losses = [float(line.split()[1]) for line in done.stdout.splitlines() if re.match(r'[01] ', line)]
    assert len(losses) == 2
    assert losses[1] < losses[0]


class Net(nn.Module):
    """x2, for one channel or three."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
        self.tail = nn.Sequential(nn.Conv2d(8, 4 * channels, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self.body(self.head(x)))


def _tuned(channels: int = 3) -> nn.Module:
    torch.manual_seed(3)
    net = sptsr.attach(Net(channels), width=4)
    for parameter in net.adapter_parameters().values():
        nn.init.normal_(parameter, std=0.1)
    return net.eval()


def test_detach_gives_back_what_attach_found():
    backbone, lq = Net(), torch.rand(1, 3, 12, 16)
    backbone.body.eval()
    backbone.head.weight.requires_grad_(False)
    before = backbone(lq)
    found = sptsr.detach(sptsr.attach(backbone, width=4))
    assert found is backbone
    assert [m.training for m in (found, found.head, found.body)] == [True, True, False]
    assert [found.head.weight.requires_grad, found.head.bias.requires_grad] == [False, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in found.modules())
    assert torch.equal(found(lq), before)


def test_an_adapter_of_a_foreign_network_comes_back(tmp_path):
    net = _tuned()
    image = photograph('chelsea.png', 40, 48)
    prior = sptsr.make_prior(image, min_size=8)
    restored = sptsr.restore(net, image, prior)
    assert restored.shape == (80, 96, 3)
    assert restored.dtype == np.uint8
    sptsr.save(net, tmp_path / 'a.safetensors')
    again = sptsr.load(tmp_path / 'a.safetensors', backbone=sptsr.detach(net))
    assert not again.training
    assert np.array_equal(sptsr.restore(again, image, prior), restored)
    with again.units_off():
        assert not np.array_equal(sptsr.restore(again, image), restored)
    with pytest.raises(sptsr.UserError, match='Net.*give it as backbone='):
        sptsr.load(tmp_path / 'a.safetensors')
    with pytest.raises(sptsr.UserError, match='holds others'):
        sptsr.load(tmp_path / 'a.safetensors', backbone=Net())


def test_an_adapter_of_a_registered_network_rebuilds_it(tmp_path, monkeypatch):
    monkeypatch.chdir(OLD)
    net = sptsr.load('adapter_4.safetensors')
    image = photograph('coffee.png', 32, 24)
    restored = sptsr.restore(net, image, sptsr.make_prior(image))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sptsr.UserError, match='not here; say where with weights='):
        sptsr.load(OLD / 'adapter_4.safetensors')
    again = sptsr.load(OLD / 'adapter_4.safetensors', weights=OLD / 'weights' / 'tiny.pth')
    assert np.array_equal(sptsr.restore(again, image, sptsr.make_prior(image)), restored)


def test_files_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    write_png(tmp_path / 'photo.png', SMALL)
    net = _tuned()
    prior = sptsr.make_prior('~/photo.png')
    sptsr.save(net, '~/a.safetensors')
    restored = sptsr.restore(net, SMALL, prior)
    again = sptsr.load('~/a.safetensors', backbone=sptsr.detach(net))
    assert np.array_equal(sptsr.restore(again, SMALL, prior), restored)
    assert {path.name for path in tmp_path.iterdir()} == {'photo.png', 'a.safetensors'}


@pytest.mark.parametrize('size', [(67, 83), (96, 72)])
def test_tiles_and_the_self_ensemble(size):
    net = _tuned()
    image = photograph('chelsea.png', *size)
    prior = sptsr.make_prior(image, min_size=8)
    whole = sptsr.restore(net, image, prior)
    assert cuts(*size, 8, OVERLAP, net.sizes) != size
    assert np.abs(sptsr.restore(net, image, prior, tile=8).astype(int) - whole).max() <= 1
    ensemble = sptsr.restore(net, image, prior, self_ensemble=True)
    turned = sptsr.restore(net, np.rot90(image), prior.rotate(), self_ensemble=True)
    assert np.abs(np.rot90(ensemble).astype(int) - turned).max() <= 1  # the ensemble turns with its image
    assert not np.array_equal(ensemble, whole)


def test_a_gray_image_for_a_network_of_one_channel():
    net = _tuned(channels=1)
    image = photograph('chelsea.png', 20, 24)
    prior, gray = sptsr.make_prior(image), image[:, :, 1]
    assert sptsr.restore(net, gray, prior).shape == (40, 48)
    assert sptsr.restore(net, gray[:, :, None], prior).shape == (40, 48, 1)
    with pytest.raises(sptsr.UserError, match='takes 1 channels, and the image has 3'):
        sptsr.restore(net, image, prior)


def test_a_noise_level_is_asked_for():
    net = sptsr.attach({'type': 'FFDNet', 'nc': 12, 'nb': 9}, width=4)
    image = photograph('chelsea.png', 20, 24)
    prior = sptsr.make_prior(image)
    with pytest.raises(sptsr.UserError, match='give sigma, of 255'):
        sptsr.restore(net, image, prior)
    with pytest.raises(sptsr.UserError, match="sigma '25' is no number"):
        sptsr.restore(net, image, prior, sigma='25')
    low, high = (sptsr.restore(net, image, prior, sigma=level) for level in (0, 255))
    assert not np.array_equal(low, high)


def test_a_prior_from_a_path_and_from_pixels_is_the_same(tmp_path):
    image = photograph('rocket.jpg', 40, 48)
    write_png(tmp_path / 'rocket.png', image)
    first, second = sptsr.make_prior(image, scales=[50]), sptsr.make_prior(tmp_path / 'rocket.png', scales=[50])
    assert first.count > 3
    assert torch.equal(PriorBatch.of([first]).expand(), PriorBatch.of([second]).expand())
    assert sptsr.make_prior(image, max_masks=2).count == 2


@pytest.mark.parametrize(
    ('call', 'expected'),
    [
        (lambda: sptsr.attach(Net(), unit='ModulatoinUnit'), "did you mean 'ModulationUnit'"),
        (lambda: sptsr.attach(Net(), widht=4), "did you mean 'width'"),
        (lambda: sptsr.attach(Net(), sites=['bodyy.*']), 'matches no module'),
        (lambda: sptsr.attach({'type': 'IMDNN'}), "did you mean 'IMDN'"),
        (
            lambda: sptsr.attach(Net(), num_masks=65),
            "'num_masks' of the network must be a whole number in 1..64, got 65",
        ),
        (lambda: sptsr.attach(nn.Identity()), 'no module of Identity'),
        (lambda: sptsr.attach(sptsr.attach(Net())), 'this network has units'),
        (lambda: sptsr.detach(Net()), 'a Net has no units'),
        (lambda: sptsr.save(Net(), 'a.safetensors'), 'a Net has no units'),
        (lambda: sptsr.save(sptsr.attach(Net()), 'a.pth'), 'is a .safetensors file'),
        (lambda: sptsr.load('no.safetensors'), 'no such file'),
        (lambda: sptsr.load(None), 'load: None is no path'),
        (lambda: sptsr.load('a.safetensors', backbone=5), 'load: backbone is a int; give a module'),
        (lambda: sptsr.save(sptsr.attach(Net()), 'a\0.safetensors'), 'is no path of a file'),
        (lambda: sptsr.save(sptsr.attach(Net()), 'a\ud800.safetensors'), 'is no path of a file'),
        (lambda: sptsr.load(OLD / 'adapter_4.safetensors', weights=5), 'load: 5 is no path of a file'),
        (lambda: sptsr.make_prior('a\0.png'), 'make_prior: .* is no path of a file'),
        (lambda: sptsr.attach({'type': 'IMDN', 5: 6}), "IMDN takes no '5'"),
        (lambda: sptsr.make_prior('no.png'), 'no.png: cannot read it'),
        (lambda: sptsr.make_prior(np.zeros((0, 5, 3), np.uint8)), r'must be uint8 \[H, W, 3\]'),
        (lambda: sptsr.make_prior(SMALL, max_masks=2.5), 'max_masks 2.5 is no whole number in 1..64'),
        (lambda: sptsr.make_prior(SMALL, source=5), 'source is a int; give the name of one'),
        (lambda: sptsr.restore(sptsr.attach(Net()), SMALL, 'store'), 'prior is a str; give what sptsr.make_prior'),
        (
            lambda: sptsr.restore(sptsr.attach(Net()), SMALL, sptsr.make_prior(SMALL), tile='16'),
            "tile '16' is no whole",
        ),
        (lambda: sptsr.make_prior(np.zeros((4, 4), np.uint8)), r'must be uint8 \[H, W, 3\]'),
        (lambda: sptsr.make_prior(photograph('coffee.png'), 'felsenszwalb'), "did you mean 'felzenszwalb'"),
        (lambda: sptsr.make_prior(photograph('coffee.png'), scale=[1]), "did you mean 'scales'"),
        (lambda: sptsr.restore(Net(), photograph('coffee.png')), 'a Net has no units'),
        (lambda: sptsr.restore(sptsr.attach(Net()), photograph('coffee.png')), r'give prior=sptsr.make_prior\(image\)'),
        (lambda: sptsr.restore(sptsr.attach(Net()), photograph('coffee.png') / 255), 'must be uint8'),
        (
            lambda: sptsr.restore(sptsr.attach(Net()), SMALL[:8], sptsr.make_prior(SMALL)),
            'the prior is 20x24, the image 8x24',
        ),
    ],
)
def test_mistakes_are_named(call, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sptsr.UserError, match=expected) as caught:
        call()
    assert '\n' not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_fails_leaves_the_users_network_as_it_was(tmp_path):
    def state(net):
        hooks = [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._load_state_dict_post_hooks)
            for m in net.modules()
        ]
        return (
            [m.training for m in net.modules()],
            [p.requires_grad for p in net.parameters()],
            hooks,
            [*net.state_dict()],
        )

    backbone = Net()
    backbone.head.weight.requires_grad_(False)
    before = state(backbone)
    with pytest.raises(sptsr.UserError):
        sptsr.attach(backbone, sites=['bod.*'])
    assert state(backbone) == before
    net = make_net('IMDN', tune='adapter+lora', rank=2)
    sptsr.save(net, tmp_path / 'a.safetensors')
    other = copy.deepcopy(sptsr.detach(net))
    before = state(other)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.raises(sptsr.UserError, match='holds others'):
        sptsr.load(tmp_path / 'a.safetensors', backbone=other)
    assert state(other) == before


def test_of_two_sets_of_units_the_last_one_leaves_the_backbone_as_it_was_found():
    backbone = Net().train()
    one, two = sptsr.attach(backbone, sites=['body.*']), sptsr.attach(backbone, sites=['body.*'])
    sptsr.detach(one)
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    sptsr.detach(two)
    assert all(module.training for module in backbone.modules())
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_loading_what_was_tuned_does_not_make_another_backbone_of_it():
    net = make_net('IMDN', tune='adapter+lora')
    before = net.backbone_digest()
    with torch.no_grad():
        for value in net.adapter_parameters().values():
            value.add_(0.1)
    net.load_state_dict(net.state_dict())
    assert net.backbone_digest() == before


def test_tiles_of_a_module_begin_where_its_strides_do():
    from sptsr.archs.backbones.denoisers_arch import FFDNet

    assert sptsr.attach(FFDNet(nc=12, nb=9)).sizes.grid == 2
