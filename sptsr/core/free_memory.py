"""Memory that is free, and asking for it before it is taken."""

from __future__ import annotations

import os
from pathlib import Path

from sptsr.core.errors import UserError

# Limit, use, and what of the use can be given back, of a container: control groups of version 2 and 1.
_GROUPS = (
    ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory.current', '/sys/fs/cgroup/memory.stat', 'inactive_file'),
    (
        '/sys/fs/cgroup/memory/memory.limit_in_bytes',
        '/sys/fs/cgroup/memory/memory.usage_in_bytes',
        '/sys/fs/cgroup/memory/memory.stat',
        'total_inactive_file',
    ),
)


def free_bytes(device: object = 'cpu') -> int:
    """Returns the memory that is free on a device, in bytes; of a CPU what can be had without swapping.

    Args:
        device: a `torch.device`, or its name.
    """
    if str(device).startswith('cuda'):
        import torch

        gpu = torch.device(str(device))  # what torch keeps for later is free, too
        return torch.cuda.mem_get_info(gpu)[0] + torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)
    try:
        with open('/proc/meminfo') as lines:
            rows = dict(line.split(':', 1) for line in lines)
        free = int(rows['MemAvailable'].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        free = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2
    return min([free, *map(_free_in_group, _GROUPS)])


def _free_in_group(files: tuple[str, str, str, str]) -> int:
    """Returns what a container may still take; without a limit far more than any machine has."""
    limit, used, statistics, cached = files
    try:
        rows = dict(line.split(' ', 1) for line in Path(statistics).read_text().splitlines())
        return max(0, int(Path(limit).read_text()) - int(Path(used).read_text()) + int(rows[cached]))
    except (OSError, KeyError, ValueError):  # no such group, or `max`
        return 1 << 62


def must_fit(what: str, needed: float, remedy: str, device: object = 'cpu') -> None:
    """Raises UserError, with both numbers, when more memory is needed than is free.

    Args:
        what: needs it; the message begins with it.
        needed: bytes, about.
        remedy: what to do instead.
        device: whose memory it is.
    """
    free = free_bytes(device)
    if needed > free:
        raise UserError(f'{what} needs about {in_words(needed)} of memory, and {in_words(free)} are free; {remedy}')


def in_words(size: float) -> str:
    """Returns a number of bytes in MB, GB or TB."""
    for unit, bytes_each in (('TB', 1e12), ('GB', 1e9)):
        if size >= bytes_each:
            return f'{size / bytes_each:,.1f} {unit}'
    return f'{size / 1e6:,.0f} MB'
