"""TensorBoard, and wandb where it is installed: scalars, validation pictures, mask overlays."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sptsr.images.decode import RGB
from sptsr.masks.batch import PriorBatch
from sptsr.masks.prior import Prior
from sptsr.report.pictures import enlarge, mask_overlay, side_by_side

_SHOWN_SIDE = 480


class Boards:
    """Where the figures of a training run go; without `use_tb_logger`, and on other ranks, nowhere.

    Use it as a context manager. It has the one method that BasicSR asks of a `tb_logger`.

    Args:
        opt: complete options.
        root: `tb_logger/<name>` is made in it.
        active: whether this process writes.
        resumed: whether the run goes on; wandb then continues `resume_id`, if one is given.

    Attributes:
        writer: the SummaryWriter, or None.
        pictures: images of each validation set that are shown.
    """

    def __init__(self, opt: Mapping[str, Any], root: str | os.PathLike[str], active: bool, resumed: bool) -> None:
        logger = opt['logger']
        self.writer: Any = None
        self.run: Any = None
        self.pictures = 0
        if not active or not logger['use_tb_logger']:
            return
        wandb = logger['wandb'] or {}
        if wandb.get('project'):  # before the writer: wandb listens to what is written from then on
            self.run = importlib.import_module('wandb').init(
                project=wandb['project'],
                name=opt['name'],
                config=dict(opt),
                id=wandb.get('resume_id') if resumed else None,
                resume='allow',
                dir=str(root),
                sync_tensorboard=True,
            )
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(Path(root) / 'tb_logger' / opt['name']))
        self.pictures = int(logger['tb_pictures'])

    def __enter__(self) -> Boards:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()
        if self.run is not None:
            self.run.finish()

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Notes a number of an iteration."""
        if self.writer is not None:
            self.writer.add_scalar(tag, value, step)

    def add_picture(self, tag: str, lq: RGB, output: RGB, gt: RGB | None, masks: PriorBatch | None, step: int) -> None:
        """Notes a picture: LQ, restored, GT, and the masks over the LQ image.

        Args:
            tag: where it is shown.
            lq, output, gt: uint8 [h, w, 3] and, scale times as large, [H, W, 3].
            masks: of the LQ image, a batch of one.
            step: iteration.
        """
        if self.writer is None:
            return
        panels = [('LQ', lq), ('restored', output)] + ([('GT', gt)] if gt is not None else [])
        if masks is not None:
            dense = masks.expand()[0].bool().cpu().numpy()
            prior = Prior.encode(dense[dense.any(axis=(1, 2))])
            panels.append((f'{prior.count} masks', mask_overlay(lq, prior)))
        height = max(image.shape[0] for _, image in panels)
        whole = side_by_side([(title, enlarge(image, height // image.shape[0])) for title, image in panels])
        shrink = max(1, height // _SHOWN_SIDE)
        self.writer.add_image(tag, np.ascontiguousarray(whole[::shrink, ::shrink]), step, dataformats='HWC')
