"""Readers of files from strangers, run in a process that may die of them."""

from __future__ import annotations

import resource
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
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
from tests.tuning.processes import CONTEXT

MEMORY = 1 << 30  # bytes that reading one file may take
SECONDS = 120  # after which a reader counts as one that never ends, on however busy a machine
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


class Victim:
    """A process that reads files with one of `READERS`, within `MEMORY`; it is started again where it dies.

    Use it as a context manager.

    Attributes:
        tried: number of files.
    """

    def __init__(self, reader: str, folder: Path) -> None:
        self.reader, self.folder = reader, folder
        self.tried = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Victim:
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_serve, args=(theirs, self.reader, self.folder), daemon=True)
        self.process.start()
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def answer(self, content: bytes) -> str:
        """Returns 'read', 'refused' (a UserError of one line), or what went wrong."""
        self.tried += 1
        self.pipe.send_bytes(content)
        try:
            if self.pipe.poll(SECONDS):
                return self.pipe.recv()
            what = f'no answer after {SECONDS} s'
        except EOFError:
            self.process.join()
            what = f'the process ended with {self.process.exitcode}'
        self.__exit__()
        self.__enter__()
        return what


def _serve(pipe: Connection, reader: str, folder: Path) -> None:
    if sys.platform == 'linux':  # elsewhere addresses are not limited
        pages = int(Path('/proc/self/statm').read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        content = pipe.recv_bytes()
        try:
            READERS[reader](content, folder)
            pipe.send('read')
        except UserError as error:
            pipe.send('refused' if '\n' not in str(error) else f'more than a line: {error}')
        except BaseException:
            pipe.send(traceback.format_exc())
