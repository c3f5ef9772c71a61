"""Which networks export, by recipe and unit: builds each, exports it, and compares it with PyTorch.

    python scripts/export_table.py [--only IMDN SwinIR] [--units ModulationUnit RegionUnit] [--full]

Each network is built as its recipe says, with trained-looking units, and written as ONNX and for `torch.export`. Deep
ones have fewer blocks, which are alike, unless `--full` is given. The figure is the largest difference from PyTorch's
output, of 0..1, at three sizes, two of them odd. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import sptsr
from sptsr.archs.recipes import RECIPES
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.errors import UserError
from sptsr.report.tables import markdown_table
from sptsr.restoring.export import SUFFIXES, export

FEWER: dict[str, dict[str, Any]] = {
    'EDSR': {'num_block': 4},
    'MSRResNet': {'num_block': 4},
    'RCAN': {'num_group': 2, 'num_block': 2},
    'RRDBNet': {'num_block': 5},
    'SwinIR': {'depths': [2, 2], 'num_heads': [6, 6]},
}


def network(name: str, unit: str, full: bool) -> SPTNet:
    """Returns a network of a recipe whose units change the image."""
    torch.manual_seed(0)
    fewer = {} if full else FEWER.get(name, {})
    net = sptsr.attach({'type': name, **RECIPES[name].usual, **fewer}, unit=unit).eval()
    for parameter_name, value in net.adapter_parameters().items():
        if parameter_name.split('.')[2:3] == ['out']:
            torch.nn.init.normal_(value, std=0.02)
    return net


def attempt(net: SPTNet, suffix: str, folder: Path) -> tuple[str, str]:
    """Returns what came of an export, and the size of its file."""
    path = folder / f'model{suffix}'
    try:
        made = export(net, path)
    except UserError as error:
        return str(error), ''
    return f'{max(made.differences.values()):.1e}', f'{path.stat().st_size / 1e6:.1f}'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', default=list(RECIPES), choices=RECIPES, metavar='NETWORK')
    parser.add_argument('--units', nargs='+', default=['ModulationUnit'], metavar='UNIT')
    parser.add_argument('--full', action='store_true', help='with all blocks')
    options = parser.parse_args()
    rows = []
    for name in options.only:
        for unit in options.units:
            net = network(name, unit, options.full)
            with tempfile.TemporaryDirectory() as folder:
                (onnx, size), (program, _) = (attempt(net, suffix, Path(folder)) for suffix in SUFFIXES)
            rows.append([name, unit, onnx, program, size])
            print(' '.join(rows[-1]), file=sys.stderr, flush=True)
    print(markdown_table(['network', 'unit', 'ONNX', 'torch.export', 'MB'], rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
