"""Files that are either whole or not there, and digests."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sptsr.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


_KINDS = {stat.S_IFIFO: 'a FIFO', stat.S_IFSOCK: 'a socket', stat.S_IFCHR: 'a device', stat.S_IFBLK: 'a device'}


def write_atomic(path: str | os.PathLike[str], write: Callable[[str], None]) -> None:
    """Writes a file so that its final name never holds a torn version of it.

    The content goes to a temporary file beside it, which is fsynced and renamed;
    then the folder is fsynced. A temporary file left by a kill starts with ``.tmp-``.

    Args:
        path: final name; its folder is created.
        write: is called with the temporary name and writes the content there.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(prefix='.tmp-', suffix=path.suffix, dir=path.parent)
        os.close(fd)
        write(temporary)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp and safetensors make it private
        with open(temporary, 'rb') as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        temporary = None
        _fsync_folder(path.parent)
    except OSError as error:
        if path.is_dir():
            raise UserError(f'{path}: is a folder, not a file; give another path') from error
        reason = error.strerror or error
        raise UserError(f'{path}: cannot write it ({reason}); free space or choose another folder') from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes bytes atomically."""

    def write(temporary: str) -> None:
        with open(temporary, 'wb') as handle:
            handle.write(content)

    write_atomic(path, write)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes JSON atomically, indented, with a final newline; NaN and Infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + '\n')


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Makes the folder of results; raises UserError where nothing can be written to it."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f'{folder}: cannot write to it ({error.strerror}); choose another folder with -o') from error


def must_be_regular(path: str | os.PathLike[str]) -> None:
    """Raises UserError for a FIFO, a socket or a device, which may never end; other things that cannot be read pass."""
    try:
        kind = _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    except (OSError, ValueError):
        return
    if kind is not None:
        raise UserError(f'{path}: is {kind}, not a file; remove it, or give another path')


def read_bounded(path: str | os.PathLike[str], largest: int, remedy: str = 'check the path') -> bytes:
    """Returns the bytes of a file that may come from anyone.

    Args:
        path: the file.
        largest: size in bytes that is read.
        remedy: what to do instead, for the message.

    Raises:
        UserError: it cannot be read, is a folder, pipe or device, or is too large.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f'{path}: not a regular file but a folder, pipe or device; {remedy}')
        if found.st_size > largest:
            raise UserError(f'{path}: {found.st_size} bytes, and at most {largest} are read; {remedy}')
        with open(path, 'rb') as handle:
            return handle.read(largest)
    except (OSError, ValueError) as error:  # ValueError: NUL or a surrogate in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        named = path if str(path).isprintable() else ascii(str(path))
        raise UserError(f'{named}: cannot read it ({reason}); {remedy}') from error


def read_json(path: str | os.PathLike[str], remedy: str, largest: int = 16 << 20) -> Any:
    """Reads a JSON file that may come from anyone.

    Args:
        path: the file.
        remedy: what to do instead, for the message.
        largest: size in bytes that is read; a parsed file can take twenty times as much memory.

    Raises:
        UserError: as of `read_bounded`, or not JSON (see `parse_json`).
    """
    content = read_bounded(path, largest, remedy)
    try:
        return parse_json(content)
    except ValueError as error:
        raise UserError(f'{path}: not readable as JSON ({error}); {remedy}') from error


def parse_json(content: str | bytes) -> Any:
    """Returns the value of a JSON text.

    Raises:
        ValueError: bad syntax, not UTF-8, nested too deeply, NaN or Infinity (1e999 as well), a number of thousands of
            digits, or a key that stands twice.
    """
    try:
        return json.loads(content, parse_float=_finite, parse_constant=_refuse, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError('nested too deeply') from error


def is_compressed(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file is an archive whose entries are larger than it, so that it may unpack to any size."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist()) > os.path.getsize(path)
    except (zipfile.BadZipFile, ValueError, OSError):
        return False  # who reads it says what is wrong with it


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Returns the hexadecimal sha256 of a file's bytes."""
    digest = hashlib.sha256()
    must_be_regular(path)
    try:
        with open(path, 'rb') as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(f'{path}: cannot read it ({reason}); check the path') from error
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Returns the hexadecimal sha256 of plain values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Returns the hexadecimal sha256 over named tensors: names, types, shapes and bytes, sorted by name."""
    import torch  # most of what writes files has nothing to do with tensors

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f'{name}:{value.dtype}:{tuple(value.shape)}:'.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def remove_temporaries(folder: str | os.PathLike[str]) -> None:
    """Removes what writers killed in `folder` left behind; call it with no writer alive."""
    for leftover in Path(folder).glob('.tmp-*'):
        leftover.unlink(missing_ok=True)


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _refuse(constant: str) -> Any:
    raise ValueError(f'{constant} is no JSON')


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError('a key stands twice')
    return found


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
