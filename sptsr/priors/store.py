"""Reads and writes prior stores: an LMDB with the priors of a folder of images.

Named databases. `header` holds one JSON record (see `StoreHeader`). `entries` maps the image's key (see
`sptsr.images.image_key`) to sha256 of the image it was made from (32 bytes) and the prior. A third, `made_of`, maps it
to the digest of what decides its masks beside that image (see `Source.digest`), where there is anything.
"""

from __future__ import annotations

import fcntl
import os
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb

from sptsr.core.errors import UserError
from sptsr.core.lmdb_env import check_whole, close_reader, read_transaction, refresh_reader
from sptsr.images.chain import degradation_of
from sptsr.images.decode import RGB, image_digest
from sptsr.masks.prior import Prior
from sptsr.priors.store_header import StoreHeader, read_header, write_header

_DIGEST_BYTES = 32
_FIRST_MAP_BYTES = 1 << 26
WRITER_LOCK = 'writer.lock'


class PriorStore:
    """Reads a prior store. Safe to pickle, fork and open several times in a process.

    Args:
        path: folder of the LMDB.

    Attributes:
        header: what made the store.
        degradation: how the images that the masks were made from were degraded; None when that is not known.

    Raises:
        UserError: no store here, or of a newer schema.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = str(path)
        if not (Path(path) / 'data.mdb').is_file():
            to = 'STORE' if Path(path).is_dir() and any(Path(path).iterdir()) else path  # one of its own
            raise UserError(f'{path}: no prior store here; make one: sptsr prior extract -i DIR --source NAME -o {to}')
        refresh_reader(path)
        self.header = read_header(lambda: read_transaction(self.path, b'header'), self.path)
        record = self.header.degradation
        self.degradation = None if record is None else degradation_of(record, self.path)

    def __len__(self) -> int:
        with self._begin() as transaction:
            return transaction.stat()['entries']

    def __contains__(self, key: str) -> bool:
        with self._begin() as transaction:
            return _value(transaction, key) is not None

    def keys(self) -> Iterator[str]:
        """Yields the keys in byte order."""
        with self._begin() as transaction:
            for key in transaction.cursor().iternext(values=False):
                try:
                    yield bytes(key).decode()
                except UnicodeDecodeError as error:
                    raise UserError(f'{self.path}: damaged (a key is not UTF-8); extract the priors again') from error

    def get(self, key: str, image: RGB | None = None) -> Prior:
        """Returns the prior of an image.

        Args:
            key: see `sptsr.images.image_key`.
            image: the uint8 RGB [H, W, 3] that it belongs to; its size and digest are checked.

        Raises:
            UserError: missing, damaged, or made from another image; names store and key.
        """
        with self._begin() as transaction:
            value = _value(transaction, key)
        if value is None:
            raise UserError(f"{self.path}: no prior of '{key}'; run sptsr prior extract again, it adds what is missing")
        value = bytes(value)
        try:
            prior = Prior.from_bytes(value[_DIGEST_BYTES:])
        except UserError as error:
            raise UserError(f'{self.path}[{key}]: {error}') from error
        if image is not None:
            if prior.size != image.shape[:2]:
                raise UserError(
                    f'{self.path}[{key}]: the prior is {_size(prior.size)} but the image {_size(image.shape[:2])}; '
                    'extract priors from these images into a new store'
                )
            if value[:_DIGEST_BYTES] != image_digest(image):
                raise UserError(
                    f'{self.path}[{key}]: the prior was made from another image of this name; '
                    'extract priors from these images into a new store'
                )
        return prior

    def stored_bytes(self, key: str) -> int:
        """Returns the bytes of an entry."""
        return sum(map(len, self.raw(key)))

    def raw(self, key: str) -> tuple[bytes, bytes]:
        """Returns the digest of an entry's image, and its prior as `Prior.to_bytes` made it; both empty if missing."""
        with self._begin() as transaction:
            value = bytes(_value(transaction, key) or b'')
        return value[:_DIGEST_BYTES], value[_DIGEST_BYTES:]

    def made_of(self, key: str) -> str:
        """Returns what `Source.digest` gave for an entry when it was made; '' for nothing, or where it is not known."""
        try:
            with read_transaction(self.path, b'made_of') as transaction:
                return _text(_value(transaction, key))
        except lmdb.NotFoundError:
            return ''

    def made_from(self, key: str, image: RGB, made_of: str = '') -> bool:
        """Returns True for the entry of this very image; raises UserError when it was made from something else.

        Args:
            key: of an entry.
            image: uint8 RGB [H, W, 3].
            made_of: what `Source.digest` gives for it.
        """
        _must_be_of(self.raw(key)[0], self.made_of(key), image, made_of, f'{self.path}[{key}]')
        return True

    def _begin(self) -> Any:
        return read_transaction(self.path, b'entries')


class PriorWriter:
    """Writes a prior store, one committed entry at a time; use it as a context manager.

    Existing entries are kept. A kill loses at most the entry being written. A store has one writer at a time.

    Args:
        path: folder of the LMDB; made when missing.
        header: what makes the entries; must agree with the header of a store that is there.

    Raises:
        UserError: another writer, another source or parameters, or a folder with other things in it.
    """

    def __init__(self, path: str | os.PathLike[str], header: StoreHeader) -> None:
        self.path = Path(path)
        if self.path.is_dir() and not (self.path / 'data.mdb').exists():
            others = [entry.name for entry in self.path.iterdir() if entry.name not in ('lock.mdb', WRITER_LOCK)]
            if others:
                raise UserError(f'{path}: not a prior store, but holds {others[0]}; choose another folder')
        elif self.path.exists() and not self.path.is_dir():
            raise UserError(f'{path}: is a file; choose another name for the store')
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / WRITER_LOCK, 'w')  # noqa: SIM115 (held for the writer's life)
        except OSError as error:
            raise UserError(f'{path}: cannot write here ({error.strerror}); choose another folder') from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise UserError(f'{path}: another process is writing it; wait for it, or choose another store') from error
        except OSError as error:  # ENOLCK, ENOTSUP: some network disks
            self._lock.close()
            raise UserError(
                f'{path}: this disk cannot lock files ({error.strerror}, errno {error.errno}), so two writers could '
                'spoil the store; extract to a local disk and copy the folder here'
            ) from error
        try:
            self._open(header)
        except BaseException:
            self._lock.close()
            raise

    def _open(self, header: StoreHeader) -> None:
        close_reader(self.path)
        size = (self.path / 'data.mdb').stat().st_size if (self.path / 'data.mdb').exists() else 0
        if size:
            check_whole(self.path)
        try:
            self._env = lmdb.open(
                str(self.path), map_size=max(_FIRST_MAP_BYTES, 2 * size), max_dbs=4, metasync=False, meminit=False
            )
        except lmdb.Error as error:
            if not size:
                raise self._cannot_write(error) from error
            raise UserError(f'{self.path}: not a readable LMDB ({error}); remove it and extract again') from error
        try:
            if size and self._env.stat()['entries']:
                found = read_header(self._begin_header, str(self.path))
                found.must_agree(header, self.path)
                self.header = found
            else:
                # Header and the empty database of entries appear together or not at all.
                with self._env.begin(write=True) as transaction:
                    header_db = self._env.open_db(b'header', txn=transaction)
                    self._env.open_db(b'entries', txn=transaction)
                    write_header(transaction, header_db, header)
                self.header = header
            self._entries = self._env.open_db(b'entries', create=False)
            self._made_of = self._env.open_db(b'made_of')
            self._turn = threading.Lock()
        except lmdb.Error as error:
            self._env.close()
            raise self._cannot_write(error) from error
        except BaseException:
            self._env.close()
            raise

    def _begin_header(self) -> Any:
        return self._env.begin(db=self._env.open_db(b'header', create=False))

    def __enter__(self) -> PriorWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the store; it can then be read in this process."""
        self._env.sync(True)
        self._env.close()
        self._lock.close()

    def holds(self, key: str, image: RGB, made_of: str = '') -> bool:
        """Returns whether an entry is there; raises UserError when it was made from something else (see `put`)."""
        with self._turn, self._env.begin(db=self._entries) as transaction:
            value = transaction.get(key.encode())
            stored = _text(transaction.get(key.encode(), db=self._made_of))
        if value is None:
            return False
        _must_be_of(value[:_DIGEST_BYTES], stored, image, made_of, f'{self.path}[{key}]')
        return True

    def entries(self) -> int:
        """Returns the number of entries."""
        with self._turn, self._env.begin(db=self._entries) as transaction:
            return transaction.stat(self._entries)['entries']

    def put(self, key: str, image: RGB, prior: Prior, made_of: str = '') -> None:
        """Writes and commits one entry; raises UserError for a prior of another size than the image's.

        `made_of` is what `Source.digest` gives for its masks.
        """
        if prior.size != image.shape[:2]:
            height, width = prior.size
            raise UserError(
                f'{key}: source {self.header.source} gave masks of {height}x{width} for an image of {image.shape[0]}x'
                f'{image.shape[1]} (height x width); let it return them at the size of the image'
            )
        if prior.fine != self.header.fine:
            raise ValueError(f'{key}: a prior {prior.fine} times as fine, in a store of {self.header.fine} times')
        self.put_raw(key, image_digest(image), prior.to_bytes(), made_of)

    def put_raw(self, key: str, digest: bytes, content: bytes, made_of: str = '') -> None:
        """Writes and commits one entry from what `PriorStore.raw` and `PriorStore.made_of` return."""
        name = key.encode()
        if len(name) > self._env.max_key_size():
            raise UserError(f"'{key}': a key of {len(name)} bytes, LMDB takes {self._env.max_key_size()}; shorten it")
        value = digest + content
        while True:
            try:
                with self._turn, self._env.begin(write=True, db=self._entries) as transaction:
                    transaction.put(name, value)
                    if made_of:
                        transaction.put(name, made_of.encode(), db=self._made_of)
                return
            except lmdb.MapFullError:
                with self._turn:  # LMDB forbids it while another thread reads
                    self._env.set_mapsize(2 * self._env.info()['map_size'])
            except lmdb.Error as error:
                raise self._cannot_write(error) from error

    def _cannot_write(self, error: lmdb.Error) -> UserError:
        return UserError(f'{self.path}: cannot write ({error}); free space and run again')


def has_header(path: str | os.PathLike[str]) -> bool:
    """Returns whether a store with a header is there; its writer commits the header before any entry."""
    if not (Path(path) / 'data.mdb').is_file():
        return False
    try:
        read_transaction(path, b'header').abort()
    except (UserError, lmdb.Error):
        close_reader(path)
        return False
    return True


def _value(transaction: lmdb.Transaction, key: str) -> Any:
    try:
        value = transaction.get(key.encode())
    except UnicodeEncodeError:  # a file's name that is not UTF-8: no store has such a key
        return None
    if value is None and not key.isascii():  # 0.1 kept names as the disk had them: decomposed on macOS
        value = transaction.get(unicodedata.normalize('NFD', key).encode())
    return value


def _text(value: Any) -> str:
    return bytes(value or b'').decode(errors='replace')


def _must_be_of(digest: bytes, stored: str, image: RGB, made_of: str, what: str) -> None:
    """Raises UserError where an entry, called `what`, was made from another image, or of other labels or GT."""
    if digest != image_digest(image):
        raise UserError(f'{what}: the image changed since its prior was stored; extract into a new store')
    if stored and made_of and stored != made_of:
        raise UserError(f'{what}: its labels, or its GT, changed since its prior was stored; extract into a new store')


def _size(shape: tuple[int, ...]) -> str:
    return f'{shape[0]}x{shape[1]} (height x width)'
