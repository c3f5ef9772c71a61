"""Upstream's breakage: each test fails on stock behaviour (docs/upstream.md)."""

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision

from sptsr.core.errors import UserError
from sptsr.images.folder import ImageFolder
from sptsr.images.prepare import prepare
from sptsr.masks.batch import PriorBatch

HAS_FUNCTIONAL_TENSOR = tuple(int(n) for n in torchvision.__version__.split('.')[:2]) < (0, 17)


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)


@pytest.mark.skipif(HAS_FUNCTIONAL_TENSOR, reason='this torchvision still has functional_tensor')
def test_stock_basicsr_does_not_import_and_ours_does():
    stock = _python('import basicsr')
    assert stock.returncode == 1
    assert 'functional_tensor' in stock.stderr
    mended = _python('import sptsr, basicsr.data.degradations as d; print(d.rgb_to_grayscale.__module__)')
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.strip() == 'torchvision.transforms.functional'


def test_import_of_sptsr_is_light():
    code = "import sptsr, sys; print([m for m in ('torch', 'torchvision', 'basicsr') if m in sys.modules])"
    assert _python(code).stdout.strip() == '[]'


@pytest.fixture(scope='module')
def lmdbs(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('lmdb')
    prepare(ImageFolder(photographs / 'raw'), out, 4, as_lmdb=True)
    return out


def _stock_dataset(lmdbs: Path, phase: str):
    from basicsr.data import build_dataset

    return build_dataset(
        {
            'name': 'stock',
            'type': 'PairedImageDataset',
            'dataroot_gt': str(lmdbs / 'GTx4.lmdb'),
            'dataroot_lq': str(lmdbs / 'LRx4.lmdb'),
            'io_backend': {'type': 'lmdb'},
            'scale': 4,
            'phase': phase,
        }
    )


def test_one_lmdb_serves_two_stock_datasets_and_a_spawned_worker(lmdbs: Path):
    first, second = _stock_dataset(lmdbs, 'val'), _stock_dataset(lmdbs, 'val')
    assert len(first) == 4
    assert (first[0]['lq'] == second[0]['lq']).all()
    again = pickle.loads(pickle.dumps(first))  # an opened environment cannot be pickled
    assert (again[1]['gt'] == first[1]['gt']).all()


def _sum_of(dataset) -> float:
    return float(dataset[0]['lq'].sum())


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_workers_read_an_lmdb_that_the_parent_has_open(lmdbs: Path, method: str):
    dataset = _stock_dataset(lmdbs, 'val')
    expected = _sum_of(dataset)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_sum_of, (dataset,)) == expected


def test_a_missing_lmdb_key_is_named(lmdbs: Path):
    dataset = _stock_dataset(lmdbs, 'val')
    dataset.paths[0]['gt_path'] = 'nobody'
    with pytest.raises(UserError, match="no entry 'nobody'"):
        dataset[0]


def test_swinir_can_checkpoint_its_activations():
    """Stock: `TypeError: ... missing 1 required positional argument: 'x_size'`."""
    import torch

    from sptsr.archs.spt_arch import SPTNet

    section = {'type': 'SwinIR', 'img_size': 8, 'window_size': 4, 'embed_dim': 8, 'depths': [2], 'num_heads': [2]}
    lq, masks = torch.rand(1, 3, 8, 8), torch.zeros(1, 5, 8, 8)
    gradients = []
    for use_checkpoint in (False, True):
        torch.manual_seed(0)
        net = SPTNet({**section, 'use_checkpoint': use_checkpoint}, num_masks=5)
        net(lq, masks).sum().backward()
        gradients.append(net.units[0].out.bias.grad)
    assert torch.equal(*gradients)
    assert gradients[0].abs().max() > 0


def test_an_old_name_is_handed_on_with_a_warning_that_fails_tests():
    with pytest.raises(DeprecationWarning, match=r'^sptsr\.codes\.MaskCodes is sptsr\.masks\.batch\.PriorBatch since'):
        from sptsr.codes import MaskCodes  # noqa: F401
    with pytest.warns(DeprecationWarning, match='since sptsr 0.2'):
        from sptsr.codes import MaskCodes as OldName
    assert OldName is PriorBatch
