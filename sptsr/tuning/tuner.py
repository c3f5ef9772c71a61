"""One tuning step of an adapter, with its learning rate, precision and moving average; and going on after a cut."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sptsr.archs.adapter import load_params
from sptsr.archs.backbone import kind_of, probe
from sptsr.archs.frozen import remember_less
from sptsr.archs.precision import HALVES, keep_ends_exact
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.distributed import Ranks
from sptsr.core.errors import UserError, refusing
from sptsr.core.optim import find_optimizer, find_scheduler
from sptsr.masks.batch import PriorBatch
from sptsr.tuning.average import Average, plain_progress
from sptsr.tuning.recompute import recompute_blocks
from sptsr.tuning.train_section import STAY, losses_of, optimizer_of, scheduler_of, try_out


class NotFinite(UserError):
    """A loss or gradient is infinite or not a number; the message says which one, when, and on which files."""


@dataclass
class Batch:
    """What a step is made on.

    Attributes:
        lq, gt: [B, C, h, w] and [B, C', scale h, scale w] in 0..1.
        masks: their codes, or None.
        sigma: noise level [B] in 0..1, or None.
        files: names of the images, for messages.
    """

    lq: Tensor
    gt: Tensor
    masks: PriorBatch | None = None
    sigma: Tensor | None = None
    files: Sequence[str] = ()

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
        average: moving average of the adapter; None when `ema_decay` is 0.

    Raises:
        UserError: arguments that an optimiser, scheduler or loss refuses, or an option that this network cannot have.
    """

    def __init__(self, net: SPTNet, train: Mapping[str, Any], ranks: Ranks) -> None:
        self.net, self.ranks = net, ranks
        self.train: Mapping[str, Any] = train
        self.device = next(net.parameters()).device
        self.memory_format = torch.channels_last if train['channels_last'] else torch.contiguous_format
        net.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.half = HALVES.get(train['precision'])
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=train['precision'] == 'fp16')  # type: ignore[attr-defined]
        self.clip = float(train['clip_grad_norm'] or math.inf)
        self.accumulate = int(train['accumulate'])
        if net.learned:
            net.learned.check(probe(net.sizes, net.in_channels).to(**kind_of(net.backbone)))
        # a compiler finds out by itself what need not be kept; where weights learn, that is what torch keeps
        if not train['compile'] and net.tune != 'all':
            remember_less(net.backbone)
        if train['checkpoint'] and not recompute_blocks(net):
            name = type(net.backbone).__name__
            raise UserError(f'train.checkpoint: the sites of {name} are no blocks that could run again; remove it')
        if self.half is not None:
            keep_ends_exact(net)
        self.run: Callable[..., Tensor] = torch.compile(net) if train['compile'] else net
        decay = float(train['ema_decay'])
        self.average = Average(net.adapter_state(), decay) if decay > 0 else None
        self.losses = losses_of(train, self.device)
        self.params = list(net.adapter_parameters().values())
        self.optimizer = optimizer_of(train, self.params)
        self.scheduler = scheduler_of(train, self.optimizer)
        self.warmup = int(train['warmup_iter'])
        self.rates = [group['lr'] for group in self.optimizer.param_groups]
        self.iteration = 0
        try_out(train, self.device)

    def set_rates(self, iteration: int) -> None:
        """Sets the learning rates of an iteration, counted from 1: the schedule's, or the warm-up's.

        The schedule continues during the warm-up. Schedulers of torch read the rate that they set last, so
        it is put back before they make their next step.
        """
        self.iteration = iteration
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

        An error of one rank ends the step on all of them, before the adapter changes.

        Raises:
            NotFinite: a loss or gradient of this rank.
            UserError: what went wrong on another rank.
        """
        self.optimizer.zero_grad(set_to_none=True)
        try:
            losses = self._backward(batch)
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError):
                error = UserError(
                    f'iteration {self.iteration}: a step needs more memory than the GPU has free; lower '
                    'batch_size_per_gpu (train.accumulate makes up for it) or gt_size, or set train.checkpoint: true'
                )
            self.ranks.average_gradients(self.params, torch.ones((), device=self.device))
            self.ranks.raise_together(error)
            raise error
        gradients = [p.grad for p in self.params if p.grad is not None]
        own_norm = torch.nn.utils.get_total_norm(gradients) if self.ranks.world > 1 else None
        failed = self.ranks.average_gradients(self.params, (~losses.isfinite().all()).float())
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.params, self.clip)
        own_norm = norm if own_norm is None else own_norm
        # one wait for the device instead of four
        *values, own, shared, failures = torch.cat([losses, torch.stack([own_norm, norm, failed])]).tolist()
        # a gradient scaler skips the step of a gradient that is not finite
        if failures or not (self.scaler.is_enabled() or math.isfinite(shared)):
            self.ranks.raise_together(self._not_finite(values, own, batch.files))
            raise self._error('the sum of the gradients of all ranks is not finite', batch.files)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not math.isfinite(shared):
            if self.scaler.get_scale() < 1:  # it halves with each: what is left is no overflow
                raise self._error('the gradient is not finite, however small the scale of fp16', batch.files)
        elif self.average is not None:
            self.average.update()
        return dict(zip(self.losses, values, strict=True))

    def _backward(self, batch: Batch) -> Tensor:
        """Adds up the gradients of a batch and returns its losses, [number of losses]."""
        sums = torch.zeros(len(self.losses), device=self.device)
        for part in batch.parts(self.accumulate):
            lq = part.lq.contiguous(memory_format=self.memory_format)
            targets = {} if STAY not in self.losses else {STAY: self._frozen(lq, part.sigma)}
            with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
                output = self.run(lq, part.masks, part.sigma).float()
            values = [loss(output, targets.get(name, part.gt)) for name, loss in self.losses.items()]
            values = torch.stack(values) / self.accumulate
            self.scaler.scale(values.sum()).backward()
            sums += values.detach()
        return sums

    @torch.no_grad()
    def _frozen(self, lq: Tensor, sigma: Tensor | None) -> Tensor:
        """Returns what the network gives before it is tuned."""
        with self.net.units_off(), torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            return self.net(lq, None, sigma).float()

    def _not_finite(self, losses: Sequence[float], norm: float, files: Sequence[str]) -> NotFinite | None:
        for name, value in zip(self.losses, losses, strict=True):
            if not math.isfinite(value):
                return self._error(f'the loss {name} is {value}', files)
        if not (self.scaler.is_enabled() or math.isfinite(norm)):
            return self._error('the gradient is not finite', files)
        return None

    def _error(self, what: str, files: Sequence[str]) -> NotFinite:
        where = f', or look at {", ".join(files)}' if files else ''
        return NotFinite(f'iteration {self.iteration}: {what}; lower the learning rate or set clip_grad_norm{where}')

    def state(self) -> dict[str, Any]:
        """Returns all of the progress that the next step depends on, as plain values and tensors.

        Arguments of optimiser and scheduler are in it only to be compared: those of the options are used.
        """
        return {
            'params': self.net.adapter_state(),
            'params_ema': {} if self.average is None else self.average.tensors,
            'ema': None if self.average is None else self.average.progress(),
            'optimizer': self.optimizer.state_dict(),
            'scheduler': {'last_epoch': self.scheduler.last_epoch},  # steps that it has made
            'types': {key: self.train[key]['type'] for key in _TYPED},
            'scaler': self.scaler.state_dict(),
        }

    def load(self, state: Mapping[str, Any], source: str) -> None:
        """Goes on from what `state` returned, with the arguments of this tuner's own options.

        The learning rate of the next iteration is the one that it would have in an unbroken run with these options.
        A state of sptsr 0.1 has a plain moving average: it goes on, and `average.untrained` says how much of the
        untrained adapter is still in it.

        Raises:
            UserError: names `source`, what the options say and what the state says, when these do not go together.
        """
        with refusing(f'{source}: not a state of such a network', 'use an older one, or start anew with --fresh'):
            self._load(state, source)

    def _load(self, state: Mapping[str, Any], source: str) -> None:
        self._check_types(state, source)
        load_params(self.net, state['params'], source)
        steps = int(state['scheduler']['last_epoch'])
        if self.average is not None:
            progress = state.get('ema') or plain_progress(steps + 1, self.average.decay)
            self.average.load(state['params_ema'], progress)
        # The schedule goes on before this optimiser has made a step; the one before the cut has made some.
        warnings.filterwarnings('ignore', message='Detected call of `lr_scheduler.step')
        try:
            for iteration in range(2, steps + 2):
                self.set_rates(iteration)
        except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
            name = self.train['scheduler']['type']
            raise UserError(
                f'train.scheduler: {name} with these arguments does not reach iteration {steps + 1}, which {source} '
                f'has made ({error}); correct them'
            ) from error
        self._load_optimizer(state['optimizer'], source)
        self.scaler.load_state_dict(state['scaler'])

    def _check_types(self, state: Mapping[str, Any], source: str) -> None:
        for key, find in _TYPED.items():
            name = self.train[key]['type']
            was = state.get('types', {}).get(key, name)  # 0.1 did not write it
            if find(was) is not find(name):
                raise UserError(
                    f'train.{key}: {name}, but {source} was made with {was}; say {was}, or start anew with --fresh'
                )
        averaged = 'a moving average' if state['params_ema'] else 'no moving average'
        if bool(state['params_ema']) != (self.average is not None):
            raise UserError(
                f'train.ema_decay: {self.train["ema_decay"]}, but {source} was made with {averaged}; '
                'set it as it was, or start anew with --fresh'
            )
        if bool(state['scaler']) != self.scaler.is_enabled():
            was = 'fp16' if state['scaler'] else 'fp32 or bf16'
            raise UserError(
                f'train.precision: {self.train["precision"]}, but {source} was made with {was}; '
                'set it as it was, or start anew with --fresh'
            )

    def _load_optimizer(self, saved: Mapping[str, Any], source: str) -> None:
        """Loads moments; raises UserError where the arguments of the options need some that the state has not."""
        twins = [p.detach().clone().requires_grad_() for p in self.params]
        for twin in twins:
            twin.grad = torch.zeros_like(twin)
        twin_optimizer = optimizer_of(self.train, twins)
        twin_optimizer.step()
        twin_state = twin_optimizer.state_dict()['state']
        missing = _moments(twin_state.values()) - _moments(saved['state'].values())
        own = self.optimizer.state_dict()['param_groups']
        if saved['state'] and missing:
            was = saved['param_groups'][0]
            changed = [f'{k}: {v} (was {was[k]})' for k, v in own[0].items() if k in was and was[k] != v]
            raise UserError(
                f'train.optim_g: needs {", ".join(sorted(missing))}, which {source} does not hold '
                f'({", ".join(changed)}); set the arguments as they were, or start anew with --fresh'
            )
        for number, moments in saved['state'].items():
            for name, value in moments.items():
                twin = twin_state.get(number, {}).get(name)
                if isinstance(twin, Tensor) and isinstance(value, Tensor) and twin.shape != value.shape:
                    raise ValueError(f'{name} of tensor {number} is of another shape')
        try:
            self.optimizer.load_state_dict({'state': saved['state'], 'param_groups': own})
        except (ValueError, KeyError) as error:
            raise UserError(f'{source}: made with another optimiser ({error}); start anew with --fresh') from error


_TYPED: dict[str, Callable[[str], Any]] = {'optim_g': find_optimizer, 'scheduler': find_scheduler}


def _moments(states: Iterable[Mapping[str, Any]]) -> set[str]:
    """Returns the names of what an optimiser keeps for any parameter."""
    return {name for state in states for name, value in state.items() if value is not None}
