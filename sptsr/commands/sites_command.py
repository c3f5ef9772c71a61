"""`sptsr sites`."""

from __future__ import annotations

import argparse

from sptsr.core.errors import UserError

_EXAMPLES = """\
examples:
  sptsr sites SwinIR window_size=8
  sptsr sites ./my_net.py:MyNet
  sptsr sites spandrel path=model.pth
  sptsr sites -opt my_run.yml
"""


def add_sites(commands: argparse._SubParsersAction) -> None:
    """Adds `sites`."""
    sites = commands.add_parser(
        'sites',
        help='candidate sites of a network, and a proposal to paste',
        description='Runs a network once and lists the modules whose output a unit could refine.',
        epilog=_EXAMPLES,
    )
    sites.add_argument('network', nargs='?', metavar='NETWORK', help='registered name, or path/to/file.py:NAME')
    sites.add_argument('arguments', nargs='*', metavar='k=v', help='arguments of the network')
    sites.add_argument('-opt', metavar='X.yml', help='take the network from an option file')
    sites.set_defaults(run=_sites)


def _sites(options: argparse.Namespace) -> int:
    from sptsr.commands.network_report import describe_network, describe_options

    if (options.network is None) == (options.opt is None):
        raise UserError('sites: give a network (a name, or file.py:NAME), or -opt X.yml')
    print(describe_options(options.opt) if options.opt else describe_network(options.network, options.arguments))
    return 0
