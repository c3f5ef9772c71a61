"""What units cost at inference: time and peak memory of SPTNet over its backbone, for each recipe.

    python benchmarks/inference.py [--unit ModulationUnit] [--sites IMDB2 IMDB4 IMDB6] [--size 64 96] [--rounds 15]
        [--only IMDN EDSR]

Both run in one process on the same image, alternated; a ratio is the median over the rounds. Memory is the peak of
what the forward pass allocates, its output included. Freed memory is kept, as `sptsr restore` does it. Prints a table,
then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import torch
from measuring import rectangles
from torch import Tensor

import sptsr  # noqa: F401 (mends the import of basicsr)
from sptsr.archs.recipes import RECIPES
from sptsr.archs.sizes import round_up
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.allocator import keep_freed_memory
from sptsr.core.registry import register_all
from sptsr.evaluation.cost import peak_bytes, seconds
from sptsr.masks.batch import PriorBatch
from sptsr.report.tables import text_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--unit', default='ModulationUnit')
    parser.add_argument('--sites', nargs='+', help='of all networks that run; those of the recipe unless given')
    parser.add_argument('--size', type=int, nargs=2, default=[64, 96], metavar=('H', 'W'), help='of the LQ image')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--only', nargs='+', default=list(RECIPES), metavar='NETWORK')
    parser.add_argument('--device', default='cpu')
    options = parser.parse_args()
    register_all()
    keep_freed_memory()
    torch.manual_seed(0)
    records = {}
    for name in options.only:
        records[name] = measure(name, options)
        print(f'{name}: time {records[name]["time_ratio"]:.3f}', file=sys.stderr, flush=True)
    header = ['network', 'backbone ms', 'time ratio', 'memory ratio', 'trainable', 'total', 'share']
    rows = [
        [
            name,
            f'{1000 * r["backbone_seconds"]:.0f}',
            f'{r["time_ratio"]:.3f}',
            f'{r["memory_ratio"]:.3f}',
            f'{r["trainable"]:,}',
            f'{r["total"]:,}',
            f'{100 * r["trainable"] / (r["total"] - r["trainable"]):.2f} %',
        ]
        for name, r in records.items()
    ]
    print(text_table(header, rows))
    setting = {'device': options.device, 'threads': torch.get_num_threads(), 'torch': torch.__version__}
    print(
        json.dumps(
            {
                'unit': options.unit,
                'sites': options.sites or 'auto',
                'size': options.size,
                'rounds': options.rounds,
                **setting,
                'networks': records,
            }
        )
    )


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Returns times, ratios and parameter counts of one network, built with its recipe's usual arguments."""
    record = RECIPES[name].resolve(name, RECIPES[name].usual)
    height, width = (round_up(side, record.sizes.multiple) for side in options.size)
    backbone_options = {'type': name, **RECIPES[name].usual}
    net = SPTNet(backbone_options, sites=options.sites or 'auto', unit={'type': options.unit})
    net = net.to(options.device).eval()
    lq = torch.rand(1, record.in_channels, height, width, device=options.device)
    masks = PriorBatch.from_masks(rectangles(64, height, width)).to(options.device)

    def backbone() -> Tensor:
        return net.backbone(lq)

    def tuned() -> Tensor:
        return net(lq, masks)

    with torch.inference_mode():
        for _ in range(2):
            backbone(), tuned()
        pairs = [(seconds(backbone), seconds(tuned)) for _ in range(options.rounds)]
        peaks = [peak_bytes(run, options.device) for run in (backbone, tuned)]
    trainable = sum(p.numel() for p in net.adapter_parameters().values())
    return {
        'backbone_seconds': statistics.median(a for a, _ in pairs),
        'time_ratio': statistics.median(b / a for a, b in pairs),
        'memory_ratio': peaks[1] / peaks[0],
        'trainable': trainable,
        'total': sum(p.numel() for p in net.parameters()),
    }


if __name__ == '__main__':
    main()
