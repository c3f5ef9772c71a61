"""The figures of a study: its cells, and each arm against the control."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sptsr.core.errors import UserError
from sptsr.evaluation.bands import BANDS
from sptsr.evaluation.comparison import Row, compare_runs, other_inputs, read_run
from sptsr.evaluation.comparison import Run as Measured
from sptsr.evaluation.statistics import holm
from sptsr.study.cases import Cases
from sptsr.study.cells import Cell, Column, cells_of, gain, of_common_seeds
from sptsr.study.runs import Run, Use
from sptsr.study.study_file import Study

THIRDS = ('hard', 'middling', 'easy')
PARTS = (*BANDS, *THIRDS)


@dataclass(frozen=True)
class Against:
    """An arm against the control, in one column.

    Attributes:
        arm: its name.
        row: what `sptsr compare` computes of the two.
        p_holm: p corrected for the number of arms.
    """

    arm: str
    row: Row
    p_holm: float


@dataclass(frozen=True)
class Part:
    """The gain of an arm over the control in a part of the images or of their pixels.

    Attributes:
        dataset, metric, arm: names.
        part: one of `PARTS`.
        images: that the part has.
        difference: mean of arm - control.
        interval: 95 % interval of it; None for one image.
    """

    dataset: str
    metric: str
    arm: str
    part: str
    images: int
    difference: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Block:
    """A row of the study.

    Attributes:
        name: of the row.
        columns: datasets and metrics.
        higher: of each column, whether a greater value is the better one.
        lines: cells by arm and column, arms in the order of the study.
        against: arms against the control by column.
        parts: the same in parts of the images and of their pixels.
        notes: what has to be said of it, such as arms without results.
        costs: by arm and column, what the networks cost, where the study asks for it.
    """

    name: str
    columns: tuple[Column, ...]
    higher: Mapping[Column, bool]
    lines: Mapping[str, Mapping[Column, Cell]]
    against: Mapping[Column, tuple[Against, ...]]
    parts: tuple[Part, ...]
    notes: tuple[str, ...]
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Value:
    """A metric of an image in a run."""

    use: Use
    dataset: str
    metric: str
    key: str
    value: float


def blocks_of(study: Study, cases: Cases, runs: Sequence[Run]) -> tuple[list[Block], list[Value]]:
    """Reads the `metrics.json` of all runs that are done; returns the rows of the table and all images' values."""
    measured: dict[Use, Measured] = {}
    for run in runs:
        for use, test in run.uses:
            if run.tested(test):
                measured[use] = read_run(run.metrics(test))
    names = [row.name for row in study.rows if cases.of(row.name)]
    blocks = [_block(study, name, cases, measured) for name in names]
    values = [
        Value(use, dataset, metric, key, value)
        for use, one in measured.items()
        for dataset, metrics in one.datasets.items()
        for metric, record in metrics.items()
        for key, value in record.values.items()
    ]
    return blocks, values


def _block(study: Study, name: str, cases: Cases, measured: Mapping[Use, Measured]) -> Block:
    arms: dict[str, list[Measured]] = {}
    notes = []
    for case in cases.of(name):
        uses = [Use(name, case.arm, seed) for seed in (study.seeds if case.train is not None else (None,))]
        found = [measured[use] for use in uses if use in measured]
        if len(found) < len(uses):
            notes.append(f'{name}, {case.arm}: {len(found)} of {len(uses)} runs have results')
        arms[case.arm] = found
    some = [one for found in arms.values() for one in found]
    measured_by_any = dict.fromkeys(
        (dataset, metric) for one in some for dataset, metrics in one.datasets.items() for metric in metrics
    )
    measured_by_all = [
        (dataset, metric)
        for dataset, metric in measured_by_any
        if all(metric in one.datasets.get(dataset, {}) for one in some)
    ]
    notes += [
        f'{name}: {dataset}, {metric} is left out: not all arms have it'
        for dataset, metric in measured_by_any
        if (dataset, metric) not in measured_by_all
    ]
    for dataset in dict.fromkeys(dataset for dataset, _ in measured_by_all):
        if count := other_inputs(some, dataset):
            notes.append(f'{name}: {dataset}: {count} LQ images are not the same for all arms')
    banded = {(dataset, metric): _band(some[0], dataset, metric) for dataset, metric in measured_by_all}
    columns = [column for column in measured_by_all if banded[column] is None]
    oracles = [case.arm for case in cases.of(name) if case.prior == 'oracle']
    notes += [f'{name}, {arm}: an upper bound, not ranked' for arm in oracles]
    higher = {column: _is_higher(some, column) for column in columns}
    lines: dict[str, dict[Column, Cell]] = {arm: {} for arm in arms}
    for column in columns:
        cells, said = cells_of(arms, column, higher[column], oracles, _published(study, name, column))
        notes += [f'{name}: {one}' for one in said]
        for arm, cell in cells.items():
            lines[arm][column] = cell
    against, said = _against(study.control, arms, lines)
    notes += [f'{name}: {one}' for one in said]
    frozen = next((case.arm for case in cases.of(name) if case.train is None and arms[case.arm]), study.control)
    parts = _parts(study.control, frozen, arms, {column: band for column, band in banded.items() if band is not None})
    return Block(name, tuple(columns), higher, lines, against, tuple(parts), tuple(notes))


def _published(study: Study, row: str, column: Column) -> dict[str, float | None]:
    """Returns the published figures of a column by arm."""
    dataset, metric = column
    return {arm: one.figures.get(dataset, {}).get(metric) for arm, one in study.published.get(row, {}).items()}


def _band(one: Measured, dataset: str, metric: str) -> tuple[str, str] | None:
    """Returns the metric and the band that a figure is of, or None for one of whole images."""
    options = one.datasets[dataset][metric].options or {}
    name, _, band = metric.rpartition(' ')
    # a metric of one's own may have an option of that name
    return (name, band) if band in BANDS and options.get('band') == band else None


def _parts(
    control: str | None,
    frozen: str | None,
    arms: Mapping[str, Sequence[Measured]],
    banded: Mapping[Column, tuple[str, str]],
) -> Iterator[Part]:
    """Yields the gains over the control in the bands of the images, and in thirds of the images by difficulty."""
    if control is None or frozen is None or not arms.get(control):
        return
    datasets = list(dict.fromkeys(dataset for dataset, _ in banded))
    for dataset, arm in itertools.product(datasets, arms):
        if arm == control or not arms[arm]:
            continue
        for column, (metric, band) in banded.items():
            if column[0] == dataset:
                yield from _part(arms[control], arms[arm], column, (metric, arm, band))
        for metric in dict.fromkeys(metric for (name, _), (metric, _) in banded.items() if name == dataset):
            for third, keys in _thirds(arms[frozen], (dataset, metric)).items():
                yield from _part(arms[control], arms[arm], (dataset, metric), (metric, arm, third), keys)


def _part(
    a: Sequence[Measured],
    b: Sequence[Measured],
    column: Column,
    names: tuple[str, str, str],
    keys: Collection[str] | None = None,
) -> Iterator[Part]:
    found = gain(a, b, column, keys)
    if found is not None:
        metric, arm, part = names
        yield Part(column[0], metric, arm, part, *found)


def _thirds(runs: Sequence[Measured], column: Column) -> dict[str, list[str]]:
    """Returns the images in thirds by the figures of an arm, those that are hardest for it first."""
    records = [one.datasets[column[0]][column[1]].values for one in runs]
    means = {key: statistics.fmean(values[key] for values in records) for key in records[0]}
    order = sorted((key for key in means if math.isfinite(means[key])), key=lambda key: (means[key], key))
    cuts = [round(len(order) * n / 3) for n in range(4)]
    return {name: order[cuts[n] : cuts[n + 1]] for n, name in enumerate(THIRDS)}


def _is_higher(some: Sequence[Measured], column: Column) -> bool:
    options = some[0].datasets[column[0]][column[1]].options or {}
    return options.get('better') != 'lower'


def _compared(a: Sequence[Measured], b: Sequence[Measured], column: Column) -> Row | None:
    """Returns the comparison of two arms in one column, by the images that both have; None where there is none.

    Raises:
        UserError: the arms were measured against other GT images.
    """
    dataset, metric = column
    if gain(a, b, column) is None:
        return None
    both = [
        [Measured(one.path, one.seed, {dataset: {metric: one.datasets[dataset][metric]}}, one.images) for one in arm]
        for arm in of_common_seeds(a, b)
    ]
    return compare_runs(both[0], both[1], common=True).rows[0]


def _against(
    control: str | None, arms: Mapping[str, Sequence[Measured]], lines: Mapping[str, Mapping[Column, Cell]]
) -> tuple[dict[Column, tuple[Against, ...]], list[str]]:
    """Returns each arm against the control by column, and where that is not of the runs and images of the means."""
    if control is None or not arms.get(control):
        return {}, []
    found, notes = {}, []
    for column, own in lines[control].items():
        rows: dict[str, Row] = {}
        for arm, measured in arms.items():
            if arm == control or not measured:
                continue
            where = f'{", ".join(column)}: {arm} against {control}'
            try:
                row = _compared(arms[control], measured, column)
            except UserError as error:
                notes.append(f'{where} is not compared: {error}')
                continue
            if row is None:
                continue
            rows[arm] = row
            pairs = of_common_seeds(arms[control], measured)
            runs = [len(one) for one in pairs]
            if runs != [len(arms[control]), len(measured)]:
                notes.append(f'{where} is of the seeds that both have, {runs[0]}; the means are of all')
            if own.images and row.figures.images != own.images:
                notes.append(f'{where} is of {row.figures.images} images, and the means are of {own.images}')
        corrected = holm([row.figures.p for row in rows.values()])
        found[column] = tuple(Against(arm, row, p) for (arm, row), p in zip(rows.items(), corrected, strict=True))
    return found, notes
