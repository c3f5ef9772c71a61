"""Progress of long work: a bar with rate and ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm


class _Lines:
    """Turns what tqdm writes over and over into lines, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        text = text.strip('\r\n ')
        if text:
            self.stream.write(text + '\n')

    def flush(self) -> None:
        self.stream.flush()


def bar(total: int, desc: str, unit: str = 'image', initial: int = 0, **kwargs: Any) -> tqdm:
    """Returns a tqdm bar on stderr; without a terminal it prints a line about every 10 s.

    Args:
        total: number of steps, those done before included.
        desc: what is being done.
        unit: what a step is called.
        initial: steps done before (a resumed run).
        kwargs: further arguments of tqdm, such as `disable`.
    """
    if sys.stderr.isatty():
        return tqdm(total=total, desc=desc, unit=unit, initial=initial, dynamic_ncols=True, **kwargs)
    lines: Any = _Lines(sys.stderr)
    return tqdm(
        total=total, desc=desc, unit=unit, initial=initial, mininterval=10.0, ncols=80, ascii=True, file=lines, **kwargs
    )
