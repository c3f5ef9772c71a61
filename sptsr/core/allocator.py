"""What the C library does with memory that is free again."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3), glibc
_LARGEST = (1 << 30, 1 << 25)  # bytes; before 2.35 glibc takes no threshold above the second


def keep_freed_memory() -> bool:
    """Lets this process keep memory that tensors on the CPU have left, up to 2 GB; returns whether it could.

    Without it glibc gives each large block back to the system. The next layer's output then comes page by page, each
    cleared first, which takes about as long as to compute it. Nothing is done with other C libraries.
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 (there in glibc only)
        set_option = library.mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    kept = any(set_option(_MMAP_THRESHOLD, size) for size in _LARGEST)
    return bool(set_option(_TRIM_THRESHOLD, (1 << 31) - 1)) and kept
