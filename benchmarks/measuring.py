"""What the benchmarks share: times, peaks of memory, masks to try with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def rectangles(count: int, height: int, width: int) -> Tensor:
    """Returns random rectangles as masks [1, count, height, width]."""
    masks = torch.zeros(1, count, height, width, dtype=torch.bool)
    for n in range(count):
        top, left = int(torch.randint(height - 8, ())), int(torch.randint(width - 8, ()))
        masks[0, n, top : top + int(torch.randint(8, height, ())), left : left + int(torch.randint(8, width, ()))] = (
            True
        )
    return masks


def seconds(run: Callable[[], Any]) -> float:
    """Returns how long one run takes."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(run: Callable[[], Any], device: str) -> int:
    """Returns the peak of what a run allocates."""
    if device.startswith('cuda'):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = run()
    del result
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]']  # type: ignore[union-attr]
    current = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak
