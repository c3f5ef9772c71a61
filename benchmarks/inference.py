"""What units cost at inference: time and peak memory of SPTNet over its backbone, for each recipe.

    python benchmarks/inference.py [--unit ModulationUnit] [--size 64 96] [--rounds 15] [--only IMDN EDSR]

Both run in one process on the same image, alternated; a ratio is the median over the rounds. Memory is the peak of
what the forward pass allocates, its output included. Prints a table, and last one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import sptsr  # noqa: F401 (mends the import of basicsr)
from sptsr.archs.recipes import RECIPES
from sptsr.archs.spt_arch import SPTNet
from sptsr.codes import MaskCodes
from sptsr.registry import register_all
from sptsr.report.tables import text_table
from sptsr.sizing import round_up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--unit', default='ModulationUnit')
    parser.add_argument('--size', type=int, nargs=2, default=[64, 96], metavar=('H', 'W'), help='of the LQ image')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--only', nargs='+', default=list(RECIPES), metavar='NETWORK')
    parser.add_argument('--device', default='cpu')
    options = parser.parse_args()
    register_all()
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
            {'unit': options.unit, 'size': options.size, 'rounds': options.rounds, **setting, 'networks': records}
        )
    )


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Returns times, ratios and parameter counts of one network with the arguments of a usual one."""
    record = RECIPES[name].resolve(name, RECIPES[name].usual)
    height, width = (round_up(side, record.sizes.multiple) for side in options.size)
    net = SPTNet({'type': name, **RECIPES[name].usual}, unit={'type': options.unit}).to(options.device).eval()
    lq = torch.rand(1, record.in_channels, height, width, device=options.device)
    masks = MaskCodes.from_masks(rectangles(64, height, width)).to(options.device)

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


def rectangles(count: int, height: int, width: int) -> Tensor:
    """Returns random rectangles as masks [1, count, height, width]."""
    masks = torch.zeros(1, count, height, width, dtype=torch.bool)
    for n in range(count):
        top, left = int(torch.randint(height - 8, ())), int(torch.randint(width - 8, ()))
        masks[0, n, top : top + int(torch.randint(8, height, ())), left : left + int(torch.randint(8, width, ()))] = (
            True
        )
    return masks


def seconds(run: Callable[[], Tensor]) -> float:
    """Returns how long one run takes."""
    start = time.perf_counter()
    if run().is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(run: Callable[[], Tensor], device: str) -> int:
    """Returns the peak of what a run allocates."""
    if device.startswith('cuda'):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = run()
    del result
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]']  # type: ignore[union-attr]
    current = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


if __name__ == '__main__':
    main()
