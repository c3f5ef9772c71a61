"""The official mask generator against ours: same weights, same image, one process, alternated.

    python benchmarks/prior_extract.py --image PHOTO.jpg [--model vit_b] [--device cpu] [--rounds 3] [--points 32]
    python benchmarks/prior_extract.py --image PHOTO.jpg --device cuda --precision bf16 --model vit_h

Weights are random unless --checkpoint is given: the time depends on them only through the number of masks that survive
and the length of their outlines. So the thresholds are set between the scores of this model on this image: --survive
is the share of masks that pass the IoU threshold, --stable the share of those that pass the stability threshold. For
both generators the decoder's features are smoothed and its logits spread, because the official one would take minutes
to encode the outlines of noise.
Memory is what the process grows by during a run (on CUDA, what torch allocates). Prints a table, then one line of
JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from segment_anything.utils.amg import calculate_stability_score

import sptsr  # noqa: F401 (mends the import of basicsr)
from sptsr.images.decode import RGB, decode_rgb
from sptsr.masks.prior import Prior
from sptsr.priors.sources.generator import GridSettings, make_prior
from sptsr.priors.sources.grid import point_grid
from sptsr.priors.sources.sam import load_sam
from sptsr.priors.sources.segmenters import OfficialSam
from sptsr.report.tables import text_table

SPREAD = 10.0  # standard deviation of the logits of a random model
SIZES = ((321, 481), (1356, 2040))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--image', type=Path, required=True)
    parser.add_argument('--model', default='vit_b', choices=['vit_b', 'vit_l', 'vit_h'])
    parser.add_argument('--checkpoint', help='official weights instead of random ones')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--precision', default='fp32', choices=['fp32', 'bf16', 'fp16'], help='of ours')
    parser.add_argument('--points', type=int, default=32)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--survive', type=float, default=0.3)
    parser.add_argument('--stable', type=float, default=0.5)
    parser.add_argument('--sizes', type=int, nargs='+', default=[0, 1], help='0: 481x321, 1: 2040x1356')
    options = parser.parse_args()
    torch.manual_seed(0)
    model = (load_sam(options.checkpoint)[0] if options.checkpoint else sam_model_registry[options.model]()).eval()
    if not options.checkpoint:
        make_smooth(model.mask_decoder)
    model.to(options.device)
    picture = decode_rgb(options.image.read_bytes(), str(options.image), to_rgb=True)
    result: dict[str, Any] = {
        'model': options.model,
        'device': options.device,
        'precision': options.precision,
        'points': options.points,
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
    }
    rows = []
    for number in options.sizes:
        height, width = SIZES[number]
        image = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        record = compare(model, image, options)
        result[f'{width}x{height}'] = record
        for name in ('official', 'ours'):
            r = record[name]
            rows.append(
                [
                    f'{width}x{height} {name}',
                    f'{r["seconds"]:.2f}',
                    f'{r["encoder_seconds"]:.2f}',
                    f'{r["decoder_seconds"]:.2f}',
                    f'{r["rest_seconds"]:.2f}',
                    f'{r["peak_bytes"] / 2**20:.0f}',
                    str(r['masks']),
                ]
            )
    print(text_table(['image', 'seconds', 'encoder', 'decoder', 'post', 'peak MiB', 'masks'], rows))
    print(json.dumps(result))


def compare(model: Any, image: RGB, options: argparse.Namespace) -> dict[str, Any]:
    """Returns times, memory and likeness of both generators on one image."""
    fp32 = OfficialSam(model, options.device)
    ours = OfficialSam(model, options.device, options.precision)
    thresholds = between_scores(fp32, image, options)
    # Random masks all fill the image: no box is dropped for its overlap.
    settings = {'points_per_side': options.points, 'box_nms_thresh': 1.0, **thresholds}
    generator = SamAutomaticMaskGenerator(model, **settings)
    runs = {
        'official': (lambda: generator.generate(image), model.image_encoder, model.mask_decoder, 'forward'),
        'ours': (lambda: make_prior(ours, image, GridSettings(**settings), 64), model.image_encoder, ours, 'decode'),
    }
    record: dict[str, Any] = {**thresholds}
    timed: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
    peaks: dict[str, list[int]] = {name: [] for name in runs}
    results: dict[str, Any] = {}
    for number in range(options.rounds):
        for name, (run, encoder, decoder, method) in runs.items():
            results.pop(name, None)
            gc.collect()
            peak, (results[name], *times) = peak_bytes(
                lambda run=run, e=encoder, d=decoder, m=method: split_time(run, e, d, m, options.device), options.device
            )
            peaks[name].append(peak)
            timed[name].append(tuple(times))
            print(f'{image.shape[1]}x{image.shape[0]} round {number} {name}: {times[0]:.1f} s', file=sys.stderr)
    for name in runs:
        record[name] = {
            'seconds': statistics.median(total for total, _, _ in timed[name]),
            'encoder_seconds': statistics.median(encoding for _, encoding, _ in timed[name]),
            'decoder_seconds': statistics.median(decoding for _, _, decoding in timed[name]),
            'rest_seconds': statistics.median(total - encoding - decoding for total, encoding, decoding in timed[name]),
            'peak_bytes': max(peaks[name]),
        }
    theirs = [r['segmentation'] for r in results['official']]
    reference, mine = Prior.encode(np.stack(theirs)), results['ours']
    record['official']['masks'], record['ours']['masks'] = len(theirs), mine.count
    record['same_masks'] = sum(map(np.array_equal, reference.decode(), mine.decode())) if mine.count else 0
    record['of_masks'] = reference.count
    official, own = record['official'], record['ours']
    record['speedup'] = official['seconds'] / own['seconds']
    record['post_speedup'] = official['rest_seconds'] / own['rest_seconds']
    record['memory_ratio'] = own['peak_bytes'] / official['peak_bytes']
    return record


class Scale(torch.nn.Module):
    """Multiplies the logits of a random model, which all lie near 0, where no mask of SAM's would be stable."""

    factor = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Smooth(torch.nn.Module):
    """Blurs the image features of the decoder, [B, C, 64, 64]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.avg_pool2d(x, 8)
        return torch.nn.functional.interpolate(small, x.shape[-2:], mode='bilinear')


def make_smooth(decoder: Any) -> None:
    """Gives the masks of a random model smooth outlines, as those of things are, at almost no cost."""
    with torch.no_grad():
        for layer in decoder.output_upscaling:
            if isinstance(layer, torch.nn.ConvTranspose2d):  # random taps would weave a pattern of single pixels
                layer.weight.copy_(layer.weight.mean(dim=(2, 3), keepdim=True).expand_as(layer.weight))
    decoder.output_upscaling = torch.nn.Sequential(Smooth(), *decoder.output_upscaling, Scale())


def between_scores(model: OfficialSam, image: RGB, options: argparse.Namespace) -> dict[str, float]:
    """Returns thresholds that let the wanted shares of masks pass."""
    with torch.inference_mode():
        embedding, frame = model.embed([image])[0]
        points = point_grid(16) * np.array([frame.size[1], frame.size[0]])
        logits, iou = [], []
        for start in range(0, len(points), 64):
            part = model.decode(embedding, frame, points[start : start + 64], 0.0)
            logits.append(part[0][::8])
            iou.append(part[1])
        scale = model.model.mask_decoder.output_upscaling[-1]
        if isinstance(scale, Scale):
            factor = SPREAD / float(torch.cat(logits).std())
            logits = [part * factor for part in logits]
            scale.factor *= factor
        parts = torch.cat(logits).split(8)
        stability = torch.cat(
            [calculate_stability_score(model.upsample(p, frame), model.threshold, 1.0) for p in parts]
        )
        scores = torch.cat(iou).float()
    limit = float(scores.quantile(1 - options.survive))
    if limit <= 0:  # a threshold of 0 or less is none to the official generator
        with torch.no_grad():
            model.model.mask_decoder.iou_prediction_head.layers[-1].bias += 1 - limit
        limit = 1.0
    return {
        'pred_iou_thresh': limit,
        'stability_score_thresh': float(stability.nan_to_num(0).quantile(1 - options.stable)),
    }


def split_time(
    run: Callable[[], Any], encoder: Any, decoder: Any, method: str, device: str
) -> tuple[Any, float, float, float]:
    """Returns the result, and seconds in all, in the encoder, and in the decoder."""
    spent = {'encoder': 0.0, 'decoder': 0.0}
    with (
        timed_method(encoder, 'forward', spent, 'encoder', device),
        timed_method(decoder, method, spent, 'decoder', device),
    ):
        start = time.perf_counter()
        result = run()
        synchronize(device)
        return result, time.perf_counter() - start, spent['encoder'], spent['decoder']


@contextlib.contextmanager
def timed_method(owner: Any, name: str, spent: dict[str, float], key: str, device: str) -> Iterator[None]:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        synchronize(device)
        start = time.perf_counter()
        result = original(*args, **kwargs)
        synchronize(device)
        spent[key] += time.perf_counter() - start
        return result

    setattr(owner, name, wrapped)
    try:
        yield
    finally:
        delattr(owner, name)


def synchronize(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize()


def peak_bytes(run: Callable[[], Any], device: str) -> tuple[int, Any]:
    """Returns how much memory a run takes at most, above what was taken before, and its result."""
    if device.startswith('cuda'):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = run()
        return torch.cuda.max_memory_allocated() - before, result
    before, peak, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = run()
    finally:
        done.set()
        watcher.join()
    return peak - before, result


def resident() -> int:
    """Returns the bytes of memory that the process holds now (Linux)."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096


if __name__ == '__main__':
    main()
