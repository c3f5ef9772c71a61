"""Optimisers and schedulers by the names that option files use."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from sptsr.errors import UserError, one_of


def find_optimizer(name: str) -> type[torch.optim.Optimizer]:
    """Returns the optimiser of torch.optim with this name; raises UserError with the nearest one."""
    known = {n: c for n, c in vars(torch.optim).items() if inspect.isclass(c) and issubclass(c, torch.optim.Optimizer)}
    known.pop('Optimizer', None)
    if name not in known:
        raise UserError(f"no optimiser of torch.optim is called '{name}'{one_of(name, known)}")
    return known[name]


def find_scheduler(name: str) -> type[Any]:
    """Returns BasicSR's scheduler of this name; raises UserError with the nearest one."""
    from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR

    known = {
        'MultiStepLR': MultiStepRestartLR,  # BasicSR's name for it
        'MultiStepRestartLR': MultiStepRestartLR,
        'CosineAnnealingRestartLR': CosineAnnealingRestartLR,
    }
    if name not in known:
        raise UserError(f"no scheduler is called '{name}'{one_of(name, known)}")
    return known[name]
