"""`sptsr doctor`: what works on this machine, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from sptsr.core.version import __version__

_PACKAGES = (
    *('torch', 'torchvision', 'basicsr', 'segment-anything', 'numpy', 'opencv-python', 'lmdb', 'zstandard'),
    *('safetensors', 'scikit-image', 'scipy', 'pycocotools', 'pyyaml'),
)


def diagnose() -> tuple[list[str], bool]:
    """Returns the lines of the report, and whether all that is needed works."""
    lines = [f'python      {platform.python_version()} ({sys.executable})']
    well = True
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        lines.append('  ! BasicSR installs on Python 3.10 to 3.12 only; make the environment with one of those')
        well = False
    for package in _PACKAGES:
        try:
            lines.append(f'{package:<18}{version(package)}')
        except PackageNotFoundError:
            lines.append(f'{package:<18}missing: run make install, or pip install {package}')
            well = False
    for what, probe in _PROBES.items():
        try:
            lines.append(f'ok   {what}: {probe()}')
        except Exception as error:  # whatever it is, the report names it
            lines.append(f'FAIL {what}: {type(error).__name__}: {error}')
            lines.append(f'     mend: {_REMEDIES[what]}')
            well = False
    lines.append('All that is needed works.' if well else 'Something is missing; see above.')
    return lines, well


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return f'CPU with {torch.get_num_threads()} threads; no CUDA GPU'
    names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return ', '.join(names)


def _pair() -> str:
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    torchvision.ops.nms(boxes, torch.ones(1), 0.5)
    return 'torch and torchvision fit together'


def _upstream() -> str:
    importlib.import_module('basicsr.archs')
    importlib.import_module('basicsr.models')
    return f'BasicSR imports (mended by sptsr {__version__})'


def _registries() -> str:
    from sptsr.core.registry import ARCH_REGISTRY, SOURCE_REGISTRY, UNIT_REGISTRY, register_all

    register_all()
    counts = (len(list(registry.keys())) for registry in (ARCH_REGISTRY, UNIT_REGISTRY, SOURCE_REGISTRY))
    return '{} networks, {} units, {} sources'.format(*counts)


def _tensorboard() -> str:
    import torch.utils.tensorboard  # noqa: F401

    return 'TensorBoard logs can be written'


def _demo_weights() -> str:
    from sptsr.archs.weights import read_weights
    from sptsr.commands.demo import WEIGHTS

    count = sum(tensor.numel() for tensor in read_weights(WEIGHTS).values())
    return f'embedded weights of the demo, {count:,} parameters'


def _writable() -> str:
    if not os.access('.', os.W_OK):
        raise PermissionError(f'{os.getcwd()} is not writable')
    return 'outputs can be written here'


_PROBES: dict[str, Callable[[], str]] = {
    'devices': _devices,
    'torch pair': _pair,
    'basicsr': _upstream,
    'registries': _registries,
    'tensorboard': _tensorboard,
    'demo': _demo_weights,
    'folder': _writable,
}
_REMEDIES = {
    'devices': 'install the NVIDIA driver, or set num_gpu: 0',
    'torch pair': 'pip install --force-reinstall torch torchvision (both in one command)',
    'basicsr': 'pip install --no-build-isolation basicsr==1.4.2, and import sptsr before basicsr',
    'registries': 'make install',
    'tensorboard': 'pip install tb-nightly, or set logger.use_tb_logger: false',
    'demo': 'install sptsr again; sptsr/assets is incomplete',
    'folder': 'change to a folder of your own, or pass --root DIR',
}
