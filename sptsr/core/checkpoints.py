"""Reading checkpoints of strangers: tensors by name, and never code."""

from __future__ import annotations

import argparse
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sptsr.core.errors import UserError
from sptsr.core.files import is_compressed

# Entries that hold a network's tensors in the checkpoints of BasicSR, KAIR, timm, Lightning and their relatives, the
# averaged ones first.
_WRAPPERS = (
    'params_ema',
    'params-ema',
    'state_dict_ema',
    'model_ema',
    'params',
    'state_dict',
    'model_state_dict',
    'model',
    'net',
    'network',
    'generator',
)
_PREFIXES = ('module.', '_orig_mod.')  # of DataParallel and torch.compile
_DEPTH = 3  # entries within entries that are looked into
# What people save beside the tensors, and what reading it builds: plain records, and numbers of numpy.
_DTYPES = [kind for kind in vars(np.dtypes).values() if isinstance(kind, type)]
_SAFE: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *_DTYPES,
    (np.float64(0).__reduce__()[0], 'numpy._core.multiarray.scalar'),  # the function that unpickles a number
    (np.float64(0).__reduce__()[0], 'numpy.core.multiarray.scalar'),  # its name before numpy 2
]


def read_weights(path: str | os.PathLike[str], key: str | None = None) -> dict[str, Tensor]:
    """Reads a state dict on the CPU, without ever unpickling code.

    Args:
        path: `.pth`/`.pt` (read with `weights_only=True`; numbers of numpy and `argparse.Namespace` may stand beside
            the tensors) or `.safetensors`.
        key: the entry that holds the tensors. By default the first that is there of `params_ema`, `params-ema`,
            `state_dict_ema`, `model_ema`, `params`, `state_dict`, `model_state_dict`, `model`, `net`, `network`,
            `generator`, else the only entry with tensors, else the file's top level.

    Returns:
        tensors by name; `module.` (of a network saved in parallel) or `_orig_mod.` (of a compiled one) in front of
        all names is removed. Entries that are not tensors are left out.

    Raises:
        UserError: missing, unreadable, without such an entry, or with tensors that hold no plain values.
    """
    if not Path(path).is_file():
        raise UserError(f'{path}: no such file; check the path of the weights')
    content = _content(path)
    if not isinstance(content, Mapping):
        raise UserError(f'{path}: holds a {type(content).__name__}, not tensors by name; give a state dict')
    if key is not None and key not in content:
        raise UserError(f"{path}: no entry '{key}'; it has {', '.join(map(str, list(content)[:5]))}")
    state = _tensors(content if key is None else content[key], path)
    for name, value in state.items():
        fault = _fault(value)
        if fault:
            raise UserError(f"{path}: '{name}' is {fault}; save the weights as plain tensors")
    while prefix := next((one for one in _PREFIXES if state and all(name.startswith(one) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _content(path: str | os.PathLike[str]) -> Any:
    """Returns what a file holds; raises UserError where reading it could run code, or fails."""
    if _is_program(path):
        raise UserError(
            f'{path}: holds a program (TorchScript), which is not run here; where you trust it, save its weights: '
            'torch.save(torch.jit.load(FILE).state_dict(), NEW)'
        )
    if is_compressed(path):
        raise UserError(f'{path}: is compressed, as torch writes no weights, and may unpack to any size; save it again')
    try:
        if str(path).endswith('.safetensors'):
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(_SAFE):
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises many kinds for a truncated or foreign file
        forbidden = re.search(r'GLOBAL (\S+) (?:was not an allowed global|whose module)', str(error))
        if forbidden:
            raise UserError(
                f'{path}: holds {forbidden[1]} beside its tensors, and reading that may run code; save its tensors '
                'alone in the program that wrote it, torch.save(net.state_dict(), NEW), or ask its author for them'
            ) from error
        raise UserError(f'{path}: not readable as weights ({type(error).__name__}); download it again') from error


def _is_program(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file is of `torch.jit.save`."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith('/constants.pkl') for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError):
        return False


def _tensors(content: Any, path: str | os.PathLike[str], depth: int = 0) -> dict[str, Tensor]:
    """Returns the tensors by name in a checkpoint or an entry of it; raises UserError when they cannot be found."""
    if isinstance(content, Mapping) and depth < _DEPTH:
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        entries = [name for name, value in content.items() if isinstance(value, Mapping) and _holds_tensors(value)]
        known = [name for name in _WRAPPERS if name in entries]
        if known or (len(entries) == 1 and not tensors):
            return _tensors(content[(known or entries)[0]], path, depth + 1)
        if tensors:
            return tensors
        if entries:
            names = ', '.join(map(str, entries[:5]))
            raise UserError(f'{path}: several entries hold tensors ({names}); say which as backbone_key')
    raise UserError(f'{path}: holds no tensors by name; give a state dict')


def _holds_tensors(entry: Mapping[Any, Any], depth: int = 1) -> bool:
    """Returns whether tensors by name are in an entry, or in entries of it."""
    if not all(isinstance(name, str) for name in entry):  # moments of an optimiser have numbers as names
        return False
    values = list(entry.values())
    inner = [value for value in values if isinstance(value, Mapping)] if depth < _DEPTH else []
    return any(isinstance(value, Tensor) for value in values) or any(_holds_tensors(v, depth + 1) for v in inner)


def _fault(value: Tensor) -> str:
    """Returns what makes a tensor unfit to be copied into a network, or an empty text."""
    if value.is_meta:
        return 'a tensor without values (meta)'
    if value.is_quantized:
        return 'quantised'
    return '' if value.layout == torch.strided else f'sparse ({value.layout})'
