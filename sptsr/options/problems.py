"""Parts of the check of option files: keys, values, names, and calls of what a name stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sptsr.core.catalogue import find
from sptsr.core.errors import UserError, one_of
from sptsr.core.signatures import argument_problems
from sptsr.core.values import misfit
from sptsr.core.yaml_io import KeyPath
from sptsr.options.calling import split_calling
from sptsr.options.keys import FOREIGN, Types

Problem = tuple[KeyPath, str]


class NotThere(str):
    """The message of a problem that is a file or folder which is not there."""

    __slots__ = ()


def wrong_keys(section: Mapping[str, Any], known: Mapping[str, Types], path: KeyPath) -> list[Problem]:
    """Lists the keys of a section that are unknown, and values that fit none of the types of their keys."""
    problems: list[Problem] = []
    for key, value in section.items():
        here = (*path, key)
        if key not in known:
            remedy = f'; {FOREIGN[key]}' if key in FOREIGN else one_of(key, known)
            problems.append((here, f"unknown key '{'.'.join(here)}'{remedy}"))
        else:
            problems += wrong_value(value, known[key], here)
    return problems


def wrong_values(section: Mapping[str, Any], known: Mapping[str, Types], path: KeyPath) -> list[Problem]:
    """Lists the values of a section that fit none of the types of their keys; unknown keys are passed over."""
    return wrong_keys({key: value for key, value in section.items() if key in known}, known, path)


def wrong_value(value: object, types: Types, path: KeyPath) -> list[Problem]:
    """Lists a value that fits none of the types of its key."""
    fault = misfit(value, types)
    return [] if fault is None else [(path, f'{".".join(path)} {fault}')]


def wrong_name(kind: str, name: object, path: KeyPath) -> list[Problem]:
    """Lists a name that nothing of this kind has (see `sptsr.core.catalogue.find`)."""
    try:
        find(kind, str(name))
    except UserError as error:
        return [(path, f'{".".join(path)}: {error}')]
    return []


def wrong_call(
    section: Any,
    kind: str,
    path: KeyPath,
    skip: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
    calling: bool = False,
) -> list[Problem]:
    """Lists the arguments in a `{type: NAME, ...}` section that do not fit what NAME stands for.

    Args:
        section: the section; anything else passes, for whoever checks its type.
        kind: what NAME names (see `sptsr.core.catalogue.find`).
        path: of the section.
        skip: parameters that the program gives.
        drop: keys of the section that are not arguments.
        calling: whether the section may say how to call a network (see `sptsr.options.calling`).
    """
    if not isinstance(section, Mapping):
        return []
    if 'type' not in section:
        return [(path, f"{'.'.join(path)} needs 'type'")]
    try:
        entry = find(kind, str(section['type']))
    except UserError as error:
        return [((*path, 'type'), f'{".".join(path)}: {error}')]
    known = {name: p for name, p in (entry.parameters() or {}).items() if name not in skip}
    try:
        arguments, _ = split_calling(section, known) if calling else (dict(section), None)
    except UserError as error:
        return [(path, f'{".".join(path)}.{error}')]
    arguments = {key: value for key, value in arguments.items() if key not in ('type', *drop)}
    found = argument_problems(known, arguments, str(section['type']))
    return [((*path, key) if key else path, f'{".".join(path)}: {message}') for key, message in found]
