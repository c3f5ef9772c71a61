"""Losses by the names that option files use, and how they are called."""

from __future__ import annotations

import inspect
from typing import Any

from sptsr.core.catalogue import find
from sptsr.core.errors import UserError

# Losses of BasicSR whose second required argument is not the GT.
_NOT_TARGET = {'target_is_real'}


def check_loss(name: str) -> None:
    """Raises UserError when no loss has this name, or it needs more than prediction and GT."""
    arguments = find('loss', name).parameters('forward') or {}
    needed = [p.name for p in arguments.values() if p.default is inspect.Parameter.empty]
    if len(needed) > 2 or _NOT_TARGET & set(needed):
        raise UserError(
            f'{name} is called with ({", ".join(needed)}), and a tuning step has a prediction and a GT only; '
            'choose another loss, such as L1Loss'
        )


def find_loss(name: str) -> type[Any]:
    """Returns the loss of this name; raises UserError as `check_loss` does."""
    from sptsr.core.registry import LOSS_REGISTRY, lookup  # imports BasicSR, which a check does without

    check_loss(name)
    return lookup(LOSS_REGISTRY, name)


def takes_target(loss: type[Any]) -> bool:
    """Returns whether a loss compares with the GT.

    BasicSR's `WeightedTVLoss(pred, weight=None)` does not: a GT in place of its weight would hide every fault where
    the GT is dark.
    """
    arguments = _arguments(loss)
    return len(arguments) > 1 and (arguments[1].default is inspect.Parameter.empty or arguments[1].name != 'weight')


def _arguments(loss: type[Any]) -> list[inspect.Parameter]:
    """Lists the positional parameters of a loss's `forward`, without `self`; none for a function that builds one."""
    if not hasattr(loss, 'forward'):
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(loss.forward).parameters.values()
    return [p for p in found if p.kind in positional][1:]
