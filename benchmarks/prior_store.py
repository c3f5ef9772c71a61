"""Size and speed of a stored prior: ours, COCO RLE (pycocotools), packed bits + zstd.

    python benchmarks/prior_store.py --segmentations datasets/BSDS500/segmentations [--full 100] [--rounds 5]

Human masks of BSDS500 at LR x4 (all images) and at full size (the first 100). Times are medians over images of the best
of some rounds, in one process, the formats alternated: encoding; from stored bytes to a dense [64, 48, 48] crop; and
from stored bytes to what our dataset returns (index map and palette of the crop). Prints a table, then one line of
JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import zstandard
from pycocotools import mask as coco_types

import sptsr  # noqa: F401 (mends the import of basicsr)
from sptsr.masks.prior import Prior
from sptsr.priors.extract import build_source
from sptsr.report.tables import text_table

CROP = 48
coco: Any = coco_types


def pack_ours(masks: np.ndarray) -> bytes:
    return Prior.encode(masks).to_bytes()


def crop_ours(content: bytes, top: int, left: int) -> np.ndarray:
    return Prior.from_bytes(content).crop(top, left, CROP, CROP).decode()


def codes_ours(content: bytes, top: int, left: int) -> Prior:
    return Prior.from_bytes(content).crop(top, left, CROP, CROP)


def pack_rle(masks: np.ndarray) -> bytes:
    rles = coco.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    rows = [{'size': rle['size'], 'counts': rle['counts'].decode()} for rle in rles]
    return json.dumps(rows, separators=(',', ':')).encode()


def crop_rle(content: bytes, top: int, left: int) -> np.ndarray:
    masks = coco.decode(json.loads(content))  # [H, W, N]
    return np.moveaxis(masks[top : top + CROP, left : left + CROP], 2, 0).astype(np.bool_)


def pack_bits(masks: np.ndarray) -> bytes:
    header = np.array(masks.shape, np.int32).tobytes()
    return zstandard.ZstdCompressor(level=19).compress(header + np.packbits(masks).tobytes())


def crop_bits(content: bytes, top: int, left: int) -> np.ndarray:
    raw = zstandard.ZstdDecompressor().decompress(content)
    shape = np.frombuffer(raw, np.int32, 3)
    masks = np.unpackbits(np.frombuffer(raw, np.uint8, offset=12), count=int(np.prod(shape))).reshape(shape)
    return masks[:, top : top + CROP, left : left + CROP].astype(np.bool_)


FORMATS: dict[str, tuple[Callable[..., bytes], Callable[..., Any]]] = {
    'ours': (pack_ours, crop_ours),
    'coco_rle': (pack_rle, crop_rle),
    'packed_zstd': (pack_bits, crop_bits),
}


def best(run: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(priors: list[np.ndarray], rounds: int) -> dict[str, dict[str, float]]:
    """Returns bytes, encode, crop and code seconds of each format, medians over images (bytes: mean)."""
    rows: dict[str, dict[str, list[float]]] = {name: {'bytes': [], 'encode': [], 'crop': []} for name in FORMATS}
    rows['ours']['codes'] = []
    rng = np.random.default_rng(0)
    for masks in priors:
        height, width = masks.shape[1:]
        top, left = int(rng.integers(height - CROP + 1)), int(rng.integers(width - CROP + 1))
        packed = {name: pack(masks) for name, (pack, _) in FORMATS.items()}
        reference = masks[:, top : top + CROP, left : left + CROP]
        for name, (pack, crop) in FORMATS.items():
            assert np.array_equal(crop(packed[name], top, left), reference), name
            rows[name]['bytes'].append(len(packed[name]))
            rows[name]['encode'].append(best(lambda pack=pack, masks=masks: pack(masks), rounds))
            content = packed[name]
            rows[name]['crop'].append(best(lambda c=crop, b=content, y=top, x=left: c(b, y, x), rounds))
        content = packed['ours']
        rows['ours']['codes'].append(best(lambda b=content, y=top, x=left: codes_ours(b, y, x), rounds))
    return {
        name: {key: statistics.mean(v) if key == 'bytes' else statistics.median(v) for key, v in row.items()}
        for name, row in rows.items()
    }


def load(folder: Path, limit: int, downscale: int) -> list[np.ndarray]:
    source = build_source('labels', [f'dir={folder}'])
    priors = []
    for path in sorted(folder.rglob('*.mat'))[: limit or None]:
        content = scipy.io.loadmat(str(path))
        height, width = content['groundTruth'][0][0]['Segmentation'][0, 0].shape
        size = (height // downscale, width // downscale)
        image = np.zeros((*size, 3), np.uint8)  # the source reads labels; of the image it needs the size only
        priors.append(source(image, path.relative_to(folder).with_suffix('').as_posix(), 64).decode())
    return priors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--segmentations', type=Path, required=True, metavar='DIR')
    parser.add_argument('--full', type=int, default=100, help='images at full size')
    parser.add_argument('--lr', type=int, default=0, help='images at LR; 0 for all')
    parser.add_argument('--rounds', type=int, default=5)
    options = parser.parse_args()
    result: dict[str, Any] = {}
    for title, limit, downscale in (('lr_x4', options.lr, 4), ('full', options.full, 1)):
        priors = load(options.segmentations, limit, downscale)
        figures = measure(priors, options.rounds)
        ours, rle, bits = (figures[name] for name in ('ours', 'coco_rle', 'packed_zstd'))
        result[title] = {
            'images': len(priors),
            **figures,
            'bytes_over_rle': ours['bytes'] / rle['bytes'],
            'bytes_over_packed': ours['bytes'] / bits['bytes'],
            'codes_time_over_rle_crop': ours['codes'] / rle['crop'],
            'crop_time_over_rle_crop': ours['crop'] / rle['crop'],
        }
        print(f'\n{title}, {len(priors)} images')
        header = ['format', 'bytes', 'encode ms', 'crop ms', 'codes ms']
        print(
            text_table(
                header,
                [
                    [
                        n,
                        f'{r["bytes"]:.0f}',
                        *(f'{1000 * r[k]:.3f}' if k in r else '-' for k in ('encode', 'crop', 'codes')),
                    ]
                    for n, r in figures.items()
                ],
            )
        )
    print(json.dumps(result))


if __name__ == '__main__':
    main()
