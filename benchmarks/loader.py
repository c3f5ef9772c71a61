"""Samples a second of PriorPairedImageDataset over stock PairedImageDataset, same images, disk and LMDB.

    python benchmarks/loader.py --gt datasets/B100/GTx4 --prior datasets/priors/B100_LRx4_labels \
        [--samples 400] [--rounds 11]

Random 192-pixel GT crops with flips and rotations, in this process; the two are alternated, a ratio is the median over
the rounds. The folder must have no subfolders, which stock datasets do not read. LR images (x4) and LMDBs are made in a
temporary folder.
Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from typing import Any

from torch.utils.data import default_collate

from sptsr.core.registry import register_all
from sptsr.data.loader import NamedErrors, SeededIndex, collate
from sptsr.images.folder import ImageFolder
from sptsr.images.prepare import prepare
from sptsr.report.tables import text_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--gt', required=True, help='GT images, sizes multiples of 4')
    parser.add_argument('--prior', required=True, help='store of the priors of their LR images')
    parser.add_argument('--samples', type=int, default=400)
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=11)
    options = parser.parse_args()
    register_all()
    logging.disable(logging.INFO)
    records: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for backend, suffix in (('disk', ''), ('lmdb', '.lmdb')):
            prepare(ImageFolder(options.gt), folder, 4, as_lmdb=backend == 'lmdb')
            records[backend] = measure(f'{folder}/GTx4{suffix}', f'{folder}/LRx4{suffix}', backend, options)
    header = ['images from', 'stock samples/s', 'ours samples/s', 'ratio']
    rows = [[k, f'{r["stock"]:.0f}', f'{r["ours"]:.0f}', f'{r["ratio"]:.3f}'] for k, r in records.items()]
    print(text_table(header, rows))
    print(json.dumps({**vars(options), **records}))


def measure(gt: str, lq: str, backend: str, options: argparse.Namespace) -> dict[str, float]:
    """Returns samples a second of both datasets, and the ratio of ours to stock."""
    from basicsr.data import build_dataset

    shared = {
        'name': 'crops',
        'phase': 'train',
        'scale': 4,
        'dataroot_gt': gt,
        'dataroot_lq': lq,
        'gt_size': 192,
        'use_hflip': True,
        'use_rot': True,
    }
    stock = build_dataset({**shared, 'type': 'PairedImageDataset', 'io_backend': {'type': backend}})
    ours = build_dataset({**shared, 'type': 'PriorPairedImageDataset', 'dataroot_prior': options.prior})
    loaders = {'stock': (stock, default_collate), 'ours': (NamedErrors(ours), collate)}
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(options.rounds + 1):
        for name, (dataset, join) in loaders.items():
            start = time.perf_counter()
            for first in range(0, options.samples, options.batch):
                seeds = [number * options.samples + first + n for n in range(options.batch)]
                join([dataset[SeededIndex(seed % len(dataset), seed)] for seed in seeds])
            if number:  # the first round warms up
                rates[name].append(options.samples / (time.perf_counter() - start))
    ratios = [a / b for a, b in zip(rates['ours'], rates['stock'], strict=True)]
    return {name: statistics.median(values) for name, values in rates.items()} | {'ratio': statistics.median(ratios)}


if __name__ == '__main__':
    main()
