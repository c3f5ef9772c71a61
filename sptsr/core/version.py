"""The version of sptsr, written into every store and adapter, and that of the rules of its units."""

from __future__ import annotations

import subprocess
from pathlib import Path

__version__ = '0.2.0'

# Which rules units follow; an adapter and a training state say which theirs are.
# 1: sptsr 0.1. `RepeatedStem` in place of `PlainStem`, and S loses its detail for good at a coarser site.
# 2: `PlainStem`, and `CarriedPrior` keeps the detail.
# 3: where nothing names a stem, it is `GeometryStem` or `GreyStem` in place of `MaskStem` or `PlainStem`.
# 4: where `sites` is `auto`, IMDN has a unit behind every second block in place of each.
RULES = 4  # and the upper bound of `rules` of SPTNet, where the catalogue wants a plain number


def commit() -> str | None:
    """Returns the commit of the checkout that this sptsr runs from, with `+` where files differ; None elsewhere."""
    here = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        command = ['git', '--no-optional-locks', '-C', str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    try:
        if Path(git('rev-parse', '--show-toplevel')).resolve() != here:  # installed in the checkout of another project
            return None
        return git('rev-parse', '--short=12', 'HEAD') + ('+' if git('status', '--porcelain', '--', 'sptsr') else '')
    except (OSError, subprocess.SubprocessError):
        return None
