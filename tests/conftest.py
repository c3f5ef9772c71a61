"""Shared fixtures: real photographs everywhere; the published sets and weights where SPTSR_DATA names them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Sums depend on the number of threads, and some tests compare the bytes of this process with another's. One thread
# is also the fastest: the networks are small, and pytest-xdist has a process for each core. Before torch is imported.
os.environ['OMP_NUM_THREADS'] = '1'
# Other processes import this very checkout, wherever they start. The server of tests/tuning/processes.py does not get
# sys.path (Python 3.11), and passes over what it cannot find: each fork would then import torch.
os.environ['PYTHONPATH'] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get('PYTHONPATH', '')]).strip(
    ':'
)

import numpy as np
import pytest
import skimage.data
import torch
import yaml

import sptsr  # noqa: F401 (mends the import of basicsr)
from sptsr.commands.line import main
from sptsr.core import registry
from sptsr.core.logs import NAME
from sptsr.core.registry import register_all
from sptsr.images.decode import RGB, decode_rgb, write_png
from sptsr.images.folder import ImageFolder
from sptsr.images.prepare import prepare
from sptsr.priors.extract import build_source, extract

REGISTRIES = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]
SHIPPED = Path(skimage.data.__file__).parent
SCALE = 4


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # the mark itself: a keyword would also match the folder tests/data
        if item.get_closest_marker('data') and not os.environ.get('SPTSR_DATA'):
            item.add_marker(pytest.mark.skip(reason='SPTSR_DATA does not name the folder of real images and weights'))
        if item.get_closest_marker('cuda') and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason='no CUDA GPU'))


@pytest.fixture(scope='session', autouse=True)
def _registered() -> None:
    torch.set_num_threads(1)
    register_all()


@pytest.fixture(autouse=True)
def _independent(_registered: None, tmp_path: Path) -> Iterator[None]:
    """Every test starts alike, whatever ran before it: in an empty folder, with the same seed and registries."""
    folder = Path.cwd()
    os.chdir(tmp_path)
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    registered = [(one, dict(one._obj_map)) for one in REGISTRIES]
    modules = set(sys.modules)
    logging.getLogger(NAME).handlers.clear()  # a command's handlers write to the stderr of its test
    yield
    os.chdir(folder)
    logging.getLogger(NAME).handlers.clear()
    for one, content in registered:
        one._obj_map = content
    for name in sys.modules.keys() - modules:
        if name.startswith('sptsr.core.plugin_files.'):
            del sys.modules[name]


@pytest.fixture(scope='session')
def real_data() -> Path:
    """The folder of published sets and weights; tests that use it carry the mark `data`."""
    return Path(os.environ['SPTSR_DATA'])


def photograph(name: str, height: int = 128, width: int = 160) -> RGB:
    """A cut from the middle of a photograph that scikit-image ships, uint8 [height, width, 3]."""
    image = decode_rgb((SHIPPED / name).read_bytes(), name, to_rgb=True)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


@pytest.fixture(scope='session')
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`GTx4`, `LRx4` and `prior` of four photographs of different sizes."""
    root = tmp_path_factory.mktemp('photographs')
    sizes = {'astronaut.png': (128, 160), 'coffee.png': (160, 128), 'chelsea.png': (132, 148), 'rocket.jpg': (128, 128)}
    for name, (height, width) in sizes.items():
        write_png(root / 'raw' / f'{Path(name).stem}.png', photograph(name, height, width))
    prepare(ImageFolder(root / 'raw'), root, SCALE)
    extract(ImageFolder(root / f'LRx{SCALE}'), root / 'prior', build_source('felzenszwalb', ['min_size=4']))
    return root


def validated_options(photographs: Path, weights: Path, name: str = 'a set', val_freq: int = 1) -> dict:
    """Returns options of a training that is validated on its own images, as a set of this name."""
    options = base_options(photographs, trains=True)
    options['network_g']['backbone_weights'] = str(weights)
    train = options['datasets']['train']
    options['datasets']['val'] = {k: v for k, v in train.items() if k[:8] in ('dataroot', 'type')} | {'name': name}
    options['val']['val_freq'] = val_freq
    return options


def base_options(photographs: Path, *, trains: bool) -> dict[str, Any]:
    """Options of a tiny run on the photographs, to be changed and written by a test."""
    dataset = {
        'name': 'photographs',
        'type': 'PriorPairedImageDataset',
        'dataroot_gt': str(photographs / f'GTx{SCALE}'),
        'dataroot_lq': str(photographs / f'LRx{SCALE}'),
        'dataroot_prior': str(photographs / 'prior'),
    }
    options: dict[str, Any] = {
        'name': 'tiny',
        'model_type': 'SPTModel',
        'scale': SCALE,
        'num_gpu': 0,
        'manual_seed': 3,
        'datasets': {'train' if trains else 'test': dataset},
        'network_g': {
            'type': 'SPTNet',
            'backbone': {'type': 'IMDN', 'nf': 16, 'num_modules': 2, 'upscale': SCALE},
            'sites': ['IMDB*'],
            'unit': {'type': 'ModulationUnit', 'width': 8},
            'num_masks': 64,
        },
        'val': {
            'pbar': False,
            'metrics': {
                'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True},
                'ssim': {'type': 'calculate_ssim', 'crop_border': 4, 'test_y_channel': True},
            },
        },
    }
    if trains:
        dataset |= {'gt_size': 64, 'use_hflip': True, 'use_rot': True, 'batch_size_per_gpu': 3}
        options['val']['val_freq'] = 1000
        options['train'] = {
            'total_iter': 6,
            'ema_decay': 0.9,
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [4], 'gamma': 0.5},
            'pixel_opt': {'type': 'L1Loss'},
        }
        options['logger'] = {'print_freq': 2, 'save_checkpoint_freq': 2}
    return options


@pytest.fixture(scope='session')
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the tiny backbone, so that runs in several processes share them."""
    from sptsr.archs.backbones.imdn_arch import IMDN

    torch.manual_seed(11)
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save({'params': IMDN(nf=16, num_modules=2, upscale=SCALE).state_dict()}, path)
    return path


def write_options(path: Path, options: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    return path


def run_cli(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `sptsr` in this process: another one takes seconds to import torch. See `run_process`."""
    words = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    here = Path.cwd()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        os.chdir(cwd or here)
        try:
            code = main(words)
        except SystemExit as exit_:
            code = exit_.code
        finally:
            os.chdir(here)
    return subprocess.CompletedProcess(words, int(code or 0), out.getvalue(), err.getvalue())


def run_process(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `sptsr` in a process of its own."""
    command = [sys.executable, '-m', 'sptsr', *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def here(photographs: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the photographs in `set/` and good options in `train.yml` and `test.yml`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photographs, tmp_path / 'set')
    for name in ('train', 'test'):
        options = base_options(tmp_path / 'set', trains=name == 'train')
        options['network_g']['backbone_weights'] = str(tiny_weights)
        write_options(tmp_path / f'{name}.yml', options)
    return tmp_path
