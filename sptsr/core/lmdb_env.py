"""LMDB environments for reading, opened once a process.

lmdb 3.0 refuses to open one path twice in a process, and an environment must not
cross a fork or a pickle. BasicSR opens one for each dataset (file_client.py:112),
so a set shared by train and val, or by a forked worker, dies. Here environments
are cached by path and closed in a forked child, which opens its own; nothing that holds one is ever pickled. Who begins
to read a path anew calls `refresh_reader`, in case another file took the place of the one that is open.
"""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path
from stat import S_ISREG
from typing import Any

import lmdb

from sptsr.core.errors import UserError
from sptsr.core.lmdb_check import DamagedError, check_lmdb

_environments: dict[str, tuple[lmdb.Environment, tuple[int, int]]] = {}  # by path, with device and number of its file
_turn = threading.RLock()


def open_reader(path: str | os.PathLike[str]) -> lmdb.Environment:
    """Returns this process's read-only environment of the LMDB folder `path`.

    Raises:
        UserError: the folder is missing or holds no LMDB, or one that is damaged.
    """
    real = os.path.realpath(path)
    with _turn:
        if real in _environments:
            return _environments[real][0]
        file = _identity(Path(real) / 'data.mdb')
        if file is None:
            raise UserError(f'{path}: no LMDB here (data.mdb is missing); check the path')
        check_whole(path)
        try:
            environment = lmdb.open(
                real, readonly=True, lock=False, readahead=False, meminit=False, max_readers=512, max_dbs=4
            )
        except lmdb.Error as error:
            raise UserError(f'{path}: not a readable LMDB ({error}); make it again') from error
        _environments[real] = environment, file
        return environment


def _identity(path: Path) -> tuple[int, int] | None:
    """Returns device and number of a file, which stay its own while it is open; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if S_ISREG(status.st_mode) else None


def read_transaction(path: str | os.PathLike[str], name: bytes | None = None) -> Any:
    """Returns a transaction of this process's reader of the LMDB folder `path`; a file that grew is followed.

    Args:
        path: the folder.
        name: of a named database in it; None for the main one.

    Raises:
        UserError: see `open_reader`.
        lmdb.Error: no database of this name.
    """
    environment = open_reader(path)
    while True:
        try:
            database = None if name is None else environment.open_db(name, create=False)
            return environment.begin(db=database)
        except lmdb.MapResizedError:  # another process wrote beyond what is mapped here
            environment.set_mapsize(0)


def check_whole(path: str | os.PathLike[str]) -> None:
    """Raises UserError when the LMDB folder `path` has a file that is cut off or changed."""
    try:
        check_lmdb(os.path.realpath(Path(path) / 'data.mdb'))
    except (DamagedError, struct.error) as error:
        raise UserError(f'{path}: not a readable LMDB (cut off or changed: {error}); copy or make it again') from error


def refresh_reader(path: str | os.PathLike[str]) -> None:
    """Closes this process's reader of `path` where another file has taken the place of the one that it reads."""
    with _turn:
        known = _environments.get(os.path.realpath(path))
        if known is not None and _identity(Path(path) / 'data.mdb') != known[1]:
            close_reader(path)


def close_reader(path: str | os.PathLike[str]) -> None:
    """Closes this process's reader of `path`, if any, so that a writer may open it."""
    with _turn:
        environment, _ = _environments.pop(os.path.realpath(path), (None, None))
        if environment is not None:
            environment.close()


def _close_inherited() -> None:
    """In a forked child: lmdb counts the parent's environments as open here until they are closed."""
    global _turn
    _turn = threading.RLock()  # another thread of the parent may have held it
    while _environments:
        _environments.popitem()[1][0].close()


os.register_at_fork(after_in_child=_close_inherited)
