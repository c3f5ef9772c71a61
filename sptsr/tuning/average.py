"""The moving average (EMA) of an adapter, without the untrained adapter that it started from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# The average looks back over about a ninth of the iterations made, until the decay asks for no more. It is the 10
# of TensorFlow's formula below.
_WARM_UP = 9


class Average:
    """An exponential moving average whose decay is warmed up.

        a_n = d_n a_{n-1} + (1 - d_n) p_n,    d_n = min(decay, (n - 1) / (n + 8)),    n = 1, 2, ...

    A constant decay d leaves d^n of the start in the average: 37 % after 1,000 iterations of 0.999. Here d_1 is 0,
    so nothing of the untrained adapter is left from the first iteration on. From the second one the decay is
    (1 + t) / (10 + t), t = 0, 1, ..., the warm-up of TensorFlow's `tf.train.ExponentialMovingAverage(num_updates)`.
    The weight of iteration i in it goes with i^8: the power function average of Karras et al., "Analyzing and
    Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696), of relative width 0.09. Dividing a plain
    average by 1 - d^n, as Adam does, would remove the start as well, but give the first, hardly trained iterations
    of a short run the weight of the last ones.

    Args:
        values: tensors of the adapter by name; they are read in place at each update.
        decay: 0..1, 1 excluded; reached after about 9 / (1 - decay) iterations.

    Attributes:
        tensors: the average by name. Tensors that hold no floats (counters) are the newest ones.
        updates: n.
        untrained: share of the untrained adapter in it, 0..1.
    """

    def __init__(self, values: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in values.items()}
        self.updates = 0
        self.untrained = 1.0
        floating = [name for name, value in values.items() if value.is_floating_point()]
        self._averages = [self.tensors[name] for name in floating]
        self._values = [values[name].detach() for name in floating]
        self._newest = [(self.tensors[name], values[name]) for name in values if name not in floating]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the present values into the average."""
        self.updates += 1
        decay = min(self.decay, (self.updates - 1) / (self.updates - 1 + _WARM_UP))
        self.untrained *= decay
        torch._foreach_lerp_(self._averages, self._values, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for newest, value in self._newest:
            newest.copy_(value)

    def progress(self) -> dict[str, Any]:
        """Returns what the next update depends on besides the tensors, as plain values."""
        return {'updates': self.updates, 'untrained': self.untrained}

    def load(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Goes on from an average of the same names and shapes, and its `progress`; else raises ValueError."""
        if {n: v.shape for n, v in tensors.items()} != {n: v.shape for n, v in self.tensors.items()}:
            raise ValueError('the tensors of its average are others')
        for name, value in tensors.items():
            self.tensors[name].copy_(value)
        self.updates, self.untrained = int(progress['updates']), float(progress['untrained'])


def plain_progress(updates: int, decay: float) -> dict[str, Any]:
    """Returns the `progress` of an average of constant decay, as sptsr 0.1 made it: decay^updates is untrained."""
    return {'updates': updates, 'untrained': decay**updates}
