"""`sptsr cost`."""

from __future__ import annotations

import argparse

from sptsr.core.errors import UserError

_EXAMPLES = """\
examples:
  sptsr cost -opt options/test/SPT_IMDN_x4.yml
  sptsr cost -opt options/train/SPT_IMDN_x4_BSDS400.yml --size 256 256 --rounds 21 --json
"""


def add_cost(commands: argparse._SubParsersAction) -> None:
    """Adds `cost`."""
    cost = commands.add_parser(
        'cost',
        help='what a tuned network costs beside its backbone',
        description='Prints parameters, multiply-adds, time and peak memory of the network of an option file, beside '
        'those of its backbone. Weights and images are not needed. With a training file, also the memory of a step.',
        epilog=_EXAMPLES,
    )
    cost.add_argument('-opt', required=True, metavar='X.yml', help='option file')
    cost.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=[128, 128],
        metavar=('H', 'W'),
        help='LQ image that is timed; default: 128 128',
    )
    cost.add_argument('--rounds', type=int, default=9, metavar='N', help='runs of each network; default: %(default)s')
    cost.add_argument('--json', action='store_true', help='print all figures as JSON')
    cost.set_defaults(run=_cost)


def _cost(options: argparse.Namespace) -> int:
    for name, value in (('--rounds', options.rounds), *(('--size', side) for side in options.size)):
        if not 1 <= value <= 8192:
            raise UserError(f'cost: {name} {value} is not in 1..8192')
    from sptsr.commands.cost_report import cost_report

    print(cost_report(options.opt, (options.size[0], options.size[1]), options.rounds, options.json))
    return 0
