"""How alike the arms of a comparison are before they learn anything.

    python -m tests.archs.fairness --lq LQ --gt GT --prior STORE [--stem masks] [--backbone SECTION --weights FILE]

prints for each arm of a stem, over that of `ModulationUnit` on the images' own masks: the spread of S0 at the start
(standard deviation over the pixels of all crops), and the change (root mean square) of S0 and of the restored image by
one step of Adam at a rate of 1e-3 on the L1 loss. At the start only a unit's last layer has a gradient, so the first
step changes the image and not S0; the second one changes both.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

import sptsr  # noqa: F401 (mends the import of basicsr)
from sptsr.archs.spt_arch import SPTNet
from sptsr.commands.demo import NETWORK, WEIGHTS
from sptsr.core.registry import register_all
from sptsr.images.folder import ImageFolder
from sptsr.masks.batch import PriorBatch
from sptsr.masks.prior import Prior
from sptsr.priors.extract import build_source
from sptsr.priors.store import PriorStore

SEEDS = (0, 1, 2)
SIDE = 32  # of a crop of the LQ image
CROPS = 16


@dataclass(frozen=True)
class Response:
    """What an untrained adapter does."""

    spread: float  # of S0
    first_image: float  # change of the restored image by the first step
    second_prior: float  # change of S0 by the second
    second_image: float

    def over(self, other: Response) -> Response:
        """Returns the ratios to another one."""
        return Response(*(a / b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Arm:
    """A unit and the masks it is given."""

    unit: Mapping[str, Any]
    masks: PriorBatch | None = None


@dataclass(frozen=True)
class Crops:
    """Crops of images, with their own masks, those of other images, and random regions of equal areas."""

    lq: Tensor
    gt: Tensor
    own: list[Prior]
    others: list[Prior]
    random: list[Prior]

    @property
    def density(self) -> float:
        """Number of their own masks that a pixel is in on average."""
        return float(np.mean([prior.areas().sum() / prior.index.size for prior in self.own]))

    def arms(self, stem: str) -> dict[str, Arm]:
        """Returns all units and controls of a stem, `geometry` or `masks`; all others are compared with the first."""
        own, others, random = (PriorBatch.of(priors) for priors in (self.own, self.others, self.random))
        units = {
            'ModulationUnit': ({'type': 'ModulationUnit'}, own, others, random),
            'RegionUnit': ({'type': 'RegionUnit'}, own, others, random),
            'PlainUnit': ({'type': 'PlainUnit'},),
        }
        channels = {
            'ModulationUnit, stem masks': ({'type': 'ModulationUnit', 'stem': 'masks'}, own, others, random),
            'RegionUnit, density': ({'type': 'RegionUnit', 'density': self.density}, own, others, random),
            'PlainUnit, density': ({'type': 'PlainUnit', 'density': self.density},),
        }
        return _arms(units if stem == 'geometry' else channels)


_MASKS = ('', ', masks of other images', ', random regions')


def _arms(units: Mapping[str, tuple[Any, ...]]) -> dict[str, Arm]:
    arms = {}
    for name, (unit, *masks) in units.items():
        arms |= {f'{name}{which}': Arm(unit, given) for which, given in zip(_MASKS, masks or [None], strict=False)}
    return arms


def cut(lq: ImageFolder, gt: ImageFolder, store: PriorStore) -> Crops:
    """Returns `CROPS` crops of images spread over a folder, as training cuts them, and of their masks."""
    rng = np.random.default_rng(0)
    random = build_source('random', [f'like={store.path}'])
    images, truths, priors = [], [], []
    for number in range(CROPS):
        place = number * len(lq.keys) // CROPS
        key, donor = lq.keys[place], lq.keys[(place + 1) % len(lq.keys)]
        image, truth = lq.read(key), gt.read(key)
        scale = truth.shape[0] // image.shape[0]
        top, left = (int(rng.integers(side - SIDE + 1)) for side in image.shape[:2])
        rows, columns = slice(top, top + SIDE), slice(left, left + SIDE)
        images.append(image[rows, columns])
        truths.append(truth[top * scale : rows.stop * scale, left * scale : columns.stop * scale])
        whole = store.get(key, image), store.get(donor).resized(*image.shape[:2]), random(image, key, 64)
        priors.append([Prior.from_codes(prior.palette[prior.index[rows, columns]], prior.count) for prior in whole])
    tensors = [torch.from_numpy(np.stack(v)).permute(0, 3, 1, 2).float() / 255 for v in (images, truths)]
    own, others, regions = (list(column) for column in zip(*priors, strict=True))
    return Crops(tensors[0], tensors[1], own, others, regions)


def measure(arm: Arm, crops: Crops, backbone: Mapping[str, Any], weights: str) -> Response:
    """Returns the response of an arm, the root mean square over `SEEDS`."""
    rows = [astuple(_measure_once(seed, arm, crops, backbone, weights)) for seed in SEEDS]
    return Response(*np.sqrt(np.square(rows).mean(axis=0)).tolist())


def _measure_once(seed: int, arm: Arm, crops: Crops, backbone: Mapping[str, Any], weights: str) -> Response:
    torch.manual_seed(seed)
    # A unit in every block of the demo's network: over three seeds, the starts of three units differ too much.
    sites = ['IMDB*'] if backbone['type'] == 'IMDN' else 'auto'
    net = SPTNet(backbone, weights, sites=sites, unit=arm.unit)
    optimizer = torch.optim.Adam(net.adapter_parameters().values(), 1e-3)
    responses: list[Tensor] = []
    net.stem.register_forward_hook(lambda _module, _args, output: responses.append(output.detach()))
    images: list[Tensor] = []
    for _ in range(3):
        output = net(crops.lq, arm.masks)
        images.append(output.detach())
        optimizer.zero_grad()
        (output - crops.gt).abs().mean().backward()
        optimizer.step()
    return Response(
        float(responses[0].var(dim=(0, 2, 3)).mean().sqrt()),
        _rms(images[1] - images[0]),
        _rms(responses[2] - responses[1]),
        _rms(images[2] - images[1]),
    )


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def table(crops: Crops, backbone: Mapping[str, Any], weights: str, stem: str = 'geometry') -> dict[str, Response]:
    """Returns the responses of all arms of a stem over that of the first."""
    found = {name: measure(arm, crops, backbone, weights) for name, arm in crops.arms(stem).items()}
    reference = next(iter(found.values()))
    return {name: response.over(reference) for name, response in found.items()}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ('--lq', '--gt', '--prior'):
        parser.add_argument(name, required=True)
    parser.add_argument('--backbone', default=yaml.safe_dump(NETWORK), help='a section in YAML')
    parser.add_argument('--weights', default=str(WEIGHTS))
    parser.add_argument('--stem', default='geometry', choices=('geometry', 'masks'))
    options = parser.parse_args()
    register_all()
    crops = cut(ImageFolder(options.lq), ImageFolder(options.gt), PriorStore(options.prior))
    print(f'density {crops.density:.2f}')
    print(' '.join(f'{field.name:>13}' for field in fields(Response)))
    for name, ratios in table(crops, yaml.safe_load(options.backbone), options.weights, options.stem).items():
        print(' '.join(f'{value:13.3f}' for value in astuple(ratios)), name)


if __name__ == '__main__':
    _main()
