"""Whether an LMDB's file is whole, looked at before it is mapped: LMDB trusts what it reads, so a file that is cut off
or changed ends the process by a signal.

The layout is that of LMDB 0.9 with data version 1 on a little-endian machine of 64 bits: MDB_meta, MDB_db, MDB_page
and MDB_node in its mdb.c.
"""

from __future__ import annotations

import mmap
import os
import struct

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_META = struct.Struct('<16xIIQQ')  # page header, magic, version, address, size of the map
_DB = struct.Struct('<IHHQQQQQ')  # page size, flags, depth, branch, leaf and overflow pages, entries, root
_DBS, _END = 40, 136  # where the two databases of a meta page stand, and its last page and transaction
_PAGE = struct.Struct('<QHHHH')  # number, padding, flags, end of the node offsets, start of the nodes
_NODE = struct.Struct('<HHHH')  # low and high half of a size or page number, flags, bytes of the key
_BRANCH, _LEAF = 1, 2
_BIG, _DATABASE = 1, 2  # flags of a node: the value is on pages of its own; it is a database
_NONE = (1 << 64) - 1
_TRIES = 5

_checked: set[tuple[str, int, int]] = set()


class DamagedError(Exception):
    """A page that is cut off or changed."""


def check_lmdb(path: str) -> None:
    """Raises DamagedError unless all pages that lead to the entries of the file `path` are there and in order.

    A process looks at each version of a file once; forked workers know what their parent has seen. What the entries
    hold is not read. An LMDB of another data version is left to the library.
    """
    stat = os.stat(path)
    version = (path, stat.st_size, stat.st_mtime_ns)
    if version in _checked:
        return
    if stat.st_size < _END + 16:
        raise DamagedError(f'{stat.st_size} bytes')
    with open(path, 'rb') as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for tries_left in reversed(range(_TRIES)):
            meta = _newest_meta(content)
            if meta is None:
                return
            try:
                _Walk(content, *meta[1:]).check()
                break
            except (DamagedError, struct.error):
                newest = _newest_meta(content)  # a writer may have used pages again meanwhile
                if newest == meta or not tries_left:
                    raise
    _checked.add(version)


def _newest_meta(content: mmap.mmap) -> tuple[int, int, int, list[int]] | None:
    """Returns transaction, bytes of a page, number of pages and roots of the newest state; None for another version."""
    size = _DB.unpack_from(content, _DBS)[0]
    if _META.unpack_from(content)[:2] != (_MAGIC, _VERSION):
        return None
    if not 256 <= size <= 1 << 16 or len(content) < 2 * size:
        raise DamagedError('the first pages are cut off')
    states = []
    for start in (0, size):
        if _META.unpack_from(content, start)[:2] != (_MAGIC, _VERSION):
            raise DamagedError(f'page {start // size} is changed')
        last, transaction = struct.unpack_from('<QQ', content, start + _END)
        roots = [_DB.unpack_from(content, start + _DBS + n * _DB.size)[-1] for n in range(2)]
        states.append((transaction, size, last + 1, roots))
    return max(states)


class _Walk:
    """Visits every page that leads to an entry."""

    def __init__(self, content: mmap.mmap, size: int, pages: int, roots: list[int]) -> None:
        self.content, self.size = content, size
        self.pages = min(pages, len(content) // size)
        self.waiting = [root for root in roots if root != _NONE]
        self.seen: set[int] = set()

    def check(self) -> None:
        while self.waiting:
            self._visit(self.waiting.pop())

    def _visit(self, number: int) -> None:
        self._must_hold(number, 1)
        if number in self.seen:
            raise DamagedError(f'page {number} is used twice')
        self.seen.add(number)
        page = self.content[number * self.size : (number + 1) * self.size]
        own, _, flags, lower, upper = _PAGE.unpack_from(page)
        if own != number or flags not in (_BRANCH, _LEAF) or not _PAGE.size <= lower <= upper <= self.size:
            raise DamagedError(f'page {number} is changed')
        count = (lower - _PAGE.size) // 2
        if count < (2 if flags == _BRANCH else 1):
            raise DamagedError(f'page {number} is changed')
        self.waiting += self._below(number, page, flags, count, upper)

    def _below(self, number: int, page: bytes, flags: int, count: int, upper: int) -> list[int]:
        """Returns the pages that a page's nodes lead to."""
        found: list[int] = []
        for offset in struct.unpack_from(f'<{count}H', page, _PAGE.size):
            low, high, node, key = _NODE.unpack_from(page, offset)
            length, start = low | high << 16, offset + _NODE.size + key
            if offset < upper or start > self.size:
                raise DamagedError(f'page {number} is changed')
            if flags == _BRANCH:
                found.append(length | node << 32)
            elif node & _BIG:
                (first,) = struct.unpack_from('<Q', page, start)
                self._must_hold(first, (_PAGE.size - 1 + length) // self.size + 1)
            elif start + length > self.size or node & ~_DATABASE:
                raise DamagedError(f'page {number} is changed')
            elif node & _DATABASE:
                _, kind, *_, root = _DB.unpack_from(page, start)
                if kind:
                    raise DamagedError(f'page {number} holds a database of several values a key')
                found += [root] if root != _NONE else []
        return found

    def _must_hold(self, first: int, count: int) -> None:
        if not 2 <= first <= self.pages - count:
            raise DamagedError(f'page {first} is missing')
