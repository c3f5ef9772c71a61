"""Reads and writes prior stores: an LMDB with the priors of a folder of images.

Two named databases. `header` holds one JSON record: schema, source, its parameters, the
sha256 of its weights, versions, max masks. `entries` maps the image's key (see
`sptsr.images.image_key`) to sha256 of the image it was made from (32 bytes) and the prior.
"""

from __future__ import annotations

import fcntl
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import lmdb

from sptsr.core.errors import UserError
from sptsr.core.files import parse_json
from sptsr.core.lmdb_env import check_whole, close_reader, read_transaction
from sptsr.core.signatures import argument_problems, parameters
from sptsr.core.values import Range
from sptsr.images.chain import degradation_of
from sptsr.images.decode import RGB, image_digest
from sptsr.masks.prior import Prior

SCHEMA = 3  # 2: without `fine`; 1, of 0.1: without `degradation` and `saw_image` either
_BLIND = ('labels', 'random')  # sources of 0.1 that did not look at the image
_HEADER_KEY = b'header'
_DIGEST_BYTES = 32
_FIRST_MAP_BYTES = 1 << 26


@dataclass(frozen=True)
class StoreHeader:
    """What made a store.

    Attributes:
        source: registered name of the source.
        params: all parameters of the source, resolved.
        weights_sha256: of the source's checkpoint; None when it has none.
        max_masks: at most this many masks an image, 1..64.
        versions: of the packages that decide the masks.
        schema: version of this format.
        saw_image: whether the source looked at the image that an entry belongs to. Labels, random regions and
            the oracle did not, so their masks do not depend on its noise.
        degradation: how the images were degraded (see `Degradation.record`); None when that is not known.
        fine: the masks lie on a grid so many times as fine as the images', 1..4.
    """

    source: str
    params: dict[str, Any]
    weights_sha256: str | None
    max_masks: int
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA
    saw_image: bool = True
    degradation: dict[str, Any] | None = None
    fine: Annotated[int, Range(1, 4)] = 1

    def differences(self, other: StoreHeader) -> list[str]:
        """Lists what makes masks differ, as `name: ours != theirs`; versions are not compared."""
        mine, theirs = asdict(self), asdict(other)
        found = []
        for key in ('source', 'weights_sha256', 'max_masks', 'fine'):
            if mine[key] != theirs[key]:
                found.append(f'{key}: {mine[key]} != {theirs[key]}')
        for key in sorted(mine['params'].keys() | theirs['params'].keys()):
            left, right = (_decisive(key, header['params'].get(key)) for header in (mine, theirs))
            if left != right:
                found.append(f'{key}: {left} != {right}')
        # A store of 0.1, or of images that `prior degrade` did not make, may grow: the digests tell images apart.
        if None not in (self.degradation, other.degradation) and self.degradation != other.degradation:
            found.append(f'degradation: {self.degradation} != {other.degradation}')
        return found

    def must_agree(self, other: StoreHeader, path: object) -> None:
        """Raises UserError, naming the store at `path`, when its header (this one) is of another kind."""
        differences = other.differences(self)
        if differences:
            raise UserError(f'{path}: holds priors made otherwise ({"; ".join(differences)}); choose another store')


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
            raise UserError(f'{path}: no prior store here; make it with: sptsr prior extract -i IMAGES -o {path}')
        self.header = _header_of(lambda: read_transaction(self.path, b'header'), self.path)
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
                yield bytes(key).decode()

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

    def made_from(self, key: str, image: RGB) -> bool:
        """Returns True for the entry of this very image; raises UserError when it is another image's."""
        return _made_from(self.raw(key)[0], image, self.path, key)

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
            others = [entry.name for entry in self.path.iterdir() if entry.name not in ('lock.mdb', 'writer.lock')]
            if others:
                raise UserError(f'{path}: not a prior store, but holds {others[0]}; choose another folder')
        elif self.path.exists() and not self.path.is_dir():
            raise UserError(f'{path}: is a file; choose another name for the store')
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / 'writer.lock', 'w')  # noqa: SIM115 (held for the writer's life)
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
            raise UserError(f'{self.path}: not a readable LMDB ({error}); remove it and extract again') from error
        try:
            if size and self._env.stat()['entries']:
                found = _header_of(self._begin_header, str(self.path))
                found.must_agree(header, self.path)
                self.header = found
            else:
                # Header and the empty database of entries appear together or not at all.
                with self._env.begin(write=True) as transaction:
                    header_db = self._env.open_db(b'header', txn=transaction)
                    self._env.open_db(b'entries', txn=transaction)
                    transaction.put(_HEADER_KEY, json.dumps(asdict(header)).encode(), db=header_db)
                self.header = header
            self._entries = self._env.open_db(b'entries', create=False)
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

    def holds(self, key: str, image: RGB) -> bool:
        """Returns whether the prior of this very image is there; raises UserError when it is another image's."""
        with self._env.begin(db=self._entries) as transaction:
            value = transaction.get(key.encode())
        return value is not None and _made_from(value[:_DIGEST_BYTES], image, self.path, key)

    def entries(self) -> int:
        """Returns the number of entries."""
        with self._env.begin(db=self._entries) as transaction:
            return transaction.stat(self._entries)['entries']

    def put(self, key: str, image: RGB, prior: Prior) -> None:
        """Writes and commits one entry; the prior must be of the image's size."""
        if prior.size != image.shape[:2]:
            raise ValueError(f'{key}: prior of {prior.size} for an image of {image.shape[:2]}')
        if prior.fine != self.header.fine:
            raise ValueError(f'{key}: a prior {prior.fine} times as fine, in a store of {self.header.fine} times')
        self.put_raw(key, image_digest(image), prior.to_bytes())

    def put_raw(self, key: str, digest: bytes, content: bytes) -> None:
        """Writes and commits one entry from what `PriorStore.raw` returns."""
        name = key.encode()
        if len(name) > self._env.max_key_size():
            raise UserError(f"'{key}': a key of {len(name)} bytes, LMDB takes {self._env.max_key_size()}; shorten it")
        value = digest + content
        while True:
            try:
                with self._env.begin(write=True, db=self._entries) as transaction:
                    transaction.put(name, value)
                return
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()['map_size'])
            except lmdb.Error as error:
                raise UserError(f'{self.path}: cannot write ({error}); free space and run again') from error


def _decisive(key: str, value: Any) -> Any:
    """Returns what of a parameter decides the masks: not from which option file a network was read."""
    if key == 'through' and isinstance(value, dict):
        return {name: item for name, item in value.items() if name != 'options'}
    return value


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
    value = transaction.get(key.encode())
    if value is None and not key.isascii():  # 0.1 kept names as the disk had them: decomposed on macOS
        value = transaction.get(unicodedata.normalize('NFD', key).encode())
    return value


def _made_from(digest: bytes, image: RGB, path: object, key: str) -> bool:
    if digest != image_digest(image):
        raise UserError(f'{path}[{key}]: the image changed since its prior was stored; extract into a new store')
    return True


def _header_of(begin: Callable[[], Any], path: str) -> StoreHeader:
    """Returns the header that a transaction sees; raises UserError where there is none."""
    try:
        with begin() as transaction:
            record = parse_json(bytes(transaction.get(_HEADER_KEY) or b''))
    except (lmdb.Error, ValueError) as error:
        raise UserError(f'{path}: not a prior store (it has no header); check the path') from error
    schema = record.get('schema') if isinstance(record, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(f'{path}: a store of schema {schema}, newer than {SCHEMA}; update sptsr')
    if isinstance(record, dict) and schema == 1:
        params = record.get('params')
        oracle = isinstance(params, dict) and params.get('oracle')
        record['saw_image'] = record.get('source') not in _BLIND and not oracle
    if not isinstance(record, dict) or argument_problems(parameters(StoreHeader), record, 'a header'):
        raise UserError(f'{path}: its header is damaged; extract the priors again')
    return StoreHeader(**record)


def _size(shape: tuple[int, ...]) -> str:
    return f'{shape[0]}x{shape[1]} (height x width)'
