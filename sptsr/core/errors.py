"""The one exception that stands for a mistake of the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a file, key, option, size or weights.

    The message names what is wrong and what to do about it. The command line
    prints the message without a traceback and exits with code 2.
    """


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the closest candidate, or ``''``.

    Args:
        name: what the user wrote.
        candidates: the right names; compared without regard to case.
    """
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean '{by_lower[found[0]]}'?" if found else ''


def one_of(name: str, candidates: Iterable[str]) -> str:
    """Returns the tail of a message: the nearest right name, else all of them."""
    candidates = sorted(candidates)
    return nearest(name, candidates) or f'; known: {", ".join(candidates)}'


def unwrapped(error: UserError) -> UserError:
    """Returns the error as it was raised; one of a data loader's worker comes wrapped in its traceback."""
    message = str(error)
    marker = 'sptsr.core.errors.UserError: '
    if message.startswith('Caught UserError') and marker in message:
        return UserError(message.rsplit(marker, 1)[1].strip())
    return error
