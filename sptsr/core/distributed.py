"""Several processes that tune one adapter: their ranks, and what they exchange."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from sptsr.core.errors import UserError, refusing, unwrapped

_PORT = 29500  # torch's own default
_stores: list[Any] = []  # that of the group, while there is a group
_T = TypeVar('_T')


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run. With one process no method exchanges anything.

    Attributes:
        rank: number of this process, 0..world - 1.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[Tensor], failed: Tensor) -> Tensor:
        """Replaces each gradient by its mean over the ranks; all go in one exchange.

        Equal batches and a loss that is a mean make that the gradient of the joint batch. Only what is
        passed in is exchanged: the backbone is frozen and the same everywhere.

        Args:
            parameters: with their gradients. None is a gradient of zeros; it stays None where it is None on all ranks.
            failed: one number, 1 where this rank's gradients must not be used (they may be missing), else 0.

        Returns:
            the mean of `failed` over the ranks, on the same device; 0 when no rank has failed.
        """
        if self.world == 1:
            return failed
        parameters = list(parameters)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        there = torch.tensor([p.grad is not None for p in parameters]).to(parts[0])
        flat = torch.cat([*(part.reshape(-1) for part in parts), there, failed.reshape(1).to(there.dtype)])
        dist.all_reduce(flat)
        flat /= self.world
        start = 0
        for part in parts:
            part.copy_(flat[start : start + part.numel()].view_as(part))
            start += part.numel()
        if any(p.grad is None for p in parameters):  # a unit may have taken another way on another rank
            for parameter, part, is_there in zip(parameters, parts, (flat[start:-1] > 0).tolist(), strict=True):
                if is_there:
                    parameter.grad = part
        return flat[-1]

    def raise_together(self, error: Exception | None) -> None:
        """Raises an error of one rank on all of them; returns when no rank has one.

        All ranks call it at the same point. A rank raises its own error, or, if it has none, a UserError with the
        message of the first rank that has one.
        """
        error = unwrapped(error) if isinstance(error, UserError) else error
        texts = self.gather(None if error is None else _text(error))
        if error is not None:
            raise error
        for rank, text in enumerate(texts):
            if text is not None:
                raise UserError(f'rank {rank}: {text}')

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Waits at its end for all ranks, and raises an error of one of them on all (see `raise_together`).

        What is done within it must not exchange anything between ranks.
        """
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        self.raise_together(error)

    def highest(self, number: int) -> int:
        """Returns the largest of the numbers of all ranks."""
        if self.world == 1:
            return number
        shared = torch.tensor([number])
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared.item())

    def mean(self, value: float) -> float:
        """Returns the mean of a number over the ranks."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(shared)
        return shared.item() / self.world

    def gather(self, value: _T) -> list[_T]:
        """Returns every rank's value, in the order of ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def share(self, value: _T) -> _T:
        """Returns the first rank's value on every rank."""
        if self.world == 1:
            return value
        values = [value if self.first else None]
        dist.broadcast_object_list(values)
        return cast(_T, values[0])

    def close(self) -> None:
        """Leaves the group."""
        leave_group()


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f'{type(error).__name__}: {error}'


def enter_group(backend: str, timeout: timedelta, patience: timedelta | None = None) -> None:
    """Joins the group of processes that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe.

    Args:
        backend: `gloo`, or `cpu:gloo,cuda:nccl`.
        timeout: how long to wait for the others, here and in every exchange.
        patience: the latter, where it is another. A process that ends is noticed at once in any case.
    """
    store, rank, world = next(rendezvous('env://', timeout=timeout))
    store.set_timeout(timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=patience or timeout)
    _stores.append(store)


def leave_group() -> None:
    """Leaves the group, if there is one. Ranks leave one at a time, the last rank first.

    Two ends of a gloo connection that close in the same moment can wait for each other for ever (seen with torch
    2.4 and 2.6). Where a rank is gone without a word the others wait for it for some seconds, no longer.
    """
    if not _stores:
        return
    store, rank, world = _stores.pop(), dist.get_rank(), dist.get_world_size()
    with contextlib.suppress(RuntimeError):  # the rank that holds the store is gone, or one that was to go first
        if rank < world - 1:
            store.wait([f'left/{rank + 1}'], timedelta(seconds=5))
    dist.destroy_process_group()
    with contextlib.suppress(RuntimeError):
        store.set(f'left/{rank}', '1')


def start_ranks(
    launcher: str = 'none',
    settings: Mapping[str, Any] | None = None,
    cuda: bool = False,
    timeout: timedelta = timedelta(hours=2),
) -> Ranks:
    """Finds out which process of how many this is, and joins the others.

    Args:
        launcher: `none`, `pytorch` (torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) or
            `slurm` (srun sets SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, SLURM_STEP_NODELIST).
        settings: `dist_params`: `backend` (`nccl` or `gloo`; by default nccl with GPUs) and `port` (slurm).
        cuda: whether the run is on GPUs; each rank then takes the one of its local rank.
        timeout: how long to wait for the others; they may have images to validate that take longer.

    Raises:
        UserError: several processes without a launcher (they would all write one run), or a launcher
            whose variables are not there.
    """
    environment = os.environ
    if launcher == 'none':
        started = max(number_of('WORLD_SIZE', '1'), number_of('SLURM_STEP_NUM_TASKS', '1'))
        if started > 1:
            raise UserError(
                f'{started} processes were started and would all write the same run; say --launcher pytorch '
                '(torchrun) or --launcher slurm (srun)'
            )
        return Ranks()
    if launcher == 'slurm':
        _from_slurm(settings or {})
    try:
        rank, world, local = (number_of(name) for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'))
    except KeyError as error:
        how = 'torchrun --nproc_per_node N -m sptsr.train -opt X.yml --launcher pytorch'
        raise UserError(f'--launcher {launcher}: {error.args[0]} is not set; start it as `{how}`') from error
    if cuda:
        gpus = torch.cuda.device_count()
        if launcher == 'slurm' and gpus == 1:  # each task sees its own
            local = 0
        if local >= gpus:
            raise UserError(
                f'--launcher {launcher}: local rank {local}, but {gpus} GPUs are here; '
                'start one process a GPU, or set num_gpu: 0'
            )
        torch.cuda.set_device(local)
    if 'TORCHELASTIC_RUN_ID' in environment:
        _end_with_torchrun()
    if world == 1:
        return Ranks()
    backend = (settings or {}).get('backend') or ('nccl' if cuda else 'gloo')
    # Flags and figures are exchanged on the CPU, whatever device the gradients are on.
    both = 'cpu:gloo,cuda:nccl' if cuda and backend == 'nccl' else 'gloo'
    place = f'{environment.get("MASTER_ADDR")}:{environment.get("MASTER_PORT")}'
    with refusing(
        f'--launcher {launcher}: no group of {world} processes at {place}',
        'start all alike, and give each run on a machine a port of its own (dist_params.port, MASTER_PORT)',
    ):
        enter_group(both, timeout)
    return Ranks(rank, world)


def number_of(name: str, default: str | None = None) -> int:
    """Returns a whole number of the environment; raises KeyError where it is not set, or empty, and has no default."""
    text = os.environ.get(name) or default
    if text is None:
        raise KeyError(name)
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"{name}: '{text}' in the environment is no whole number; the launcher sets it") from error


def _end_with_torchrun() -> None:
    """Lets this process be stopped, as by SIGTERM, when torchrun is killed: it leads a session of its own. On Linux."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG


def _from_slurm(settings: Mapping[str, Any]) -> None:
    """Says in torch's variables what srun says in its own."""
    names = {'RANK': 'SLURM_PROCID', 'WORLD_SIZE': 'SLURM_NTASKS', 'LOCAL_RANK': 'SLURM_LOCALID'}
    for name, source in names.items():
        if source not in os.environ:
            raise UserError(f'--launcher slurm: {source} is not set; start it with srun')
        os.environ[name] = os.environ[source]
    nodes = os.environ.get('SLURM_STEP_NODELIST') or os.environ.get('SLURM_NODELIST') or '127.0.0.1'
    os.environ.setdefault('MASTER_ADDR', first_host(nodes))
    os.environ.setdefault('MASTER_PORT', str(settings.get('port') or _PORT))


def first_host(nodes: str) -> str:
    """Returns the first host of a list as Slurm writes it: `a7,b2`, `node[003-005,9]`, `r[1-2]n[04,08]`."""
    first = re.split(r',(?![^\[]*\])', nodes, maxsplit=1)[0]
    return re.sub(r'\[(\w+)[^\]]*\]', r'\1', first)
