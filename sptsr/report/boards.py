"""What TensorBoard and wandb show of a training run: scalars, and validation images with their masks."""

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
    """Writes scalars and pictures of a training run for TensorBoard, and for wandb where a project is given.

    Without `logger.use_tb_logger`, and where `active` is false, nothing is written. It is a context manager, and has
    the one method that BasicSR calls on a `tb_logger`, `add_scalar`.

    Args:
        opt: complete options.
        root: folder in which `tb_logger/<name>` is made.
        active: whether this process writes.
        resumed: whether the run is a resumed one; wandb then continues its run `resume_id`, if that is given.

    Attributes:
        writer: the SummaryWriter, or None where nothing is written.
        run: of wandb, or None.
        pictures: number of images of each validation set that are shown.
    """

    def __init__(self, opt: Mapping[str, Any], root: str | os.PathLike[str], active: bool, resumed: bool) -> None:
        logger = opt['logger']
        self.writer: Any = None
        self.run: Any = None
        self.pictures = 0
        if not active or not logger['use_tb_logger']:
            return
        wandb = logger['wandb'] or {}
        # wandb copies what is written to TensorBoard after `init`, so it comes before the writer.
        if wandb.get('project'):
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
        """Writes one number.

        Args:
            tag: name of the curve.
            value: the number.
            step: iteration.
        """
        if self.writer is not None:
            self.writer.add_scalar(tag, value, step)

    def add_picture(self, tag: str, lq: RGB, output: RGB, gt: RGB | None, masks: PriorBatch | None, step: int) -> None:
        """Writes a picture with LQ, restored image, GT, and the masks over the LQ image, side by side.

        Args:
            tag: name under which it is shown.
            lq: uint8 [h, w, 3].
            output: restored image, uint8 [scale h, scale w, 3].
            gt: uint8 [scale h, scale w, 3], or None.
            masks: of the LQ image, in a batch of one; or None.
            step: iteration.
        """
        if self.writer is None:
            return
        panels = [('LQ', lq), ('restored', output)] + ([('GT', gt)] if gt is not None else [])
        if masks is not None:
            dense = masks.at(1).expand()[0].bool().cpu().numpy()
            prior = Prior.encode(dense[dense.any(axis=(1, 2))])
            panels.append((f'{prior.count} masks', mask_overlay(lq, prior)))
        height = max(image.shape[0] for _, image in panels)
        whole = side_by_side([(title, enlarge(image, height // image.shape[0])) for title, image in panels])
        shrink = max(1, height // _SHOWN_SIDE)
        self.writer.add_image(tag, np.ascontiguousarray(whole[::shrink, ::shrink]), step, dataformats='HWC')
