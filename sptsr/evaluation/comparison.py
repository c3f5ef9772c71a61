"""Comparing the `metrics.json` of two arms: what can be paired, and the figures of each dataset and metric."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unicodedata import category

import numpy as np

from sptsr.core.errors import UserError
from sptsr.core.files import read_json
from sptsr.evaluation.records import LARGEST
from sptsr.evaluation.statistics import PairedComparison, compare_paired

_HOW = 'give a metrics.json that `sptsr test` wrote'
_NOT_FINITE = ('inf', '-inf', 'nan')
_LOWER = ('niqe', 'lpips', 'dists', 'fid')  # what 0.1 did not record is told from the metric's name
_NAMED = 3


@dataclass(frozen=True)
class Record:
    """One metric of one dataset in one file.

    Attributes:
        values: {key: value} of every image; some may be infinite or NaN.
        options: of the metric; None in files of 0.1.
        masks: digest of what made the masks of its band; None for other metrics and in older files.
    """

    values: dict[str, float]
    options: dict[str, Any] | None
    masks: str | None = None


@dataclass(frozen=True)
class Run:
    """What one `metrics.json` says.

    Attributes:
        path: the file.
        seed: of the training; None where nothing was trained or nothing is known.
        datasets: records by dataset and metric.
        images: {dataset: {key: digest}} of GT images; empty in files of 0.1.
        inputs: the same of LQ images; empty in older files.
    """

    path: str
    seed: int | None
    datasets: dict[str, dict[str, Record]]
    images: dict[str, dict[str, str]]
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """The comparison of one dataset by one metric.

    Attributes:
        dataset, metric: names.
        higher_is_better: direction of the metric.
        figures: the comparison.
        not_finite: images left out because a run has no finite value for them.
        not_common: images left out because one file lacks them.
    """

    dataset: str
    metric: str
    higher_is_better: bool
    figures: PairedComparison
    not_finite: tuple[str, ...]
    not_common: int


@dataclass(frozen=True)
class Comparison:
    """All rows of a comparison of two arms.

    Attributes:
        a, b: the runs of each arm.
        same_seeds: the runs are paired by training seed.
        rows: by dataset and metric.
        left_out: datasets and metrics that not all files have, or that all have for no image.
        other_inputs: numbers of images by dataset whose LQ images are not the same in all files.
    """

    a: tuple[Run, ...]
    b: tuple[Run, ...]
    same_seeds: bool
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]
    other_inputs: Mapping[str, int]


def read_run(path: str | os.PathLike[str]) -> Run:
    """Reads a `metrics.json`, also of 0.1; raises UserError unless it is one."""
    content = read_json(path, _HOW, LARGEST)
    problem = f'{path}: not a metrics.json of sptsr'
    if not isinstance(content, dict) or not isinstance(content.get('datasets'), dict):
        raise UserError(f"{problem} ('datasets' is missing); {_HOW}")
    datasets: dict[str, dict[str, Record]] = {}
    for dataset, metrics in content['datasets'].items():
        if not isinstance(metrics, dict):
            raise UserError(f'{problem} ({_shown(dataset)} holds no metrics); {_HOW}')
        datasets[dataset] = {}
        for metric, record in metrics.items():
            values = record.get('per_image') if isinstance(record, dict) else None
            options = record.get('options') if isinstance(record, dict) else None
            if not isinstance(values, dict) or not isinstance(options, dict | None):
                raise UserError(f"{problem} ({_shown(dataset)}, {_shown(metric)}: 'per_image' is missing); {_HOW}")
            where, masks = f'{path}: {_shown(dataset)}, {_shown(metric)}', record.get('masks')
            datasets[dataset][metric] = Record(
                {key: _value(v, f'{where}, {key}') for key, v in values.items()},
                options,
                masks if isinstance(masks, str) else None,
            )
    seed, images, inputs = content.get('seed'), content.get('images', {}), content.get('inputs', {})
    if isinstance(seed, bool) or not isinstance(seed, int | None):
        raise UserError(f"{problem} ('seed' is no whole number); {_HOW}")
    for name, table in (('images', images), ('inputs', inputs)):
        if not isinstance(table, dict) or not all(isinstance(digests, dict) for digests in table.values()):
            raise UserError(f"{problem} ('{name}' holds no digests); {_HOW}")
    names = [*datasets, *(name for metrics in datasets.values() for name in metrics)]
    names += [key for metrics in datasets.values() for record in metrics.values() for key in record.values]
    # Kinds of blanks are no danger: macOS writes them into the names of screenshots.
    unprintable = next((n for n in names if not all(c.isprintable() or category(c) == 'Zs' for c in n)), None)
    if unprintable is not None:
        raise UserError(f'{path}: a name that cannot be printed ({_shown(unprintable)}); rename it in the file')
    return Run(str(path), seed, datasets, images, inputs)


def compare_runs(a: Sequence[Run], b: Sequence[Run], common: bool = False) -> Comparison:
    """Compares the runs of two arms, paired by image, and by training seed where both arms have the same seeds.

    Args:
        a, b: one or more runs of each arm; the difference is B - A.
        common: compare the images that all files have; without it a missing image is an error.

    Raises:
        UserError: nothing in common, images that a file lacks, other GT images, metrics with other options, two runs
            of one arm with one seed.
    """
    for arm, runs in (('A', a), ('B', b)):
        paths = [os.path.realpath(run.path) for run in runs]
        again = next((run.path for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1), None)
        if again is not None:
            raise UserError(f'compare: {again} stands twice; give each run of {arm} once')
        seeds = [run.seed for run in runs if run.seed is not None]
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if twice is not None:
            paths = ' and '.join(run.path for run in runs if run.seed == twice)
            raise UserError(f'compare: {paths} are both of seed {twice}; give each run of {arm} once')
    runs = [*a, *b]
    datasets = _in_all([run.datasets for run in runs])
    if not datasets:
        raise UserError(f'compare: {_paths(runs)} have no dataset in common; test both arms on the same sets')
    same_seeds, b = paired_by_seed(a, b)
    rows, empty, left_out = [], [], _not_in_all([run.datasets for run in runs])
    for dataset in datasets:
        metrics = [run.datasets[dataset] for run in runs]
        left_out += [f'{dataset}, {metric}' for metric in _not_in_all(metrics)]
        for metric in _in_all(metrics):
            if len({run.datasets[dataset][metric].masks for run in runs} - {None}) > 1:
                left_out.append(f'{dataset}, {metric}, along the same masks')
                continue
            row = _row(a, b, dataset, metric, same_seeds, common)
            if row is None:  # a place of the images, say, that none of them has
                empty.append(f'{dataset}, {metric}')
            else:
                rows.append(row)
    if empty and not rows:
        raise UserError(f'compare: {empty[0]}: no image has a finite value in all files; nothing to compare')
    left_out += [f'{name}, for any image' for name in empty]
    if not rows:
        raise UserError(f'compare: {_paths(runs)} have no metric in common; test both arms with the same val.metrics')
    inputs = {dataset: count for dataset in datasets if (count := other_inputs(runs, dataset))}
    return Comparison(tuple(a), tuple(b), same_seeds, tuple(rows), tuple(left_out), inputs)


def _row(a: Sequence[Run], b: Sequence[Run], dataset: str, metric: str, same_seeds: bool, common: bool) -> Row | None:
    """Returns the comparison by one metric; None where no image has a finite value in all files."""
    runs = [*a, *b]
    records = [run.datasets[dataset][metric] for run in runs]
    keys = _in_all([record.values for record in records])
    missing = _not_in_all([record.values for record in records])
    if not keys and common:
        raise UserError(f'compare: {dataset}, {metric}: the files have no image in common; nothing to compare')
    if missing and not common:
        lacking = next(run.path for run, record in zip(runs, records, strict=True) if missing[0] not in record.values)
        raise UserError(
            f'{lacking}: {dataset} lacks {len(missing)} images that another file has, such as {missing[0]}; '
            'test both arms on the same images, or say --common'
        )
    _check_images(runs, dataset, keys)
    higher = _direction(runs, records, dataset, metric)
    bad = [key for key in keys if not all(math.isfinite(record.values[key]) for record in records)]
    finite = [key for key in keys if key not in set(bad)]
    if not finite:
        return None
    values = [
        np.array([[run.datasets[dataset][metric].values[key] for key in finite] for run in arm]) for arm in (a, b)
    ]
    figures = compare_paired(values[0], values[1], same_seeds, higher)
    return Row(dataset, metric, higher, figures, tuple(bad), len(missing))


def other_inputs(runs: Sequence[Run], dataset: str) -> int:
    """Returns for how many images of a set two files had different LQ images, by what the files know of them."""
    known = [run.inputs.get(dataset, {}) for run in runs]
    return sum(len({str(table[key]) for table in known if key in table}) > 1 for key in {k for t in known for k in t})


def paired_by_seed(a: Sequence[Run], b: Sequence[Run]) -> tuple[bool, Sequence[Run]]:
    """Returns whether both arms have the same seeds, and then the runs of B in the order of A's seeds."""
    by_seed = {run.seed: run for run in b}
    seeds = [run.seed for run in a]
    if None in seeds or len(a) != len(b) or set(seeds) != set(by_seed):
        return False, b
    return True, [by_seed[seed] for seed in seeds]


def _direction(runs: Sequence[Run], records: Sequence[Record], dataset: str, metric: str) -> bool:
    """Returns whether higher is better; raises UserError where the files measured in different ways."""
    known = [(run, record.options) for run, record in zip(runs, records, strict=True) if record.options is not None]
    for run, options in known[1:]:
        if options != known[0][1]:
            raise UserError(
                f'{run.path}: {dataset}, {metric}: measured with {_shown(options)}, in {known[0][0].path} with '
                f'{_shown(known[0][1])}; '
                'test both arms with the same val.metrics'
            )
    if known and known[0][1]:
        return known[0][1].get('better') != 'lower'
    return not any(word in metric.lower() for word in _LOWER)


def _check_images(runs: Sequence[Run], dataset: str, keys: Sequence[str]) -> None:
    """Raises UserError where two files measured against other GT images of one name."""
    first: dict[str, tuple[Any, str]] = {}
    for run in runs:
        digests = run.images.get(dataset, {})
        for key in keys:
            if key in digests:
                digest, path = first.setdefault(key, (digests[key], run.path))
                if digest != digests[key]:
                    raise UserError(
                        f'{run.path}: {dataset}, {key}: measured against another GT image than in {path}; '
                        'test both arms on the same images'
                    )


def _value(value: Any, where: str) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and not 1e30 < abs(value) < math.inf:
            return float(value)
    except OverflowError:
        pass
    if value in _NOT_FINITE:
        return float(value)
    raise UserError(f'{_shown(where)}: {_shown(value)} is no value of a metric; {_HOW}')


def _in_all(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the keys that all tables have, in the order of the first."""
    return [key for key in tables[0] if all(key in table for table in tables)]


def _not_in_all(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the keys that some tables lack, in order of appearance."""
    every = dict.fromkeys(key for table in tables for key in table)
    return [key for key in every if not all(key in table for table in tables)]


def _paths(runs: Sequence[Run]) -> str:
    paths = [run.path for run in runs]
    return ', '.join(paths[:_NAMED]) + (f' and {len(paths) - _NAMED} more' if len(paths) > _NAMED else '')


def _shown(value: Any) -> str:
    """Returns a value of a file as one printable, short text."""
    text = value if isinstance(value, str) and value.isprintable() else ascii(value)
    return text if len(text) <= 160 else f'{text[:157]}...'
