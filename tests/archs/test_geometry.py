"""The maps of `GeometryStem`: what dense masks say, in crops as in whole images, and whatever the masks are."""

import copy
from dataclasses import astuple

import numpy as np
import pytest
import torch
from torch import Tensor

import sptsr
from sptsr.archs.geometry import REACH, GeometryStem
from sptsr.archs.sizes import SizeRules
from sptsr.archs.spt_arch import SPTNet
from sptsr.commands.demo import NETWORK, WEIGHTS
from sptsr.core.errors import UserError
from sptsr.masks.batch import PriorBatch, popcount
from sptsr.masks.prior import Prior
from sptsr.priors.extract import build_source
from sptsr.restoring.tiling import restore_padded, restore_tiled
from tests.archs.cases import CASES, inputs, trained
from tests.archs.fairness import Arm, measure
from tests.archs.test_fairness import crops  # noqa: F401 (a fixture)
from tests.conftest import photograph

GEOMETRY = {'type': 'ModulationUnit', 'stem': 'geometry', 'width': 8}


@pytest.fixture(scope='module')
def scene() -> tuple[Tensor, Prior]:
    """A photograph [1, 3, 75, 98] and its masks."""
    image = photograph('coffee.png', 75, 98)
    return _tensor(image), build_source('felzenszwalb')(image, 'coffee', 64)


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def _plainly(lq: Tensor, prior: Prior) -> Tensor:
    """The maps of one image as GeometryStem's docstring says them, from dense masks, pixel by pixel where need be."""
    masks = prior.decode().astype(np.int64)
    image = lq[0].double().numpy()
    size = prior.size
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)), mode='edge')
    inner = (slice(None), slice(1, -1), slice(1, -1))
    changes = sum(np.abs(np.roll(padded, step, axis)[inner] - masks).sum(0) for step in (1, -1) for axis in (1, 2))
    edges = np.argwhere(changes > 0)
    maps = np.zeros((8, *size))
    for y, x in np.ndindex(*size):
        far = np.abs(edges - (y, x)).max(axis=1).min() if len(edges) else REACH
        maps[1, y, x] = 2 * max(0, 1 - far / REACH)
        around = [n for n in range(len(masks)) if masks[n, y, x]]
        maps[2, y, x] = 0.4 * len(around)
        if around:
            inside = masks[min(around, key=lambda n: (masks[n].sum(), -n))] == 1
            mean, spread = image[:, inside].mean(axis=1), np.sqrt(image[:, inside].var(axis=1).mean())
            maps[3, y, x] = -0.5 * np.log(inside.mean())
            maps[4:7, y, x] = (image[:, y, x] - mean) / (spread + 0.1)
            maps[7, y, x] = 2 * spread / (spread + 0.1)
    maps[0] = np.log1p(changes)
    return torch.from_numpy(maps).float()


def _maps(lq: Tensor, masks: PriorBatch | Prior, num_masks: int = 64) -> Tensor:
    batch = PriorBatch.of([masks]) if isinstance(masks, Prior) else masks
    return GeometryStem(lq.shape[1], num_masks, 4).maps(lq, batch)


def test_bits_are_counted():
    numbers = torch.randint(-(2**63), 2**63 - 1, (500,), generator=torch.Generator().manual_seed(0))
    numbers = torch.cat([numbers, torch.tensor([0, -1, 1, -(2**63), 2**63 - 1])])
    assert popcount(numbers).tolist() == [(int(n) % 2**64).bit_count() for n in numbers]


def test_maps_are_what_dense_masks_say(scene):
    lq, prior = scene
    cut = prior.crop(10, 20, 31, 40)
    small = Prior.encode(cut.decode())  # areas of the cut
    assert small.count > 5
    assert small.coverage() == 1
    holes = Prior.encode(small.decode()[-4:])
    assert 0 < holes.coverage() < 1
    for masks in (small, holes):
        part = lq[..., 10:41, 20:60]
        assert torch.allclose(_maps(part, masks)[0], _plainly(part, masks), atol=2e-5)


def test_a_crop_has_the_maps_of_the_whole_image_but_near_its_border(scene):
    lq, prior = scene
    whole = PriorBatch.of([prior])
    expected = _maps(lq, whole)
    top, left, bottom, right = 17, 23, 65, 71
    part, crop = lq[..., top:bottom, left:right], whole.describe(lq).crop(top, left, bottom, right)
    difference = (_maps(part, crop) - expected[..., top:bottom, left:right]).abs().amax(dim=(0, 1))
    assert difference[REACH:-REACH, REACH:-REACH].max() == 0
    assert difference[REACH - 1].max() > 0  # no further than need be
    lost = whole.crop(top, left, bottom, right)
    assert (_maps(part, lost) - expected[..., top:bottom, left:right]).abs()[
        ..., REACH:-REACH, REACH:-REACH
    ].max() > 0.1


def test_flips_and_rotations_move_the_maps_along(scene):
    lq, prior = scene
    expected = _maps(lq, prior)
    assert torch.allclose(_maps(lq.flip(3), prior.flip(1)), expected.flip(3), atol=1e-5)
    assert torch.allclose(_maps(lq.rot90(1, (2, 3)), prior.rotate()), expected.rot90(1, (2, 3)), atol=1e-5)


def test_of_equally_large_masks_the_last_counts(scene):
    lq, _ = scene
    masks = np.zeros((2, *lq.shape[2:]), np.bool_)
    masks[0, 2:12, 2:14] = masks[1, 2:12, 8:20] = True
    both = (..., slice(2, 12), slice(8, 14))
    for first, last in ((0, 1), (1, 0)):
        found = _maps(lq, Prior.encode(masks[[first, last]]))[both]
        of_first, of_last = (_maps(lq, Prior.encode(masks[[n]]))[both] for n in (first, last))
        assert torch.allclose(found[:, 3:], of_last[:, 3:], atol=1e-6)  # size, residual and spread
        assert not torch.allclose(found[:, 3:], of_first[:, 3:], atol=1e-2)


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (7, 2), (33, 31)])
def test_any_masks_at_any_size(size):
    image = photograph('chelsea.png', *size)
    lq = _tensor(image)
    nothing = Prior.encode(np.zeros((0, *size), np.bool_))
    assert _maps(lq, nothing).abs().max() == 0
    everything = _maps(lq, Prior.encode(np.ones((1, *size), np.bool_)))
    assert everything[:, [0, 1, 3]].abs().max() == 0  # no boundary, and the size of the image
    assert torch.allclose(everything[:, 2], torch.tensor(0.4))
    mean = lq.mean(dim=(2, 3), keepdim=True)
    spread = (lq - mean).square().mean().sqrt()
    assert torch.allclose(everything[:, 4:7], (lq - mean) / (spread + 0.1), atol=1e-5)
    left = np.zeros((1, *size), np.bool_)
    left[..., : size[1] // 2 + 1] = True
    assert torch.allclose(_maps(lq, Prior.encode(left))[0], _plainly(lq, Prior.encode(left)), atol=1e-5)


def test_only_so_many_masks_are_looked_at(scene):
    lq, prior = scene
    assert prior.count > 20
    few = Prior.encode(prior.decode()[:5])
    assert torch.allclose(_maps(lq, prior, num_masks=5), _maps(lq, few), atol=1e-6)
    assert not torch.allclose(_maps(lq, prior), _maps(lq, few), atol=0.1)


def test_images_of_a_batch_do_not_touch(scene):
    lq, prior = scene
    other = _tensor(photograph('rocket.jpg', 75, 98))
    nothing = Prior.encode(np.zeros((0, 75, 98), np.bool_))
    priors = [prior, prior.flip(0), nothing]
    together = _maps(torch.cat([lq, other, lq]), PriorBatch.of(priors))
    for n, image in enumerate((lq, other, lq)):
        assert torch.allclose(together[n : n + 1], _maps(image, priors[n]), atol=1e-6)
    described = PriorBatch.of(priors).describe(torch.cat([lq, other, lq]))
    assert torch.allclose(_maps(other, described.rows(1, 2)), together[1:2], atol=1e-6)


def test_one_channel(scene):
    lq, prior = scene
    maps = _maps(lq[:, :1], prior)
    assert maps.shape[1] == 6
    assert torch.equal(maps[:, :4], _maps(lq, prior)[:, :4])


@pytest.mark.parametrize('half', [torch.bfloat16, torch.float16])
def test_maps_are_exact_under_autocast(scene, half):
    lq, prior = scene
    stem, masks = GeometryStem(3, 64, 4), PriorBatch.of([prior])
    expected = stem.maps(lq, masks)
    with torch.autocast('cpu', half):
        assert torch.equal(stem.maps(lq, masks), expected)
        assert stem(lq, masks).dtype == half
    assert stem.to(half)(lq.to(half), masks).dtype == half


def test_memory_layouts_give_the_same(scene):
    lq, prior = scene
    torch.manual_seed(0)
    stem, masks = GeometryStem(3, 64, 8), PriorBatch.of([prior])
    plain = stem(lq, masks)
    last = stem.to(memory_format=torch.channels_last)(lq.contiguous(memory_format=torch.channels_last), masks)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(last, plain, atol=1e-5)


def test_the_stem_compiles_without_a_break(scene):
    lq, prior = scene
    stem, masks = GeometryStem(3, 64, 8), PriorBatch.of([prior])
    torch._dynamo.reset()
    compiled = torch.compile(stem, fullgraph=True, backend='eager')
    assert torch.equal(compiled(lq, masks), stem(lq, masks))
    described = masks.describe(lq)
    assert torch.equal(compiled(lq, described), stem(lq, described))


@pytest.mark.parametrize('case', ['IMDN', 'SwinIR denoising', 'FFDNet gray', 'RIDNet'])
@pytest.mark.parametrize('unit', [{}, {'path': 'ladder'}, {'type': 'RegionUnit'}], ids=str)
def test_networks_with_the_stem_start_as_they_are_and_learn(case, unit):
    torch.manual_seed(0)
    arch, arguments = CASES[case]
    net = SPTNet({'type': arch, **arguments}, unit={**GEOMETRY, **unit}, num_masks=5)
    assert net.uses_masks
    assert net.uses_statistics
    channels = net.in_channels
    lq, masks = inputs(17, 21, batch=3, channels=channels)
    with torch.no_grad():
        outputs = [restore_padded(net, lq, PriorBatch.from_masks(masks), net.sizes, net.scale)]
        with net.units_off():
            outputs.append(restore_padded(net, lq, PriorBatch.from_masks(masks), net.sizes, net.scale))
    assert torch.equal(*outputs)
    before = {name: value.detach().clone() for name, value in net.adapter_parameters().items()}
    trained(net, channels=channels)
    assert [name for name, value in net.adapter_parameters().items() if torch.equal(value, before[name])] == []
    twin = copy.deepcopy(net)
    with torch.no_grad():
        lq, masks = inputs(12, 16, channels=channels)
        assert torch.equal(twin(lq, masks), net(lq, masks))
        assert not torch.equal(net(lq, masks), net(lq, masks.roll(3, dims=3)))


@torch.no_grad()
def test_padded_and_tiled_images_have_the_statistics_of_the_whole_one(scene):
    lq, prior = scene
    torch.manual_seed(0)
    net = SPTNet({'type': 'DnCNN', 'in_nc': 3, 'out_nc': 3, 'nc': 8, 'nb': 4}, unit=GEOMETRY, sites=['model.2'])
    for name, value in net.adapter_parameters().items():
        if 'out' in name:
            torch.nn.init.normal_(value, std=0.3)
    masks = PriorBatch.of([prior])
    whole = net(lq, masks)
    tiled = restore_tiled(net, lq, masks, net.sizes, 1, tile=24, overlap=16)
    assert (tiled - whole).abs().max() < 1e-5
    padded: list[Tensor] = []
    restore_padded(lambda a, b: padded.append(net.stem.maps(a, b)) or a, lq, masks, SizeRules(64), 1)
    assert padded[0].shape[-2:] == (128, 128)
    expected = net.stem.maps(lq, masks)
    assert torch.equal(padded[0][..., :69, :92], expected[..., :69, :92])


def test_an_adapter_says_its_stem(tmp_path):
    net = sptsr.attach({'type': 'IMDN', 'nf': 16, 'num_modules': 2, 'upscale': 4}, stem='geometry', width=8)
    torch.save(net.backbone.state_dict(), tmp_path / 'weights.pth')
    sptsr.save(net, tmp_path / 'a.safetensors')
    again = sptsr.load(tmp_path / 'a.safetensors', weights=tmp_path / 'weights.pth')
    assert isinstance(again.stem, GeometryStem)
    image = photograph('coffee.png', 40, 36)
    prior = sptsr.make_prior(image)
    assert np.array_equal(sptsr.restore(again, image, prior), sptsr.restore(net, image, prior))


def test_a_density_is_that_of_the_plain_stem():
    backbone = {'type': 'IMDN', 'nf': 16, 'num_modules': 2, 'upscale': 4}
    nets = []
    for unit in ({'type': 'PlainUnit', 'density': 3.0}, {'stem': {'type': 'plain', 'density': 3.0}}):
        torch.manual_seed(0)
        nets.append(SPTNet(backbone, unit={'type': 'ModulationUnit', **unit}))
    first, second = (net.adapter_state() for net in nets)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not nets[1].uses_masks


def test_maps_can_be_left_out(scene):
    lq, prior = scene
    stem = GeometryStem(3, 64, 4, maps=['residual', 'boundary'])
    maps = stem.maps(lq, PriorBatch.of([prior]))
    assert torch.equal(maps, _maps(lq, prior)[:, [0, 4, 5, 6]])
    assert stem.uses_statistics
    assert not GeometryStem(3, 64, 4, maps=['nearness', 'count']).uses_statistics


@pytest.mark.parametrize(
    ('stem', 'message'),
    [
        ('geometri', "no stem is called 'geometri'; did you mean 'geometry'"),
        ({'type': 'geometry', 'reach': 3}, "stem geometry takes no 'reach'"),
        ({'type': 'geometry', 'maps': ['near']}, "no map is called 'near'; did you mean 'nearness'"),
        ({'type': 'geometry', 'maps': 3}, "'maps' of stem geometry must be"),
        ({'maps': ['count']}, "no stem is called ''"),
        (3, "'stem' of ModulationUnit must be"),
    ],
)
def test_mistakes_in_a_stem_are_refused(stem, message):
    with pytest.raises(UserError, match=message):
        sptsr.attach({'type': 'IMDN', 'nf': 16, 'num_modules': 2, 'upscale': 4}, stem=stem)


def test_masks_of_any_kind_start_alike_and_teach_as_fast(crops):  # noqa: F811
    """What `GeometryStem` gains over its controls, masks that fit gave."""
    arms = {name: PriorBatch.of(getattr(crops, name)) for name in ('own', 'others', 'random')}
    found = {
        name: measure(Arm({'type': 'ModulationUnit', 'stem': 'geometry'}, masks), crops, NETWORK, str(WEIGHTS))
        for name, masks in arms.items()
    }
    for name in ('others', 'random'):
        assert astuple(found[name].over(found['own'])) == pytest.approx((1, 1, 1, 1), abs=0.1), name
