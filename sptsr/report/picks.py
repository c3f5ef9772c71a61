"""Which pictures of many a page shows: the worst, the best, and some at random, chosen while they pass by."""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Iterator
from typing import Any

GROUPS = ('worst', 'best', 'random')


class Picks:
    """Chooses up to `quota` of things that pass by, and keeps no others.

    Half of them are the worst, a quarter are the best, the rest are random: those whose names have the smallest sha256,
    so the same every time. If there are no more than `quota`, all are chosen.

    Args:
        quota: how many to choose, 0 or above.

    Attributes:
        seen: how many passed by.
        kept: {number: what the caller keeps of a thing}; for numbers that `admit` returned.
    """

    def __init__(self, quota: int) -> None:
        self.quota = quota
        # Random ones may be among the worst and the best as well, so as many as are asked for in all are noted.
        self.most = {'worst': math.ceil(quota / 2), 'best': quota // 4, 'random': quota}
        self.first: dict[str, list[tuple[Any, int]]] = {group: [] for group in GROUPS}
        self.ranks: dict[int, float] = {}
        self.kept: dict[int, Any] = {}
        self.seen = 0

    def admit(self, name: str, rank: float | None) -> int | None:
        """Returns the number under which a thing is to be kept, or None; drops what is no longer among those chosen.

        Args:
            name: of the thing.
            rank: low values are bad; None where nothing is known.
        """
        number, self.seen = self.seen, self.seen + 1
        keys: dict[str, Any] = {'random': hashlib.sha256(name.encode(errors='replace')).digest()}
        if rank is not None:
            keys |= {'worst': rank, 'best': -rank}
        self.ranks[number] = math.inf if rank is None else rank
        for group, key in keys.items():
            bisect.insort(self.first[group], (key, number))
            del self.first[group][self.most[group] :]
        chosen = {found for group in GROUPS for _, found in self.first[group]}
        for gone in self.ranks.keys() - chosen:
            del self.ranks[gone]
            self.kept.pop(gone, None)
        return number if number in chosen else None

    def in_order(self) -> Iterator[tuple[str, Any]]:
        """Yields group and thing: the worst, the best, and random ones. If all are chosen, they have no group ('')."""
        if self.seen <= self.quota:
            yield from (('', self.kept[number]) for number in sorted(self.kept, key=lambda one: (self.ranks[one], one)))
            return
        given: set[int] = set()
        for group in GROUPS:
            for _, number in self.first[group]:
                if number in self.kept and number not in given and len(given) < self.quota:
                    given.add(number)
                    yield group, self.kept[number]
