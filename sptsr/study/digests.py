"""Digests of what a run is made of: files, folders of images, prior stores. They are noted until something changes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from sptsr.core.errors import UserError
from sptsr.core.files import read_json, sha256_file, sha256_json, write_json
from sptsr.core.plugin_files import file_of, neighbours
from sptsr.images.folder import files_below
from sptsr.priors.store import PriorStore

_LARGEST = 64 << 20


class Digests:
    """Digests by path. What has kept its size and time of change is taken from a note.

    Args:
        notes: JSON file of the notes; one that cannot be read is begun anew.
    """

    def __init__(self, notes: Path) -> None:
        self.notes = notes
        self.known: dict[str, str] = {}
        self.found: dict[tuple[str, str], str] = {}  # of this process
        if notes.is_file():
            try:
                content = read_json(notes, 'remove it', _LARGEST)
            except UserError:
                content = {}
            if isinstance(content, dict) and all(isinstance(value, str) for value in content.values()):
                self.known = content

    def file(self, path: str) -> str:
        """Returns the sha256 of a file's bytes."""
        return self._noted('file', path, [path], sha256_file)

    def plugins(self, plugins: Iterable[str]) -> list[str]:
        """Returns plug-ins with the digests of those that are files, `:NAME` behind them; modules stay as they are."""
        found = []
        for plugin in plugins:
            file = file_of(plugin)
            if file is None or not os.path.isfile(file[0]):
                found.append(plugin)
            else:
                found.append(':'.join([self.code(file[0]), *([] if file[1] is None else [file[1]])]))
        return found

    def code(self, path: str) -> str:
        """Returns the digest of a file of code, and of what it imports from beside it, where there is anything."""
        if ('code', path) not in self.found:
            own = [self.file(path), *(self.file(str(file)) for file in neighbours(Path(path)))]
            self.found['code', path] = own[0] if len(own) == 1 else sha256_json(own)
        return self.found['code', path]

    def folder(self, path: str) -> str:
        """Returns a digest of the names and the bytes of all files below a folder.

        What is hidden and LMDB's locks are left out; links are followed, into no folder twice.
        """
        below = files_below(path, ('',)) if os.path.isdir(path) else ()
        files = sorted(os.path.join(path, name) for name in below if not os.path.basename(name).startswith('lock.mdb'))
        return self._noted('folder', path, files, lambda _: _digest_of_files(path, files))

    def store(self, path: str) -> str:
        """Returns a digest of what a prior store holds: what made its masks, and every entry."""
        return self._noted('store', path, [os.path.join(path, 'data.mdb')], digest_of_store)

    def _noted(self, kind: str, path: str, files: list[str], read: Callable[[str], str]) -> str:
        if (kind, path) in self.found:
            return self.found[kind, path]
        mark = hashlib.sha256(f'{kind} {os.path.abspath(path)}'.encode())
        try:
            for file in files:
                found = os.stat(file)
                mark.update(f'\n{file} {found.st_size} {found.st_mtime_ns}'.encode(errors='surrogateescape'))
        except OSError as error:
            raise UserError(f'{error.filename}: cannot read it ({error.strerror}); check the path') from error
        key = mark.hexdigest()
        if key not in self.known:
            self.known[key] = read(path)
            write_json(self.notes, self.known)
        self.found[kind, path] = self.known[key]
        return self.known[key]


def digest_of_store(path: str) -> str:
    """Returns a digest of a store's header, without versions, and of all its entries."""
    store = PriorStore(path)
    header = dict(vars(store.header))
    header.pop('versions')
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for key in store.keys():  # noqa: SIM118 (not a dict)
        image, content = store.raw(key)
        digest.update(b'\n' + key.encode() + b'\0' + image + hashlib.sha256(content).digest())
    return digest.hexdigest()


def _digest_of_files(folder: str, files: list[str]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(
            f'\n{os.path.relpath(file, folder)} '.encode(errors='surrogateescape') + bytes.fromhex(sha256_file(file))
        )
    return digest.hexdigest()
