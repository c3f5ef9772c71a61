"""`sptsr doctor`: what works on this machine, what is missing, and the command that mends it."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from sptsr.core.version import __version__

_OLDEST_PYTHON = (3, 10)


def diagnose() -> tuple[list[str], bool]:
    """Returns the lines of the report, and whether all that is needed works."""
    lines = [f'python      {platform.python_version()} ({sys.executable})']
    well = sys.version_info[:2] >= _OLDEST_PYTHON
    if not well:
        lines.append('  ! sptsr needs Python 3.10 or later; make the environment with one')
    requirements = _requirements()
    if not requirements:
        lines.append('  ! sptsr is not installed, so versions are not checked; in its folder: pip install -e .')
        well = False
    for requirement in requirements:
        line, fits = _package(requirement)
        lines.append(line)
        well = well and fits
    for what, probe in _PROBES.items():
        try:
            lines.append(f'ok   {what}: {probe()}')
        except Exception as error:  # whatever it is, the report names it
            lines.append(f'FAIL {what}: {type(error).__name__}: {error}')
            lines.append(f'     mend: {_REMEDIES[what]}')
            well = False
    lines.append('All that is needed works.' if well else 'Something is missing; see above.')
    return lines, well


def _requirements() -> list[Requirement]:
    """Returns what sptsr depends on, without the packages of extras; nothing where sptsr is not installed."""
    try:
        found = [Requirement(text) for text in requires('sptsr') or ()]
    except PackageNotFoundError:
        return []
    return [requirement for requirement in found if requirement.marker is None]


def _package(requirement: Requirement) -> tuple[str, bool]:
    """Returns the line of a package, and whether a version that fits is installed."""
    name, wanted = requirement.name, requirement.specifier
    remedy = _INSTALL.get(name, f'pip install "{name}{wanted}"')
    try:
        found = version(name)
    except PackageNotFoundError:
        return f'{name:<18}missing: {remedy}', False
    if not wanted.contains(found, prereleases=True):
        return f'{name:<18}{found} is not {wanted}: {remedy}', False
    return f'{name:<18}{found}', True


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return f'CPU with {torch.get_num_threads()} threads; no CUDA GPU'
    names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    for number in range(len(names)):
        torch.ones(1, device=f'cuda:{number}').add(1).item()  # fails where torch was not built for this GPU
    return ', '.join(names)


def _pair() -> str:
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    torchvision.ops.nms(boxes, torch.ones(1), 0.5)
    return 'torch and torchvision fit together'


def _opencv() -> str:
    return f'OpenCV {importlib.import_module("cv2").__version__} loads'


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
    importlib.import_module('torch.utils.tensorboard')
    importlib.import_module('tensorboard.main')
    with contextlib.suppress(PackageNotFoundError):
        raise RuntimeError(f'tb-nightly {version("tb-nightly")} occupies the same files as tensorboard')
    return 'logs can be written, and shown with tensorboard --logdir tb_logger'


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
    'opencv': _opencv,
    'basicsr': _upstream,
    'registries': _registries,
    'tensorboard': _tensorboard,
    'demo': _demo_weights,
    'folder': _writable,
}
_BASICSR = 'python scripts/build_basicsr.py -o dist && pip install dist/basicsr-*.whl (docs/install.md says more)'
_PAIR = 'pip install --force-reinstall torch torchvision (both in one command, from one index)'
_INSTALL = {'basicsr': _BASICSR, 'torch': _PAIR, 'torchvision': _PAIR}
_REMEDIES = {
    'devices': 'install the NVIDIA driver and a torch that was built for this GPU, or set num_gpu: 0',
    'torch pair': _PAIR,
    'opencv': 'install libGL and GLib, e.g. apt install libgl1 libglib2.0-0',
    'basicsr': _BASICSR,
    'registries': 'make install',
    'tensorboard': "pip uninstall -y tb-nightly tensorboard && pip install 'tensorboard>=2.21'",
    'demo': 'install sptsr again; sptsr/assets is incomplete',
    'folder': 'change to a folder of your own, or pass --root DIR',
}
