"""Point prompts and crops of an image, as `segment_anything.utils.amg` places them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class GridSettings:
    """Parameters of `SamAutomaticMaskGenerator`, with its names, meanings and defaults."""

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0


def point_grid(side: int) -> npt.NDArray[np.float64]:
    """Returns side x side points evenly spread over the unit square, [P, 2], x and y, row by row."""
    offset = 1 / (2 * side)
    line = np.linspace(offset, 1 - offset, side)
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)


def crop_boxes(
    size: tuple[int, int], layers: int, overlap_ratio: float
) -> tuple[list[tuple[int, int, int, int]], list[int]]:
    """Returns the image and, for layer i, 2^i x 2^i overlapping crops as x0, y0, x1, y1; and the layer of each."""
    height, width = size
    boxes, numbers = [(0, 0, width, height)], [0]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(size) * (2 / count))
        wide, high = (math.ceil((overlap * (count - 1) + side) / count) for side in (width, height))
        for x0 in (int((wide - overlap) * n) for n in range(count)):
            for y0 in (int((high - overlap) * n) for n in range(count)):
                box = (x0, y0, min(x0 + wide, width), min(y0 + high, height))
                if box[2] > box[0] and box[3] > box[1]:  # crops of a tiny image can be empty
                    boxes.append(box)
                    numbers.append(layer)
    return boxes, numbers
