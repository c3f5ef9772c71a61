"""The report of a test: every image beside what the frozen network makes of it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from basicsr.utils import tensor2img
from torch.utils.data import DataLoader

from sptsr.archs.spt_arch import SPTNet
from sptsr.evaluation.evaluate import rgb_of
from sptsr.evaluation.metrics import CannotMeasure, Metric, read_metrics
from sptsr.masks.batch import PriorBatch
from sptsr.masks.prior import Prior
from sptsr.report.page import FROZEN, TUNED, Page, Picture
from sptsr.tuning.model import SPTModel


class PageOfTest:
    """Collects the images of a test while they are restored, and writes the page.

    The frozen image is that of the same network with its units off, restored, rounded and measured in the same way. A
    network that is not an SPTNet has none.

    Args:
        model: what restores.
        loaders: of the sets that will be restored.
    """

    def __init__(self, model: SPTModel, loaders: Sequence[DataLoader]) -> None:
        self.model = model
        self.metrics = read_metrics(model.opt['val']['metrics'])
        self.net = model.net_g if isinstance(model.net_g, SPTNet) else None
        datasets: list[Any] = [loader.dataset for loader in loaders]
        self.page = Page(
            model.opt['name'],
            TUNED,
            FROZEN if self.net else None,
            {metric.name: metric.better for metric in self.metrics},
            {dataset.opt['name']: len(dataset) for dataset in datasets},
            '' if model.adapter is None else f'{model.adapter["file"]}, iteration {model.adapter["iteration"]}.',
        )

    def add(self, name: str, key: str, batch: dict[str, Any], image: Any, figures: dict[str, float]) -> None:
        """Takes an image of the set `name` (see `SPTModel.validation`)."""
        gt: Any = tensor2img(batch['gt']) if 'gt' in batch else None
        arms = {TUNED: rgb_of(image)}
        by_arm = {metric: {TUNED: value} for metric, value in figures.items()}
        if self.net is not None:
            with self.net.units_off():
                frozen: Any = tensor2img(self.model.restore(batch))
            arms = {FROZEN: rgb_of(frozen), **arms}
            for metric in self.metrics:
                if metric.name in by_arm:
                    by_arm[metric.name] = {FROZEN: _measured(metric, frozen, gt), **by_arm[metric.name]}
        lq: Any = tensor2img(batch['lq'])
        self.page.add(
            Picture(key, arms, rgb_of(lq), None if gt is None else rgb_of(gt), self._masks(batch), by_arm, name)
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the page."""
        self.page.write(path)

    def _masks(self, batch: dict[str, Any]) -> Prior | None:
        """Returns the masks that the network was given, if it uses any."""
        masks = batch.get('prior')
        if self.net is None or not self.net.uses_masks or not isinstance(masks, PriorBatch):
            return None
        palette = masks.palette.numpy().view(np.uint64) & np.uint64((1 << self.net.num_masks) - 1)
        codes = palette[masks.index[0].numpy()]
        return replace(Prior.from_codes(codes, int(np.bitwise_or.reduce(palette)).bit_length()), fine=masks.fine)


def _measured(metric: Metric, image: Any, gt: Any) -> float:
    try:
        return metric.measure(image, gt)
    except CannotMeasure:
        return math.nan
