"""Masks from Segment Anything, through the official `segment_anything` package."""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch

from sptsr.errors import UserError
from sptsr.files import sha256_file
from sptsr.images import RGB
from sptsr.priors.prior import Prior
from sptsr.priors.sources.base import Source
from sptsr.registry import SOURCE_REGISTRY, register

# Width of the image encoder, which tells the checkpoints apart.
_FAMILIES = {768: 'vit_b', 1024: 'vit_l', 1280: 'vit_h'}


@register(SOURCE_REGISTRY, 'sam')
class SamSource(Source):
    """The masks of `SamAutomaticMaskGenerator`, ordered by area.

    Kirillov et al., "Segment Anything", ICCV 2023. Defaults are the generator's own.

    Args:
        checkpoint: official checkpoint (`sam_vit_b_01ec64.pth`, ...), read with `weights_only=True`.
        model_type: family of the checkpoint; `auto` reads it from its tensors.
        device: `auto` takes a GPU when there is one.
        points_per_side: the grid of point prompts has this many points squared.
        points_per_batch: prompts that go through the decoder together.
        pred_iou_thresh: masks under this predicted IoU are dropped, 0..1.
        stability_score_thresh: masks under this stability score are dropped, 0..1.
        box_nms_thresh: box IoU above which the worse mask is dropped, 0..1.
        min_mask_region_area: holes and islands smaller than this are removed, in pixels.
    """

    name = 'sam'

    def __init__(
        self,
        checkpoint: str,
        model_type: Literal['auto', 'vit_h', 'vit_l', 'vit_b'] = 'auto',
        device: str = 'auto',
        points_per_side: int = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        box_nms_thresh: float = 0.7,
        min_mask_region_area: int = 0,
    ) -> None:
        self.weights_sha256 = sha256_file(checkpoint)
        model, family = load_sam(checkpoint, model_type)
        if device == 'auto':
            device = 'cuda' if torch.cuda.is_available() else 'cpu'
        settings = {
            'points_per_side': points_per_side,
            'pred_iou_thresh': pred_iou_thresh,
            'stability_score_thresh': stability_score_thresh,
            'box_nms_thresh': box_nms_thresh,
            'min_mask_region_area': min_mask_region_area,
        }
        self.params = {'model_type': family, **settings}
        self.generator = _generator(model.to(device), points_per_batch=points_per_batch, **settings)

    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        with torch.inference_mode():
            records = self.generator.generate(image)
        masks = [record['segmentation'] for record in records]
        dense = np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), np.bool_)
        return Prior.encode(dense, max_masks)

    def versions(self) -> dict[str, str]:
        return {'segment-anything': version('segment-anything'), 'torch': torch.__version__}


def load_sam(checkpoint: str, model_type: str = 'auto') -> tuple[Any, str]:
    """Loads an official checkpoint.

    Returns:
        the `Sam` module in eval mode, and its family (`vit_b`, `vit_l` or `vit_h`).

    Raises:
        UserError: not a checkpoint, not SAM's, or of another family than asked for.
    """
    from segment_anything import sam_model_registry

    try:
        state = torch.load(checkpoint, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises many kinds for a truncated or foreign file
        raise UserError(
            f'{checkpoint}: not a readable checkpoint ({type(error).__name__}); download it again'
        ) from error
    embedding = state.get('image_encoder.pos_embed') if isinstance(state, dict) else None
    if embedding is None:
        raise UserError(f'{checkpoint}: not a checkpoint of segment_anything (no image_encoder.pos_embed)')
    family = _FAMILIES.get(int(embedding.shape[-1]))
    if family is None:
        raise UserError(f'{checkpoint}: an encoder of width {embedding.shape[-1]} is none of {_FAMILIES}')
    if model_type not in ('auto', family):
        raise UserError(f'{checkpoint}: is {family}, not {model_type}; say --set model_type={family}')
    with contextlib.redirect_stdout(None):
        model = sam_model_registry[family]()
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(
            f'{checkpoint}: does not fit {family} ({str(error).splitlines()[0]}); download it again'
        ) from error
    return model.eval().requires_grad_(False), family


def _generator(model: Any, **settings: Any) -> Any:
    from segment_anything import SamAutomaticMaskGenerator

    return SamAutomaticMaskGenerator(model, **settings)
