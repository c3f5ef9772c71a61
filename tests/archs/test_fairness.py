"""The arms of a comparison differ in the masks, not in how much or how fast they do something."""

from dataclasses import astuple
from pathlib import Path

import pytest
import torch

from sptsr.archs.geometry import GeometryStem, GreyStem
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.stems import MaskStem, PlainStem, RepeatedStem
from sptsr.commands.demo import NETWORK, WEIGHTS
from sptsr.core.registry import STEM_REGISTRY, UNIT_REGISTRY
from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from sptsr.images.prepare import prepare
from sptsr.masks.batch import PriorBatch
from sptsr.priors.extract import build_source, extract
from sptsr.priors.store import PriorStore
from tests.archs.fairness import Arm, Crops, cut, measure, table
from tests.conftest import photograph

PHOTOGRAPHS = ('astronaut.png', 'coffee.png', 'chelsea.png', 'rocket.jpg')


@pytest.fixture(scope='module')
def crops(tmp_path_factory: pytest.TempPathFactory) -> Crops:
    """Crops of photographs at a quarter of their size, with masks by felzenszwalb's segmentation."""
    root = tmp_path_factory.mktemp('fairness')
    for name in PHOTOGRAPHS:
        write_png(root / 'raw' / f'{Path(name).stem}.png', photograph(name, 256, 320))
    prepare(ImageFolder(root / 'raw'), root, 4)
    return _crops(ImageFolder(root / 'LRx4'), ImageFolder(root / 'GTx4'), root / 'prior', 'felzenszwalb', [])


def _crops(lq: ImageFolder, gt: ImageFolder, out: Path, kind: str, arguments: list[str]) -> Crops:
    extract(lq, out, build_source(kind, arguments))
    return cut(lq, gt, PriorStore(out))


@pytest.mark.parametrize('stem', ['geometry', 'masks'])
def test_all_arms_start_alike_and_learn_as_fast(crops, stem):
    ratios = table(crops, NETWORK, str(WEIGHTS), stem)
    built_in = {name for name, unit in UNIT_REGISTRY if unit.__module__ == 'sptsr.archs.units'}
    assert {name.split(',')[0] for name in ratios} == built_in
    for name, response in ratios.items():
        assert astuple(response) == pytest.approx((1, 1, 1, 1), abs=0.1), name


def test_the_test_would_tell_an_unfair_control(crops, monkeypatch):
    """The control of 0.1."""
    unit = {'type': 'ModulationUnit', 'stem': 'masks'}
    own = measure(Arm(unit, PriorBatch.of(crops.own)), crops, NETWORK, str(WEIGHTS))
    monkeypatch.setitem(STEM_REGISTRY._obj_map, 'plain', lambda *args, density: RepeatedStem(*args))
    old = measure(Arm({'type': 'PlainUnit', 'density': crops.density}), crops, NETWORK, str(WEIGHTS)).over(own)
    assert old.spread > 1.15
    assert old.second_prior > 4


@pytest.mark.parametrize('kinds', [(MaskStem, PlainStem), (GeometryStem, GreyStem)])
def test_the_control_has_as_many_parameters_and_the_same_start(kinds):
    stems = []
    for kind in kinds:
        torch.manual_seed(0)
        stems.append(dict(kind(3, 64, 16).named_parameters()))
    assert stems[0].keys() == stems[1].keys()
    assert all(torch.equal(stems[0][name], stems[1][name]) for name in stems[0])


@pytest.mark.parametrize(
    ('masks', 'density'), [(64, 0.3), (64, 2.0), (64, 2.5), (64, 3.17), (64, 9.0), (5, 2.5), (1, 0.5)]
)
def test_a_grey_level_lies_in_as_many_intervals_as_asked_for(masks, density):
    stem = PlainStem(3, masks, 4, density)
    inside = PriorBatch(stem.palette, torch.arange(256).view(1, 16, 16)).expand(masks)
    assert float(inside.sum(dim=1).mean()) == pytest.approx(density, rel=0.04, abs=0.06)  # of 256 levels
    assert inside.sum(dim=(2, 3)).min() > 0  # every weight is used


@torch.no_grad()
def test_the_control_sees_pixels_and_no_regions():
    torch.manual_seed(0)
    stem, lq = PlainStem(3, 64, 8, 2.5), torch.rand(1, 3, 20, 24)
    order = torch.randperm(20 * 24)
    codes = []
    forward = MaskStem.forward
    for image in (lq, lq.flatten(2)[..., order].view_as(lq)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                MaskStem, 'forward', lambda self, lq, masks: codes.append(masks.expand(64)) or forward(self, lq, masks)
            )
            stem(image)
    assert torch.equal(codes[0].flatten(2)[..., order], codes[1].flatten(2))


@torch.no_grad()
def test_the_control_of_geometry_sees_pixels_and_no_regions():
    torch.manual_seed(0)
    stem, lq = GreyStem(3, 64, 8), torch.rand(1, 3, 20, 24)
    order = torch.randperm(20 * 24)
    read = []
    stem[0].register_forward_hook(lambda _, given, output: read.append(given[0]))
    for image in (lq, lq.flatten(2)[..., order].view_as(lq)):
        stem(image)
    torch.testing.assert_close(read[0].flatten(2)[..., order], read[1].flatten(2))


@pytest.mark.parametrize('density', [0, -1, 65, float('nan')])
def test_a_density_out_of_range_is_refused(density):
    with pytest.raises(ValueError, match='density must be above 0 and at most 64'):
        SPTNet(NETWORK, unit={'type': 'PlainUnit', 'density': density})


@pytest.mark.data
@pytest.mark.parametrize('stem', ['geometry', 'masks'])
@pytest.mark.parametrize('kind', ['labels', 'felzenszwalb'])
def test_arms_are_alike_on_published_sets(real_data, kind, stem, tmp_path):
    labels = [f'dir={real_data}/bsds500/segmentations', f'names={real_data}/bsds500_of_b100.json']
    folders = [real_data / 'sr' / 'BSD100' / name for name in ('LRx4', 'GTx4')]
    # every seventh image: masks of all take a minute
    names = ImageFolder(folders[0]).keys[::7]
    lq, gt = (ImageFolder(folder, include=names) for folder in folders)
    crops = _crops(lq, gt, tmp_path / 'prior', kind, labels if kind == 'labels' else [])
    ratios = table(crops, NETWORK, str(WEIGHTS), stem)
    same, other = {'geometry': (0.15, 0.25), 'masks': (0.1, 0.2)}[stem]
    for name, response in ratios.items():
        # The same unit on other masks: of those, the crops have more or fewer at a pixel; and an image is farther from
        # its means in another image's masks.
        others = name.endswith((', masks of other images', ', random regions'))
        assert astuple(response) == pytest.approx((1, 1, 1, 1), abs=other if others else same), name
