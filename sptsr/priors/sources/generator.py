"""One loop that makes masks of a whole image from a grid of point prompts, for every SAM family.

It gives what `SamAutomaticMaskGenerator` of segment_anything gives (Kirillov et al., "Segment Anything",
ICCV 2023, appendix B), in another order of work: masks are filtered by predicted IoU **before** they are
brought to the image's size, and between their filtering and the final image only the decoder's small
logits are kept. The masks that remain are then written into the palette codes one after the other, so
memory does not grow with masks times pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from sptsr.images import RGB
from sptsr.priors.prior import Prior

_CPU_POINTS = 16  # prompts decoded together on a CPU, where more take memory and save no time
_CHUNK_BYTES = 1 << 27  # of full-size logits at a time
_EDGE = 20.0  # pixels; a mask this near to the edge of a crop, and not of the image, is dropped


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


@dataclass(frozen=True)
class Frame:
    """Sizes that lead from logits to an image.

    Attributes:
        size: height and width of the image (or crop).
        input_size: height and width that it was resized to for the encoder.
    """

    size: tuple[int, int]
    input_size: tuple[int, int]


class Segmenter(Protocol):
    """What the loop needs of a model family."""

    threshold: float
    device: torch.device

    def embed(self, images: Sequence[RGB]) -> list[tuple[Any, Frame]]:
        """Returns the embedding of each image, and its frame."""
        ...

    def decode(
        self, embedding: Any, frame: Frame, points: npt.NDArray[np.float64], min_iou: float
    ) -> tuple[Tensor, Tensor]:
        """Returns logits [M, h, w] and predicted IoU [M] of the three masks of each point, point by point.

        Args:
            embedding, frame: of the image.
            points: [P, 2], x and y in pixels of the image.
            min_iou: masks whose predicted IoU is not above are left out; no limit when <= 0.
        """
        ...

    def upsample(self, logits: Tensor, frame: Frame) -> Tensor:
        """Returns logits [M, h, w] at the image's size, float32 [M, H, W]."""
        ...


@dataclass
class _Masks:
    """Masks that passed the filters, without their pixels."""

    logits: Tensor  # [M, h, w]
    iou: Tensor  # [M]
    boxes: Tensor  # [M, 4], x0 y0 x1 y1 in the image
    areas: Tensor  # [M], pixels
    crop: Tensor  # [M], which crop

    def take(self, keep: Tensor) -> _Masks:
        return _Masks(*(value[keep] for value in vars(self).values()))

    @classmethod
    def join(cls, parts: Sequence[_Masks]) -> _Masks:
        return cls(*(torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])))


def make_prior(
    model: Segmenter, image: RGB, settings: GridSettings, max_masks: int, embedded: tuple[Any, Frame] | None = None
) -> Prior:
    """Returns the masks that the generator makes of an image, largest first.

    Args:
        model: a loaded family.
        image: uint8 RGB [H, W, 3].
        settings: of the generator.
        max_masks: 1..64; the largest are kept. Of equal areas the better one (NMS order) comes first.
        embedded: `model.embed([image])[0]` where that was done before, in a batch.
    """
    with torch.inference_mode():
        height, width = image.shape[:2]
        boxes, layers = crop_boxes((height, width), settings.crop_n_layers, settings.crop_overlap_ratio)
        parts, frames = [], []
        for number, (box, layer) in enumerate(zip(boxes, layers, strict=True)):
            x0, y0, x1, y1 = box
            first = embedded if number == 0 and embedded is not None else model.embed([image[y0:y1, x0:x1]])[0]
            parts += _process_crop(model, first, settings, layer, number, box, (height, width))
            frames.append(first[1])
        if not parts:
            return Prior.encode(np.zeros((0, height, width), np.bool_))
        masks = _Masks.join(parts)
        if len(boxes) > 1:
            masks = masks.take(_nms(masks.boxes, _crop_scores(boxes, masks), settings.crop_nms_thresh))

        def pixels(numbers: Sequence[int]) -> Iterator[Tensor]:
            for n in numbers:
                crop = int(masks.crop[n])
                yield _full_size(model, masks.logits[n : n + 1], frames[crop], boxes[crop], (height, width))

        if settings.min_mask_region_area > 0:
            return _cleaned(masks, pixels, settings, max_masks, (height, width))
        order = _largest(masks.areas.cpu().numpy(), max_masks)
        return _encode(pixels(order), len(order), (height, width))


def _process_crop(
    model: Segmenter,
    embedded: tuple[Any, Frame],
    settings: GridSettings,
    layer: int,
    number: int,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
) -> list[_Masks]:
    """Returns what remains of a crop after NMS: a list of one, or of none."""
    embedding, frame = embedded
    side = int(settings.points_per_side / settings.crop_n_points_downscale_factor**layer)
    points = point_grid(side) * np.array([frame.size[1], frame.size[0]], np.float64)
    found = []
    step = settings.points_per_batch if model.device.type != 'cpu' else min(settings.points_per_batch, _CPU_POINTS)
    for start in range(0, len(points), step):
        batch = points[start : start + step]
        logits, iou = model.decode(embedding, frame, batch, settings.pred_iou_thresh)
        chunk = max(1, _CHUNK_BYTES // (4 * (frame.size[0] * frame.size[1] + logits.shape[-1] * logits.shape[-2] * 16)))
        for part in range(0, len(logits), chunk):
            found += _measure(
                model, logits[part : part + chunk], iou[part : part + chunk], frame, settings, number, box, size
            )
    if not found:
        return []
    masks = _Masks.join(found)
    return [masks.take(_nms(masks.boxes, masks.iou, settings.box_nms_thresh))]


def _measure(
    model: Segmenter,
    logits: Tensor,
    iou: Tensor,
    frame: Frame,
    settings: GridSettings,
    number: int,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
) -> list[_Masks]:
    """Filters masks by stability and by the crop's edge; keeps their boxes and areas, not their pixels."""
    full = model.upsample(logits, frame)
    offset = settings.stability_score_offset
    inner = (full > model.threshold + offset).sum(dim=(1, 2))
    outer = (full > model.threshold - offset).sum(dim=(1, 2))
    inside = full > model.threshold
    del full
    # float32 division of counts, as in the official code; 0 / 0 is nan and passes no threshold
    keep = torch.ones_like(iou, dtype=torch.bool)
    if settings.stability_score_thresh > 0:
        keep &= inner.int() / outer.int() >= settings.stability_score_thresh
    boxes = _boxes(inside) + torch.tensor([box[0], box[1]] * 2, device=iou.device)
    keep &= ~_near_edge(boxes, box, size)
    if not bool(keep.any()):
        return []
    areas = inside.sum(dim=(1, 2))
    crop = torch.full_like(areas, number)
    return [_Masks(logits[keep], iou[keep], boxes[keep], areas[keep], crop[keep])]


def _boxes(masks: Tensor) -> Tensor:
    """Returns the box of each mask [M, H, W] as x0, y0, x1, y1, ends included; zeros for an empty one."""
    sides = []
    for dim in (1, 2):
        line = masks.any(dim=dim).to(torch.uint8)  # over rows: which columns, and the other way round
        first, last = line.argmax(dim=1), line.shape[1] - 1 - line.flip(1).argmax(dim=1)
        sides += [first, last]
    boxes = torch.stack([sides[0], sides[2], sides[1], sides[3]], dim=1)
    return boxes * masks.any(dim=2).any(dim=1)[:, None]


def _near_edge(boxes: Tensor, crop: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    own = torch.tensor(crop, dtype=torch.float32, device=boxes.device)
    image = torch.tensor([0, 0, size[1], size[0]], dtype=torch.float32, device=boxes.device)
    return (((boxes - own).abs() <= _EDGE) & ~((boxes - image).abs() <= _EDGE)).any(dim=1)


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    return batched_nms(boxes.float(), scores, torch.zeros_like(scores, dtype=torch.int64), threshold)


def _crop_scores(boxes: Sequence[tuple[int, int, int, int]], masks: _Masks) -> Tensor:
    """Prefers masks of smaller crops."""
    areas = torch.tensor([(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes], device=masks.crop.device)
    return 1 / areas[masks.crop]


def _full_size(
    model: Segmenter, logits: Tensor, frame: Frame, box: tuple[int, int, int, int], size: tuple[int, int]
) -> Tensor:
    inside = (model.upsample(logits, frame) > model.threshold)[0]
    if tuple(inside.shape) == size:
        return inside
    whole = torch.zeros(size, dtype=torch.bool, device=inside.device)
    whole[box[1] : box[3], box[0] : box[2]] = inside
    return whole


def _largest(areas: npt.NDArray[np.integer], max_masks: int) -> list[int]:
    return [int(n) for n in np.argsort(-areas, kind='stable') if areas[n] > 0][:max_masks]


def _encode(masks: Iterator[Tensor], count: int, size: tuple[int, int]) -> Prior:
    """Writes masks, largest first, into codes one after the other, on the device they are on."""
    codes = torch.zeros(size, dtype=torch.int64)
    for number, mask in enumerate(masks):
        codes = codes.to(mask.device)
        codes |= mask.long() << number
    return Prior.from_codes(codes.cpu().numpy().view(np.uint64), count)


def _cleaned(masks: _Masks, pixels: Any, settings: GridSettings, max_masks: int, size: tuple[int, int]) -> Prior:
    """Removes small holes and islands, then near-duplicates once more, as the official code does."""
    from segment_anything.utils.amg import remove_small_regions

    packed, boxes, areas, unchanged = [], [], [], []
    for number, mask in enumerate(pixels(range(len(masks.iou)))):
        mask = mask.cpu().numpy()
        new, holes = remove_small_regions(mask, settings.min_mask_region_area, 'holes')
        new, islands = remove_small_regions(new, settings.min_mask_region_area, 'islands')
        unchanged.append(float(not holes and not islands))
        packed.append(np.packbits(new))
        areas.append(int(new.sum()))
        boxes.append(_boxes(torch.from_numpy(new)[None])[0] if holes or islands else masks.boxes[number].cpu())
    threshold = max(settings.box_nms_thresh, settings.crop_nms_thresh)
    keep = _nms(torch.stack(boxes), torch.tensor(unchanged), threshold).tolist()
    order = [keep[n] for n in _largest(np.array([areas[n] for n in keep]), max_masks)]
    unpacked = (np.unpackbits(packed[n], count=size[0] * size[1]).reshape(size) for n in order)
    return _encode((torch.from_numpy(mask) for mask in unpacked), len(order), size)


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
                if box[2] > box[0] and box[3] > box[1]:  # an image of one row has no second half
                    boxes.append(box)
                    numbers.append(layer)
    return boxes, numbers
