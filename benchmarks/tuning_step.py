"""What tuning costs: one step of SPTModel over one step of stock BasicSR's SRModel that fine-tunes the whole backbone.

    python benchmarks/tuning_step.py [--only IMDN EDSR] [--batch 4] [--size 48] [--rounds 11] [--precision fp32]

The same backbone, batch and loss (L1), Adam, no moving average; one process, the three alternated; a ratio is the
median over the rounds. Memory is the peak of what a step allocates. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import statistics
import sys
from typing import Any

import torch
from measuring import rectangles

import sptsr  # noqa: F401 (mends the import of basicsr)
from sptsr.core.registry import register_all
from sptsr.evaluation.cost import peak_bytes, seconds
from sptsr.masks.batch import PriorBatch
from sptsr.options.keys import LOGGER_DEFAULTS, TRAIN_DEFAULTS, VAL_DEFAULTS
from sptsr.report.tables import text_table

NETWORKS: dict[str, dict[str, Any]] = {
    'IMDN': {'type': 'IMDN', 'upscale': 4},
    'EDSR': {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 64, 'num_block': 16, 'upscale': 4},
    'RCAN-small': {
        'type': 'RCAN',
        'num_in_ch': 3,
        'num_out_ch': 3,
        'num_feat': 64,
        'num_group': 4,
        'num_block': 4,
        'upscale': 4,
    },
    'SwinIR-light': {
        'type': 'SwinIR',
        'upscale': 4,
        'img_size': 48,
        'window_size': 8,
        'embed_dim': 60,
        'mlp_ratio': 2,
        'depths': [6, 6, 6, 6],
        'num_heads': [6, 6, 6, 6],
        'upsampler': 'pixelshuffledirect',
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', default=list(NETWORKS), metavar='NETWORK')
    parser.add_argument('--unit', default='ModulationUnit')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--size', type=int, default=48, help='of the LQ crops')
    parser.add_argument('--rounds', type=int, default=11)
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--precision', default='fp32', choices=['fp32', 'bf16', 'fp16'], help='of ours')
    parser.add_argument('--channels-last', action='store_true', help='ours')
    parser.add_argument('--compile', action='store_true', help='ours')
    options = parser.parse_args()
    register_all()
    logging.disable(logging.INFO)
    records = {}
    for name in options.only:
        records[name] = measure(NETWORKS[name], options)
        print(f'{name}: {records[name]}', file=sys.stderr, flush=True)
    header = ['network', 'stock ms', 'stock MiB', 'inline time', 'inline memory', 'ladder time', 'ladder memory']
    rows = []
    for name, r in records.items():
        ratios = [f'{r[path][key]:.3f}' for path in ('inline', 'ladder') for key in ('time_ratio', 'memory_ratio')]
        rows.append([name, f'{1000 * r["stock_seconds"]:.0f}', f'{r["stock_bytes"] / 2**20:.0f}', *ratios])
    print(text_table(header, rows))
    setting = {'threads': torch.get_num_threads(), 'torch': torch.__version__, **vars(options)}
    print(json.dumps({**setting, 'networks': records}))


def measure(backbone: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Returns time and peak of memory of a stock step, and the ratios of our steps to it."""
    lq = torch.rand(options.batch, 3, options.size, options.size)
    gt = torch.rand(options.batch, 3, 4 * options.size, 4 * options.size)
    masks = torch.cat([rectangles(64, options.size, options.size) for _ in range(options.batch)])
    data = {'lq': lq, 'gt': gt, 'lq_path': ['crop'], 'prior': PriorBatch.from_masks(masks)}
    models = {'stock': build('SRModel', backbone, options)}
    for path in ('inline', 'ladder'):
        network = {'type': 'SPTNet', 'backbone': backbone, 'unit': {'type': options.unit, 'path': path}}
        models[path] = build('SPTModel', network, options)

    def step(name: str) -> None:
        models[name].feed_data(data)
        models[name].optimize_parameters(1)

    for name in models:
        step(name), step(name)
    times = {name: [] for name in models}
    for _ in range(options.rounds):
        for name, values in times.items():
            values.append(seconds(lambda name=name: step(name)))
    peaks = {name: peak_bytes(lambda name=name: step(name), options.device) for name in models}
    record: dict[str, Any] = {
        'stock_seconds': statistics.median(times['stock']),
        'stock_bytes': peaks['stock'],
    }
    for path in ('inline', 'ladder'):
        ratios = [own / stock for own, stock in zip(times[path], times['stock'], strict=True)]
        record[path] = {
            'time_ratio': statistics.median(ratios),
            'memory_ratio': peaks[path] / peaks['stock'],
        }
    return record


def build(kind: str, network: dict[str, Any], options: argparse.Namespace) -> Any:
    """Returns BasicSR's model or ours with the same options; to ours those are added that only it knows."""
    from basicsr.models import build_model

    torch.manual_seed(0)
    train = {
        'optim_g': {'type': 'Adam', 'lr': 1e-4},
        'scheduler': {'type': 'MultiStepLR', 'milestones': [10**6], 'gamma': 0.5},
        'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'},
        'total_iter': 10**6,
    }
    if kind == 'SPTModel':
        ours = {'precision': options.precision, 'channels_last': options.channels_last, 'compile': options.compile}
        train = {**TRAIN_DEFAULTS, **ours, **train}
    return build_model(
        copy.deepcopy(
            {
                'name': kind,
                'model_type': kind,
                'scale': 4,
                'num_gpu': 0 if options.device == 'cpu' else 1,
                'is_train': True,
                'dist': False,
                'rank': 0,
                'world_size': 1,
                'path': {},
                'datasets': {},
                'network_g': network,
                'train': train,
                'val': VAL_DEFAULTS,
                'logger': LOGGER_DEFAULTS,
            }
        )
    )


if __name__ == '__main__':
    main()
