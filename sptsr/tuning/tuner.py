"""What makes an adapter learn: losses, optimiser, learning rate, precision, moving average."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from basicsr.losses import build_loss
from torch import Tensor, nn

from sptsr.archs.adapter import load_params
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError
from sptsr.core.optim import find_optimizer, find_scheduler
from sptsr.masks.batch import PriorBatch
from sptsr.tuning.frozen import remember_less
from sptsr.tuning.precision import keep_ends_exact
from sptsr.tuning.recompute import recompute_blocks

_PLAIN = (bool, int, float, str, list, tuple, type(None))
_HALVES = {'bf16': torch.bfloat16, 'fp16': torch.float16}


class NotFinite(Exception):
    """A loss or gradient is infinite or no number; says which."""


@dataclass
class Batch:
    """What a step is made on.

    Attributes:
        lq, gt: [B, C, h, w] and [B, C', scale h, scale w] in 0..1.
        masks: their codes, or None.
        sigma: noise level [B] in 0..1, or None.
    """

    lq: Tensor
    gt: Tensor
    masks: PriorBatch | None = None
    sigma: Tensor | None = None

    def parts(self, count: int) -> list[Batch]:
        """Returns the batch as `count` equal ones."""
        size = len(self.lq) // count
        rows = [slice(n * size, (n + 1) * size) for n in range(count)]
        return [
            Batch(
                self.lq[r],
                self.gt[r],
                None if self.masks is None else self.masks.rows(r.start, r.stop),
                None if self.sigma is None else self.sigma[r],
            )
            for r in rows
        ]


class Tuner:
    """Tunes the adapter of a network, a step at a time.

    Args:
        net: on its device.
        train: the `train` section of complete options.
        ranks: the processes that share the run; each has a batch of its own.

    Attributes:
        optimizer, scheduler: from `optim_g` and `scheduler`.
        params_ema: moving average of the adapter by name; empty when it is off.
    """

    def __init__(self, net: SPTNet, train: Mapping[str, Any], ranks: Ranks) -> None:
        self.net, self.ranks = net, ranks
        self.device = next(net.parameters()).device
        self.memory_format = torch.channels_last if train['channels_last'] else torch.contiguous_format
        net.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.half = _HALVES.get(train['precision'])
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=train['precision'] == 'fp16')  # type: ignore[attr-defined]
        self.clip = float(train['clip_grad_norm'] or math.inf)
        self.accumulate = int(train['accumulate'])
        if not train['compile']:  # a compiler finds out by itself what need not be kept
            remember_less(net.backbone)
        if train['checkpoint'] and not recompute_blocks(net):
            name = type(net.backbone).__name__
            raise UserError(f'train.checkpoint: the sites of {name} are single layers, nothing to run again; remove it')
        if self.half is not None:
            keep_ends_exact(net)
        self.run: Callable[..., Tensor] = torch.compile(net) if train['compile'] else net
        self.ema_decay = float(train['ema_decay'])
        self.params_ema: dict[str, Tensor] = {}
        if self.ema_decay > 0:
            self.params_ema = {name: value.detach().clone() for name, value in net.adapter_state().items()}
        sections = {key: section for key, section in train.items() if key.endswith('_opt')}
        self.losses: dict[str, nn.Module] = {
            f'l_{key[: -len("_opt")].removesuffix("el")}': build_loss(section).to(self.device)
            for key, section in sections.items()
        }
        self.params = list(net.adapter_parameters().values())
        self.optimizer = _build('optim_g', find_optimizer, train['optim_g'], self.params)
        self.scheduler = _build('scheduler', find_scheduler, train['scheduler'], self.optimizer)
        self.warmup = int(train['warmup_iter'])
        self.rates = [group['lr'] for group in self.optimizer.param_groups]

    def set_rates(self, iteration: int) -> None:
        """Sets the learning rates of an iteration, counted from 1: the schedule's, or the warm-up's.

        The schedule goes on beneath the warm-up. Schedulers of torch read the rate they set last, so
        that is put back before they go on.
        """
        if iteration > 1:
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group['lr'] = rate
            self.scheduler.step()
            self.rates = [group['lr'] for group in self.optimizer.param_groups]
        if iteration < self.warmup:
            for group in self.optimizer.param_groups:
                group['lr'] = group['initial_lr'] * iteration / self.warmup

    def step(self, batch: Batch) -> dict[str, float]:
        """Makes one step and returns this rank's losses by name.

        Raises:
            NotFinite: the adapter was not changed then.
        """
        self.optimizer.zero_grad(set_to_none=True)
        sums = dict.fromkeys(self.losses, 0.0)
        for part in batch.parts(self.accumulate):
            lq = part.lq.contiguous(memory_format=self.memory_format)
            with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
                output = self.run(lq, part.masks, part.sigma)
            values = {name: _scalar(loss(output.float(), part.gt)) for name, loss in self.losses.items()}
            total = torch.stack(list(values.values())).sum() / self.accumulate
            self.scaler.scale(total).backward()
            for name, value in values.items():
                sums[name] += value.item() / self.accumulate
        self.ranks.average_gradients(self.params)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.params, self.clip)
        for name, value in sums.items():
            if not math.isfinite(value):
                raise NotFinite(f'the loss {name} is {value}')
        if not self.scaler.is_enabled() and not math.isfinite(norm):  # a scaler passes over such a step
            raise NotFinite('the gradient is not finite' + (' (of a rank)' if self.ranks.world > 1 else ''))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema_decay > 0:
            self._update_ema()
        return sums

    @torch.no_grad()
    def _update_ema(self) -> None:
        for name, value in self.net.adapter_state().items():
            average = self.params_ema[name]
            if value.is_floating_point():
                average.lerp_(value, 1 - self.ema_decay)
            else:
                average.copy_(value)

    def state(self) -> dict[str, Any]:
        """Returns all that the next step depends on, as plain values and tensors."""
        schedule = self.scheduler.state_dict()
        return {
            'params': self.net.adapter_state(),
            'params_ema': self.params_ema,
            'optimizer': self.optimizer.state_dict(),
            'scheduler': {key: value for key, value in schedule.items() if isinstance(value, _PLAIN)},
            'rates': self.rates,
            'scaler': self.scaler.state_dict(),
        }

    def load(self, state: Mapping[str, Any], source: str) -> None:
        """Restores what `state` returned; raises UserError, naming `source`, when it does not fit."""
        load_params(self.net, state['params'], source)
        if bool(state['params_ema']) != bool(self.params_ema):
            raise UserError(f'{source}: ema_decay was switched on or off since; use the options it was made with')
        if bool(state['scaler']) != self.scaler.is_enabled():
            raise UserError(f'{source}: precision was changed since; use the options it was made with')
        for name, value in state['params_ema'].items():
            self.params_ema[name].copy_(value)
        try:
            self.optimizer.load_state_dict(state['optimizer'])
            self.scheduler.load_state_dict(state['scheduler'])
        except (ValueError, KeyError) as error:
            raise UserError(f'{source}: made with another optimiser or scheduler; use the options of then') from error
        # The schedule goes on before this optimiser has made a step; the one of before the cut has.
        warnings.filterwarnings('ignore', message='Detected call of `lr_scheduler.step')
        self.rates = list(state['rates'])
        self.scaler.load_state_dict(state['scaler'])


def _scalar(loss: Any) -> Tensor:
    """Returns the loss; BasicSR's perceptual one is a pair (content, style), either of which may be None."""
    if isinstance(loss, tuple):
        return torch.stack([part for part in loss if part is not None]).sum()
    return loss


def _build(key: str, find: Callable[[str], Any], section: Mapping[str, Any], *given: Any) -> Any:
    arguments = dict(section)
    name = arguments.pop('type')
    try:
        return find(name)(*given, **arguments)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f'train.{key}: {name} refuses its arguments ({error}); correct them') from error
