"""Reads the curves of a training run: from its TensorBoard files, or from its log."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sptsr.core.errors import UserError

# A line of BasicSR's logger: [..][epoch:  0, iter:       5, lr:(1.000e-03,)] [eta: 0:00:00, ...] l_pix: 1.4e-02
_LINE = re.compile(r'iter: *([\d,]+), lr:.*?\] *(?:\[eta[^\]]*\])? *(.*)$')
_VALUE = re.compile(r'(\w+): ([-+]?\d+\.?\d*(?:e[-+]?\d+)?)(?=\s)')  # the blank says that a kill did not cut it off


@dataclass(frozen=True)
class Curve:
    """A figure over the iterations of a run.

    Attributes:
        steps: iterations, rising.
        values: one for each.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]


def read_curves(run: str | os.PathLike[str], boards: str | os.PathLike[str] | None = None) -> dict[str, Curve]:
    """Returns the curves of a run by name, as TensorBoard shows them: `losses/l_pix`, `metrics/Set5/psnr`, `lr`.

    A run that was interrupted has several files; where they tell different values of an iteration, the newest counts.

    Args:
        run: its folder `experiments/<name>`, whose log has the losses.
        boards: its folder `tb_logger/<name>`, which has all; None, or one that is not there, for the log alone.

    Raises:
        UserError: neither has a curve.
    """
    found: dict[str, dict[int, float]] = {}
    if boards is not None and Path(boards).is_dir():
        for tag, step, value in _events(Path(boards)):
            found.setdefault(tag, {})[step] = value
    if not found:
        for log in sorted(Path(run).glob('train_*.log')):
            for tag, step, value in _logged(log):
                found.setdefault(tag, {})[step] = value
    if not found:
        raise UserError(f'{run}: no log of a training run, and no TensorBoard files; train with use_tb_logger: true')
    curves = {tag: sorted(values.items()) for tag, values in found.items()}
    return {tag: Curve(*zip(*pairs, strict=True)) for tag, pairs in curves.items()}


def _events(folder: Path) -> Iterator[tuple[str, int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for file in sorted(folder.glob('events.out.tfevents.*')):  # the name has the time
        content = EventAccumulator(str(file), size_guidance={'scalars': 0, 'images': 1}).Reload()
        for tag in content.Tags()['scalars']:
            for event in content.Scalars(tag):
                yield tag, event.step, event.value


def _logged(log: Path) -> Iterator[tuple[str, int, float]]:
    with open(log, encoding='utf-8', errors='replace') as lines:
        for line in lines:
            found = _LINE.search(line)
            if found:
                step = int(found[1].replace(',', ''))
                for name, value in _VALUE.findall(found[2]):
                    if name.startswith('l_'):
                        yield f'losses/{name}', step, float(value)
