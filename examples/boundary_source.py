"""A source of one's own: regions between the boundaries that a small network sees.

    sptsr prior extract -i LQ -o STORE --source examples/boundary_source.py:boundary --set weights=weights/boundary

`examples/train_boundary.py` trains the network on human segmentations, in folds: the masks of an image that was
trained on come from a network that never saw it. So the masks of training are no better than those of a test.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from skimage.graph import cut_threshold, rag_boundary
from skimage.segmentation import watershed
from torch import Tensor, nn

from sptsr.core.errors import UserError
from sptsr.core.registry import SOURCE_REGISTRY, register
from sptsr.images.decode import RGB
from sptsr.images.draws import image_of
from sptsr.masks.prior import Prior
from sptsr.masks.regions import Regions
from sptsr.priors.sources.source import Source, must_lie_in

WIDTHS = (16, 32, 64, 112, 160)  # channels at strides 2, 4, 8, 16, 32


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, with group norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class BoundaryNet(nn.Module):
    """A U-Net of 1.4 million parameters: RGB [B, 3, H, W] in 0..1 to logits of "a boundary is here" [B, 1, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        before = (3, *WIDTHS[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(before, WIDTHS, strict=True))
        self.encode = nn.ModuleList(Block(width) for width in WIDTHS)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in itertools.pairwise(WIDTHS))
        self.decode = nn.ModuleList(Block(width) for width in WIDTHS[:-1])
        self.last = nn.Conv2d(WIDTHS[0], 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = x - 0.5
        features = []
        for down, encode in zip(self.down, self.encode, strict=True):
            x = encode(down(x))
            features.append(x)
        for level in range(len(WIDTHS) - 2, -1, -1):
            x = F.interpolate(self.up[level](x), features[level].shape[-2:], mode='bilinear', align_corners=False)
            x = self.decode[level](x + features[level])
        return F.interpolate(self.last(x), size, mode='bilinear', align_corners=False)


@register(SOURCE_REGISTRY, 'boundary')
class BoundarySource(Source):
    """Regions of a `BoundaryNet` at several levels: watershed, then neighbours merged whose common boundary is weak.

    Args:
        weights: folder that `train_boundary.py` wrote: `fold0.safetensors`, ..., and `folds.json`.
        levels: strengths of a boundary, 0 to 1, below which it is taken away; one set of regions each.
        min_size: smallest region, in pixels.
        max_iou: of two regions with an IoU above this the smaller is dropped.
    """

    name = 'boundary'

    def __init__(
        self,
        weights: str,
        levels: Sequence[float] = (0.1, 0.2, 0.35, 0.5),
        min_size: int = 20,
        max_iou: float = 0.9,
    ) -> None:
        if not levels:
            raise UserError('boundary: levels names none; say some of 0..1, or leave it out')
        for level in levels:
            must_lie_in(self.name, {'levels': (level, 0, 1)})
        must_lie_in(self.name, {'min_size': (min_size, 0, 1 << 31), 'max_iou': (max_iou, 0, 1)})
        folder = Path(weights)
        if not (folder / 'folds.json').is_file():
            raise UserError(f'boundary: {weights}: no networks here; train them with examples/train_boundary.py')
        self.folds: dict[str, int] = json.loads((folder / 'folds.json').read_text())
        self.names = {key.rpartition('/')[2]: key for key in self.folds}
        files = [folder / f'fold{fold}.safetensors' for fold in range(max(self.folds.values()) + 1)]
        for path in files:
            if not path.is_file():
                raise UserError(f'boundary: {path}: not there; run examples/train_boundary.py to its end')
        self.nets = [BoundaryNet().eval() for _ in files]
        digest = hashlib.sha256()
        for net, path in zip(self.nets, files, strict=True):
            net.load_state_dict(load_file(path))
            digest.update(path.read_bytes())
        self.weights_sha256 = digest.hexdigest()
        self.params = {
            'weights': folder.name,
            'levels': [float(level) for level in levels],
            'min_size': int(min_size),
            'max_iou': float(max_iou),
        }

    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        strength = self.strength(image, key)
        basins = watershed(strength)
        maps = [basins]  # a very small image is one
        if basins.min() != basins.max():
            graph = rag_boundary(basins, strength)
            maps = [cut_threshold(basins, graph, level, in_place=False) for level in self.params['levels']]
        regions = Regions.from_label_maps([labels.astype(np.int64) for labels in maps])
        return Prior.from_regions(regions.select(max_masks, self.params['min_size'], self.params['max_iou']))

    @torch.no_grad()
    def strength(self, image: RGB, key: str) -> npt.NDArray[np.float32]:
        """Returns how sure the network is of a boundary at each pixel, 0 to 1, [H, W].

        An image that was trained on is seen by the one network that did not train on it; any other one by all, and
        their answers are averaged.
        """
        nets = self._nets_of(key)
        batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        return torch.stack([net(batch).sigmoid()[0, 0] for net in nets]).mean(0).numpy()

    def check(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._nets_of(key)

    def _nets_of(self, key: str) -> list[BoundaryNet]:
        key = image_of(key)
        if key in self.folds:
            return [self.nets[self.folds[key]]]
        namesake = self.names.get(key.rpartition('/')[2])
        if namesake:
            raise UserError(
                f"boundary: {key}: '{namesake}' was trained on, and if this is that image, networks that saw it would "
                'make its masks; give the folder where its key is the same, or rename the image'
            )
        return self.nets

    def versions(self) -> dict[str, str]:
        return {'scikit-image': version('scikit-image')}
