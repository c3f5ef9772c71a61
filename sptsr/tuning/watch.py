"""Notices a backbone that writes into its own tensors, and so is not frozen."""

from __future__ import annotations

import torch
from torch import Tensor

from sptsr.archs.backbone import probe
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.errors import UserError


class Watch:
    """Compares the tensors of a backbone that do not learn with those of the start.

    Some networks compute tensors from other ones while they run (SPAN fuses convolutions). These are the same for
    every image, so an adapter may rely on them. Statistics of a BatchNorm that is in training mode are not.

    Args:
        net: as it is trained, on its device and in its memory format.
    """

    def __init__(self, net: SPTNet) -> None:
        self.net = net
        self.sums = _sums(net)
        self.computed: set[str] = set()

    def check(self) -> None:
        """Raises UserError, with the name of a tensor, when images have changed tensors of the backbone."""
        changed = self._changed(self.sums) - self.computed
        if not changed:
            return
        image = probe(self.net.sizes, self.net.in_channels).to(next(self.net.parameters()).device)
        self._run(image)
        first = _sums(self.net)
        self._run(1 - image)
        learned = sorted(self._changed(first))
        if learned:
            name = type(self.net.backbone).__name__
            raise UserError(
                f"network_g.backbone: {name} writes into its tensor '{learned[0]}' while it "
                'runs, so it is not frozen; change its forward (it may put a BatchNorm into training mode)'
            )
        self.computed |= changed

    def _changed(self, sums: dict[str, int]) -> set[str]:
        return {name for name, value in _sums(self.net).items() if value != sums[name]}

    @torch.no_grad()
    def _run(self, image: Tensor) -> None:
        self.net.backbone(image)


def _sums(net: SPTNet) -> dict[str, int]:
    """Returns the sum of each frozen tensor's bits, read as whole numbers; far cheaper than a digest."""
    learned = net.learned.paths if net.learned else set()
    state = {name: value for name, value in net.backbone.state_dict().items() if name not in learned}
    sums = [_bits(value).sum(dtype=torch.int64) for value in state.values()]
    return dict(zip(state, torch.stack(sums).tolist(), strict=True)) if sums else {}


def _bits(value: Tensor) -> Tensor:
    widths = {0: torch.int32, 2: torch.int16}
    return value.detach().reshape(-1).view(widths.get(value.element_size() % 4, torch.uint8))
