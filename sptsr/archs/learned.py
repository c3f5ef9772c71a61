"""The ways to tune that change the backbone itself: all weights, biases and norms, or LoRA."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from sptsr.archs.call import call_network
from sptsr.archs.sites import Site, match_sites
from sptsr.core.errors import UserError
from sptsr.options.tune import WITH_LORA, Tune

_ADAPTER = 'default'  # peft's name for the only adapter of a layer
_PEFT_NOTE = 'peft_config'  # which it leaves in the network
_NUDGE = 1.01


class Learned:
    """The tensors of a backbone that learn, and what they were.

    `all`: every parameter. `bias`: every bias, and all parameters of normalisation layers. `lora`, `adapter+lora`: two
    matrices for each layer of `lora_layers`. The backbone stays in eval mode: running statistics and dropout play no
    part.

    Args:
        backbone: the pretrained network, frozen. With `lora` its layers are wrapped in place.
        tune: the way.
        rank: of LoRA.
        sites: name the blocks that get LoRA,
        lora_sites: unless these patterns do.

    Attributes:
        merged: whether LoRA is added to the weights of its layers.

    Raises:
        UserError: peft is not installed, or there is nothing of this kind that could learn.
    """

    def __init__(
        self,
        backbone: nn.Module,
        tune: Tune,
        rank: int,
        sites: Sequence[Site],
        lora_sites: str | Sequence[str] | None = None,
    ) -> None:
        self.backbone = backbone
        paths = [site.path for site in sites]
        if lora_sites is not None:
            patterns = [lora_sites] if isinstance(lora_sites, str) else lora_sites
            paths = match_sites(backbone, patterns, 'lora_sites')
        self.layers = _add_lora(backbone, rank, paths) if tune in WITH_LORA else []
        self._paths = _lora_paths(self.layers) if tune in WITH_LORA else _paths(backbone, tune)
        if not self._paths:
            what = 'biases or normalisation layers' if tune == 'bias' else 'parameters'
            raise UserError(f'tune: {type(backbone).__name__} has no {what}; tune it in another way')
        for parameter in self.parameters().values():
            parameter.requires_grad_()
        self.start = {name: value.detach().clone() for name, value in self.parameters().items()}
        self._whole: dict[str, Tensor] = {}  # weights of merged layers as they were, by path

    @property
    def merged(self) -> bool:
        """Whether LoRA is added to the weights of its layers."""
        return bool(self._whole)

    @property
    def paths(self) -> set[str]:
        """Names of the tensors in the backbone's state dict."""
        return set(self._paths.values())

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns the tensors that learn by their names in an adapter: `backbone.` and the path in the backbone."""
        return {name: self.backbone.get_parameter(path) for name, path in self._paths.items()}

    @contextmanager
    def as_found(self) -> Iterator[None]:
        """Within it the backbone computes what it did before it was tuned."""
        values = {name: value.detach().clone() for name, value in self.parameters().items()}
        merged = self.merged
        self.unmerge()
        self._fill(self.start)
        try:
            yield
        finally:
            self._fill(values)
            if merged:
                self.merge()

    def take_out(self) -> None:
        """Makes the backbone what it was found as: its values, and no LoRA."""
        self.unmerge()
        self._fill(self.start)
        for path in self.layers:
            self.backbone.set_submodule(path, cast(nn.Module, self.backbone.get_submodule(path).base_layer))
        vars(self.backbone).pop(_PEFT_NOTE, None)

    @torch.no_grad()
    def merge(self) -> None:
        """Adds LoRA to the weights of its layers, so that it costs nothing more; elsewhere it does nothing."""
        for path in self.layers if not self.merged else ():
            layer = cast(Any, self.backbone.get_submodule(path))
            self._whole[path] = layer.base_layer.weight.detach().clone()
            layer.merge()
            layer.base_layer.weight.mul_(1)  # peft writes behind torch's back, and `frozen.py` keeps half copies

    @torch.no_grad()
    def unmerge(self) -> None:
        """Undoes `merge`, bit for bit."""
        for path, weight in self._whole.items():
            layer = cast(Any, self.backbone.get_submodule(path))
            layer.base_layer.weight.copy_(weight)
            layer.merged_adapters.clear()
        self._whole.clear()

    @torch.inference_mode(False)
    def check(self, lq: Tensor) -> None:
        """Raises UserError when what is meant to learn cannot.

        Args:
            lq: an image [1, C, h, w] that the backbone takes.
        """
        name = type(self.backbone).__name__
        values = {key: value.detach().clone() for key, value in self.parameters().items()}
        # Moved a little: what a forward pass computes from other tensors it would compute to be the same again.
        self._fill({key: value * _NUDGE for key, value in values.items()})
        try:
            with torch.enable_grad():
                result = call_network(self.backbone, lq.clone()).sum()
                given = self.parameters()
                gradients = (
                    torch.autograd.grad(result, list(given.values()), allow_unused=True)
                    if result.requires_grad
                    else [None] * len(given)
                )
            written = [key for key, value in given.items() if not torch.equal(value, values[key] * _NUDGE)]
        finally:
            self._fill(values)
        if written:
            raise UserError(
                f"tune: {name} writes into its tensor '{written[0].removeprefix('backbone.')}' while it runs, so that "
                'cannot learn; use tune: adapter'
            )
        missed = [key for key, gradient in zip(given, gradients, strict=True) if gradient is None]
        if missed and (self.layers or len(missed) == len(given)):
            path = missed[0].removeprefix('backbone.')
            raise UserError(f"tune: no gradient reaches '{path}' of {name}; tune it in another way, or at other sites")

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters().items():
            parameter.copy_(values[name])


def lora_layers(net: nn.Module, paths: Sequence[str]) -> list[str]:
    """Returns the paths of the layers that get LoRA, in the network's order.

    They are the convolutions and linear layers in the modules of these paths. A module that has none, such as an
    activation, stands for the last one before it in its container. Grouped and dilated convolutions are left out, and
    those that pad with anything but zeros: what peft adds to them is no convolution of their own kind.
    """
    fit = {path for path, module in net.named_modules() if _takes_lora(module)}
    found: set[str] = set()
    for outer in paths:
        inside = {path for path in fit if path == outer or path.startswith(f'{outer}.')}
        found |= inside or _before(net, outer, fit)
    return [path for path, _ in net.named_modules() if path in found]


def _before(net: nn.Module, path: str, fit: set[str]) -> set[str]:
    """Returns the layer of `fit` that stands last before a module in its container; none where there is none."""
    parent, _, name = path.rpartition('.')
    children = (child for child, _ in net.get_submodule(parent).named_children())
    earlier = [f'{parent}.{child}'.lstrip('.') for child in itertools.takewhile(lambda child: child != name, children)]
    return set([layer for layer in earlier if layer in fit][-1:])


def _takes_lora(module: nn.Module) -> bool:
    if type(module) is nn.Linear:
        return True
    return type(module) is nn.Conv2d and (module.groups, module.dilation, module.padding_mode) == (1, (1, 1), 'zeros')


def _add_lora(net: nn.Module, rank: int, paths: Sequence[str]) -> list[str]:
    """Wraps the layers of `lora_layers` in place, and returns their paths. LoRA starts as nothing."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("tune: LoRA needs peft; pip install 'sptsr[lora]'") from error
    layers = lora_layers(net, paths)
    if not layers:
        raise UserError(
            f'tune: the blocks that get LoRA in {type(net).__name__} have no layer that takes it; choose others'
        )
    # alpha = rank: what LoRA adds is B A, whatever the rank
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=rank, target_modules='|'.join(map(re.escape, layers))), net, _ADAPTER
    )
    return layers


def _lora_paths(layers: Sequence[str]) -> dict[str, str]:
    """Returns the paths of LoRA's matrices by our names, which do not have peft's name of the adapter."""
    return {
        f'backbone.{path}.lora_{part}.weight': f'{path}.lora_{part}.{_ADAPTER}.weight'
        for path in layers
        for part in 'AB'
    }


def _paths(net: nn.Module, tune: Tune) -> dict[str, str]:
    """Returns the paths of the parameters that learn with `all` or `bias`, by the names in an adapter."""
    norms = {id(value) for module in net.modules() if _is_norm(module) for value in module.parameters(recurse=False)}
    return {
        f'backbone.{path}': path
        for path, value in net.named_parameters()
        if value.is_floating_point() and (tune == 'all' or _is_bias(path) or id(value) in norms)
    }


def _is_bias(path: str) -> bool:
    name = path.rpartition('.')[2]
    return name == 'bias' or name.endswith('_bias')


def _is_norm(module: nn.Module) -> bool:
    return 'norm' in type(module).__name__.lower()
