"""What is checked: masks that a network is given, and networks that no recipe describes, before units are trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sptsr.archs.frozen import remember_less
from sptsr.archs.sites import Site, describe
from sptsr.core.errors import UserError
from sptsr.masks.batch import PriorBatch


def codes_of(lq: Tensor, masks: Tensor | PriorBatch | None, num_masks: int) -> PriorBatch:
    """Returns the codes of the masks that a network is given.

    Args:
        lq: [B, C, h, w].
        masks: [B, num_masks, h, w] of 0 and 1, or their codes.
        num_masks: that the network is given.

    Raises:
        ValueError: masks of another size or number.
    """
    batch, height, width = lq.shape[0], *lq.shape[-2:]
    if isinstance(masks, PriorBatch):
        if masks.shape != (batch, height, width):
            raise ValueError(f'masks must be {[batch, height, width]} for this input, got {list(masks.shape)}')
        return masks
    expected = (batch, num_masks, height, width)
    if masks is None or masks.shape != expected:
        got = 'none' if masks is None else list(masks.shape)
        raise ValueError(f'masks must be {list(expected)} for this input, got {got}')
    return PriorBatch.from_masks(masks)


def checked_prior(prior: Any, lq: Tensor, width: int) -> Tensor:
    """Returns what a stem gave; raises UserError unless it is S0 [B, width, h, w] for lq [B, C, h, w]."""
    if torch.compiler.is_compiling():
        return prior
    expected = (len(lq), width, *lq.shape[-2:])
    if not isinstance(prior, Tensor) or prior.shape != expected:
        raise UserError(f'stem: gave {describe(prior)} in place of S0 {list(expected)}; mend its forward')
    return prior


def checked_refined(refined: Any, features: Tensor, width: int, unit: str) -> tuple[Tensor, Tensor]:
    """Returns what a unit gave; raises UserError unless it is a pair of F, shaped as it was given, and S."""
    if torch.compiler.is_compiling():
        return refined
    if not isinstance(refined, tuple | list) or len(refined) != 2:
        raise UserError(f'unit {unit}: gave {describe(refined)} in place of a pair (F, S); mend its forward')
    for what, given, channels in zip('FS', refined, (features.shape[1], width), strict=True):
        expected = (len(features), channels, *features.shape[2:])
        if not isinstance(given, Tensor) or given.shape != expected:
            raise UserError(
                f'unit {unit}: gave {describe(given)} as {what} in place of {list(expected)}; mend its forward'
            )
    return refined[0], refined[1]


def make_trainable(net: Any, probe: Tensor) -> None:
    """Raises UserError when the backbone keeps a gradient from a unit, or is not what it was with untrained units.

    Work in place is often on what only a gradient of the frozen weights would need (`remember_less` then keeps
    none of it), or on what a unit needs and may copy. Where it is, that is done.

    Args:
        net: an `SPTNet` with untrained units.
        probe: [1, C, h, w], an image that the backbone takes.
    """
    name = type(net.backbone).__name__
    masks = probe.new_zeros(1, net.num_masks, *probe.shape[-2:])
    with torch.no_grad():
        net(probe, masks)  # what fails here too has nothing to do with gradients

    def failure() -> RuntimeError | None:
        return gradient_failure(net, probe, masks, net.units, net.sites, name)

    error = failure()
    if error is not None:
        remember_less(net.backbone)
        error = failure()
    if error is not None:
        net.copies = True
        error = failure()
    if error is not None and 'torch.utils.checkpoint' in str(error):
        raise UserError(
            f'sites: {name} computes the output of a site again in the backward pass (torch.utils.checkpoint), where '
            'no unit runs; switch that off (use_checkpoint: false), or choose modules outside of it'
        ) from error
    if error is not None:
        raise UserError(
            f'sites: {name} changes a feature in place that a unit needs ({str(error).splitlines()[0]}); '
            'choose other modules, or set inplace=False there'
        ) from error
    with torch.no_grad():
        refined = net(probe, masks)
        with net.units_off():
            alone, again = net(probe), net(probe)
    if alike(alone, again) and not alike(alone, refined):  # some networks draw random numbers
        raise UserError(
            f'sites: {name} changes the output of a site in place under another name (a view, or the input of '
            'nn.Identity), and so would miss the unit; choose other modules'
        )


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
