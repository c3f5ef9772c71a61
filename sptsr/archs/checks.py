"""What is tried on a network that no recipe describes, before units in it are trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sptsr.archs.sites import Site
from sptsr.core.errors import UserError


@torch.inference_mode(False)
def gradient_failure(
    net: nn.Module, lq: Tensor, masks: Tensor, units: Iterable[nn.Module], sites: Sequence[Site], name: str
) -> RuntimeError | None:
    """Computes a gradient of every unit, and returns the error that kept it from that, or None.

    Args:
        net: `(lq, masks)` to the restored image.
        lq, masks: [1, C, h, w] and [1, N, h, w].
        units, sites: one unit a site.
        name: of the backbone, for messages.

    Raises:
        UserError: a gradient does not reach a unit.
    """
    starts = [next(iter(unit.parameters())) for unit in units]
    try:
        with torch.enable_grad():
            result = net(lq.clone(), masks.clone()).sum()  # clones are made outside of inference mode
            if not result.requires_grad:
                raise UserError(
                    f"sites: '{sites[0].path}' and all others: {name} runs them without gradients "
                    '(torch.no_grad or detach); choose modules behind that, or remove it'
                )
            gradients = torch.autograd.grad(result, starts, allow_unused=True)
    except RuntimeError as error:
        return error
    except UserError as error:
        if isinstance(error.__cause__, RuntimeError):  # raised in the forward pass
            return error.__cause__
        raise
    for site, gradient in zip(sites, gradients, strict=True):
        if gradient is None:
            raise UserError(
                f"sites: no gradient reaches '{site.path}' of {name} (torch.no_grad, detach, or an output "
                'that is not used); choose another module'
            )
    return None


def alike(one: Tensor, other: Tensor) -> bool:
    """Returns whether two images are the same up to rounding."""
    return torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()), equal_nan=True)
