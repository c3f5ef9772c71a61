"""`sptsr table`: a study file to a table."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sptsr.core.devices import gpu_count
from sptsr.core.errors import UserError

if TYPE_CHECKING:
    from sptsr.study.runs import Run
    from sptsr.study.slurm import SlurmStart

_EXAMPLES = """\
examples:
  sptsr table options/studies/smoke.yml --jobs 2
  sptsr table options/studies/fair_controls.yml --gpus 0,1
"""


_BY_NAME = ('GPU-', 'MIG-')  # as `nvidia-smi -L` prints them


def add_table(commands: argparse._SubParsersAction) -> None:
    """Adds `table` to the command line."""
    command = commands.add_parser(
        'table',
        help='run what is missing of a study, and write its table',
        description='Trains and tests what is missing of a study file (rows x arms x seeds over two option files) and '
        'writes table.md, table.tex, table.csv, per_image.csv, runs.json and report.html. Run it again after a kill, '
        'and it goes on. '
        'docs/tables.md says what a study file may hold.',
        epilog=_EXAMPLES,
    )
    command.add_argument('study', metavar='STUDY.yml', help='study file; see options/studies/')
    command.add_argument(
        '-o',
        '--out',
        metavar='DIR',
        help='default: results/NAME, the name of the file, or of its folder if it is study.yml',
    )
    command.add_argument('--jobs', type=int, metavar='N', help='runs at a time; default: 1, all with --slurm')
    command.add_argument('--gpus', default='', metavar='0,1', help='one run at a time on each of these GPUs')
    command.add_argument('--nproc', type=int, default=1, metavar='N', help='processes of each training, by torchrun')
    command.add_argument(
        '--slurm',
        nargs='*',
        metavar='k=v',
        help='each step is a job, with these settings of submitit, such as slurm_partition=gpu gpus_per_node=1',
    )
    command.add_argument('--runs', default='results/runs', metavar='DIR', help='of all studies; default: %(default)s')
    command.add_argument(
        '--dry-run', action='store_true', help='list the runs, with an estimate of time from a few measured steps'
    )
    command.add_argument(
        '--check', type=float, metavar='TOL', help='exit 1 where a figure is farther from its published one'
    )
    command.add_argument('--figures', action='store_true', help='draw figures for papers as well (needs matplotlib)')
    command.add_argument('--report-only', action='store_true', help='make the table of what is there, and run nothing')
    command.set_defaults(run=_table)


def _table(options: argparse.Namespace) -> int:
    from sptsr.core.files import check_writable
    from sptsr.study.outputs import check_folder
    from sptsr.study.steps import LocalProcess, slots_of
    from sptsr.study.table import far_off, make_plan, run_plan, write_table

    if options.check is not None and not 0 <= options.check < math.inf:
        raise UserError(f'--check {options.check}: must be a number from 0 up')
    for flag, value in (('--jobs', options.jobs), ('--nproc', options.nproc)):
        if value is not None and not 1 <= value <= 1024:
            raise UserError(f'{flag} {value}: must be in 1..1024')
    if options.figures and find_spec('matplotlib') is None:
        raise UserError("--figures: matplotlib is not installed; pip install 'sptsr[figures]'")
    gpus = _gpus(options)
    slots = slots_of(options.jobs or (1 if options.slurm is None else 1024), gpus, options.nproc)
    plan = make_plan(options.study, options.runs, options.nproc)
    path = Path(options.study).resolve()
    out = Path(options.out or Path('results') / (path.parent.name if path.stem == 'study' else path.stem))
    check_folder(out, plan.study)
    if options.check is not None and not plan.study.published:
        raise UserError(f'--check: {options.study} has no published figures; add them, or leave it out')
    for line in plan.cases.left_out:
        print(line)
    if options.dry_run:
        _list(plan.runs, len(slots))
        return 0
    start = LocalProcess if options.slurm is None else _slurm(options)
    check_writable(out)
    failures = [] if options.report_only else run_plan(plan, slots, options.nproc, start)
    blocks = write_table(plan, out, failures, options.figures)
    print((out / 'table.md').read_text(encoding='utf-8'))
    wrong = [str(failure) for failure in failures]
    if options.check is not None:
        wrong += [f'--check {options.check:g}: {line}' for line in far_off(plan.study, blocks, options.check)]
    for line in wrong:
        print(f'sptsr: {line}', file=sys.stderr)
    return 1 if wrong else 0


def _gpus(options: argparse.Namespace) -> list[str]:
    """Returns the GPUs that runs go to; raises UserError for those that are not here, where runs would take the CPU."""
    gpus = [gpu.strip() for gpu in options.gpus.split(',') if gpu.strip()]
    if not gpus:
        return []
    if options.slurm is not None:
        raise UserError('--gpus is for GPUs of this machine; with --slurm say gpus_per_node=1')
    if options.jobs is not None:
        raise UserError('--jobs: with --gpus one run at a time goes to each GPU; leave one of both out')
    count = gpu_count()
    known = 'CUDA_VISIBLE_DEVICES' in os.environ  # then they have the numbers that it gives
    here = [(gpu.isdecimal() and (int(gpu) < count or known)) or gpu.startswith(_BY_NAME) for gpu in gpus]
    absent = [gpu for gpu, is_here in zip(gpus, here, strict=True) if count == 0 or not is_here]
    if absent:
        raise UserError(f'--gpus {options.gpus}: no GPU {absent[0]} here, of {count} that CUDA finds; see nvidia-smi')
    return gpus


def _list(runs: Sequence[Run], at_once: int) -> None:
    """Prints the runs, which of them are done, and how long the others may take."""
    from sptsr.study.estimate import estimate, shown_time

    seconds = estimate(runs)
    for run in runs:
        left = f'about {shown_time(seconds[run.id])}' if run.id in seconds else 'done'
        print(f'{run.id}  {left:<14}  {"; ".join(str(use) for use, _ in run.uses)}')
    if seconds:
        whole = max(max(seconds.values()), sum(seconds.values()) / at_once)
        told = f'{len(seconds)} of {len(runs)} runs are missing; about {shown_time(whole)}'
        print(f'{told}, {min(at_once, len(seconds))} at a time')
    stores = {need.id for run in runs if not run.done for need in run.needs if not need.done}
    if stores:
        print(f'prior stores that are made first, and are not in the estimate: {len(stores)}')


def _slurm(options: argparse.Namespace) -> SlurmStart:
    from sptsr.core.yaml_io import read_settings
    from sptsr.study.slurm import SlurmStart

    return SlurmStart(Path(options.runs) / 'slurm', read_settings(options.slurm, '--slurm'))
