"""Prints a complete option file, with the origin of each value: `sptsr options -opt X.yml`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from sptsr.core.yaml_io import KeyPath, Lines
from sptsr.options import keys
from sptsr.options.load import complete, read_checked

_DEFAULTS = {'train': keys.TRAIN_DEFAULTS, 'val': keys.VAL_DEFAULTS, 'logger': keys.LOGGER_DEFAULTS}


def resolved(path: str | os.PathLike[str], force: Sequence[str] = (), root: str | os.PathLike[str] = '.') -> str:
    """Returns the whole option file as YAML: `base` merged, `--force_yml` applied, defaults filled in.

    A comment behind each value says where it comes from: `FILE:LINE`, `--force_yml`, `default`, or
    `derived` (what follows from the rest, such as folders).

    Args:
        path: the option file; for training if it has a section `train`, else for a test.
        force: `--force_yml` entries.
        root: where outputs would go.

    Raises:
        UserError: one report of all mistakes.
    """
    given, lines, is_train = read_checked(path, None, force)
    rows: list[tuple[str, str]] = []
    _list(complete(given, is_train, root), given, lines, (), rows)
    width = min(72, max(len(text) for text, _ in rows))
    return '\n'.join(f'{text:<{width}}  # {origin}' if origin else text for text, origin in rows)


def _list(value: Mapping[str, Any], given: Any, lines: Lines, path: KeyPath, rows: list[tuple[str, str]]) -> None:
    for key, item in value.items():
        here = (*path, str(key))
        known = isinstance(given, Mapping) and key in given
        indent = '  ' * len(path)
        if isinstance(item, Mapping) and item:
            rows.append((f'{indent}{key}:', ''))
            _list(item, given[key] if known else None, lines, here, rows)
            continue
        text = yaml.safe_dump(item, default_flow_style=True, width=10**6, allow_unicode=True)
        origin = lines.get(here, '') if known else 'default' if _is_default(here) else 'derived'
        rows.append((f'{indent}{key}: {text.removesuffix(chr(10)).removesuffix("...").strip()}', origin))


def _is_default(path: KeyPath) -> bool:
    return path == ('manual_seed',) or (len(path) == 2 and path[1] in _DEFAULTS.get(path[0], {}))
