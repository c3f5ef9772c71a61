"""`sptsr options`."""

from __future__ import annotations

import argparse
import json

from sptsr.core.errors import UserError


def add_options(commands: argparse._SubParsersAction) -> None:
    """Adds `options`."""
    shown = commands.add_parser(
        'options',
        help='print a complete option file, with the origin of each value',
        description='Checks an option file and prints it whole: base merged, defaults filled in.',
    )
    what = shown.add_mutually_exclusive_group(required=True)
    what.add_argument('-opt', metavar='X.yml', help='option file')
    what.add_argument('--schema', action='store_true', help='print the JSON schema of option files, for editors')
    shown.add_argument('--root', default='.', metavar='DIR', help='where outputs would go; default: here')
    shown.add_argument('--force_yml', nargs='+', default=[], metavar='a:b=c', help='override options')
    shown.set_defaults(run=_options)


def _options(options: argparse.Namespace) -> int:
    if options.schema:
        if options.force_yml:
            raise UserError('options: --schema has no values to override; leave one of it and --force_yml out')
        from sptsr.options.json_schema import json_schema

        print(json.dumps(json_schema(), indent=1))
    else:
        from sptsr.options.listing import resolved

        print(resolved(options.opt, options.force_yml, options.root))
    return 0
