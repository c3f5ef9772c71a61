"""LPIPS and DISTS as metrics of `val.metrics`, by torchmetrics; weights are never fetched unasked."""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sptsr.archs.weights import read_weights
from sptsr.core.errors import UserError
from sptsr.core.homes import expanded
from sptsr.core.registry import METRIC_REGISTRY, register

_INSTALL = "pip install 'sptsr[metrics]'"
# Modules of torchvision's VGG16 that each stage of DISTS takes; before all but the first its own pooling stands in the
# place of VGG's (Ding et al., section III).
_DISTS_STAGES = ((0, 4), (5, 9), (10, 16), (17, 23), (24, 30))


@register(METRIC_REGISTRY)
def calculate_lpips(
    img: np.ndarray,
    img2: np.ndarray,
    crop_border: int = 0,
    net: Literal['alex', 'vgg'] = 'alex',
    weights: str | None = None,
    download: bool = False,
) -> float:
    """Learned perceptual image patch similarity, version 0.1 (Zhang et al., CVPR 2018); 0 for equal images.

    The images are used at their own size, in -1..1. Gray ones are repeated to three channels.

    Args:
        img, img2: uint8 [H, W, 3] in BGR order, or [H, W].
        crop_border: pixels that are left out at each edge.
        net: `alex`, as in most papers on restoration, or `vgg`.
        weights: file of torchvision's AlexNet or VGG16, trained on ImageNet; its features are enough. By default the
            one in torch's cache.
        download: fetch the file into torch's cache where it is not there.

    Raises:
        UserError: torchmetrics or the weights are missing, or the file holds others.
    """
    model = _lpips(net, _weights_file('alexnet' if net == 'alex' else 'vgg16', 'calculate_lpips', weights, download))
    return _compared(lambda a, b: model(2 * a - 1, 2 * b - 1), img, img2, crop_border)


@register(METRIC_REGISTRY)
def calculate_dists(
    img: np.ndarray, img2: np.ndarray, crop_border: int = 0, weights: str | None = None, download: bool = False
) -> float:
    """Deep image structure and texture similarity (Ding et al., TPAMI 2020); 0 for equal images.

    The images are used at their own size, in 0..1, not made smaller first. Gray ones are repeated to three channels.

    Args:
        img, img2: uint8 [H, W, 3] in BGR order, or [H, W].
        crop_border: pixels that are left out at each edge.
        weights: file of torchvision's VGG16, trained on ImageNet; its features are enough. By default the one in
            torch's cache.
        download: fetch the file into torch's cache where it is not there.

    Raises:
        UserError: torchmetrics or the weights are missing, or the file holds others.
    """
    model = _dists(_weights_file('vgg16', 'calculate_dists', weights, download))
    return _compared(model, img, img2, crop_border)


@torch.inference_mode()
def _compared(model: Callable[[Tensor, Tensor], Tensor], img: Any, img2: Any, border: int) -> float:
    return float(model(_tensor(img, border), _tensor(img2, border)))


def _tensor(image: Any, border: int) -> Tensor:
    """Returns RGB [1, 3, H, W] in 0..1."""
    inside = image[border : image.shape[0] - border, border : image.shape[1] - border]
    planes = inside[:, :, ::-1] if inside.ndim == 3 else np.repeat(inside[:, :, None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(planes.transpose(2, 0, 1))).float()[None] / 255


@functools.cache
def _lpips(net: str, file: str) -> nn.Module:
    """Returns the network of LPIPS; torchmetrics ships its linear layers, and the file has the rest."""
    lpips = _torchmetrics('lpips')
    model = lpips._NoTrainLpips(net=net, pnet_rand=True)
    _load_features(model.net, file, r'slice\d+\.')
    return model.eval()


@functools.cache
def _dists(file: str) -> nn.Module:
    """Returns the network of DISTS; torchmetrics ships its alpha and beta, and the file has the rest."""
    from torchvision.models import vgg16

    dists = _torchmetrics('dists')

    class Network(dists.DISTSNetwork):
        """As its base class, whose own `__init__` fetches weights."""

        def __init__(self) -> None:
            nn.Module.__init__(self)
            features: Any = vgg16(weights=None).features
            self.chns = [3]
            for number, (start, stop) in enumerate(_DISTS_STAGES, 1):
                stage = nn.Sequential()
                if number > 1:
                    stage.add_module(str(start - 1), dists.L2pooling(channels=self.chns[-1]))
                for n in range(start, stop):
                    stage.add_module(str(n), features[n])
                self.add_module(f'stage{number}', stage)
                self.chns.append(features[stop - 2].out_channels)
            self.register_buffer('mean', torch.tensor([0.485, 0.456, 0.406]).view(1, -1, 1, 1))
            self.register_buffer('std', torch.tensor([0.229, 0.224, 0.225]).view(1, -1, 1, 1))
            shipped = torch.load(dists._PATH_WEIGHT_DISTS, map_location='cpu', weights_only=True)
            self.alpha, self.beta = nn.Parameter(shipped['alpha']), nn.Parameter(shipped['beta'])

    model = Network()
    _load_features(model, file, r'stage\d+\.')
    return model.eval().requires_grad_(False)


def _load_features(model: nn.Module, file: str, prefix: str) -> None:
    """Loads the features of a network of torchvision into a model that has them in slices, numbered as they are."""
    tensors = read_weights(file)
    for name, own in model.state_dict().items():
        number, slices = re.subn(f'^{prefix}', 'features.', name)
        if not slices or name.endswith('filter'):
            continue
        given = tensors.get(number)
        if given is None or given.shape != own.shape:
            raise UserError(f"{file}: has no '{number}' of shape {list(own.shape)}; it is of another network")
        own.copy_(given)


def _torchmetrics(name: str) -> Any:
    try:
        return importlib.import_module(f'torchmetrics.functional.image.{name}')
    except ImportError as error:
        raise UserError(f'calculate_{name}: torchmetrics is not installed; {_INSTALL}') from error


def _weights_file(network: str, metric: str, given: str | None, download: bool) -> str:
    """Returns the file of a network of torchvision: the one that was given, else the one in torch's cache.

    Raises:
        UserError: it is not there and may not be fetched, or cannot be.
    """
    if given is not None:
        file = Path(expanded(given))
        if not file.is_file():
            raise UserError(f'{metric}: {given}: no such file; check weights')
        return str(file)
    url = _address(network)
    file = Path(torch.hub.get_dir()) / 'checkpoints' / file_name(network)
    if file.is_file():
        return str(file)
    if not download:
        raise UserError(
            f"{metric}: needs the weights of torchvision's {network}; fetch {url} and say weights: FILE, or say "
            f'download: true, which puts it at {file}'
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rsplit('-', 1)[-1], progress=False)
    except (OSError, RuntimeError) as error:
        raise UserError(f'{metric}: cannot fetch {url} ({error}); fetch it elsewhere and say weights: FILE') from error
    return str(file)


def file_name(network: str) -> str:
    """Returns the name that torchvision gives to the weights of a network."""
    return os.path.basename(_address(network))


def _address(network: str) -> str:
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(network)
    return weights.IMAGENET1K_V1.url
