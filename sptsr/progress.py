"""Progress of long work: a bar with rate and ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def bar(total: int, desc: str, unit: str = 'image', initial: int = 0, **kwargs: Any) -> tqdm:
    """Returns a tqdm bar on stderr; without a terminal it prints about one line each 10 s.

    Args:
        total: number of steps, those done before included.
        initial: steps done before (a resumed run).
    """
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=desc,
        unit=unit,
        initial=initial,
        dynamic_ncols=interactive,
        mininterval=0.1 if interactive else 10.0,
        ascii=not interactive,
        file=sys.stderr,
        **kwargs,
    )
