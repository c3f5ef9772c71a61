"""What the networks of a study cost: parameters, multiply-adds, time and memory, as columns of its table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sptsr.core.progress import bar
from sptsr.core.registry import register_all
from sptsr.evaluation.cost import (
    INPUT,
    OUTPUT,
    count_macs,
    count_parameters,
    input_for,
    made_to_measure,
    measure_latency,
    measure_memory,
)
from sptsr.options.keys import TRAIN_DEFAULTS
from sptsr.study.cases import Case
from sptsr.tuning.step_memory import step_memory

_OUTPUT = f'{OUTPUT[1]}x{OUTPUT[0]} output'
_INPUT = f'{INPUT[1]}x{INPUT[0]} input'


@dataclass(frozen=True)
class Costs:
    """Columns of a table beside the metrics.

    Attributes:
        values: by row and arm, and by the name of the column, which has the unit.
        notes: how they were counted and measured.
    """

    values: dict[tuple[str, str], dict[str, float]]
    notes: tuple[str, ...]


def costs_of(cases: Sequence[Case], wanted: Sequence[str]) -> Costs:
    """Counts and measures what the study's `columns` ask for; equal networks are measured once.

    Args:
        cases: of the study.
        wanted: of `sptsr.study.study_file.COLUMNS`.
    """
    if not wanted:
        return Costs({}, ())
    register_all()
    known: dict[str, tuple[dict[str, float], tuple[str, ...]]] = {}
    values: dict[tuple[str, str], dict[str, float]] = {}
    notes: dict[str, None] = {}
    with bar(len(cases), 'costs', 'network') as shown:
        for case in cases:
            step = _step_of(case) if 'memory' in wanted else None
            key = json.dumps([case.test['network_g'], step], sort_keys=True)
            if key not in known:
                known[key] = _measured(case.test['network_g'], step, wanted)
            values[case.row, case.arm], said = known[key]
            notes |= dict.fromkeys(said)
            shown.update()
    return Costs(values, tuple(notes))


def _step_of(case: Case) -> dict[str, Any] | None:
    """Returns what the memory of a training step depends on beside the network."""
    if case.train is None:
        return None
    data = case.train['datasets']['train']
    side = int(data.get('gt_size') or 0) // int(case.train['scale'])
    return {'train': case.train['train'], 'batch': int(data['batch_size_per_gpu']), 'side': side} if side else None


def _measured(
    section: Mapping[str, Any], step: Mapping[str, Any] | None, wanted: Sequence[str]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Returns the columns of one network and what has to be said of them."""
    tuned = section['type'] == 'SPTNet'
    net, size = made_to_measure(section, INPUT)
    found: dict[str, float] = {}
    notes: list[str] = []
    if 'params' in wanted:
        parameters = count_parameters(net)
        found['params (K)'] = (parameters.backbone + (parameters.added if tuned else 0)) / 1e3
        found['trained (K)'] = parameters.trainable / 1e3 if tuned else 0.0
    if 'macs' in wanted:
        macs = [count_macs(net, size) for size in (input_for(net), INPUT)]
        for name, one in zip((_OUTPUT, _INPUT), macs, strict=True):
            found[f'MACs (G), {name}'] = (one.tuned if tuned else one.backbone) / 1e9
        meant = [(-(-OUTPUT[0] // net.scale), -(-OUTPUT[1] // net.scale)), INPUT]
        if [one.size for one in macs] != meant:
            taken = ' and '.join(f'{one.size[1]}x{one.size[0]}' for one in macs)
            notes.append(f'MACs of {_title(section)}: of inputs of the next sizes that it takes, {taken}.')
        notes.append('MACs are those of convolutions and matrix products: a multiplication and an addition each.')
        others = ', '.join(f'{name} {count}x' for name, count in sorted(macs[0].uncounted.items()))
        if tuned and others:
            notes.append(f'MACs of {_title(section)}: not counted are {others}.')
    if 'latency' in wanted:
        latency = measure_latency(net, size)
        found[f'ms, {_INPUT}'] = 1e3 * (latency.tuned if tuned else latency.backbone).median
        notes.append(f'Times are medians of {latency.rounds} runs, by turns with the backbone, on {latency.device}.')
    if 'memory' in wanted:
        found[f'MB, {_INPUT}'] = measure_memory(net, size)[int(tuned)] / 1e6
        if step is not None:
            peak = step_memory(net, {**TRAIN_DEFAULTS, **step['train']}, step['batch'], (step['side'], step['side']))
            found['MB, training step'] = peak / 1e6
        notes.append('Memory is the peak beside the weights of the network.')
    return found, tuple(notes)


def _title(section: Mapping[str, Any]) -> str:
    backbone = section.get('backbone', section)
    unit = (section.get('unit') or {}).get('type', 'ModulationUnit')
    tune = section.get('tune', 'adapter')
    return f'{backbone["type"]} with {tune.replace("adapter", unit)}'
