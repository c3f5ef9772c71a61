"""`~` in paths: the one place that knows what it means."""

from __future__ import annotations

import os
import re
from typing import Any

from sptsr.core.errors import UserError

_IN_A_HOME = re.compile(r'~[^/]*/|~$')


def expanded(value: Any) -> Any:
    """Returns a value with `~/...` and `~USER/...` replaced by paths, in every text that it holds.

    Args:
        value: text, or lists and dicts of it as YAML and JSON give them; other things stay as they are. The keys of
            dicts are no paths.

    Raises:
        UserError: there is no such user (and no file of that very name).
    """
    if isinstance(value, dict):
        return {key: expanded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(expanded, value))
    if not isinstance(value, str) or not _IN_A_HOME.match(value):
        return value
    try:
        found = os.path.expanduser(value)
        if found == value and not os.path.lexists(value):
            raise ValueError
    except ValueError as error:  # a user's name with a NUL or a surrogate, too
        user = value[1:].partition('/')[0]
        what = f"there is no user '{user}'" if user else 'no home folder is known'
        raise UserError(f'{value}: {what} here; write the path out') from error
    return found


def path_of(given: object, what: str) -> str:
    """Returns an argument that is the path of a file, `~` replaced.

    Args:
        given: `str` or `os.PathLike`.
        what: begins the message: whose argument it is.

    Raises:
        UserError: something else, or text that no file can be called.
    """
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    try:
        if isinstance(path, str) and b'\0' not in os.fsencode(path):
            return expanded(path)
    except UnicodeEncodeError:  # half of a pair of surrogates
        pass
    raise UserError(f'{what}: {given!r} is no path of a file')
