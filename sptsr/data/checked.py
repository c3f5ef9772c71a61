"""What our datasets share: keys of a section checked against a signature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from basicsr.data import build_dataset
from torch import Tensor
from torch.utils.data import Dataset

from sptsr.core import logs
from sptsr.core.errors import UserError, reason_of
from sptsr.core.registry import DATASET_REGISTRY
from sptsr.core.signatures import argument_problems, parameters
from sptsr.priors.store import PriorStore


class CheckedDataset(Dataset):
    """A dataset built from a section `{type: NAME, ...}`, whose keys are the arguments of `settings`.

    Randomness comes from the seed that an index carries (see `sptsr.data.loader.SeededIndex`), so
    a sample depends on neither worker nor process.

    Args:
        opt: the section.

    Attributes:
        describes_masks: whether training samples carry the statistics of their whole images (`Prior.statistics`);
            switched off where no stem reads them, since that takes time.

    Raises:
        UserError: an unknown key, or one of another type.
    """

    settings: ClassVar[Callable[..., None]]
    describes_masks: bool = True

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__()
        self.opt = opt
        given = {key: value for key, value in opt.items() if key != 'type'}
        problems = argument_problems(parameters(self.settings), given, type(self).__name__)
        if problems:
            raise UserError(f'datasets: {opt.get("name")}: {problems[0][1]}')
        self.settings(**given)


def open_dataset(section: dict[str, Any]) -> Any:
    """Builds the dataset of a section by its `type`.

    One of BasicSR's checks little of its section, so its first sample is tried.

    Raises:
        UserError: whatever one of BasicSR's raises.
    """
    is_stock = DATASET_REGISTRY.get(section['type']).__module__.startswith('basicsr.')
    try:
        dataset: Any = build_dataset(section)
        if is_stock and len(dataset):
            _check_sample(dataset[0], section)
    except UserError:
        raise
    except Exception as error:  # folders of different length: AssertionError; others raise other kinds
        if not is_stock:
            raise
        raise UserError(
            f'datasets: {section.get("name")}: {section["type"]} refuses it ({reason_of(error)})'
        ) from error
    if not hasattr(dataset, 'opt'):  # BasicSR asks for it in sets that are measured only
        dataset.opt = section
    return dataset


def _check_sample(sample: Mapping[str, Any], section: Mapping[str, Any]) -> None:
    """Raises ValueError where BasicSR cut LQ and GT to sizes that do not belong together."""
    if section.get('phase') == 'train' and 'lq' in sample and 'gt' in sample:
        lq, gt = (tuple(sample[key].shape[-2:]) for key in ('lq', 'gt'))
        if gt != tuple(side * section['scale'] for side in lq):
            raise ValueError(f'crops of {lq} and {gt} pixels at scale {section["scale"]}; gt_size must be a multiple')


def channels(section: Mapping[str, Any]) -> int:
    """Returns the channels of the images that a dataset of BasicSR's keys gives: 1 for `gray` or `color: y`, else 3."""
    return 1 if section.get('gray') or section.get('color') == 'y' else 3


def must_hold(store: PriorStore, keys: Iterable[str]) -> None:
    """Raises UserError with the first key that a store has no prior of, and the remedy."""
    for key in keys:
        if key not in store:
            store.get(key)  # raises


def must_cover(image: npt.NDArray[np.generic], crop: int, name: str) -> None:
    """Raises UserError for an image [H, W, C] that is smaller than a training crop of `crop` pixels."""
    height, width = image.shape[:2]
    if min(height, width) < crop:
        raise UserError(
            f'{name}: {height}x{width} is smaller than a training crop of {crop} pixels; lower gt_size or remove the '
            'image'
        )


def degrade_first(root: object, degradation: object) -> str:
    """Returns the remedy for masks of other images: the commands that make the degraded images and their masks."""
    return f'make them so: sptsr prior degrade -i {root} -o DIR {degradation}, then sptsr prior extract -i DIR'


def say_draws(name: str, what: str, draws: int) -> None:
    """Logs that a dataset trains on what its masks were made from, and how many draws an image has."""
    logs.get().info(
        '%s: trains on the %s that its masks were made from, %d draw%s an image (more: sptsr prior degrade --draws)',
        name, what, draws, '' if draws == 1 else 's',
    )  # fmt: skip


def to_tensor(image: npt.NDArray[np.generic]) -> Tensor:
    """Returns [H, W, C] as float32 [C, H, W]: uint8 divided by 255, float32 as it is."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    # numpy's quotients are torch's, bit for bit; torch would wake a second thread for each image
    return torch.from_numpy(np.divide(planes, 255, dtype=np.float32) if planes.dtype == np.uint8 else planes)
