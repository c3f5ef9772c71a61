"""What `sptsr restore` costs over the backbone alone: seconds and peak memory, and where the time goes.

    python benchmarks/restore.py [--sizes 2040x1356 481x321] [--tile 256] [--network IMDN] [--rounds 3]
        [--masks stored felzenszwalb]

The same process restores an image (width x height) by `restore_all`, as the command does, with felzenszwalb's masks
made on the way and with masks from a store, and runs the bare backbone on the whole image at once, alternated; a ratio
is the median over the rounds. Peaks are those of what torch allocates. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import skimage.data
import torch

import sptsr
from sptsr.archs.recipes import RECIPES
from sptsr.evaluation.cost import peak_bytes, seconds
from sptsr.images.decode import RGB, decode_rgb, write_png
from sptsr.images.folder import ImageFolder
from sptsr.priors.extract import build_source, extract
from sptsr.priors.store import PriorStore
from sptsr.report.tables import text_table
from sptsr.restoring import folder_run
from sptsr.restoring.folder_run import How, find_images, restore_all
from sptsr.restoring.result_files import JOURNAL

# What the time of an image goes to, and the function of folder_run that takes it.
PARTS = {'network': 'restore_tensor', 'read': 'read_any', 'write': 'write_any'}
KINDS = ['felzenszwalb', 'stored']  # of masks: made on the way, or read
SPENT: dict[str, float] = {}  # seconds by part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', nargs='+', default=['2040x1356', '481x321'], metavar='WxH')
    parser.add_argument('--tile', type=int, default=256)
    parser.add_argument('--network', default='IMDN', choices=sorted(RECIPES))
    parser.add_argument('--unit', default='ModulationUnit')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--masks', nargs='+', default=KINDS, choices=KINDS)
    options = parser.parse_args()
    torch.manual_seed(0)
    net = sptsr.attach({'type': options.network, **RECIPES[options.network].usual}, unit=options.unit).eval()
    for part, name in PARTS.items():
        setattr(folder_run, name, timed(getattr(folder_run, name), part))
    records = {}
    for size in options.sizes:
        width, height = map(int, size.split('x'))
        with tempfile.TemporaryDirectory() as folder:
            records[size] = measure(net, photograph(height, width), Path(folder), options)
    header = [
        'image',
        'masks',
        'backbone s',
        'restore s',
        'ratio',
        'backbone MB',
        'restore MB',
        *PARTS,
        'masks',
        'rest',
    ]
    rows = [
        [
            size,
            source,
            f'{record["backbone_seconds"]:.2f}',
            f'{own["seconds"]:.2f}',
            f'{own["ratio"]:.3f}',
            f'{record["backbone_bytes"] / 1e6:.0f}',
            f'{own["bytes"] / 1e6:.0f}',
            *(f'{100 * share:.0f} %' for share in own['shares'].values()),
        ]
        for size, record in records.items()
        for source, own in record['masks'].items()
    ]
    print(text_table(header, rows, left=2))
    setting = {'threads': torch.get_num_threads(), 'torch': torch.__version__, 'rounds': options.rounds}
    print(
        json.dumps(
            {'network': options.network, 'unit': options.unit, 'tile': options.tile, **setting, 'images': records}
        )
    )


def photograph(height: int, width: int) -> RGB:
    """Returns one of scikit-image's photographs at this size."""
    path = Path(skimage.data.__file__).parent / 'coffee.png'
    return cv2.resize(decode_rgb(path.read_bytes(), path.name), (width, height), interpolation=cv2.INTER_CUBIC)


def measure(net: Any, image: RGB, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Returns times, peaks and shares for one image."""
    write_png(folder / 'in' / 'photo.png', image)
    source = build_source('felzenszwalb')
    extract(ImageFolder(folder / 'in'), folder / 'store', source)
    store = PriorStore(folder / 'store')
    known: dict[str, Callable[[Any, str], Any]] = {
        'felzenszwalb': lambda pixels, key: source(pixels, key, net.num_masks),
        'stored': lambda pixels, key: store.get(key, pixels),
    }
    masks = {kind: known[kind] for kind in options.masks}
    lq = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    images = find_images(folder / 'in', folder / 'out')

    def backbone() -> Any:
        with torch.inference_mode():
            return net.backbone(lq)

    def run(kind: str) -> None:
        (folder / 'out' / JOURNAL).unlink(missing_ok=True)
        (folder / 'out' / 'photo.png').unlink(missing_ok=True)
        outcome = restore_all(net, images, folder / 'out', How(options.tile), timed(masks[kind], 'masks'), {})
        assert outcome.made == 1, outcome.faults

    runs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in masks}
    shares: dict[str, dict[str, float]] = {}
    for number in range(options.rounds):
        for kind in masks:
            alone = seconds(backbone)
            SPENT.clear()
            whole = seconds(lambda kind=kind: run(kind))
            runs[kind].append((alone, whole))
            spent = {part: SPENT.get(part, 0.0) / whole for part in (*PARTS, 'masks')}
            shares[kind] = {**spent, 'rest': 1 - sum(spent.values())}
        print(f'{image.shape[1]}x{image.shape[0]}: round {number + 1} of {options.rounds}', file=sys.stderr, flush=True)
    return {
        'backbone_seconds': statistics.median(alone for pairs in runs.values() for alone, _ in pairs),
        'backbone_bytes': peak_bytes(backbone, 'cpu'),
        'masks': {
            kind: {
                'seconds': statistics.median(whole for _, whole in pairs),
                'ratio': statistics.median(whole / alone for alone, whole in pairs),
                'bytes': peak_bytes(lambda kind=kind: run(kind), 'cpu'),
                'shares': shares[kind],
            }
            for kind, pairs in runs.items()
        },
    }


def timed(function: Any, part: str) -> Any:
    """Returns a function that adds the time that it takes to `SPENT[part]`."""

    def run(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            SPENT[part] = SPENT.get(part, 0.0) + time.perf_counter() - start

    return run


if __name__ == '__main__':
    main()
