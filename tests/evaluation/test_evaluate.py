"""Means that tell what is in them, and metrics that were not made for an image."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from basicsr.utils.registry import METRIC_REGISTRY
from torch.utils.data import DataLoader

from sptsr.core.errors import UserError
from sptsr.data.loader import eval_loader
from sptsr.evaluation.evaluate import evaluate
from sptsr.evaluation.metrics import read_metrics
from sptsr.evaluation.records import Results, metrics_json, shown_exclusions, shown_mean
from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from sptsr.priors.extract import build_source, extract
from sptsr.report.tables import results_table
from tests.conftest import photograph, run_cli

PSNR = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}
NIQE = {'niqe': {'type': 'calculate_niqe', 'crop_border': 0}}
NAMES = ('astronaut.png', 'coffee.png', 'chelsea.png', 'rocket.jpg')


class Set:
    """Pairs of a noisy photograph and its GT; `change` makes other pairs of some."""

    def __init__(self, height: int = 96, width: int = 192, **change: Any) -> None:
        self.opt = {'name': 'holdout', 'scale': 1}
        self.items = []
        for name in NAMES:
            key = name.split('.')[0]
            gt = torch.from_numpy(photograph(name, height, width).transpose(2, 0, 1)).float() / 255
            noisy = (gt + 0.1 * torch.randn(gt.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
            self.items.append({'key': key, 'lq': noisy, 'gt': gt} | change.get(key, dict)())

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]


def flat() -> dict[str, torch.Tensor]:
    return {'lq': torch.full((3, 96, 192), 0.4), 'gt': torch.full((3, 96, 192), 0.5)}


def equal() -> dict[str, torch.Tensor]:
    return {'lq': torch.zeros(3, 96, 192), 'gt': torch.zeros(3, 96, 192)}


def small() -> dict[str, torch.Tensor]:
    return {'lq': torch.rand(3, 40, 50), 'gt': torch.rand(3, 40, 50)}


def run(dataset: Any, metrics: dict[str, Any]) -> Results:
    return evaluate(lambda batch: batch['lq'], eval_loader(dataset), metrics, progress=False)


def test_a_mean_is_of_the_finite_values_and_the_others_are_named():
    record = run(Set(coffee=equal), PSNR)['psnr']
    finite = [value for key, value in record['per_image'].items() if key != 'coffee']
    assert record['per_image']['coffee'] == math.inf
    assert len(finite) == 3
    assert record['mean'] == pytest.approx(np.mean(finite))
    assert record['ci95'] > 0
    assert record['excluded'] == {'coffee': 'inf'}
    assert shown_exclusions(record) == '1 of 4 left out: coffee (inf)'


def test_where_nothing_is_finite_there_is_no_mean():
    results = run(Set(**dict.fromkeys(('astronaut', 'coffee', 'chelsea', 'rocket'), equal)), PSNR)
    assert results['psnr']['mean'] is None
    assert results['psnr']['ci95'] is None
    assert shown_mean(results['psnr']) == 'none'
    assert shown_exclusions(results['psnr']).endswith('chelsea (inf) and 1 more')
    table = results_table({'holdout': results})
    assert table.splitlines()[2].split() == ['holdout', '4', '-']
    assert '4 of 4 left out' in table.splitlines()[3]


@pytest.mark.parametrize('value', [math.nan, -math.inf])
def test_no_nan_becomes_a_number(monkeypatch: pytest.MonkeyPatch, value: float):
    dataset = Set()
    middle = 255 * float(np.median([item['lq'].mean() for item in dataset.items]))
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'odd', lambda img, img2: value if img.mean() > middle else 1.0)
    results = run(dataset, {'odd': {'type': 'odd'}})
    bad = {key for key, found in results['odd']['per_image'].items() if found != 1.0}
    assert 0 < len(bad) < 4
    assert results['odd']['mean'] == 1.0
    assert results['odd']['excluded'] == dict.fromkeys(results['odd']['excluded'], str(value))
    assert set(results['odd']['excluded']) == bad
    text = json.dumps(metrics_json('x', '', {'holdout': results}, {}), allow_nan=False)
    assert json.loads(text)['datasets']['holdout']['odd']['per_image'][min(bad)] == str(value)


def test_an_empty_set_is_refused():
    empty = Set()
    empty.items = []
    loader = DataLoader(empty, sampler=range(0))  # type: ignore[arg-type]
    with pytest.raises(UserError, match='holdout: the set has no images'):
        evaluate(lambda batch: batch['lq'], loader, PSNR)


def test_two_images_of_one_name_are_refused():
    twice = Set()
    twice.items[2]['key'] = 'coffee'
    with pytest.raises(UserError, match='holdout: two images are called coffee; rename'):
        run(twice, PSNR)


def test_nor_is_the_result_of_the_first_replaced_without_metrics(tmp_path: Path):
    twice = Set()
    twice.items[2]['key'] = 'coffee'
    with pytest.raises(UserError, match='holdout: two images are called coffee; rename'):
        evaluate(lambda batch: batch['lq'], eval_loader(twice), None, save_dir=tmp_path, progress=False)
    alone = Set()
    evaluate(lambda batch: batch['lq'], eval_loader(alone), None, save_dir=tmp_path / 'alone', progress=False)
    assert (tmp_path / 'coffee.png').read_bytes() == (tmp_path / 'alone' / 'coffee.png').read_bytes()


def test_lq_images_have_digests_of_their_own():
    one, other = Set(), Set()
    for item in other.items[:1]:
        item['lq'] = item['lq'] * 0.5
    one, other = run(one, PSNR), run(other, PSNR)
    assert one.images == other.images
    assert [one.inputs[key] == other.inputs[key] for key in one.inputs] == [False, True, True, True]


def test_a_metric_that_fails_on_one_image_goes_on():
    results = run(Set(coffee=flat, rocket=small), {**NIQE, **PSNR})
    record = results['niqe']
    assert set(record['excluded']) == {'coffee', 'rocket'}
    assert 'calculate_niqe fails: SVD' in record['excluded']['coffee']
    assert '40x50 is too small for calculate_niqe' in record['excluded']['rocket']
    assert math.isfinite(record['mean'])
    assert all(map(math.isfinite, results['psnr']['per_image'].values()))
    assert record['options'] == {
        'type': 'calculate_niqe', 'crop_border': 0, 'input_order': 'HWC', 'convert_to': 'y', 'better': 'lower'
    }  # fmt: skip


@pytest.mark.parametrize(
    ('size', 'fits'), [((96, 192), True), ((192, 96), True), ((96, 191), False), ((95, 400), False)]
)
def test_niqe_takes_two_blocks(size: tuple[int, int], fits: bool):
    (metric,) = read_metrics(NIQE)
    assert (metric.too_small(*size) is None) == fits
    if fits:
        assert math.isfinite(metric.measure(photograph('coffee.png', *size), None))


REFUSED = {
    'psnr_pt': ({'type': 'calculate_psnr_pt', 'crop_border': 0}, r'metrics\.m: it cannot be used here'),
    'ssim_pt': ({'type': 'calculate_ssim_pt', 'crop_border': 4}, r'metrics\.m: it cannot be used here'),
    'order': ({'type': 'calculate_psnr', 'crop_border': 4, 'input_order': 'XYZ'}, r"m\.input_order: 'XYZ'"),
    'other order': ({'type': 'calculate_ssim', 'crop_border': 4, 'input_order': 'CHW'}, r"m\.input_order: 'CHW'"),
    'conversion': ({'type': 'calculate_niqe', 'crop_border': 4, 'convert_to': 'foo'}, r"m\.convert_to: 'foo'"),
    'negative': ({'type': 'calculate_psnr', 'crop_border': -4}, r'm\.crop_border: -4 is not a whole number'),
    'fraction': ({'type': 'calculate_psnr', 'crop_border': 1.5}, r'm\.crop_border: 1.5 is not'),
    'text': ({'type': 'calculate_psnr', 'crop_border': 'four'}, r"m\.crop_border: 'four' is not"),
    'nothing': ({'type': 'calculate_psnr', 'crop_border': None}, r'm\.crop_border: None is not'),
    'truth': ({'type': 'calculate_ssim', 'crop_border': True}, r'm\.crop_border: True is not'),
    'huge': ({'type': 'calculate_psnr', 'crop_border': 10**9}, 'too small for calculate_psnr with crop_border 10000'),
    'too large': ({'type': 'calculate_ssim', 'crop_border': 43}, '96x192 is too small .* no image is large enough'),
    'niqe': ({'type': 'calculate_niqe', 'crop_border': 1}, 'needs two blocks of 96x96'),
}  # fmt: skip


@pytest.mark.parametrize('case', REFUSED)
def test_metrics_that_cannot_work_are_refused_before_the_first_image(case: str):
    options, match = REFUSED[case]
    restored = []
    loader = eval_loader(Set())
    with pytest.raises(UserError, match=match) as caught:
        evaluate(lambda batch: restored.append(batch) or batch['lq'], loader, {**PSNR, 'm': options}, progress=False)
    assert restored == []
    assert '\n' not in str(caught.value)


def test_of_a_set_without_gt_what_needs_none_is_measured():
    bare = Set()
    for item in bare.items:
        del item['gt']
    results = run(bare, {**NIQE, **PSNR})
    assert list(results) == ['niqe']
    assert results.left_out == ['psnr']
    assert results['niqe']['mean'] > 0
    assert len(results.images) == 4
    alone = run(bare, PSNR)
    assert dict(alone) == {}
    assert alone.images == results.images
    assert results_table({'holdout': alone}).splitlines()[2:] == [
        'holdout       4',
        'holdout: has no GT; left out: psnr',
    ]


def test_a_test_without_gt_restores_and_says_what_it_left_out(here: Path):
    full = run_cli('test', '-opt', 'test.yml', '--force_yml', 'val:save_img=true', 'name=full')
    assert full.returncode == 0, full.stderr
    options = yaml.safe_load(Path('test.yml').read_text())
    del options['datasets']['test']['dataroot_gt']
    Path('bare.yml').write_text(yaml.safe_dump(options))
    result = run_cli('test', '-opt', 'bare.yml')
    assert result.returncode == 0, result.stderr
    assert 'photographs: has no GT; left out: psnr, ssim' in result.stdout
    made = sorted(Path('results/tiny/visualization/photographs').iterdir())
    assert [path.name for path in made] == ['astronaut.png', 'chelsea.png', 'coffee.png', 'rocket.png']
    for path in made:
        assert path.read_bytes() == Path('results/full/visualization/photographs', path.name).read_bytes()
    record = json.loads(Path('results/tiny/metrics.json').read_text())
    assert record['datasets'] == {'photographs': {}}
    assert len(record['images']['photographs']) == 4
    listed = {**options['datasets']['test'], 'meta_info_file': 'list.txt'}
    Path('list.txt').write_text('coffee.png\n')
    options['datasets']['test'] = listed
    options['name'] = 'listed'
    Path('listed.yml').write_text(yaml.safe_dump(options))
    assert run_cli('test', '-opt', 'listed.yml').returncode == 0
    assert [path.name for path in Path('results/listed/visualization/photographs').iterdir()] == ['coffee.png']


def test_training_needs_gt(here: Path):
    options = yaml.safe_load(Path('train.yml').read_text())
    del options['datasets']['train']['dataroot_gt']
    Path('train.yml').write_text(yaml.safe_dump(options))
    result = run_cli('train', '-opt', 'train.yml')
    assert result.returncode == 2
    assert "needs 'dataroot_gt'; only a test does without GT" in result.stderr
    assert not Path('experiments').exists()


def test_niqe_names_an_image_that_is_too_small_and_keeps_the_others(here: Path):
    """The smallest photograph is 128x128; NIQE needs two blocks of 96x96."""
    options = yaml.safe_load(Path('test.yml').read_text())
    options['val']['metrics']['niqe'] = {'type': 'calculate_niqe', 'crop_border': 0}
    Path('test.yml').write_text(yaml.safe_dump(options))
    result = run_cli('test', '-opt', 'test.yml')
    assert result.returncode == 2
    assert 'needs two blocks of 96x96 (96x192), and no image is large enough' in result.stderr
    write_png(here / 'set/GTx4/rocket.png', photograph('rocket.jpg', 128, 256))
    write_png(here / 'set/LRx4/rocket.png', photograph('rocket.jpg', 32, 64))
    extract(ImageFolder(here / 'set/LRx4'), here / 'set/other', build_source('felzenszwalb', ['min_size=4']))
    options['datasets']['test']['dataroot_prior'] = str(here / 'set/other')
    Path('test.yml').write_text(yaml.safe_dump(options))
    result = run_cli('test', '-opt', 'test.yml')
    assert result.returncode == 0, result.stderr
    assert 'photographs, niqe: 3 of 4 left out: astronaut (128x160 is too small for calculate_niqe' in result.stdout
    record = json.loads(Path('results/tiny/metrics.json').read_text())['datasets']['photographs']
    assert record['niqe']['mean'] > 0
    assert len(record['psnr']['per_image']) == 4


def test_a_metric_for_gray_images_only_is_kept(monkeypatch: pytest.MonkeyPatch):
    def gray_only(img: Any, img2: Any) -> float:
        assert img.ndim == 2
        return 1.0

    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'gray_only', gray_only)
    read_metrics({'m': {'type': 'gray_only'}})


def test_digests_tell_other_images_of_one_name():
    one, two = run(Set(), PSNR).images, run(Set(coffee=flat), PSNR).images
    assert {key for key in one if one[key] != two[key]} == {'coffee'}


def test_two_sets_of_one_name_are_refused(here: Path):
    options = yaml.safe_load(Path('test.yml').read_text())
    options['datasets']['test_2'] = options['datasets']['test']
    Path('two.yml').write_text(yaml.safe_dump(options))
    result = run_cli('test', '-opt', 'two.yml')
    assert result.returncode == 2
    assert "'photographs'" in result.stderr
    assert not Path('results').exists()


def test_equal_images_do_not_end_a_test_or_become_best(here: Path):
    for folder, size in (('GTx4', (128, 160)), ('LRx4', (32, 40))):
        write_png(here / 'set' / folder / 'astronaut.png', np.zeros((*size, 3), np.uint8))
    options = yaml.safe_load(Path('test.yml').read_text())
    del options['datasets']['test']['dataroot_prior']
    options['network_g'] = {'type': 'ZeroNet'}
    options['plugins'] = ['zero.py']
    Path('zero.py').write_text(
        'import torch\nfrom sptsr.registry import ARCH_REGISTRY\n\n@ARCH_REGISTRY.register()\n'
        'class ZeroNet(torch.nn.Module):\n    def forward(self, x):\n'
        '        return torch.nn.functional.interpolate(x, scale_factor=4)\n'
    )
    Path('zero.yml').write_text(yaml.safe_dump(options))
    result = run_cli('test', '-opt', 'zero.yml')
    assert result.returncode == 0, result.stderr
    assert 'photographs, psnr: 1 of 4 left out: astronaut (inf)' in result.stdout
    record = json.loads(Path('results/tiny/metrics.json').read_text())
    psnr = record['datasets']['photographs']['psnr']
    assert psnr['per_image']['astronaut'] == 'inf'
    assert psnr['excluded'] == {'astronaut': 'inf'}
    assert 15 < psnr['mean'] < 40
    assert len(record['images']['photographs']) == 4


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_values_that_are_no_numbers_are_not_measured(value: float, tmp_path: Path):
    def broken(batch: dict[str, Any]) -> torch.Tensor:
        output = batch['lq'].clone()
        if batch['key'][0] == 'coffee':
            output[0, 0, 3, 4] = value
        return output

    with pytest.raises(UserError, match='holdout: coffee: the network gives NaN or infinite values'):
        evaluate(broken, eval_loader(Set()), PSNR, save_dir=tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ['astronaut.png']
