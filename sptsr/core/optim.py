"""Optimisers and schedulers by the names that option files use."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from sptsr.core.errors import UserError, one_of

_NO_OPTIMIZER = {
    'Optimizer',
    'LBFGS',  # runs the network several times a step
    'SparseAdam',  # for sparse gradients
    'Muon',  # for matrices only
}
# Their arguments are functions or other schedulers, or a metric is their input.
_NO_SCHEDULER = {
    *('LRScheduler', 'LambdaLR', 'MultiplicativeLR', 'SequentialLR', 'ChainedScheduler', 'ReduceLROnPlateau'),
}


def optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Returns the optimisers of torch.optim by name, but for those that make no plain step."""
    found = {n: c for n, c in vars(torch.optim).items() if inspect.isclass(c) and issubclass(c, torch.optim.Optimizer)}
    return {name: kind for name, kind in found.items() if name not in _NO_OPTIMIZER}


def schedulers() -> dict[str, type[Any]]:
    """Returns BasicSR's schedulers and torch's by name; a name of both is BasicSR's."""
    from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR

    base = torch.optim.lr_scheduler.LRScheduler
    found: dict[str, type[Any]] = {
        n: c
        for n, c in vars(torch.optim.lr_scheduler).items()
        if inspect.isclass(c) and issubclass(c, base) and not n.startswith('_') and n not in _NO_SCHEDULER
    }
    return found | {
        'MultiStepLR': MultiStepRestartLR,  # BasicSR's name for it
        'MultiStepRestartLR': MultiStepRestartLR,
        'CosineAnnealingRestartLR': CosineAnnealingRestartLR,
    }


def find_optimizer(name: str) -> type[torch.optim.Optimizer]:
    """Returns the optimiser of this name; raises UserError with the nearest one."""
    known = optimizers()
    if name not in known:
        raise UserError(f"no optimiser of torch.optim is called '{name}'{one_of(name, known)}")
    return known[name]


def find_scheduler(name: str) -> type[Any]:
    """Returns the scheduler of this name; raises UserError with the nearest one."""
    known = schedulers()
    if name not in known:
        raise UserError(f"no scheduler is called '{name}'{one_of(name, known)}")
    return known[name]
