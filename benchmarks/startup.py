"""What a command costs before it says what is wrong, beside the import of torch.

    python benchmarks/startup.py [--runs N]

Each command runs in a process of its own, in turn with the others. Times are of the CPU (user and system), so that
other work on the machine does not count. The last line is JSON: medians in seconds, and ratios to
`python -c "import torch"`. Goals: `import sptsr`, `--help`, a missing file and an unknown command below 0.5 s;
misspelt keys at most 1.5 times the import of torch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

_SPTSR = ['-m', 'sptsr']


def _options(folder: Path) -> dict[str, object]:
    """Returns options for training with two misspelt keys: one of the section `train`, one of a unit's arguments."""
    for name in ('GT', 'LQ', 'prior'):
        (folder / name).mkdir()
    return {
        'name': 'x',
        'model_type': 'SPTModel',
        'scale': 4,
        'datasets': {
            'train': {
                'name': 'set',
                'type': 'PriorPairedImageDataset',
                'dataroot_gt': str(folder / 'GT'),
                'dataroot_lq': str(folder / 'LQ'),
                'dataroot_prior': str(folder / 'prior'),
                'gt_size': 192,
                'batch_size_per_gpu': 8,
            }
        },
        'network_g': {
            'type': 'SPTNet',
            'backbone': {'type': 'SwinIR', 'upscale': 4, 'window_size': 8, 'embed_dim': 60},
            'unit': {'type': 'ModulationUnit', 'widht': 16},
        },
        'train': {
            'totl_iter': 1000,
            'total_iter': 1000,
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'scheduler': {'type': 'CosineAnnealingRestartLR', 'periods': [1000]},
            'pixel_opt': {'type': 'L1Loss'},
        },
        'val': {'val_freq': 100, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}},
    }


def _seconds(words: list[str], expected: int) -> tuple[float, str]:
    """Returns the CPU seconds of `python WORDS...`, and what it said on stderr."""
    with tempfile.TemporaryFile('w+') as stderr:
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stderr.seek(0)
        said = stderr.read()
    if process.returncode != expected:
        raise SystemExit(f'{words}: exit code {process.returncode} instead of {expected}\n{said}')
    return usage.ru_utime + usage.ru_stime, said


def main() -> None:
    """Prints a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--runs', type=int, default=5, help='of each command; default: %(default)s')
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        misspelt = folder / 'misspelt.yml'
        misspelt.write_text(yaml.safe_dump(_options(folder)))
        broken = folder / 'broken.yml'
        broken.write_text('name: [1, 2\n')
        commands = {
            'import torch': (['-c', 'import torch'], 0, ''),
            'import sptsr': (['-c', 'import sptsr'], 0, ''),
            'help': ([*_SPTSR, '--help'], 0, ''),
            'unknown command': ([*_SPTSR, 'trian'], 2, "did you mean 'train'"),
            'missing file': ([*_SPTSR, 'train', '-opt', str(folder / 'none.yml')], 2, 'cannot read it'),
            'broken YAML': ([*_SPTSR, 'train', '-opt', str(broken)], 2, 'correct the YAML'),
            'misspelt keys': ([*_SPTSR, 'train', '-opt', str(misspelt)], 2, '2 mistakes'),
        }
        times: dict[str, list[float]] = {what: [] for what in commands}
        for _ in range(runs):
            for what, (words, code, message) in commands.items():
                seconds, said = _seconds(words, code)
                if message not in said:
                    raise SystemExit(f'{what}: the answer was not about it:\n{said}')
                times[what].append(seconds)
    medians = {what: statistics.median(values) for what, values in times.items()}
    ratios = {what: seconds / medians['import torch'] for what, seconds in medians.items()}
    for what, seconds in medians.items():
        print(f'{what:<16} {seconds:6.3f} s  {ratios[what]:6.3f} x import torch')
    digits = {'seconds': medians, 'ratio': ratios}
    print(json.dumps({key: {what: round(v, 4) for what, v in table.items()} for key, table in digits.items()}))


if __name__ == '__main__':
    main()
