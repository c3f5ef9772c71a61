"""Makes masks of a whole image from a grid of point prompts, by one loop for every SAM family.

It gives what `SamAutomaticMaskGenerator` of segment_anything gives (Kirillov et al., "Segment Anything",
ICCV 2023, appendix B), in another order of work: masks are filtered by predicted IoU **before** they are
enlarged to the image's size, and until the end only the decoder's small logits of a mask are kept. The
masks that remain are written into the codes of the prior one after the other, so memory does not grow with
masks times pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from sptsr.images.decode import RGB
from sptsr.masks.prior import Prior
from sptsr.priors.sources.grid import GridSettings, crop_boxes, point_grid

_CPU_POINTS = 4  # prompts decoded together on a CPU; values of more leave its caches and the memory that malloc reuses
_GPU_BYTES = 1 << 27  # of logits at the image's size together; a CPU takes one mask at a time, for its caches
_EDGE = 20.0  # pixels; a mask this near to the edge of a crop, and not of the image, is dropped


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
        """Returns logits [M, h, w] at the image's size, float32 [M, H, W], valid until the next call."""
        ...


@dataclass
class _Masks:
    """Masks that passed the filters, without their pixels."""

    logits: list[Tensor]  # M tensors [h, w], never concatenated: that would take their memory twice
    iou: Tensor  # [M]
    boxes: Tensor  # [M, 4], x0 y0 x1 y1 in the image
    areas: Tensor  # [M], pixels
    crop: Tensor  # [M], number of the crop

    def take(self, numbers: Tensor) -> _Masks:
        logits = [self.logits[n] for n in numbers.tolist()]
        return _Masks(logits, *(value[numbers] for value in (self.iou, self.boxes, self.areas, self.crop)))

    @classmethod
    def concatenate(cls, parts: Sequence[_Masks]) -> _Masks:
        logits = [one for part in parts for one in part.logits]
        return cls(logits, *(torch.cat([vars(p)[name] for p in parts]) for name in ('iou', 'boxes', 'areas', 'crop')))


def make_prior(
    model: Segmenter,
    image: RGB,
    settings: GridSettings,
    max_masks: int,
    embedded: tuple[Any, Frame] | None = None,
    fine: int = 1,
) -> Prior:
    """Returns the masks that the generator makes of an image, largest first.

    Args:
        model: a loaded family.
        image: uint8 RGB [H, W, 3].
        settings: of the generator.
        max_masks: 1..64; the largest are kept. Of equal areas the better one (NMS order) comes first.
        embedded: `model.embed([image])[0]`, where a batch was embedded before.
        fine: the masks lie on a grid so many times as fine as the image's. Which masks they are is decided at the
            image's size; then their logits are enlarged to that grid.
    """
    with torch.inference_mode():
        height, width = image.shape[:2]
        boxes, layers = crop_boxes((height, width), settings.crop_n_layers, settings.crop_overlap_ratio)
        parts, frames = [], []
        for number, (box, layer) in enumerate(zip(boxes, layers, strict=True)):
            x0, y0, x1, y1 = box
            first = embedded if number == 0 and embedded is not None else model.embed([image[y0:y1, x0:x1]])[0]
            frames.append(first[1])
            if (part := _process_crop(model, first, settings, layer, number, box, (height, width))) is not None:
                parts.append(part)
        height, width = fine * height, fine * width
        if not parts:
            return replace(Prior.encode(np.zeros((0, height, width), np.bool_)), fine=fine)
        masks = _Masks.concatenate(parts)
        if len(boxes) > 1:
            masks = masks.take(_nms(masks.boxes, _crop_scores(boxes, masks), settings.crop_nms_thresh))

        def pixels(numbers: Sequence[int]) -> Iterator[Tensor]:
            for n in numbers:
                crop = int(masks.crop[n])
                sides = frames[crop].size[0] * fine, frames[crop].size[1] * fine
                frame = replace(frames[crop], size=sides)
                box = fine * boxes[crop][0], fine * boxes[crop][1], fine * boxes[crop][2], fine * boxes[crop][3]
                yield _full_size(model, masks.logits[n][None], frame, box, (height, width))

        if settings.min_mask_region_area > 0:
            prior = _cleaned(masks, pixels, settings, max_masks, (height, width), fine)
        else:
            order = _largest(masks.areas.cpu().numpy(), max_masks)
            prior = _encode(pixels(order), len(order), (height, width))
        # areas on a finer grid may be in another order
        return prior if fine == 1 else replace(prior, fine=fine).resized(*image.shape[:2])


def _process_crop(
    model: Segmenter,
    embedded: tuple[Any, Frame],
    settings: GridSettings,
    layer: int,
    number: int,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
) -> _Masks | None:
    """Returns the masks of a crop that remain after NMS; None for no masks."""
    embedding, frame = embedded
    side = int(settings.points_per_side / settings.crop_n_points_downscale_factor**layer)
    points = point_grid(side) * np.array([frame.size[1], frame.size[0]], np.float64)
    found = []
    portion = settings.points_per_batch if model.device.type != 'cpu' else min(settings.points_per_batch, _CPU_POINTS)
    for start in range(0, len(points), settings.points_per_batch):
        batch = points[start : start + settings.points_per_batch]
        decoded = [
            model.decode(embedding, frame, batch[first : first + portion], settings.pred_iou_thresh)
            for first in range(0, len(batch), portion)
        ]
        logits, iou = zip(*decoded, strict=True)
        if any(map(len, iou)):
            measured = _measure(model, logits, torch.cat(iou), frame, settings, number, box, size)
            if measured is not None:
                found.append(measured)
    if not found:
        return None
    masks = _Masks.concatenate(found)
    return masks.take(_nms(masks.boxes, masks.iou, settings.box_nms_thresh))


def _measure(
    model: Segmenter,
    logits: Sequence[Tensor],
    iou: Tensor,
    frame: Frame,
    settings: GridSettings,
    number: int,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
) -> _Masks | None:
    """Returns the masks that are stable and away from the crop's edge, without pixels; None for no masks.

    Args:
        logits: parts of [M, h, w].
        iou: predicted IoU of all parts, [M].
        number, box: of the crop.
        size: height and width of the image.
    """
    chunk = 1
    if iou.device.type != 'cpu':
        chunk = max(1, _GPU_BYTES // (4 * (math.prod(frame.size) + math.prod(logits[0].shape[1:]) * 16)))
    pieces = [piece for part in logits if len(part) for piece in part.split(chunk)]
    limits = [model.threshold + step * settings.stability_score_offset for step in (0, 1, -1)]
    looked = [_look(model.upsample(piece, frame), limits) for piece in pieces]
    counts, rows, columns = zip(*looked, strict=True)
    areas, inner, outer = torch.cat(counts, dim=1)
    # float32 division of counts, as in the official code; 0 / 0 is nan and passes no threshold
    keep = torch.ones_like(iou, dtype=torch.bool)
    if settings.stability_score_thresh > 0:
        keep &= inner.int() / outer.int() >= settings.stability_score_thresh
    boxes = _boxes(torch.cat(rows), torch.cat(columns)) + torch.tensor([box[0], box[1]] * 2, device=iou.device)
    keep &= ~_near_edge(boxes, box, size)
    if not bool(keep.any()):
        return None
    crop = torch.full_like(areas, number)
    kept = [
        one for piece, k in zip(pieces, keep.split(list(map(len, pieces))), strict=True) for one in piece[k].unbind()
    ]
    return _Masks(kept, iou[keep], boxes[keep], areas[keep], crop[keep])


def _look(full: Tensor, limits: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns counts and extent of masks, given as logits [M, H, W].

    On a CPU NumPy does it, whose counting is many times faster than torch's.

    Returns:
        number of pixels above each limit, int64 [limits, M]; which rows and which columns have a pixel above the
        first limit, bool [M, H] and [M, W].
    """
    if full.device.type != 'cpu':
        inside = full > limits[0]
        return torch.stack([(full > limit).sum(dim=(1, 2)) for limit in limits]), inside.any(dim=2), inside.any(dim=1)
    array = full.numpy()
    inside = array > limits[0]
    counts = [[np.count_nonzero(mask) for mask in inside]]
    counts += [[np.count_nonzero(mask > limit) for mask in array] for limit in limits[1:]]
    return torch.tensor(counts), torch.from_numpy(inside.any(axis=2)), torch.from_numpy(inside.any(axis=1))


def _boxes(rows: Tensor, columns: Tensor) -> Tensor:
    """Returns boxes [M, 4] as x0, y0, x1, y1, ends included, of rows [M, H] and columns [M, W] that hold a pixel.

    An empty mask gets zeros.
    """
    sides = []
    for line in (columns.to(torch.uint8), rows.to(torch.uint8)):
        sides.append((line.argmax(dim=1), line.shape[1] - 1 - line.flip(1).argmax(dim=1)))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], dim=1) * rows.any(dim=1)[:, None]


def _near_edge(boxes: Tensor, crop: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    own = torch.tensor(crop, dtype=torch.float32, device=boxes.device)
    image = torch.tensor([0, 0, size[1], size[0]], dtype=torch.float32, device=boxes.device)
    return (((boxes - own).abs() <= _EDGE) & ~((boxes - image).abs() <= _EDGE)).any(dim=1)


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    return batched_nms(boxes.float(), scores, torch.zeros_like(scores, dtype=torch.int64), threshold)


def _crop_scores(boxes: Sequence[tuple[int, int, int, int]], masks: _Masks) -> Tensor:
    """Returns scores [M] by which NMS prefers masks of smaller crops."""
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
    planes = torch.zeros((8, *size), dtype=torch.uint8)  # bytes of the codes
    for number, mask in enumerate(masks):
        planes = planes.to(mask.device)
        planes[number // 8] |= mask.view(torch.uint8) << (number % 8)
    codes = np.ascontiguousarray(planes.permute(1, 2, 0).cpu().numpy()).view('<u8')
    return Prior.from_codes(codes[..., 0].astype(np.uint64), count)


def _cleaned(
    masks: _Masks,
    pixels: Callable[[Sequence[int]], Iterator[Tensor]],
    settings: GridSettings,
    max_masks: int,
    size: tuple[int, int],
    fine: int,
) -> Prior:
    """Returns the masks without small holes and islands, and without new near-duplicates, as the official code does."""
    from segment_anything.utils.amg import remove_small_regions

    packed, boxes, areas, unchanged = [], [], [], []
    for number, mask in enumerate(pixels(range(len(masks.iou)))):
        new, holes = remove_small_regions(mask.cpu().numpy(), settings.min_mask_region_area * fine**2, 'holes')
        new, islands = remove_small_regions(new, settings.min_mask_region_area * fine**2, 'islands')
        unchanged.append(float(not holes and not islands))
        packed.append(np.packbits(new))
        areas.append(int(new.sum()))
        lines = torch.from_numpy(new.any(axis=1))[None], torch.from_numpy(new.any(axis=0))[None]
        boxes.append(_boxes(*lines)[0] if holes or islands or fine > 1 else masks.boxes[number].cpu())
    threshold = max(settings.box_nms_thresh, settings.crop_nms_thresh)
    keep = _nms(torch.stack(boxes), torch.tensor(unchanged), threshold).tolist()
    order = [keep[n] for n in _largest(np.array([areas[n] for n in keep]), max_masks)]
    unpacked = (np.unpackbits(packed[n], count=size[0] * size[1]).reshape(size) for n in order)
    return _encode((torch.from_numpy(mask) for mask in unpacked), len(order), size)
