"""`sptsr train` and `sptsr test`."""

from __future__ import annotations

import argparse
import os
import sys

from sptsr.core.errors import UserError
from sptsr.options.keys import LAUNCHERS
from sptsr.options.load import read_checked


def add_train_and_test(commands: argparse._SubParsersAction) -> None:
    """Adds `train` and `test`."""
    for name, help_text, run in (
        ('train', 'tune an adapter as an option file says', _train),
        ('test', 'evaluate as an option file says', _test),
    ):
        command = commands.add_parser(name, help=help_text)
        command.add_argument('-opt', required=True, metavar='X.yml', help='option file; see options/')
        command.add_argument('--root', default='.', metavar='DIR', help='where outputs go; default: here')
        command.add_argument(
            '--force_yml', nargs='+', default=[], metavar='a:b=c', help='override options, e.g. train:total_iter=100'
        )
        command.add_argument(
            '--launcher',
            choices=LAUNCHERS,
            default='none',
            help='who started the processes that share the work (torchrun: pytorch; srun: slurm); default: none',
        )
        command.set_defaults(run=run)
        if name == 'train':
            command.add_argument('--auto_resume', action='store_true', help='go on also when the options changed')
            command.add_argument('--fresh', action='store_true', help='put an unfinished run aside and start anew')
        else:
            command.add_argument(
                '--report',
                action='store_true',
                help='write results/NAME/report.html: the images beside the frozen ones',
            )


def _train(options: argparse.Namespace) -> int:
    if options.launcher == 'none':  # else the other ranks are told of a mistake (see `started`)
        read_checked(options.opt, True, options.force_yml)  # mistakes are said before torch is imported
    from sptsr.tuning.training import train_pipeline

    live = sys.stderr.isatty()
    model = train_pipeline(
        options.opt, options.root, options.auto_resume, options.fresh, options.force_yml, live, options.launcher
    )
    return 128 + model.stopped_by if model.stopped_by else 0  # as of a shell, so that `sptsr train ... &&` ends, too


def _test(options: argparse.Namespace) -> int:
    if options.report and options.launcher != 'none':
        raise UserError('--report: needs all images in one process; leave out --launcher')
    if options.launcher == 'none':
        read_checked(options.opt, False, options.force_yml)
    from sptsr.report.tables import results_table
    from sptsr.tuning.testing import test_pipeline

    results = test_pipeline(
        options.opt, options.root, options.force_yml, launcher=options.launcher, report=options.report
    )
    if options.launcher == 'none' or int(os.environ['RANK']) == 0:  # else set, or the test would have ended
        print(results_table(results))
    return 0
