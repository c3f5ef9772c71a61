"""Loading weights into a network, and saying which weights a network holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sptsr.core.checkpoints import read_weights
from sptsr.core.errors import UserError
from sptsr.core.files import sha256_tensors

__all__ = ['StateDigest', 'load_strictly', 'read_weights', 'state_digest']


def load_strictly(net: nn.Module, state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Loads a state dict; every tensor must be there and fit.

    Raises:
        UserError: counts and names what is missing, unknown, or of another shape.
    """
    own = net.state_dict()
    missing = sorted(own.keys() - state.keys())
    unknown = sorted(state.keys() - own.keys())
    shapes = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    faults = []
    if missing:
        faults.append(f"{len(missing)} missing, such as '{missing[0]}'")
    if unknown:
        faults.append(f"{len(unknown)} unknown, such as '{unknown[0]}'")
    if shapes:
        name = shapes[0]
        faults.append(
            f"{len(shapes)} of another shape, such as '{name}' {list(state[name].shape)} for {list(own[name].shape)}"
        )
    if faults:
        raise UserError(
            f'{path}: weights of another network than {type(net).__name__} as configured ({"; ".join(faults)}); '
            'check the file and the arguments of the backbone'
        )
    net.load_state_dict(dict(state), strict=True)


def state_digest(net: nn.Module) -> str:
    """Returns sha256 (hexadecimal) over all tensors and buffers (see `sha256_tensors`)."""
    return sha256_tensors(net.state_dict())


class StateDigest:
    """Digest of a network's tensors as they were loaded last; also the hook that takes it after `load_state_dict`.

    Args:
        net: the network.
        found: what it was before the first `SPTNet` took it.
        fixed: whether the digest stays what it is, since what is loaded holds what was tuned of the network.

    Attributes:
        value: the digest.
    """

    def __init__(self, net: nn.Module, found: Any, fixed: bool = False) -> None:
        self.value = state_digest(net)
        self.found, self.fixed = found, fixed

    @classmethod
    def of(cls, net: nn.Module) -> list[StateDigest]:
        """Returns those of every `SPTNet` that has taken a network."""
        return [hook for hook in net._load_state_dict_post_hooks.values() if isinstance(hook, cls)]

    def __call__(self, module: nn.Module, _incompatible_keys: Any) -> None:
        if not self.fixed:
            self.value = state_digest(module)
