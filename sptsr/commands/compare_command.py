"""`sptsr compare`: the paired comparison of two arms from their `metrics.json`."""

from __future__ import annotations

import argparse
import os

from sptsr.core.errors import UserError

_EXAMPLES = """\
examples:
  sptsr compare A.json B.json
  sptsr compare A0.json A1.json --with B0.json B1.json
"""


def add_compare(commands: argparse._SubParsersAction) -> None:
    """Adds `compare` to the command line."""
    command = commands.add_parser(
        'compare',
        help='what one arm gains over another, paired by image and training seed',
        description='Compares two arms by their metrics.json files. The difference is B - A; docs/statistics.md says '
        'what is computed.',
        epilog=_EXAMPLES,
    )
    command.add_argument('metrics', nargs='+', metavar='METRICS.json', help='A and B, or with --with all runs of A')
    command.add_argument('--with', dest='other', nargs='+', metavar='METRICS.json', help='all runs (seeds) of B')
    command.add_argument('--common', action='store_true', help='leave out the images that a file lacks')
    command.add_argument('--json', metavar='FILE', help='write all figures there')
    command.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    from sptsr.core.files import write_json
    from sptsr.evaluation.comparison import compare_runs, read_run
    from sptsr.report.arm_comparison import comparison_json, comparison_text

    first, second = options.metrics, options.other
    if second is None:
        if len(first) != 2:
            raise UserError('compare: give A.json and B.json, or the runs of A, --with, and the runs of B')
        first, second = first[:1], first[1:]
    if options.json and os.path.realpath(options.json) in map(os.path.realpath, [*first, *second]):
        raise UserError(f'compare: --json {options.json}: would overwrite what is compared; choose another name')
    found = compare_runs([read_run(path) for path in first], [read_run(path) for path in second], options.common)
    if options.json:
        write_json(options.json, comparison_json(found))
    print(comparison_text(found))
    return 0
