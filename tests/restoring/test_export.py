"""Exported networks give PyTorch's images, at any size, and say what they are."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import sptsr
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.traced_call import FoldedUnit, TracedCall
from sptsr.core.errors import UserError
from sptsr.core.files import sha256_file
from sptsr.core.registry import ARCH_REGISTRY
from sptsr.masks.prior import Prior
from sptsr.restoring import export as exporting
from sptsr.restoring.export import RECORD, SIZES, example, expected, export
from tests.archs.cases import CASES, make_net
from tests.conftest import photograph, run_cli
from tests.test_docs import blocks

ROOT = Path(__file__).parents[2]
WITHOUT = """\
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('sptsr', 'basicsr', 'torch'):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
"""


def changed(net: SPTNet) -> SPTNet:
    """The network, with units that change the image by more than trained ones do."""
    torch.manual_seed(5)
    for name, value in net.adapter_parameters().items():
        if '.out.' in name or name.startswith('join'):
            nn.init.normal_(value, std=0.1)
    return net.eval()


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for the demo's network."""
    weights = ROOT / 'sptsr' / 'assets' / 'demo_imdn_x4.safetensors'
    path = tmp_path_factory.mktemp('demo') / 'adapter.safetensors'
    net = SPTNet({'type': 'IMDN', 'nf': 32, 'num_modules': 4, 'upscale': 4}, backbone_weights=str(weights))
    sptsr.save(changed(net), path)
    return path


@pytest.fixture(scope='module')
def model(demo: Path) -> Path:
    """The demo's network as ONNX."""
    path = demo.with_name('model.onnx')
    result = run_cli('export', demo, '-o', path)
    assert result.returncode == 0, result.stderr
    assert 'inputs lq, index, palette' in result.stdout
    return path


@pytest.mark.parametrize('unit', ['ModulationUnit', 'PlainUnit', 'RegionUnit', 'ModulationUnit ladder'])
@pytest.mark.parametrize('case', ['IMDN', 'SwinIR denoising', 'FFDNet', 'RRDBNet x2'])
@torch.no_grad()
def test_the_traced_call_is_the_call_of_the_network(case, unit):
    net = changed(make_net(case, unit))
    call = TracedCall(net)
    folded = 0 if unit == 'RegionUnit' else len(net.units)
    assert sum(isinstance(part, FoldedUnit) for part in call.net.units) == folded
    for size in SIZES:
        given = example(net, call.input_names, size, 9)
        result = call(**given).numpy()
        assert np.abs(result - expected(net, given)).max() < 1e-5
        with net.units_off():
            assert np.abs(result - expected(net, given)).max() > 1e-3  # units play a part


@pytest.mark.parametrize('name', ['chelsea.png', 'coffee.png'])
def test_the_file_restores_photographs_of_any_size(demo, model, name):
    image = photograph(name, *{'chelsea.png': (47, 85), 'coffee.png': (2, 3)}[name])
    net = sptsr.load(demo)
    prior = sptsr.make_prior(image, min_size=4)
    bits = (prior.palette[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)).astype(np.uint8)
    given = {
        'lq': image.transpose(2, 0, 1)[None].astype(np.float32) / 255,
        'index': prior.index[None].astype(np.int64),
        'palette': np.vstack([bits, np.zeros((2, 64), np.uint8)]),
    }
    (restored,) = onnxruntime.InferenceSession(model).run(None, given)
    pixels = (restored[0].clip(0, 1) * 255).round().transpose(1, 2, 0)
    difference = np.abs(pixels - sptsr.restore(net, image, prior))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001
    unmasked = {**given, 'palette': np.zeros_like(given['palette'])}
    (none,) = onnxruntime.InferenceSession(model).run(None, unmasked)
    assert np.abs(none - restored).max() > 1e-3  # masks play a part


def test_the_file_says_what_it_is(demo, model):
    record = json.loads(next(entry.value for entry in onnx.load(model).metadata_props if entry.key == RECORD))
    net = sptsr.load(demo)
    assert record['scale'] == 4
    assert record['sizes'] == {'multiple': 1, 'minimum': 1, 'grid': 1}
    assert record['range'] == [0, 1]
    assert record['masks'] == 64
    assert record['adapter_sha256'] == sha256_file(demo)
    assert record['backbone_sha256'] == net.backbone_digest()
    assert record['sptsr'] == sptsr.__version__


def test_the_lines_of_the_docs_run_without_sptsr(demo, model, tmp_path):
    lines, _ = blocks(ROOT / 'docs' / 'export.md', 'python')
    image = photograph('rocket.jpg', 41, 56)
    labels = np.add.outer(np.arange(41) // 9 * 100, np.arange(56) // 13) ** 2 - 7
    Image.fromarray(image).save(tmp_path / 'photo.png')
    np.save(tmp_path / 'labels.npy', labels)
    (tmp_path / 'model.onnx').symlink_to(model)
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT + lines], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    prior = Prior.encode(np.stack([labels == value for value in np.unique(labels)]))
    by_sptsr = sptsr.restore(sptsr.load(demo), image, prior)
    difference = np.abs(np.asarray(Image.open(tmp_path / 'restored.png')).astype(int) - by_sptsr)
    assert difference.max() <= 1
    assert len([line for line in lines.splitlines() if line.strip()]) <= 13


def test_the_lines_of_the_docs_for_masks_that_overlap():
    _, lines = blocks(ROOT / 'docs' / 'export.md', 'python')
    rows, columns = np.mgrid[:9, :12]
    for masks in (
        np.stack([rows < 8, columns < 6, (rows > 3) & (columns > 4)]),
        np.ones((1, 9, 12), np.bool_),
        np.zeros((0, 9, 12), np.bool_),
    ):
        found = {'np': np, 'masks': masks, 'N': 5, 'h': 9, 'w': 12}
        exec(lines, found)  # our own page
        assert (found['palette'].dtype, found['index'].shape) == (np.uint8, (1, 9, 12))
        assert len(found['palette']) >= 2
        dense = found['palette'][found['index'][0]].transpose(2, 0, 1)
        assert (dense[: len(masks)] == masks).all()
        assert not dense[len(masks) :].any()


@pytest.mark.parametrize(
    ('case', 'unit'),
    [('FFDNet', 'RegionUnit'), ('RRDBNet x2', 'ModulationUnit ladder')],
)
def test_networks_of_other_kinds_become_onnx(case, unit, tmp_path):
    """A noise level, stride 2 and averages inside masks; padding, and a ladder."""
    net = changed(make_net(case, unit))
    made = export(net, tmp_path / 'model.onnx')
    assert list(made.differences) == list(SIZES)
    assert max(made.differences.values()) < 1e-4
    assert ('sigma' in made.record['inputs']) == (case == 'FFDNet')


def test_a_stem_of_another_kind_is_traced_as_it_is(tmp_path):
    """It reads codes, not masks: where they change from pixel to pixel, and what the image is like inside."""
    backbone = {'type': 'SRVGGNetCompact', 'num_feat': 8, 'num_conv': 8, 'upscale': 2}
    net = changed(SPTNet(backbone, unit={'type': 'ModulationUnit', 'width': 8, 'stem': 'geometry'}, num_masks=5))
    made = export(net, tmp_path / 'model.onnx')
    assert max(made.differences.values()) < 1e-5
    given = example(net, made.record['inputs'], (20, 31), 6)
    other = {**given, 'palette': torch.zeros_like(given['palette'])}
    assert np.abs(expected(net, given) - expected(net, other)).max() > 1e-3


@pytest.mark.parametrize('suffix', ['onnx', 'pt2'])
def test_masks_finer_than_the_image_are_read_on_their_grid(suffix, tmp_path):
    arch, arguments = CASES['SwinIR denoising']  # pads its image, and its masks with it
    unit = {'type': 'ModulationUnit', 'stem': {'type': 'geometry', 'fine': 3, 'maps': ['fine_boundary', 'fine_sides']}}
    net = changed(SPTNet({'type': arch, **arguments}, unit=unit, num_masks=5))
    made = export(net, tmp_path / f'model.{suffix}')
    assert max(made.differences.values()) < 1e-5
    assert made.record['fine'] == 3
    given = example(net, made.record['inputs'], (20, 31), 6)
    assert given['index'].shape == (1, 60, 93)
    coarse = given['index'][:, 1::3, 1::3].repeat_interleave(3, 1).repeat_interleave(3, 2)
    assert np.abs(expected(net, given) - expected(net, {**given, 'index': coarse})).max() > 1e-3


@torch.no_grad()
def test_regions_of_fine_masks_are_those_of_the_image():
    unit = {'type': 'RegionUnit', 'width': 8, 'stem': {'type': 'geometry', 'fine': 2}}
    net = changed(SPTNet({'type': 'SRVGGNetCompact', 'num_feat': 8, 'num_conv': 8, 'upscale': 2}, unit=unit))
    call = TracedCall(net)
    for size in SIZES:
        given = example(net, call.input_names, size, 9)
        assert np.abs(call(**given).numpy() - expected(net, given)).max() < 1e-5


@pytest.mark.parametrize('case', ['SwinIR denoising', 'RRDBNet x2'])
@torch.no_grad()
def test_statistics_of_masks_are_those_of_the_image_and_not_of_its_padding(case):
    arch, arguments = CASES[case]
    unit = {'type': 'ModulationUnit', 'width': 8, 'stem': 'geometry'}
    net = changed(SPTNet({'type': arch, **arguments}, unit=unit, num_masks=5))
    call = TracedCall(net)
    for size in SIZES:
        given = example(net, call.input_names, size, 9)
        assert np.abs(call(**given).numpy() - expected(net, given)).max() < 1e-5


@torch.no_grad()
def test_lora_is_merged_and_a_network_without_units_is_traced(tmp_path):
    pytest.importorskip('peft')
    net = SPTNet({'type': 'SRVGGNetCompact', 'num_feat': 8, 'num_conv': 8, 'upscale': 2}, tune='lora', rank=2).eval()
    for value in net.adapter_parameters().values():
        nn.init.normal_(value, std=0.3)
    made = export(net, tmp_path / 'model.pt2')
    assert made.record['inputs'] == ['lq']
    assert made.record['tune'] == 'lora'
    given = example(net, ['lq'], (21, 30), 2)
    with net.units_off():
        assert (
            np.abs(torch.export.load(tmp_path / 'model.pt2').module()(**given).numpy() - expected(net, given)).max()
            > 1e-3
        )


def test_a_program_of_torch_runs_and_knows_its_record(tmp_path):
    net = changed(make_net('FFDNet'))
    made = export(net.double(), tmp_path / 'model.pt2')  # the file computes in float32 all the same
    net.float()
    extra = {RECORD: ''}
    module = torch.export.load(tmp_path / 'model.pt2', extra_files=extra).module()
    assert json.loads(extra[RECORD]) == made.record
    given = example(net, made.record['inputs'], (33, 51), 5)
    weak, strong = ({**given, 'sigma': torch.tensor([level / 255])} for level in (0, 255))
    assert np.abs(expected(net, weak) - expected(net, strong)).max() > 1e-5
    for one in (weak, strong):
        assert np.abs(module(**one).numpy() - expected(net, one)).max() < 1e-6


class Undecided(nn.Module):
    """Does something else with a bright image, so it is no one program."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(2)])

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        return self.body(lq) if float(lq.mean()) > 0.5 else self.body(lq) + 1


@pytest.mark.parametrize('suffix', ['onnx', 'pt2'])
def test_a_network_that_cannot_be_exported_is_one_line_and_no_file(suffix, tmp_path):
    ARCH_REGISTRY._obj_map['Undecided'] = Undecided
    net = sptsr.attach({'type': 'Undecided'}, sites=['body.*'], num_masks=4)
    sptsr.save(net, tmp_path / 'a.safetensors')
    weights = tmp_path / 'w.pth'
    torch.save(net.backbone.state_dict(), weights)
    result = run_cli('export', 'a.safetensors', '-o', f'out/model.{suffix}', '--weights', weights)
    assert result.returncode == 2
    assert 'export: Undecided cannot be exported' in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.glob('out/*'))


def test_a_file_that_differs_is_not_kept(monkeypatch, tmp_path):
    net = changed(make_net('SRVGGNetCompact'))
    monkeypatch.setattr(exporting, 'expected', lambda *given: expected(*given) + 0.01)
    with pytest.raises(UserError, match=r'differs by 0\.01 from PyTorch, so it is not kept'):
        export(net, tmp_path / 'model.pt2')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('number', range(len(SIZES)))
def test_a_file_that_gives_no_number_is_not_kept(monkeypatch, tmp_path, number):
    net = changed(make_net('SRVGGNetCompact'))
    factors = iter([float('nan') if n == number else 1 for n in range(len(SIZES))])
    monkeypatch.setattr(exporting, 'expected', lambda *given: expected(*given) * next(factors))
    with pytest.raises(UserError, match=r'differs by nan from PyTorch'):
        export(net, tmp_path / 'model.pt2')
    assert not list(tmp_path.iterdir())


def test_mistakes_are_one_line(demo, monkeypatch, tmp_path):
    (tmp_path / 'file').write_text('')
    expected_lines = {
        ('no.safetensors', '-o', 'm.onnx'): 'no.safetensors: no such file',
        (demo, '-o', 'm.pth'): 'm.pth: a file is .onnx, or .pt2 for torch.export',
        (demo, '-o', 'file/m.pt2'): 'cannot write it',
        (demo, '-o', 'm.onnx', '--weights', 'no.pth'): 'no.pth',
    }
    for words, line in expected_lines.items():
        result = run_cli('export', *words)
        assert result.returncode == 2, words
        assert line in result.stderr
        assert len(result.stderr.splitlines()) == 1
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'onnxscript' else found(name))
    assert "onnxscript is not installed; pip install 'sptsr[export]'" in run_cli('export', demo, '-o', 'm.onnx').stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file']


class _Large(nn.Sequential):
    def forward(self, image):
        return super().forward(image) * (1 if image.shape[2] * image.shape[3] <= 1 << 13 else 2)


@pytest.mark.parametrize('suffix', ['.onnx', '.pt2'])
def test_a_network_that_does_otherwise_with_large_images_is_refused(suffix, tmp_path):
    net = _Large(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    net = changed(sptsr.attach(net, sites=['1'], width=4))
    with pytest.raises(UserError, match='_Large does otherwise with large images than with small ones'):
        export(net, tmp_path / f'model{suffix}')
    assert not list(tmp_path.iterdir())
