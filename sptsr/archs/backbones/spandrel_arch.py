"""Any image-restoration checkpoint that spandrel can tell and build: `{type: spandrel, path: FILE}`."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from sptsr.archs.sizes import SizeRules
from sptsr.archs.weights import read_weights
from sptsr.core.errors import UserError, reason_of
from sptsr.core.registry import ARCH_REGISTRY, register

_INSTALL = "pip install 'sptsr[spandrel]'"
_GRID = 64  # many of these networks pad their input themselves, to windows and strides of up to 64
_NOISE = 15 / 255  # what spandrel takes for denoisers that want a noise level


@register(ARCH_REGISTRY, 'spandrel')
class SpandrelNet(nn.Module):
    """The network that spandrel builds for a checkpoint, with its weights.

    https://github.com/chaiNNer-org/spandrel; the networks of `spandrel_extra_arches` (Restormer
    and others, some not free for commercial use) are known as well where that package is installed.

    Args:
        path: the checkpoint, `.pth` or `.safetensors`; read without unpickling code.

    Attributes:
        net: the network itself, so that paths of its modules begin with `net.`.
        arch: its name.
        sizes: what it asks of its input.

    Shapes: [B, C, h, w] in 0..1, and the noise level [B] in 0..1 for networks that take one (DRUNet), to
    [B, C', scale h, scale w]. Nothing is clamped.

    Raises:
        UserError: spandrel is missing, does not know the file, or it is a face or inpainting model.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        descriptor = _describe(path)
        self.net: nn.Module = descriptor.model
        self.arch: str = descriptor.architecture.name
        rules = descriptor.size_requirements
        self.sizes = SizeRules(rules.multiple_of, max(1, rules.minimum), rules.square, _GRID)
        self.takes_sigma = self.arch == 'DRUNet' or getattr(self.net, 'mode', None) == 'FDnCNN'
        self._run = descriptor._call_fn  # how to call it; `__call__` of the descriptor pads, clamps and detaches

    def forward(self, lq: Tensor, sigma: Tensor | None = None) -> Tensor:
        if not self.takes_sigma:
            return self._run(self.net, lq)
        # spandrel's own call takes one image and a fixed level
        level = lq.new_full((len(lq),), _NOISE) if sigma is None else sigma.to(lq.dtype)
        plane = level.view(-1, 1, 1, 1).expand(len(lq), 1, *lq.shape[-2:])
        return self.net(torch.cat([lq, plane], dim=1))


def _describe(path: str) -> Any:
    tensors = read_weights(path)
    try:
        from spandrel import MAIN_REGISTRY, ArchRegistry, ModelLoader, UnsupportedModelError, canonicalize_state_dict
    except ImportError as error:
        raise UserError(f'backbone: {path}: spandrel is not installed; {_INSTALL}') from error
    registry = ArchRegistry()  # of our own: spandrel's is not ours to change
    registry.add(*MAIN_REGISTRY)
    with contextlib.suppress(ImportError):
        from spandrel_extra_arches import EXTRA_REGISTRY

        registry.add(*EXTRA_REGISTRY, ignore_duplicates=True)
    state = canonicalize_state_dict(tensors)
    try:
        descriptor = ModelLoader(registry=registry).load_from_state_dict(state)
    except UnsupportedModelError as error:
        raise UserError(f'{path}: spandrel knows no network with these tensors; name its type instead') from error
    except Exception as error:  # a file that looks like one network and is another fails anywhere
        # torch says in the first line that it goes on in the next
        heading, _, rest = str(error).partition(':\n')
        reason = reason_of(RuntimeError(f'{heading}: {rest.strip()}')) if rest else reason_of(error)
        raise UserError(
            f'{path}: spandrel cannot build the network of this file ({reason}); download it again, or name its type'
        ) from error
    if descriptor.purpose not in ('SR', 'Restoration'):
        raise UserError(
            f'{path}: {descriptor.architecture.name} is a model for {descriptor.purpose}; '
            'units go into super-resolution and restoration networks'
        )
    if descriptor.input_channels not in (1, 3, 4):
        raise UserError(
            f'{path}: spandrel takes it for {descriptor.architecture.name} of images of {descriptor.input_channels} '
            'channels; name its type instead'
        )
    return descriptor
