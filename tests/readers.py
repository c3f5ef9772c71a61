"""Readers of files from strangers, run in a process that may die of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sptsr.archs.adapter import read_adapter
from sptsr.archs.weights import read_weights
from sptsr.core.errors import UserError
from sptsr.core.lmdb_env import close_reader
from sptsr.images.decode import decode_rgb
from sptsr.masks.prior import Prior
from sptsr.priors.sources.labels import LabelsSource
from sptsr.priors.store import PriorStore
from sptsr.tuning.states import read_state
from tests.sandbox import Broken, Sandbox

MEMORY = 1 << 30  # bytes that reading one file may take
LABELS_OF = (96, 128)  # height and width of the image that labels belong to


def _in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], None]:
    def call(content: bytes, folder: Path) -> None:
        path = folder / name
        path.write_bytes(content)
        read(path)

    return call


def _store(path: Path) -> None:
    try:
        store = PriorStore(path.parent)
        for key in store.keys():  # noqa: SIM118 (not a dict)
            try:
                store.get(key).decode()
            except UserError:  # of one entry; the next is read all the same
                continue
    finally:
        close_reader(path.parent)


def _labels(path: Path) -> None:
    LabelsSource(str(path.parent))(np.zeros((*LABELS_OF, 3), np.uint8), path.stem, 64)


def _image(content: bytes, _folder: Path) -> None:
    decode_rgb(content, 'image', to_rgb=True)


READERS: dict[str, Callable[[bytes, Path], object]] = {
    'prior': lambda content, _folder: Prior.from_bytes(content).decode(),
    'adapter': _in_file('adapter.safetensors', read_adapter),
    'state': _in_file('1.state', read_state),
    'weights': _in_file('weights.pth', read_weights),
    'store': _in_file('data.mdb', _store),
    **{f'labels {kind}': _in_file(f'image.{kind}', _labels) for kind in ('json', 'npy', 'png', 'mat')},
    **{f'image {kind}': _image for kind in ('png', 'jpg', 'webp', 'tif', 'bmp')},
}


def _read(asked: tuple[str, bytes, Path]) -> str:
    """Returns 'read', 'refused' (a UserError of one line), or what it says in more lines than one."""
    reader, content, folder = asked
    try:
        READERS[reader](content, folder)
    except UserError as error:
        return 'refused' if '\n' not in str(error) else f'more than a line: {error}'
    return 'read'


class Victim:
    """A process that reads files with one of `READERS`, within `MEMORY`; it is started again where it dies.

    Use it as a context manager.

    Attributes:
        tried: number of files.
    """

    def __init__(self, reader: str, folder: Path) -> None:
        self.reader, self.folder = reader, folder
        self.sandbox = Sandbox(_read, MEMORY)
        self.tried = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Victim:
        self.sandbox.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.sandbox.__exit__()

    def answer(self, content: bytes) -> str:
        """Returns 'read', 'refused' (a UserError of one line), or what went wrong."""
        self.tried += 1
        found = self.sandbox((self.reader, content, self.folder))
        return found.how if isinstance(found, Broken) else found
