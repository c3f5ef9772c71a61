"""Training states: written atomically, checked when read; the newest readable one is found, old ones are removed."""

from __future__ import annotations

import io
import math
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import get_time_str

from sptsr.archs.adapter import read_adapter
from sptsr.core.errors import UserError
from sptsr.core.files import is_compressed, must_be_regular, write_bytes
from sptsr.core.version import RULES

_KEYS = {'iter', 'options_sha256', 'backbone_sha256', 'params', 'optimizer', 'scheduler', 'scaler'}


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a training state atomically; raises UserError when there is no room."""
    # In memory first, a few times the size of the adapter: torch raises errors of many kinds on a full disk.
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_bytes(path, buffer.getvalue())


def read_state(path: Path) -> dict[str, Any]:
    """Reads a training state, its checksums included; `path` is added to it.

    Raises:
        UserError: missing, cut off, changed, or something else.
    """
    must_be_regular(path)
    try:
        if is_compressed(path):
            raise ValueError('it is compressed, and no state is')  # it may unpack to any size
        with zipfile.ZipFile(path) as archive:  # torch writes checksums and does not look at them again
            broken = archive.testzip()
        if broken:
            raise ValueError(f'{broken} has another checksum')
        state = torch.load(path, map_location='cpu', weights_only=True)
        if not isinstance(state, dict) or not state.keys() >= _KEYS:
            raise ValueError("not a state of sptsr; BasicSR's are of whole networks")
        if state.get('rules', 1) not in range(1, RULES + 1):
            raise ValueError('written by a newer sptsr')
    except Exception as error:  # zipfile and torch raise many kinds for a truncated or foreign file
        reason = str(error).partition('\n')[0]
        raise UserError(f'{path}: not a readable training state ({reason}); use an older one') from error
    return {'rules': 1, **state, 'path': str(path)}  # 0.1 wrote no rules


def find_state(folder: Path, sha256: str, total: int, auto_resume: bool, finished: bool) -> dict[str, Any] | None:
    """Returns the newest readable state if the run continues from it; None starts a new run.

    Args:
        folder: of the states.
        sha256: of the options; a state of others counts with `auto_resume` only.
        total: iterations asked for.
        auto_resume: continue also with other options or a finished run.
        finished: whether the adapter that a run ends with is there; a kill may come between its last state and that.
    """
    for path in sorted(folder.glob('*.state'), key=_number, reverse=True):
        try:
            state = read_state(path)
        except UserError as error:
            print(f'sptsr: passing over a damaged state: {error}', file=sys.stderr)
            continue
        wanted = auto_resume or (state['options_sha256'] == sha256 and (state['iter'] < total or not finished))
        return state if wanted else None
    return None


def put_aside_later(states: Path, models: Path, iteration: int, left: bool) -> None:
    """Puts aside states, and adapters of a run that is left, of later iterations than the one that a run goes on from.

    Such states are damaged, or none of its own: it would go on from them after a kill, and keep them as the newest. So
    it is with adapters, the latest and the best among them. They go into a folder beside theirs,
    `training_states_archived_TIME` and `models_archived_TIME`.

    Args:
        states, models: their folders.
        iteration: of the state.
        left: whether what comes will differ from what was there: the state was named, or the options have changed.
    """
    later = {states: [path for path in states.glob('*.state') if _number(path) > iteration]}
    if left:
        later[models] = [path for path in models.glob('net_g_*.safetensors') if _iteration(path) > iteration]
    for folder, paths in later.items():
        aside = folder.with_name(f'{folder.name}_archived_{get_time_str()}')
        for path in paths:
            aside.mkdir(exist_ok=True)
            path.rename(aside / path.name)


def prune(states: Path, models: Path, keep_last: int, resumed: str | None = None) -> None:
    """Removes all but the newest `keep_last` states and adapters. The latest and the best, without a number, stay.

    Args:
        states, models: their folders.
        keep_last: from 1 on.
        resumed: state that the option file names to go on from; it stays, so that the same command can be said again.
    """
    for path in sorted(states.glob('*.state'), key=_number)[:-keep_last]:
        if resumed is None or path.resolve() != Path(resumed).resolve():
            path.unlink(missing_ok=True)
    numbered = [path for path in models.glob('net_g_*.safetensors') if _number(path) >= 0]
    for path in sorted(numbered, key=_number)[:-keep_last]:
        path.unlink(missing_ok=True)


def _number(path: Path) -> int:
    """Returns the iteration in `500.state` or `net_g_500.safetensors`, -1 where there is none."""
    found = re.fullmatch(r'(?:net_g_)?(\d+)', path.stem)
    return int(found[1]) if found else -1


def _iteration(adapter: Path) -> float:
    """Returns the iteration of an adapter by its name, or by what it says; infinity where it cannot be read."""
    number = _number(adapter)
    try:
        return read_adapter(adapter).iteration if number < 0 else number
    except UserError:
        return math.inf
