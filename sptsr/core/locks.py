"""What one process works on, and no other."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TextIO

from sptsr.core.errors import UserError


def try_lock(path: Path) -> TextIO | None:
    """Returns a file that holds a lock until it is closed, here and in children; None when others hold it.

    The lock of a process that was killed is free.

    Args:
        path: of the lock; its folder is made.

    Raises:
        UserError: the disk cannot lock files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = open(path, 'w')  # noqa: SIM115 (held as long as it is worked on)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        if isinstance(error, BlockingIOError):
            return None
        raise UserError(f'{path}: cannot be locked ({error.strerror}); choose a folder on a local disk') from error
    return lock
