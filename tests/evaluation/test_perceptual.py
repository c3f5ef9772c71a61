"""LPIPS and DISTS: torchmetrics' values from weights that are given, and nothing fetched unasked."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from torchmetrics.functional.image import dists, lpips

from sptsr.core.errors import UserError
from sptsr.evaluation import perceptual
from sptsr.evaluation.metrics import better_of, read_metrics
from sptsr.evaluation.perceptual import calculate_dists, calculate_lpips
from tests.conftest import photograph, run_cli

KINDS = {'calculate_lpips': 'alexnet', 'calculate_dists': 'vgg16'}


@pytest.fixture(scope='module')
def features(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files with the features of torchvision's networks, of random weights: the trained ones are not here."""
    files = {}
    for name in KINDS.values():
        torch.manual_seed(0)
        with torch.device('meta'):
            layers = torchvision.models.get_model(name, weights=None).features
        state = {}
        for key, value in layers.state_dict().items():
            fan = float(np.prod(value.shape[1:])) or 1.0
            state[f'features.{key}'] = (
                torch.randn(value.shape) * (2 / fan) ** 0.5 if value.ndim > 1 else torch.zeros(value.shape)
            )
        files[name] = tmp_path_factory.mktemp('features') / f'{name}.pth'
        torch.save(state, files[name])
    return files


def noisy(image: np.ndarray, level: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, level, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize('metric', [calculate_lpips, calculate_dists])
def test_more_noise_is_a_larger_distance_and_equal_images_have_none(metric, features):
    image = photograph('chelsea.png', 80, 96)
    weights = str(features[KINDS[metric.__name__]])
    values = [metric(noisy(image, level), image, weights=weights) for level in (0, 10, 40)]
    assert values[0] == pytest.approx(0, abs=1e-5)
    assert 1e-4 < values[1] < values[2]
    gray = metric(noisy(image, 20)[:, :, 0], image[:, :, 0], weights=weights)
    assert gray == metric(*(np.repeat(part[:, :, :1], 3, 2) for part in (noisy(image, 20), image)), weights=weights)
    framed = noisy(image, 0).copy()
    framed[:4] = 0
    assert metric(framed, image, crop_border=4, weights=weights) == pytest.approx(0, abs=1e-5)


def test_values_are_those_of_torchmetrics_in_rgb(features, monkeypatch):
    image, other = photograph('coffee.png', 64, 72), noisy(photograph('coffee.png', 64, 72), 25)
    pair = [torch.from_numpy(part[:, :, ::-1].transpose(2, 0, 1).copy())[None] / 255 for part in (other, image)]

    def known(name):
        def build(weights):
            net = torchvision.models.get_model(name, weights=None)
            net.load_state_dict(torch.load(features[name], weights_only=True), strict=False)
            return net

        return build

    monkeypatch.setattr(dists, 'vgg16', known('vgg16'))
    expected = float(dists.deep_image_structure_and_texture_similarity(*pair).detach())
    assert calculate_dists(other, image, weights=str(features['vgg16'])) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(lpips, '_get_tv_model_features', lambda name, _trained: known(name)(None).features)
    expected = float(lpips.learned_perceptual_image_patch_similarity(*pair, net_type='alex', normalize=True))
    assert calculate_lpips(other, image, weights=str(features['alexnet'])) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('name', KINDS)
def test_weights_are_never_fetched_silently(name, features, tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda url, *_, **__: fetched.append(url))
    with pytest.raises(
        UserError,
        match=r"needs the weights of torchvision's \w+; fetch https.*say weights: FILE, or say download: true",
    ) as caught:
        read_metrics({'m': {'type': name}})
    assert '\n' not in str(caught.value)
    with pytest.raises(UserError, match='no such file; check weights'):
        read_metrics({'m': {'type': name, 'weights': 'no.pth'}})
    assert fetched == []

    def fails(url, *_, **__):
        fetched.append(url)
        raise OSError('no route')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fails)
    with pytest.raises(UserError, match=r'cannot fetch https.* \(no route\)'):
        read_metrics({'m': {'type': name, 'download': True}})
    assert len(fetched) == 1
    other = features['vgg16' if name == 'calculate_lpips' else 'alexnet']
    with pytest.raises(UserError, match=r"has no 'features\.\d+\.weight' of shape .*; it is of another network"):
        read_metrics({'m': {'type': name, 'weights': str(other)}})
    cached = tmp_path / 'hub' / 'checkpoints' / perceptual.file_name(KINDS[name])
    assert cached.parent.is_dir()
    cached.symlink_to(features[KINDS[name]])
    assert better_of({'type': name}) == 'lower'
    (metric,) = read_metrics({'m': {'type': name}})
    assert metric.options['better'] == 'lower'
    assert 'weights' not in metric.options


def test_without_torchmetrics_one_line_says_what_to_install(features, monkeypatch):
    import sys

    perceptual._lpips.cache_clear()
    monkeypatch.setitem(sys.modules, 'torchmetrics.functional.image.lpips', None)
    with pytest.raises(UserError, match=r"pip install 'sptsr\[metrics\]'"):
        read_metrics({'m': {'type': 'calculate_lpips', 'weights': str(features['alexnet'])}})


def test_a_test_measures_it(here: Path, features):
    options = yaml.safe_load(Path('test.yml').read_text())
    options['val']['metrics'] = {'lpips': {'type': 'calculate_lpips', 'weights': str(features['alexnet'])}}
    Path('test.yml').write_text(yaml.safe_dump(options))
    result = run_cli('test', '-opt', 'test.yml')
    assert result.returncode == 0, result.stderr
    record = json.loads(Path('results/tiny/metrics.json').read_text())['datasets']['photographs']['lpips']
    assert record['options'] == {'type': 'calculate_lpips', 'crop_border': 0, 'net': 'alex', 'better': 'lower'}
    assert record['mean'] > 0
    options['val']['metrics']['lpips']['net'] = 'resnet'
    Path('test.yml').write_text(yaml.safe_dump(options))
    assert run_cli('test', '-opt', 'test.yml').returncode == 2
