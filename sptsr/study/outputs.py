"""What a study writes: its table in several forms, the values of all images, and what every cell comes from."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sptsr.core.errors import UserError
from sptsr.core.files import read_json, sha256_file, write_json, write_text
from sptsr.core.version import __version__, commit
from sptsr.evaluation.records import LARGEST
from sptsr.study.latex import table_latex
from sptsr.study.markdown import table_markdown
from sptsr.study.pool import Failure
from sptsr.study.results import Block, Value
from sptsr.study.runs import Run
from sptsr.study.study_file import Study

_PACKAGES = ('torch', 'basicsr', 'numpy', 'scipy', 'opencv-python', 'scikit-image', 'spandrel', 'transformers', 'peft')


def check_folder(out: Path, study: Study) -> None:
    """Raises UserError unless a folder is empty, missing, or holds results of this study file."""
    note = out / 'runs.json'
    if note.is_file():
        noted = read_json(note, 'choose another -o', LARGEST)
        name = noted.get('study') if isinstance(noted, dict) else None
        if name not in (study.path.name, _name(study)):  # the file's name alone was noted once
            raise UserError(f'{out}: holds the results of another study ({name}); choose another -o')
    elif out.exists():
        here = out.name
        if out.is_dir():  # a kill while the first file was written leaves it under a name of its own
            here = next((path.name for path in out.iterdir() if not path.name.startswith('.tmp-')), None)
        if here is not None:
            raise UserError(f'{out}: holds {here} and no runs.json, so no results of a study; choose another -o')


def _name(study: Study) -> str:
    """Returns folder and file of a study: many files are called study.yml."""
    return '/'.join(study.path.resolve().parts[-2:])


def table_csv(blocks: Sequence[Block]) -> str:
    """Returns a line for each row, arm, dataset and metric; then those of parts of the images, and of costs.

    A part stands behind the metric (`psnr boundary`); it has a difference and no mean.
    """
    names = ['row', 'arm', 'dataset', 'metric', 'better', 'runs', 'mean', 'sd', 'mark', 'published']
    names += ['difference', 'low', 'high', 'bootstrap_low', 'bootstrap_high', 'p', 'p_holm', 'better_on', 'images']
    rows: list[list[Any]] = []
    for block in blocks:
        for arm, cells in block.lines.items():
            for column, cell in cells.items():
                better = 'higher' if block.higher[column] else 'lower'
                row = [block.name, arm, *column, better, len(cell.means), cell.mean, cell.sd, cell.mark, cell.published]
                one = next((one for one in block.against.get(column, ()) if one.arm == arm), None)
                if one is not None:
                    figures = one.row.figures
                    row += [figures.difference, *(figures.interval or (None, None))]
                    row += [*(figures.bootstrap or (None, None)), figures.p, one.p_holm]
                    row += [figures.better, figures.images]
                rows.append(row + [None] * (len(names) - len(row)))
    for block in blocks:
        for part in block.parts:
            better = 'higher' if block.higher.get((part.dataset, part.metric), True) else 'lower'
            row = [block.name, part.arm, part.dataset, f'{part.metric} {part.part}', better, *[None] * 5]
            row += [part.difference, *(part.interval or (None, None))]
            rows.append([*row, *[None] * 5, part.images])
    for block in blocks:
        for arm, costs in block.costs.items():
            rows += [[block.name, arm, '', name, 'lower', '', value, *[None] * 12] for name, value in costs.items()]
    return _csv(names, rows)


def per_image_csv(values: Sequence[Value]) -> str:
    """Returns a line for each metric of each image in each run."""
    rows = [[v.use.row, v.use.arm, v.use.seed, v.dataset, v.metric, v.key, v.value] for v in values]
    return _csv(['row', 'arm', 'seed', 'dataset', 'metric', 'image', 'value'], rows)


def _csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator='\n')
    writer.writerow(names)
    for row in rows:
        writer.writerow(['' if value is None else repr(value) if isinstance(value, float) else value for value in row])
    return stream.getvalue()


def read_differences(path: Path, row: str, arm: str) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Returns how an arm differs from its control: difference, low and high of its interval, by set and metric.

    Args:
        path: a `table.csv`.
        row, arm: their names.

    Raises:
        UserError: there is no such row and arm, or the arm is the control.
    """
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    with open(path, newline='', encoding='utf-8') as stream:
        for line in csv.DictReader(stream):
            if (line['row'], line['arm']) == (row, arm) and line['mean'] and line['low']:  # not of parts, or one image
                values = float(line['difference']), float(line['low']), float(line['high'])
                found.setdefault(line['dataset'], {})[line['metric']] = values
    if not found:
        raise UserError(f"{path}: no difference of row '{row}', arm '{arm}'")
    return found


def runs_json(
    study: Study, runs: Sequence[Run], failures: Sequence[Failure], made: Mapping[str, str]
) -> dict[str, Any]:
    """Returns what every cell comes from.

    Args:
        study: the study.
        runs: of it.
        failures: runs that did not end well.
        made: digests of the prior stores that the study made, by path.
    """
    failed = {failure.work.id: str(failure) for failure in failures}
    return {
        'study': _name(study),
        'study_sha256': sha256_file(study.path),
        'title': study.title,
        'sptsr': __version__,
        'commit': commit(),
        'python': platform.python_version(),
        'packages': {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        'priors_made': dict(made),
        'runs': [
            {
                'id': run.id,
                'commits': run.commits,
                'identity': run.record,
                'adapter': str(run.adapter) if run.train is not None else None,
                'adapter_sha256': sha256_file(run.adapter) if run.train is not None and run.trained else None,
                'commands': [shlex.join(['sptsr', *words]) for words in run.commands()],
                'cells': [
                    {'row': use.row, 'arm': use.arm, 'seed': use.seed, 'metrics': str(run.metrics(test))}
                    for use, test in run.uses
                ],
                'done': run.done,
                'failed': failed.get(run.id),
            }
            for run in runs
        ],
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_outputs(
    out: Path,
    study: Study,
    blocks: Sequence[Block],
    values: Sequence[Value],
    record: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    """Writes all files of a study; each is whole or as it was."""
    write_json(out / 'runs.json', record)
    write_text(out / 'table.csv', table_csv(blocks))
    write_text(out / 'per_image.csv', per_image_csv(values))
    write_text(out / 'table.tex', table_latex(study, blocks, notes))
    write_text(out / 'table.md', table_markdown(study, blocks, notes))
