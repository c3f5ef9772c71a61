"""Masks of what a frozen network makes of an image: `sptsr prior extract --through`, and `sptsr restore` after it."""

from __future__ import annotations

import copy
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sptsr.archs.attach import detach
from sptsr.archs.backbone import build_network, kind_of, probe_of, size_rules, tile_rules
from sptsr.archs.call import call_network, takes_sigma
from sptsr.archs.sites import trace
from sptsr.archs.sizes import SizeRules
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.weights import load_strictly, read_weights, state_digest
from sptsr.core.devices import usable_device
from sptsr.core.errors import UserError
from sptsr.core.free_memory import free_bytes
from sptsr.core.registry import register_all
from sptsr.core.values import shown
from sptsr.images.decode import RGB, luminance
from sptsr.images.draws import Degradation
from sptsr.images.folder import ImageFolder
from sptsr.masks.batch import PriorBatch
from sptsr.masks.prior import MAX_MASKS, Prior
from sptsr.masks.regions import Regions, to_size
from sptsr.options.load import load_frozen
from sptsr.priors.sources.source import Source
from sptsr.priors.store_header import StoreHeader
from sptsr.restoring.memory import bytes_a_pixel, fitting_tile
from sptsr.restoring.restorer import OVERLAP, arrays_of, pixels_of
from sptsr.restoring.tiling import restore_padded, restore_tiled

_GPU_BATCH = 8
# Gives the noise level of an image, of 255, by its key and pixels.
Level = Callable[[str, RGB], float]


@dataclass(frozen=True)
class Frozen:
    """A network without units, and what is known of it.

    Attributes:
        net: in eval mode, on its device.
        scale: size of its output over size of its input.
        sizes: what it asks of the size of its input.
        channels: of its input, 3 or 1 (luminance).
        record: what a store says of it: `backbone` (its section, files without their folders), `weights_sha256` of its
            tensors, `options`, the name of the option file, and `sigma` where it is told one for all images.
        cost: bytes that it takes at once for each pixel of its input, about.
    """

    net: nn.Module
    scale: int
    sizes: SizeRules
    channels: int
    record: dict[str, Any]
    cost: float

    @classmethod
    def of_options(cls, path: str | os.PathLike[str]) -> Frozen:
        """Builds the network of an option file, or the backbone of its SPTNet, on the GPU where there is one.

        Raises:
            UserError: a mistake in the file, or a network without pretrained weights.
        """
        section, weights, key = load_frozen(path)
        register_all()
        net = build_network(section).requires_grad_(False).eval()
        if weights is not None:
            load_strictly(net, read_weights(weights, key), weights)
        record = {'backbone': portable(section), 'weights_sha256': state_digest(net), 'options': Path(path).name}
        sizes = size_rules(net, section)
        image = probe_of(net, sizes)
        scale = trace(net, (), image)[1]
        rules = tile_rules(net, sizes)
        cost = bytes_a_pixel(net, rules, image.shape[1])
        net.to(usable_device('auto', '--through'))
        return cls(net, scale, rules, image.shape[1], record, cost)

    @classmethod
    def of_adapter(cls, net: SPTNet, record: object) -> Frozen | None:
        """Returns the backbone of a network with units, where it is the one that `record` names; else None.

        Where it was tuned beside the units, that is a copy of what it was before.
        """
        if not isinstance(record, Mapping) or record.get('weights_sha256') != net.backbone_digest():
            return None
        backbone = detach(copy.deepcopy(net)).requires_grad_(False).eval() if net.learned else net.backbone
        cost = bytes_a_pixel(backbone, net.sizes, net.in_channels)
        return cls(backbone, net.scale, net.sizes, net.in_channels, dict(record), cost)

    def told(self, sigma: float) -> Frozen:
        """Returns the network with the noise level, of 255, that it is told for every image in its record.

        Raises:
            UserError: it takes none, or one that is not in 0..255.
        """
        if not takes_sigma(self.net):
            raise UserError('--sigma: this network takes no noise level; remove it')
        if not 0 <= sigma <= 255:
            raise UserError(f'--sigma {shown(sigma)}: must be a number in 0..255')
        return replace(self, record={**self.record, 'sigma': sigma})

    @torch.inference_mode()
    def restore(self, images: Sequence[RGB], levels: Sequence[float] | None) -> list[RGB]:
        """Restores images of one size; results are clipped and rounded to 8 bits, gray ones repeated to RGB.

        Args:
            images: uint8 [h, w, 3].
            levels: noise level of each, of 255, for a network that takes one.

        Returns:
            uint8 [scale h, scale w, 3].
        """
        planes = np.stack([luminance(image) if self.channels == 1 else image for image in images])
        lq = torch.from_numpy(planes.transpose(0, 3, 1, 2)).to(**kind_of(self.net)) / 255
        sigma = None if levels is None else torch.tensor(levels).to(lq) / 255

        def forward(part: Tensor, _masks: PriorBatch | None) -> Tensor:
            return call_network(self.net, part, sigma)

        height, width = lq.shape[-2:]
        tile = fitting_tile(height, width, self.cost * len(images), free_bytes(lq.device))
        if tile is None:
            output = restore_padded(forward, lq, None, self.sizes, self.scale)
        else:
            output = restore_tiled(forward, lq, None, self.sizes, self.scale, tile, OVERLAP)
        pixels = arrays_of(pixels_of(output))
        return list(np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else np.ascontiguousarray(pixels))


class Through(Source):
    """Makes the masks of an LQ image from the frozen network's own output for it: two passes, and no oracle.

    The output is cleaner than the LQ image, and `scale` times as fine. A pixel of the prior is inside a mask where at
    least half of the output's pixels over it are, as with labels.

    Args:
        source: makes the masks of the output.
        network: makes the output.
        level: noise level of an image, for a network that takes one.
        fine: the masks lie on a grid so many times as fine as the LQ image's; a divisor of the network's scale.
        batch: images of one size that go through the network together; 0 for 8 on a GPU, else 1.
    """

    def __init__(
        self, source: Source, network: Frozen, level: Level | None = None, fine: int = 1, batch: int = 0
    ) -> None:
        if not source.sees_image:
            raise UserError(f'--through: {source.name} makes masks without looking at an image; leave it out')
        if source.fine > 1:
            raise UserError(f'--through: {source.name} looks at what the network makes; say --fine, not --set fine')
        if takes_sigma(network.net) and level is None:
            raise UserError(
                '--through: the network takes a noise level, and that of these images is not known; say --sigma'
            )
        if network.scale % fine:
            raise UserError(f'--through: --fine {fine} does not divide the scale of the network, {network.scale}')
        self.source, self.network, self.fine = source, network, fine
        self.level = level if takes_sigma(network.net) else None
        self.factor = network.scale // fine
        self.params = {**source.params, 'through': network.record, **({'fine': fine} if fine > 1 else {})}
        self.weights_sha256 = source.weights_sha256
        on_gpu = kind_of(network.net)['device'].type == 'cuda'
        self.batch = batch or (_GPU_BATCH if on_gpu else 1)
        self.group = max(self.batch, source.group)
        # the masks at the size of the output, and their counts at that of the prior
        dense = 0 if self.factor == 1 else MAX_MASKS * (1 + 8 / self.factor**2)
        self.bytes_a_pixel = int(network.scale**2 * (source.bytes_a_pixel + dense))

    @property
    def name(self) -> str:  # type: ignore[override]
        """That of the source."""
        return self.source.name

    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        return next(self.several([image], [key], max_masks))

    def several(self, images: Sequence[RGB], keys: Sequence[str], max_masks: int) -> Iterator[Prior]:
        outputs = self._outputs(images, keys)
        priors = self.source.several(outputs, keys, max_masks if self.factor == 1 else MAX_MASKS)
        for image, key, prior in zip(images, keys, priors, strict=True):
            height, width = image.shape[:2]
            size = self.fine * height, self.fine * width
            yield replace(prior if self.factor == 1 else _reduced(prior, size, max_masks, key), fine=self.fine)

    def _outputs(self, images: Sequence[RGB], keys: Sequence[str]) -> list[RGB]:
        """Returns what the network makes of images; those of one size go through it together."""
        sizes: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, image in enumerate(images):
            sizes[image.shape].append(number)
        found: dict[int, RGB] = {}
        for numbers in sizes.values():
            for start in range(0, len(numbers), self.batch):
                part = numbers[start : start + self.batch]
                level = self.level
                levels = None if level is None else [level(keys[n], images[n]) for n in part]
                try:
                    found.update(zip(part, self.network.restore([images[n] for n in part], levels), strict=True))
                except UserError as error:
                    raise UserError(f'--through: {", ".join(keys[n] for n in part)}: {error}') from error
        return [found[number] for number in range(len(images))]

    def check(self, keys: Sequence[str]) -> None:
        self.source.check(keys)

    def digest(self, key: str) -> str:
        return self.source.digest(key)

    def header(self, max_masks: int) -> StoreHeader:
        return replace(self.source.header(max_masks), params=self.params, fine=self.fine)


def noise_levels(images: ImageFolder) -> Level | None:
    """Returns what tells the noise level of images that `sptsr prior degrade --noise` made; None for others."""
    degradation = images.degradation
    if not isinstance(degradation, Degradation) or degradation.kind != 'noise':
        return None
    return lambda key, _image: degradation.level_of(key)


def _reduced(prior: Prior, size: tuple[int, int], max_masks: int, name: str) -> Prior:
    small = to_size(prior.decode(), size, 0, name)
    return Prior.from_regions(Regions.from_masks(small).select(max_masks))


def portable(section: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a network's section with files named without their folders, which other machines do not have."""
    return {key: Path(value).name if _is_path(value) else value for key, value in section.items()}


def _is_path(value: object) -> bool:
    return isinstance(value, str) and os.sep in value
