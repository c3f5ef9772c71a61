"""Makes what the section `train` of the options names: losses, optimiser and schedule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sptsr.core.errors import UserError, refusing
from sptsr.core.losses import find_loss, takes_target
from sptsr.core.optim import find_optimizer, find_scheduler

STAY = 'l_stay'  # the loss that compares with the frozen network's output


def optimizer_of(train: Mapping[str, Any], params: Sequence[Tensor]) -> Any:
    """Returns the optimiser of `optim_g` for tensors; raises UserError where it refuses its arguments."""
    return _built('optim_g', find_optimizer, train['optim_g'], params)


def scheduler_of(train: Mapping[str, Any], optimizer: Any) -> Any:
    """Returns the schedule of `scheduler` for an optimiser; raises UserError where it refuses its arguments."""
    return _built('scheduler', find_scheduler, train['scheduler'], optimizer)


def try_out(train: Mapping[str, Any], device: torch.device) -> None:
    """Makes two steps of optimiser and schedule with a number, and looks at the rate of the last iteration.

    Raises:
        UserError: arguments with which a step fails, or a schedule that ends before the run.
    """
    number = torch.zeros(1, device=device, requires_grad=True)
    number.grad = torch.zeros_like(number)
    optimizer = optimizer_of(train, [number])
    scheduler = scheduler_of(train, optimizer)
    for key, step in (('optim_g', optimizer.step), ('scheduler', scheduler.step)):
        with refusing(f'train.{key}: {train[key]["type"]} cannot make a step', 'correct its arguments'):
            step()
    last = int(train.get('total_iter', 1)) - 1
    with refusing(f'train.scheduler: it has no rate for iteration {last + 1}', 'correct its arguments'):
        scheduler.last_epoch = max(scheduler.last_epoch, last - 1)
        scheduler.step()


def losses_of(train: Mapping[str, Any], device: torch.device) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Returns the losses of all sections `*_opt` by the names that are logged; each takes (prediction, GT).

    Raises:
        UserError: arguments that a loss refuses, weights that it cannot read, or `stay_opt` with one that compares with
            nothing.
    """
    sections = {key.removesuffix('_opt'): section for key, section in train.items() if key.endswith('_opt')}
    found = {}
    for key, section in sections.items():
        short = 'pix' if key == 'pixel' and 'pix' not in sections else key  # BasicSR's name for it
        module = _built(f'{key}_opt', find_loss, section).to(device)
        if key == 'stay' and not takes_target(type(module)):
            raise UserError(f'train.stay_opt: {section["type"]} compares with nothing; choose another loss: L1Loss')
        if getattr(module, 'reduction', None) == 'none':
            raise UserError(f'train.{key}_opt: reduction: none gives a value a pixel; set reduction: mean')
        found[f'l_{short}'] = functools.partial(_scalar, f'{key}_opt', module, takes_target(type(module)))
    return found


def _scalar(key: str, loss: nn.Module, with_target: bool, output: Tensor, target: Tensor) -> Tensor:
    """Returns a loss as one number; BasicSR's perceptual one is a pair (content, style) of which one may be None."""
    value = loss(output, target) if with_target else loss(output)
    if isinstance(value, tuple):
        parts = [part for part in value if part is not None]
        if not parts:
            raise UserError(f'train.{key}: gives nothing; set one of its weights above 0, or remove it')
        value = torch.stack(parts).sum()
    if value.ndim:
        raise UserError(f'train.{key}: gives {list(value.shape)} values instead of one; set reduction: mean')
    return value


def _built(key: str, find: Callable[[str], Any], section: Mapping[str, Any], *given: Any) -> Any:
    """Returns what `type` of a section names, made of what is given and the section's other keys."""
    arguments = dict(section)
    name = arguments.pop('type')
    with refusing(f'train.{key}: {name} refuses its arguments', 'correct them'):
        try:
            return find(name)(*given, **arguments)
        except OSError as error:  # PerceptualLoss downloads its VGG
            raise UserError(
                f'train.{key}: {name} cannot read or download its weights ({error}); get them first'
            ) from error
