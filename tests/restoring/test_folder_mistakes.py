"""What `sptsr restore` refuses, in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sptsr
from sptsr.archs.weights import read_weights
from sptsr.images.any_image import read_any
from tests.conftest import photograph, run_cli
from tests.restoring.folders import ARGUMENTS, OLD

OTHER = object()


@pytest.fixture(scope='module')
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the adapter's network that it was not trained for."""
    weights = read_weights(OLD / 'weights' / 'tiny.pth')
    path = tmp_path_factory.mktemp('weights') / 'other.pth'
    torch.save({name: value * 1.01 for name, value in weights.items()}, path)
    return path


def test_a_store_without_an_image_is_refused_and_one_of_these_images_is_used(photos):
    result = run_cli(
        'restore', '-i', photos / 'cat.png', '-o', photos.parent / 'o', *ARGUMENTS[:4], '--prior', OLD / 'set/prior'
    )
    assert result.returncode == 2
    assert "no prior of 'cat'" in result.stderr
    assert not (photos.parent / 'o').exists()
    stored = run_cli(
        'restore', '-i', OLD / 'set/LRx4', '-o', photos.parent / 'o', *ARGUMENTS[:4], '--prior', OLD / 'set/prior'
    )
    assert stored.returncode == 0, stored.stderr
    for key in ('chelsea', 'coffee'):
        made = read_any(photos.parent / 'o' / f'{key}.png', 10**6).colour.astype(int)
        assert np.abs(made - read_any(OLD / 'restored' / f'{key}.png', 10**6).colour).max() <= 1


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['-i', 'no', '-o', 'o', *ARGUMENTS], 'no: no such file or folder'),
        (['-i', 'empty', '-o', 'o', *ARGUMENTS], 'empty: no images here'),
        (['-i', 'a.png', '-o', 'o', '-a', 'no.safetensors'], 'no.safetensors: no such file'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS[:2], '--source', 'felzenszwalb'], 'say where with'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS[:4]], 'it does not say of which source; say --source NAME'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS, '--sigma', '25'], 'takes no noise level'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS, '--tile', '-1'], '--tile -1'),
        (['-i', 'a.png', '-o', 'a.png', *ARGUMENTS], 'a.png: is a file'),
        (['-i', 'a.png', '-o', 'b.PNG', *ARGUMENTS], 'b.PNG: names an image, and results go into a folder; say -o b'),
        (['-i', 'a.png', '-o', 'a.png/out', *ARGUMENTS], 'a.png/out: cannot write to it (Not a directory)'),
        (['-i', 'a.png', '-o', '/proc/out', *ARGUMENTS], '/proc/out: cannot write to it'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS, '--weights', OTHER], 'and this backbone holds others'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS[:2], '--weights', 'no.pth', *ARGUMENTS[4:]], 'no.pth'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS[:4], '--prior', 'no'], 'no: '),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS[:4], '--prior', 'no', '--set', 'a=1'], '--set and --through are for a'),
        (['-i', 'a.png', '-o', 'home', *ARGUMENTS, '--report'], 'home/report.html: is there, and not made by sptsr'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS, '--suffix', '/../x'], "--suffix '/../x': stands in the name"),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS[:4], '--source', 'felsenzwalb'], "did you mean 'felzenszwalb'"),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS, '--precision', 'fp16'], '--precision fp16: needs a CUDA GPU'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS, '--set', 'scale=3'], "did you mean 'scales'"),
        (['-i', 'a.png', '-o', 'o'], 'one of the arguments -a/--adapter -opt is required'),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(tmp_path, monkeypatch, other_weights, arguments, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    arguments = [other_weights if word is OTHER else word for word in arguments]
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'home').mkdir()
    (tmp_path / 'home' / 'report.html').write_text('<html>somebody else wrote this</html>')
    Image.fromarray(photograph('chelsea.png', 12, 12)).save('a.png')
    result = run_cli('restore', *arguments)
    assert result.returncode == 2
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.png', 'empty', 'home']
    assert [path.name for path in (tmp_path / 'home').iterdir()] == ['report.html']
    assert 'somebody else' in (tmp_path / 'home' / 'report.html').read_text()


@pytest.mark.parametrize('sigma', [-5, 300.0, 10**400])
def test_a_noise_level_of_an_adapter_that_is_none_is_asked_for(tmp_path, monkeypatch, sigma):
    monkeypatch.chdir(tmp_path)
    net = sptsr.attach({'type': 'FFDNet', 'nc': 8, 'nb': 4}, sites=['model.2'], unit='PlainUnit', width=4)
    torch.save(net.backbone.state_dict(), 'w.pth')
    net.trained_with = {'sigma': sigma}
    sptsr.save(net, 'a.safetensors')
    Image.fromarray(photograph('chelsea.png', 12, 12)).save('a.png')
    words = ['restore', '-i', 'a.png', '-o', 'o', '-a', 'a.safetensors', '--weights', 'w.pth']
    result = run_cli(*words)
    assert result.returncode == 2
    assert (
        result.stderr == 'sptsr: restore: this network takes a noise level; say --sigma N (of 255), or --sigma auto\n'
    )
    assert run_cli(*words, '--sigma', '5').returncode == 0
