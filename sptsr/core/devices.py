"""Devices that a user names."""

from __future__ import annotations

import os

from sptsr.core.errors import UserError


def gpu_count() -> int:
    """Returns how many GPUs torch can use here; an old driver counts some that it cannot."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def usable_device(name: str, what: str) -> str:
    """Returns the device that a user means, as torch calls it.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, ... or `auto`: the GPU of this process (`LOCAL_RANK`, or
            the one that it sees) where there is one.
        what: begins the message of a mistake.

    Raises:
        UserError: no device is called so, or this machine has none.
    """
    import torch

    gpus = gpu_count()
    if name == 'auto':
        local = os.environ.get('LOCAL_RANK', '0') if gpus > 1 else '0'
        name = f'cuda:{local}' if gpus else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"{what}: device '{name}' is none; say auto, cpu, cuda or cuda:N") from error
    others = getattr(torch, device.type, None) if device.type in ('mps', 'xpu') else None
    if device.type == 'cuda' and (device.index or 0) >= gpus:
        has = f'{gpus} GPUs, counted from 0' if gpus else 'no GPU that torch can use'
        raise UserError(f"{what}: device '{name}', but this machine has {has}; say auto or cpu")
    if device.type not in ('cpu', 'cuda') and not (others is not None and others.is_available()):
        raise UserError(f"{what}: device '{name}' cannot be used here; say auto, cpu, cuda or cuda:N")
    return name
