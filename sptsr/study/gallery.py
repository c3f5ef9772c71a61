"""`report.html` of a study: the restored images of its arms beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sptsr.core.homes import expanded
from sptsr.core.registry import register_all
from sptsr.data.checked import open_dataset
from sptsr.images.decode import RGB
from sptsr.report.page import Page, Picture
from sptsr.study.cases import Case, Cases, uses_masks
from sptsr.study.results import Block, Value
from sptsr.study.runs import Run, Use
from sptsr.study.study_file import Study


class Gallery:
    """The restored images of a study, of its first seed, with their figures.

    Args:
        study, cases, runs, blocks, values: what was read and measured.

    Attributes:
        tuned, reference: the arm that the page is about, and the control.
    """

    def __init__(
        self, study: Study, cases: Cases, runs: Sequence[Run], blocks: Sequence[Block], values: Sequence[Value]
    ) -> None:
        register_all()
        self.study, self.cases, self.blocks, self.values = study, cases, blocks, values
        self.images = _images(study, runs)
        self.figures = _figures(values, {(block.name, *column) for block in blocks for column in block.columns})
        self.tuned, self.reference = _pair(study, cases)

    def pictures(self, row: str) -> Iterator[Picture]:
        """Yields the images of a row; those of tests that have kept none are left out."""
        yield from _pictures(row, self.cases, self.images, self.figures)

    def write_page(self, path: Path) -> None:
        """Writes `report.html`."""
        counts = {}
        for block in self.blocks:
            for _, data in _sets(self.cases.of(block.name)):
                keys = {value.key for value in self.values if _is_of(value, block.name, data)}
                counts[_title(block.name, data)] = len(keys)
        better = {
            column[1]: 'higher' if up else 'lower' for block in self.blocks for column, up in block.higher.items()
        }
        about = f'Images of seed {self.study.seeds[0]}; figures are means over {len(self.study.seeds)} seeds.'
        pictures = (picture for block in self.blocks for picture in self.pictures(block.name))
        Page(self.study.title, self.tuned, self.reference, better, counts, about).write(path, pictures)


def _pair(study: Study, cases: Cases) -> tuple[str, str | None]:
    """Returns the arm that the page is about, and the control: the first arm that sees the row's own masks."""
    arms = [case for case in cases.cases if case.arm != study.control]
    own = [case for case in arms if case.shares_masks and case.prior is None]
    sees = [case for case in own if uses_masks(case.test['network_g'])]
    return next(case.arm for case in sees or own or arms or cases.cases), study.control


def _images(study: Study, runs: Sequence[Run]) -> dict[tuple[str, str], Path]:
    """Returns the folders of restored images by row and arm, of the first seed and of tests that ended."""
    found = {}
    for run in runs:
        for use, test in run.uses:
            if use.seed in (None, study.seeds[0]) and run.tested(test):
                found[use.row, use.arm] = run.metrics(test).parent / 'visualization'
    return found


def _sets(cases: Sequence[Case]) -> list[tuple[Case, dict[str, Any]]]:
    """Returns the test sets of a row, with its own masks where there are any."""
    case = next((case for case in cases if case.shares_masks and case.prior is None), cases[0])
    return [(case, data) for data in case.test['datasets'].values()]


def _title(row: str, data: Mapping[str, Any]) -> str:
    return f'{row}: {data["name"]}'


def _is_of(value: Value, row: str, data: Mapping[str, Any]) -> bool:
    return value.use.row == row and value.dataset == data['name']


def _figures(values: Sequence[Value], wanted: set[tuple[str, str, str]]) -> dict[tuple[str, str, str], Any]:
    """Returns means over seeds by row, dataset and image: {metric: {arm: value}}."""
    of_runs: dict[tuple[str, str, str, str, str], list[float]] = {}
    for value in values:
        use: Use = value.use
        if (use.row, value.dataset, value.metric) in wanted:
            of_runs.setdefault((use.row, value.dataset, value.key, value.metric, use.arm), []).append(value.value)
    found: dict[tuple[str, str, str], Any] = {}
    for (row, dataset, key, metric, arm), several in of_runs.items():
        # `fmean` refuses to add up inf and -inf.
        found.setdefault((row, dataset, key), {}).setdefault(metric, {})[arm] = sum(several) / len(several)
    return found


def _pictures(
    row: str, cases: Cases, images: Mapping[tuple[str, str], Path], figures: Mapping[tuple[str, str, str], Any]
) -> Iterator[Picture]:
    for case, data in _sets(cases.of(row)):
        name = str(data['name'])
        if not any((images.get((row, arm.arm), Path()) / name).is_dir() for arm in cases.of(row)):
            continue
        lost = 'dataroot_prior' in data and not Path(expanded(data['dataroot_prior'])).is_dir()
        shown = {key: value for key, value in data.items() if not (lost and key == 'dataroot_prior')}
        dataset = open_dataset({**shown, 'phase': 'test', 'scale': case.test['scale']})
        for number in range(len(dataset)):
            sample = dataset[number]
            key = sample.get('key') or Path(sample['lq_path']).stem
            files = {arm.arm: images.get((row, arm.arm), Path()) / name / f'{key}.png' for arm in cases.of(row)}
            arms = {arm: file for arm, file in files.items() if file.is_file()}
            if arms:
                gt = _rgb(sample['gt']) if 'gt' in sample else None
                of_key = figures.get((row, name, key), {})
                yield Picture(key, arms, _rgb(sample['lq']), gt, sample.get('prior'), of_key, _title(row, data))


def _rgb(image: Any) -> RGB:
    """Returns [C, H, W] in 0..1 as uint8 RGB [H, W, 3]; what lies outside is clipped."""
    pixels = np.clip(np.asarray(image).transpose(1, 2, 0) * 255, 0, 255).round().astype(np.uint8)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
