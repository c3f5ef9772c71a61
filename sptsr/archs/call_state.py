"""The state of one call of an `SPTNet`, and the hooks that find it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from sptsr.archs.pooling import SiteMasks
from sptsr.archs.sites import Grid
from sptsr.archs.to_site import CarriedPrior
from sptsr.core.errors import UserError


class Token:
    """Says which hooks belong to which network; a deep copy of both has a token of its own, a shallow one shares it."""


class Refining(Protocol):
    """What a call needs of `SPTNet`."""

    token: Token

    def refine(self, number: int, call: Call, output: Any, given: list[Any]) -> Tensor | None:
        """Returns the refined output of site `number`, or None to leave it unchanged."""


@dataclass
class Call:
    """What travels between the units during one call."""

    net: Refining  # the network that was called: the original, a copy, or a replica of `DataParallel`
    size: tuple[int, int]  # of the LQ image
    prior: CarriedPrior  # S
    regions: SiteMasks | None
    learns: bool  # whether gradients are wanted
    at_site: dict[tuple[tuple[int, int], Grid], SiteMasks] = field(default_factory=dict)
    entered: bool = False  # whether the backbone runs


# The call that this thread (or asynchronous task) is in. Kept here and not on the network, so that threads, copies and
# replicas that share modules do not share calls.
current: ContextVar[Call | None] = ContextVar('current', default=None)


def _own_call(token: Token) -> Call | None:
    """Returns the current call if it is one of the network with this token."""
    call = current.get()
    return call if call is not None and call.net.token is token else None


class RefineSite:
    """Forward hook of a site: does nothing unless a call of its network runs."""

    def __init__(self, token: Token, number: int) -> None:
        self.token, self.number = token, number

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Tensor | None:
        call = _own_call(self.token)
        return None if call is None else call.net.refine(self.number, call, output, [*args, *kwargs.values()])


class EnterBackbone:
    """Forward pre-hook of the backbone: refuses a second entry during one call, since S belongs to one image."""

    def __init__(self, token: Token) -> None:
        self.token = token

    def __call__(self, module: nn.Module, args: Any) -> None:
        call = _own_call(self.token)
        if call is None:
            return
        if call.entered:
            raise UserError(
                f'{type(module).__name__} is called again while units refine it, and the units would mix two images; '
                'call it after SPTNet has returned, or let it call a part of itself'
            )
        call.entered = True
