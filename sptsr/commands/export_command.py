"""`sptsr export`: a tuned network as a file that needs no sptsr."""

from __future__ import annotations

import argparse
from typing import Any

from sptsr.commands.adapter_arguments import add_adapter_arguments, import_parts

_EXAMPLES = """\
examples:
  sptsr export adapter.safetensors -o model.onnx
  sptsr export adapter.safetensors -o model.pt2 --weights weights/IMDN_x4.pth
"""


def add_export(commands: Any) -> None:
    """Adds `export`."""
    command = commands.add_parser(
        'export',
        help='write a tuned network as ONNX, or as a program of torch.export',
        description='Writes backbone and adapter as one file that runs without sptsr, for images of any size, with the '
        'masks as an input. It is compared with PyTorch at three sizes before it gets its name.',
        epilog=_EXAMPLES,
    )
    command.add_argument('adapter', metavar='ADAPTER', help='the adapter; it says which network it is for')
    command.add_argument('-o', '--out', required=True, metavar='FILE', help='model.onnx, or model.pt2 for torch.export')
    add_adapter_arguments(command)
    command.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from pathlib import Path

    from sptsr.archs.attach import load
    from sptsr.core.files import sha256_file
    from sptsr.restoring.export import check_path, export

    out = Path(options.out).expanduser()
    check_path(out)
    adapter = Path(options.adapter).expanduser()
    import_parts(options.plugins)
    made = export(load(adapter, weights=options.weights), out, sha256_file(adapter))
    sizes = ', '.join(f'{height}x{width}' for height, width in made.differences)
    print(f'{out}: {out.stat().st_size / 1e6:.1f} MB, inputs {", ".join(made.record["inputs"])}')
    print(f'largest difference from PyTorch {max(made.differences.values()):.1e} of 0..1, at {sizes}')
    return 0
