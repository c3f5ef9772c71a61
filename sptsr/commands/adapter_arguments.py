"""What commands that take an adapter ask for: where its weights are, and what registers its parts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sptsr.core.errors import naming


def add_adapter_arguments(command: argparse.ArgumentParser) -> None:
    """Adds `--weights` and `--plugins`."""
    command.add_argument('--weights', metavar='FILE', help="the backbone's weights, where they moved")
    command.add_argument(
        '--plugins', nargs='+', default=[], metavar='FILE', help="files of your own that register the adapter's parts"
    )


def import_parts(plugins: Sequence[str]) -> None:
    """Imports what registers the parts of an adapter: sptsr's own, and the files of `--plugins`."""
    from sptsr.core.registry import import_plugins, register_all

    register_all()
    with naming('plugins'):
        import_plugins(plugins)
