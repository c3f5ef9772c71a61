"""What one process works on, and no other."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from sptsr.core.errors import UserError

_PATIENCE = 5.0  # seconds: workers of a process that was killed hold its lock until they notice


def try_lock(path: Path) -> TextIO | None:
    """Returns a file that holds a lock until it is closed, here and in children; None when others hold it.

    The lock of a process that was killed is free.

    Args:
        path: of the lock; its folder is made.

    Raises:
        UserError: it cannot be made, or the disk cannot lock files.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, 'w')  # noqa: SIM115 (held as long as it is worked on)
    except OSError as error:
        raise UserError(f'{path}: cannot be made ({error.strerror}); choose another folder') from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        if isinstance(error, BlockingIOError):
            return None
        raise UserError(f'{path}: cannot be locked ({error.strerror}); choose a folder on a local disk') from error
    return lock


class FolderLock:
    """Keeps other processes out of a folder from `hold` on; as a context it is free at the end.

    The lock lies beside the folder, as the folder may be renamed, and is removed at the end.

    Args:
        folder: need not exist.
        work: what is done there, for messages: `trains`.
    """

    def __init__(self, folder: Path, work: str) -> None:
        self.folder = folder
        self.work = work
        self._path = folder.with_name(f'.{folder.name}.lock')
        self._lock: TextIO | None = None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            with suppress(OSError):
                self._path.unlink()  # while it is held: see `_is_there`
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # in workers that still live, too
            self._lock.close()

    def hold(self) -> None:
        """Takes the lock, once.

        Raises:
            UserError: another process holds it.
        """
        deadline = time.monotonic() + _PATIENCE
        while self._lock is None:
            try:
                lock = try_lock(self._path)
            except UserError:
                return  # the disk cannot lock files: that is no reason not to work on it
            if lock is not None and self._is_there(lock):
                self._lock = lock
                return
            if lock is not None:
                lock.close()
            if time.monotonic() > deadline:
                raise UserError(f'{self.folder}: another process {self.work} here; wait for it, or choose another name')
            time.sleep(0.05)

    def _is_there(self, lock: TextIO) -> bool:
        """Returns whether a lock is the one that others find, and not one that was removed before it was taken."""
        try:
            return os.path.samestat(os.fstat(lock.fileno()), os.stat(self._path))
        except FileNotFoundError:
            return False
