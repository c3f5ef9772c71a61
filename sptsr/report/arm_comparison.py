"""The comparison of two arms as a table with notes, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sptsr.evaluation.comparison import Comparison, Row, Run
from sptsr.report.tables import text_table

_NAMED = 3


def comparison_text(found: Comparison) -> str:
    """Returns the arms, a table with a row for each dataset and metric, and what the figures speak of."""
    header = ['dataset', 'metric', 'images', 'mean A', 'mean B', 'B - A', '95 % interval', 'B better', 'p']
    lines = [f'A: {_arm(found.a)}', f'B: {_arm(found.b)}', '']
    lines += [text_table(header, [_cells(row) for row in found.rows], left=2), '', *_notes(found)]
    return '\n'.join(lines)


def comparison_json(found: Comparison) -> dict[str, Any]:
    """Returns all figures as plain values."""
    return {
        **{
            arm: [{'file': run.path, 'seed': run.seed} for run in runs]
            for arm, runs in (('a', found.a), ('b', found.b))
        },
        'paired_by_seed': found.same_seeds,
        'rows': [asdict(row) for row in found.rows],
        'left_out': found.left_out,
        'other_inputs': dict(found.other_inputs),
    }


def _arm(runs: tuple[Run, ...]) -> str:
    """Returns the files of an arm with the training seeds that they record."""
    return ', '.join(run.path if run.seed is None else f'{run.path} (seed {run.seed})' for run in runs)


def _cells(row: Row) -> list[str]:
    figures = row.figures
    interval = '-' if figures.interval is None else '{:+.5f} to {:+.5f}'.format(*figures.interval)
    return [
        row.dataset,
        row.metric,
        str(figures.images),
        f'{figures.mean_a:.4f}',
        f'{figures.mean_b:.4f}',
        f'{figures.difference:+.5f}',
        interval,
        f'{figures.better} of {figures.images}' + (f' ({figures.equal} equal)' if figures.equal else ''),
        f'{figures.p:.3g}',
    ]


def _notes(found: Comparison) -> list[str]:
    sides = found.rows[0].figures.seeds_of
    pairing = 'image and training seed' if found.same_seeds and sides else 'image'
    if len(sides) == 2:
        scope = 'It speaks of images and training seeds.'
    elif sides:
        one = 'A' if sides == ('B',) else 'B'
        scope = f'It speaks of images and of training seeds of {sides[0]}; {one} is one run.'
    else:
        scope = 'It speaks of images only, not of other training seeds: one run a side.'
    notes = [f'B - A is paired by {pairing}. {scope}']
    exact = {row.figures.exact for row in found.rows}
    how = (
        'all sign flips' if exact == {True} else 'random sign flips' if exact == {False} else 'all or random sign flips'
    )
    notes.append(f'p: {how} over images, two-sided, one for each row and not corrected for their number.')
    lower = sorted({row.metric for row in found.rows if not row.higher_is_better})
    if lower:
        notes.append(f'Lower is better: {", ".join(lower)}.')
    for row in found.rows:
        if row.not_common:
            notes.append(f'{row.dataset}, {row.metric}: {row.not_common} images left out that a file lacks.')
        if row.not_finite:
            named = ', '.join(row.not_finite[:_NAMED]) + ('...' if len(row.not_finite) > _NAMED else '')
            notes.append(f'{row.dataset}, {row.metric}: {len(row.not_finite)} images without a finite value: {named}.')
    notes += [f'Not in all files: {name}.' for name in found.left_out]
    notes += [
        f'{dataset}: {count} LQ images are not the same in all files, so B - A is of them, too.'
        for dataset, count in found.other_inputs.items()
    ]
    return notes
