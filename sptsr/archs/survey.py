"""Looking for sites in any network: what every module gives, and which blocks to refine."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from sptsr.archs.sites import Grid, Layout, match_sites, trace

_MOST_UNITS = 12  # a proposal with more takes every second block


@dataclass(frozen=True)
class Candidate:
    """Modules of one class at corresponding places of a network that give feature maps of one shape.

    Attributes:
        pattern: the path, or where there are several, what they share, with `*` for numbers.
        paths: their paths, in the network's order.
        kind: class.
        shape: of the output for the image that was used.
        layout, channels: of the output.
        grid: where its pixels lie on the image.
        calls: how often each is called.
        params: parameters in all of them together.
    """

    pattern: str
    paths: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    layout: Layout
    channels: int
    grid: Grid
    calls: int
    params: int

    @property
    def work(self) -> float:
        """Parameters times pixels, up to a factor that all modules of a network share."""
        return self.params / self.grid.stride**2


@dataclass(frozen=True)
class Survey:
    """Candidate sites of a network, in its own order, and what to do with them.

    Attributes:
        candidates: all of them.
        proposal: what to say after `sites:`; empty when no module gives a feature map.
        repeats: whether the proposal is a row of equal blocks; else no block of the network repeats.
        units: number of sites of the proposal.
        scale: size of the output over size of the input.
    """

    candidates: list[Candidate]
    proposal: list[str]
    repeats: bool
    units: int
    scale: int


def survey(net: nn.Module, probe: Tensor) -> Survey:
    """Runs a network once on `probe` [1, C, h, 2 h] and lists its candidate sites.

    The proposal: repeated blocks at one resolution. Of all rows of equal blocks the one that does
    most of the work is taken, measured by parameters times pixels; of nested ones the outer.
    """
    modules = {path: module for path, module in net.named_modules() if path}
    traces, scale = trace(net, modules, probe)
    groups: dict[tuple[str, str, tuple[int, ...], int], list[str]] = {}
    for path, record in traces.items():
        if record.layout is not None and not record.fault and len(set(record.shapes)) == 1:
            key = (_pattern(path), type(modules[path]).__name__, record.shapes[0], record.calls)
            groups.setdefault(key, []).append(path)
    candidates = []
    for (pattern, kind, shape, calls), paths in groups.items():
        pattern = pattern if len(paths) > 1 else paths[0]
        params = sum(p.numel() for path in paths for p in modules[path].parameters())
        found = traces[paths[0]]
        assert found.layout is not None
        candidates.append(
            Candidate(pattern, tuple(paths), kind, shape, found.layout, found.channels, found.grid, calls, params)
        )
    proposal, repeats = _propose(candidates, modules.keys(), probe.shape[1])
    return Survey(candidates, proposal, repeats, len(match_sites(net, proposal)) if proposal else 0, scale)


def _pattern(path: str) -> str:
    return '.'.join(re.sub(r'\d+', '*', name) for name in path.split('.'))


def _propose(candidates: Sequence[Candidate], paths: Collection[str], image_channels: int) -> tuple[list[str], bool]:
    """Returns paths or one glob, and whether they are repeated blocks.

    Where no block repeats: modules of one class and stride, else the one that does most of the work.
    """
    rows = [c for c in candidates if c.params and c.grid.stride >= 1 and c.channels > image_channels]
    blocks = [c for c in rows if len(c.paths) > 1 and c.pattern.count('*') == 1]
    if blocks:
        best = max(blocks, key=lambda c: (c.work, -c.pattern.count('.')))
        if len(best.paths) > _MOST_UNITS:
            return list(best.paths[1::2]), True
        return ([best.pattern] if _is_glob_of(best, paths) else list(best.paths)), True
    alike: dict[tuple[str, float], list[Candidate]] = {}
    for row in rows:
        alike.setdefault((row.kind, row.grid.stride), []).append(row)
    several = [group for group in alike.values() if len(group) > 1]
    if several:
        group = max(several, key=lambda group: (sum(c.work for c in group), -len(group)))
        return [path for c in group for path in c.paths], False
    return (list(max(rows, key=lambda c: c.work).paths) if rows else []), False


def _is_glob_of(candidate: Candidate, paths: Collection[str]) -> bool:
    matcher = re.compile(re.escape(candidate.pattern).replace(r'\*', '[^.]*'))
    return tuple(path for path in paths if matcher.fullmatch(path)) == candidate.paths
