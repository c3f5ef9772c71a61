"""The whole of `sptsr table`: read, run what is missing, write the table."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sptsr.study.cases import Cases, make_cases
from sptsr.study.costs import costs_of
from sptsr.study.digests import Digests
from sptsr.study.drawings import write_drawings
from sptsr.study.gallery import Gallery
from sptsr.study.handmade import take_over
from sptsr.study.outputs import check_folder, runs_json, write_outputs
from sptsr.study.pool import Failure, Pool
from sptsr.study.protocol import protocol_notes
from sptsr.study.results import Block, blocks_of
from sptsr.study.runs import Run, make_runs
from sptsr.study.steps import LocalProcess, Slot, Start
from sptsr.study.stores import Stores
from sptsr.study.study_file import Study, read_study


@dataclass(frozen=True)
class Plan:
    """A study that is read, with its runs.

    Attributes:
        study: the file.
        cases: what of it can be run here.
        runs: distinct runs.
        stores: that it makes.
    """

    study: Study
    cases: Cases
    runs: list[Run]
    stores: Stores


def make_plan(path: str | os.PathLike[str], runs: str | os.PathLike[str], processes: int = 1) -> Plan:
    """Reads and checks a study; makes nothing but the note of digests.

    Args:
        path: the study file.
        runs: folder of all runs.
        processes: ranks of each training.

    Raises:
        UserError: any mistake in it or in the option files that it names.
    """
    study = read_study(path)
    cases = make_cases(study)
    folder = Path(runs)
    digests = Digests(folder / 'digests.json')
    stores = Stores(folder / 'priors', digests)
    banded = [case for row in study.rows for case in stores.add_bands(cases.of(row.name))]
    placed = [stores.place(case) for case in banded]
    found = make_runs(placed, study.seeds, folder, stores, digests, processes)
    for run in found:
        run.check()
    return Plan(study, replace(cases, cases=tuple(placed)), found, stores)


def run_plan(
    plan: Plan, slots: Sequence[Slot], processes: int = 1, start: Start = LocalProcess, quiet: bool = False
) -> list[Failure]:
    """Does the missing runs, each after the missing stores that it needs; returns what failed.

    Trainings that were made by hand below `experiments/` are taken over.
    """
    if all(run.done for run in plan.runs):
        return []
    for run, home in take_over(plan.runs, Path('experiments'), plan.stores.digests):
        print(f'{run.name}: trained already, in {home}', file=sys.stderr)
    return Pool(slots, processes, start, quiet).do(plan.runs)


def write_table(plan: Plan, out: Path, failures: Sequence[Failure] = (), figures: bool = False) -> list[Block]:
    """Writes the table of what is done, with figures for papers if they are asked for; returns its rows."""
    check_folder(out, plan.study)
    blocks, values = blocks_of(plan.study, plan.cases, plan.runs)
    notes = [*plan.cases.left_out, *(note for block in blocks for note in block.notes), *map(str, failures)]
    notes += _notes(plan)
    costs = costs_of(plan.cases.cases, plan.study.columns)
    blocks = [replace(b, costs={arm: costs.values.get((b.name, arm), {}) for arm in b.lines}) for b in blocks]
    notes += costs.notes
    write_outputs(out, plan.study, blocks, values, runs_json(plan.study, plan.runs, failures, plan.stores.made), notes)
    gallery = Gallery(plan.study, plan.cases, plan.runs, blocks, values)
    gallery.write_page(out / 'report.html')
    if figures:
        write_drawings(out / 'figures', blocks, plan.runs, gallery)
    return blocks


def _notes(plan: Plan) -> Iterator[str]:
    """Yields what has to be said of the rows: protocols that are not the published ones, and sources of figures."""
    for row in plan.study.rows:
        published = plan.study.published.get(row.name, {})
        cases = plan.cases.of(row.name)
        if cases:
            yield from protocol_notes(row.name, cases[0].test, bool(published))
        for arm, figures in published.items() if cases else ():
            yield f'{row.name}, {arm}: published by {figures.source or "(the study does not say whom)"}'


def far_off(study: Study, blocks: Sequence[Block], tolerance: float) -> list[str]:
    """Returns a line for each published figure that ours is farther from than the tolerance, or that ours lacks."""
    means = {
        (block.name, arm, *column): cell.mean
        for block in blocks
        for arm, cells in block.lines.items()
        for column, cell in cells.items()
    }
    found = []
    for row, by_arm in study.published.items():
        for arm, one in by_arm.items():
            for dataset, metric, published in one.each():
                mean = means.get((row, arm, dataset, metric))
                if mean is None or not abs(mean - published) <= tolerance:
                    ours = 'no result' if mean is None else f'{mean:.4f}'
                    found.append(f'{row}, {arm}, {dataset}, {metric}: {ours}, published {published:g}')
    return found
