"""The one exception that stands for a mistake of the user."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_REASON = 300  # characters
_LINE = 1000


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


def is_disk_full(error: BaseException | None) -> bool:
    """Returns whether an error says that nothing more can be written."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Returns whether an error says that there is too little memory, on a GPU or off it."""
    names = (type(error).__name__, str(error))
    return isinstance(error, MemoryError) or names[0] == 'OutOfMemoryError' or 'DefaultCPUAllocator' in names[1]


@contextmanager
def refusing(what: str, remedy: str) -> Iterator[None]:
    """Turns whatever code that is not ours raises into a UserError; `--debug` shows the traceback.

    torch, BasicSR, scikit-image and transformers check few of their arguments, and each in its own way.

    Args:
        what: begins the message: what is refused, such as `train.optim_g: Adam refuses its arguments`.
        remedy: ends it: what to do.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{what} ({reason_of(error)}); {remedy}') from error


@contextmanager
def naming(where: object) -> Iterator[None]:
    """Puts the file that holds what is refused in front of a UserError's message."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{where}: {error}') from error


def reason_of(error: BaseException) -> str:
    """Returns what an error says, on one line of at most 300 characters; its kind where that alone says little."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), '')
    if not text or isinstance(error, KeyError | AttributeError | ImportError):
        text = f'{type(error).__name__}: {text}' if text else type(error).__name__
    return text if len(text) <= _REASON else f'{text[:_REASON]}...'


def shortened(message: str) -> str:
    """Returns a message with the middle of each line of more than 1,000 characters left out, as a terminal needs it."""
    half = _LINE // 2
    lines = [line if len(line) <= _LINE else f'{line[:half]} ... {line[-half:]}' for line in message.split('\n')]
    return '\n'.join(lines)
