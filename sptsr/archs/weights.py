"""Reading pretrained weights, and saying which weights a network holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sptsr.core.errors import UserError
from sptsr.core.files import sha256_tensors

_WRAPPERS = ('params_ema', 'params', 'state_dict', 'model')


def read_weights(path: str | os.PathLike[str], key: str | None = None) -> dict[str, Tensor]:
    """Reads a state dict on the CPU, without ever unpickling code.

    Args:
        path: `.pth`/`.pt` (read with `weights_only=True`) or `.safetensors`.
        key: the entry that holds the tensors. By default `params_ema`, `params`, `state_dict` or
            `model`, whichever is there first, else the file's top level.

    Returns:
        tensors by name; a leading `module.` (of a network saved in parallel) is removed.

    Raises:
        UserError: missing, unreadable, or without such an entry.
    """
    if not Path(path).is_file():
        raise UserError(f'{path}: no such file; check the path of the weights')
    try:
        if str(path).endswith('.safetensors'):
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises many kinds for a truncated or foreign file
        raise UserError(f'{path}: not readable as weights ({type(error).__name__}); download it again') from error
    if not isinstance(content, Mapping):
        raise UserError(f'{path}: holds a {type(content).__name__}, not tensors by name; give a state dict')
    if key is None:
        key = next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
    elif key not in content:
        raise UserError(f"{path}: no entry '{key}'; it has {', '.join(map(str, list(content)[:5]))}")
    state: Any = content[key] if key is not None else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f'{path}: holds no tensors by name; give a state dict')
    return {str(name).removeprefix('module.'): value for name, value in state.items()}


def load_strictly(net: nn.Module, state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Loads a state dict; every tensor must be there and fit.

    Raises:
        UserError: counts and names what is missing, unknown, or of another shape.
    """
    own = net.state_dict()
    missing = sorted(own.keys() - state.keys())
    unknown = sorted(state.keys() - own.keys())
    shapes = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    faults = []
    if missing:
        faults.append(f"{len(missing)} missing, such as '{missing[0]}'")
    if unknown:
        faults.append(f"{len(unknown)} unknown, such as '{unknown[0]}'")
    if shapes:
        name = shapes[0]
        faults.append(
            f"{len(shapes)} of another shape, such as '{name}' {list(state[name].shape)} for {list(own[name].shape)}"
        )
    if faults:
        raise UserError(
            f'{path}: weights of another network than {type(net).__name__} as configured ({"; ".join(faults)}); '
            'check the file and the arguments of the backbone'
        )
    net.load_state_dict(dict(state), strict=True)


def state_digest(net: nn.Module) -> str:
    """Returns sha256 (hexadecimal) over all tensors and buffers (see `sha256_tensors`)."""
    return sha256_tensors(net.state_dict())
