"""The SAM families as `Segmenter`s: the official package, and SAM, SAM-HQ and SAM2 of transformers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sptsr.images.decode import RGB
from sptsr.priors.sources.attention import attention_by_heads
from sptsr.priors.sources.generator import Frame
from sptsr.priors.sources.resizing import Resizer

_DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


class _Model:
    """A model on its device, in its precision."""

    threshold = 0.0

    def __init__(self, model: Any, device: str = 'cpu', precision: str = 'fp32', compiled: bool = False) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.dtype = _DTYPES[precision]
        self.resizer = Resizer()
        self.by_heads = self.device.type == 'cpu' and not compiled
        if compiled:
            (model.image_encoder if hasattr(model, 'image_encoder') else model.vision_encoder).compile()

    def autocast(self) -> Any:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def tensor(self, values: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


class _LongestSide(_Model):
    """SAM's own geometry: the longest side becomes the encoder's, the rest is padded at the right and bottom."""

    side: int

    def preprocess(self, image: RGB) -> tuple[Tensor, Frame]:
        """Returns the normalised, padded image [3, side, side] and its frame, as `ResizeLongestSide` and `Sam` do."""
        from segment_anything.utils.transforms import ResizeLongestSide

        resized = ResizeLongestSide(self.side).apply_image(image)
        pixels = self.tensor(resized).permute(2, 0, 1).contiguous()
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in self.statistics())
        pixels = (pixels - mean) / std
        height, width = pixels.shape[-2:]
        frame = Frame((image.shape[0], image.shape[1]), (height, width))
        return F.pad(pixels, (0, self.side - width, 0, self.side - height)), frame

    def statistics(self) -> tuple[Sequence[float], Sequence[float]]:
        """Returns mean and standard deviation of R, G and B, in 0..255."""
        return [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

    def points(self, points: npt.NDArray[np.float64], frame: Frame) -> Tensor:
        """Returns points [P, 2] in the encoder's frame, float64 as in the official transform."""
        scale = np.array([frame.input_size[1] / frame.size[1], frame.input_size[0] / frame.size[0]])
        return self.tensor(points * scale)

    def upsample(self, logits: Tensor, frame: Frame) -> Tensor:
        """Returns logits at the image's size: enlarged to the encoder's side, cut to the image, then resized.

        Where the side is a whole multiple of the logits' side, only the part that holds the image is enlarged,
        with a margin of one pixel that bilinear weights reach: the same values with less work.
        """
        high, wide = frame.input_size
        logits = logits.float()
        factor = self.side // logits.shape[-1]
        if factor * logits.shape[-1] == self.side:
            rows, columns = (min(logits.shape[-1], -(-side // factor) + 1) for side in (high, wide))
            enlarged = self.resizer.enlarge(logits[..., :rows, :columns], factor)
        else:
            enlarged = F.interpolate(logits[None], (self.side, self.side), mode='bilinear', align_corners=False)[0]
        return self.resizer.resize(enlarged[..., :high, :wide], frame.size)


class OfficialSam(_LongestSide):
    """`Sam` of the segment_anything package.

    What does not depend on the prompt in the decoder (keys and values of the image in the first layer) is
    computed once for all prompts, and logits are made only for prompts of which a mask passes the IoU threshold.
    The values are those of `MaskDecoder.predict_masks`.
    """

    def __init__(self, model: Any, device: str = 'cpu', precision: str = 'fp32', compiled: bool = False) -> None:
        super().__init__(model, device, precision, compiled)
        self.side = model.image_encoder.img_size
        self.threshold = model.mask_threshold

    def statistics(self) -> tuple[Sequence[float], Sequence[float]]:
        return self.model.pixel_mean.flatten().tolist(), self.model.pixel_std.flatten().tolist()

    def embed(self, images: Sequence[RGB]) -> list[tuple[Any, Frame]]:
        pixels, frames = zip(*map(self.preprocess, images), strict=True)
        attention = attention_by_heads(self.model.image_encoder) if self.by_heads else contextlib.nullcontext()
        with self.autocast(), attention:
            features = self.model.image_encoder(torch.stack(pixels))
        return [(feature[None], frame) for feature, frame in zip(features, frames, strict=True)]

    def decode(
        self, embedding: Tensor, frame: Frame, points: npt.NDArray[np.float64], min_iou: float
    ) -> tuple[Tensor, Tensor]:
        decoder, encoder = self.model.mask_decoder, self.model.prompt_encoder
        coordinates = self.points(points, frame)[:, None]
        labels = torch.ones(coordinates.shape[:2], dtype=torch.int, device=self.device)
        with self.autocast():
            prompts, dense = encoder(points=(coordinates, labels), boxes=None, masks=None)
            output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
            tokens = torch.cat([output.expand(len(prompts), -1, -1), prompts], dim=1)
            image = embedding + dense[:1]  # no mask prompt: the same for all points
            queries, keys = _two_way(decoder.transformer, image, encoder.get_dense_pe(), tokens)
            iou = decoder.iou_prediction_head(queries[:, 0])[:, 1:]
            keep = iou > min_iou if min_iou > 0 else torch.ones_like(iou, dtype=torch.bool)
            chosen = keep.any(dim=1)
            keys = keys[chosen].transpose(1, 2).unflatten(2, image.shape[-2:])
            upscaled = decoder.output_upscaling(keys)
            weights = torch.stack(
                [mlp(queries[chosen, n + 1]) for n, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
            )
            logits = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])[:, 1:]
        return logits[keep[chosen]], iou[keep].float()


def _two_way(transformer: Any, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what `TwoWayTransformer.forward` does, for one image [1, C, h, w] and many prompts [P, T, C]."""
    keys = image.flatten(2).transpose(1, 2)
    key_pe = image_pe.flatten(2).transpose(1, 2)
    queries = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            q = queries + tokens
            queries = queries + layer.self_attn(q=q, k=q, v=queries)
        queries = layer.norm1(queries)
        q, k = queries + tokens, keys + key_pe
        queries = layer.norm2(queries + _attend(layer.cross_attn_token_to_image, q, k, keys))
        queries = layer.norm3(queries + layer.mlp(queries))
        q = queries + tokens
        keys = layer.norm4(keys + _attend(layer.cross_attn_image_to_token, k, q, queries))
    q, k = queries + tokens, keys + key_pe
    queries = queries + _attend(transformer.final_attn_token_to_image, q, k, keys)
    return transformer.norm_final_attn(queries), keys


def _attend(attention: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns what `Attention.forward` does; q, or k and v, may have a batch of one that serves all prompts."""
    q, k, v = attention.q_proj(q), attention.k_proj(k), attention.v_proj(v)
    heads = attention.num_heads
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # [P or 1, heads, T, c]
    scale = math.sqrt(q.shape[-1])
    if len(k) == 1 and len(q) > 1:  # all prompts attend to one image: one product instead of P
        prompts, _, length, _ = q.shape
        q = q.transpose(0, 1).flatten(1, 2)[None]
        out = torch.softmax(q @ k.transpose(2, 3) / scale, dim=-1) @ v
        out = out[0].unflatten(1, (prompts, length)).transpose(0, 1)
    else:
        out = torch.softmax(q @ k.transpose(2, 3) / scale, dim=-1) @ v
    return attention.out_proj(out.transpose(1, 2).flatten(2))


class HuggingFaceSam(_LongestSide):
    """`SamModel` and `SamHQModel` of transformers, prompted without their processor."""

    def __init__(self, model: Any, device: str = 'cpu', precision: str = 'fp32', compiled: bool = False) -> None:
        super().__init__(model, device, precision, compiled)
        self.side = model.config.vision_config.image_size

    def embed(self, images: Sequence[RGB]) -> list[tuple[Any, Frame]]:
        pixels, frames = zip(*map(self.preprocess, images), strict=True)
        with self.autocast():
            made = self.model.get_image_embeddings(torch.stack(pixels))
        if isinstance(made, tuple):  # SAM-HQ: also features of intermediate layers
            features, between = made
            rows = [
                {'image_embeddings': features[n : n + 1], 'intermediate_embeddings': [b[n : n + 1] for b in between]}
                for n in range(len(images))
            ]
        else:
            rows = [{'image_embeddings': made[n : n + 1]} for n in range(len(images))]
        return list(zip(rows, frames, strict=True))

    def decode(
        self, embedding: dict[str, Any], frame: Frame, points: npt.NDArray[np.float64], min_iou: float
    ) -> tuple[Tensor, Tensor]:
        return _prompted(self, embedding, self.points(points, frame).float(), min_iou)


class HuggingFaceSam2(_Model):
    """`Sam2Model` (SAM2 and 2.1) of transformers: the image is stretched to a square, and so are the points."""

    def __init__(self, model: Any, device: str = 'cpu', precision: str = 'fp32', compiled: bool = False) -> None:
        super().__init__(model, device, precision, compiled)
        self.side = model.config.prompt_encoder_config.image_size

    def embed(self, images: Sequence[RGB]) -> list[tuple[Any, Frame]]:
        # ImageNet's mean and deviation, antialiased bilinear: the transforms of the official SAM2 predictor.
        mean = torch.tensor([0.485, 0.456, 0.406], device=self.device).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225], device=self.device).view(3, 1, 1)
        pixels, frames = [], []
        for image in images:
            square = self.tensor(image).permute(2, 0, 1)[None].float() / 255
            square = F.interpolate(square, (self.side, self.side), mode='bilinear', antialias=True)[0]
            pixels.append((square - mean) / std)
            frames.append(Frame((image.shape[0], image.shape[1]), (self.side, self.side)))
        with self.autocast():
            levels = self.model.get_image_embeddings(torch.stack(pixels))
        rows = [{'image_embeddings': [level[n : n + 1] for level in levels]} for n in range(len(images))]
        return list(zip(rows, frames, strict=True))

    def decode(
        self, embedding: dict[str, Any], frame: Frame, points: npt.NDArray[np.float64], min_iou: float
    ) -> tuple[Tensor, Tensor]:
        scale = np.array([self.side / frame.size[1], self.side / frame.size[0]])
        return _prompted(self, embedding, self.tensor(points * scale).float(), min_iou)

    def upsample(self, logits: Tensor, frame: Frame) -> Tensor:
        """Returns logits at the image's size; clamped, as the official SAM2 generator's predictor does."""
        return self.resizer.resize(logits.float().clamp(-32.0, 32.0), frame.size)


def _prompted(model: _Model, embedding: dict[str, Any], points: Tensor, min_iou: float) -> tuple[Tensor, Tensor]:
    labels = torch.ones(1, len(points), 1, dtype=torch.int, device=model.device)
    with model.autocast():
        output = model.model(
            **embedding, input_points=points[None, :, None], input_labels=labels, multimask_output=True
        )
    logits, iou = output.pred_masks[0].flatten(0, 1), output.iou_scores[0].flatten().float()
    if min_iou > 0:
        keep = iou > min_iou
        logits, iou = logits[keep], iou[keep]
    return logits, iou
