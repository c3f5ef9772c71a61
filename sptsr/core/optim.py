"""Optimisers and schedulers by the names that option files use."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from sptsr.core.catalogue import entries, find


def optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Returns the optimisers of torch.optim by name, without those that make no plain step."""
    return {name: find_optimizer(name) for name in entries('optimizer')}


def schedulers() -> dict[str, type[Any]]:
    """Returns BasicSR's schedulers and torch's by name; a name of both is BasicSR's."""
    return {name: find_scheduler(name) for name in entries('scheduler')}


def find_optimizer(name: str) -> type[torch.optim.Optimizer]:
    """Returns the optimiser of this name; raises UserError with the nearest one."""
    return getattr(torch.optim, find('optimizer', name).name)


def find_scheduler(name: str) -> type[Any]:
    """Returns the scheduler of this name; raises UserError with the nearest one."""
    entry = find('scheduler', name)
    return getattr(importlib.import_module(entry.module), entry.name)
