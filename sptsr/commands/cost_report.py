"""`sptsr cost`: the figures of a network and of its backbone, as a table with notes or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sptsr.archs.backbone import kind_of
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.errors import UserError
from sptsr.core.free_memory import must_fit
from sptsr.core.registry import register_all
from sptsr.evaluation.cost import (
    INPUT,
    OUTPUT,
    Latency,
    Macs,
    Spread,
    count_macs,
    count_parameters,
    input_for,
    made_to_measure,
    measure_latency,
    measure_memory,
    size_for,
)
from sptsr.options.keys import TRAIN_DEFAULTS
from sptsr.options.load import load_network, read_checked
from sptsr.report.tables import text_table
from sptsr.tuning.step_memory import step_memory

_MIB = 1 << 20


def cost_report(path: str, size: tuple[int, int], rounds: int, as_json: bool) -> str:
    """Returns what the network of an option file costs.

    Args:
        path: of the option file.
        size: height and width of the LQ image that is timed, brought up to what the network takes.
        rounds: runs of each network.
        as_json: whether all figures are returned as JSON; else as a table with notes.
    """
    section, options = load_network(path)
    if options.get('train'):
        read_checked(path, True, files=False)  # a step is made by them
    register_all()
    tuned = section['type'] == 'SPTNet'
    net, size = made_to_measure(section, size)
    macs = [count_macs(net, input_for(net)), count_macs(net, INPUT)]
    must_fit_memory(net, size)
    latency = measure_latency(net, size, rounds)
    memory = measure_memory(net, size)
    step = _step(net, options) if tuned else None
    if as_json:
        return json.dumps(
            {
                'network': net.options,
                'parameters': asdict(count_parameters(net)),
                'macs': [asdict(one) for one in macs],
                'latency': asdict(latency),
                'memory_bytes': dict(zip(('backbone', 'tuned'), memory, strict=True)),
                'step': step,
            },
            indent=1,
        )
    return _text(net, tuned, macs, latency, memory, step)


def must_fit_memory(net: SPTNet, size: tuple[int, int]) -> None:
    """Raises UserError for an image that needs more memory than is free, by what a small one needs."""
    probe = size_for(net, INPUT)
    ratio = size[0] * size[1] / (probe[0] * probe[1])
    if ratio > 1:
        needed = ratio * max(measure_memory(net, probe))
        must_fit(f'--size {size[0]} {size[1]}', needed, 'choose a smaller one', kind_of(net)['device'])


def _step(net: SPTNet, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns batch, size of the LQ crops and memory of a step where the option file trains."""
    train = options.get('train')
    if not train:
        return None
    data = options['datasets']['train']
    if not data.get('gt_size'):
        return None
    if int(data['gt_size']) < net.scale:
        raise UserError(
            f'datasets.train.gt_size: {data["gt_size"]} is less than a pixel of the LQ image at x{net.scale}'
        )
    side, batch = int(data['gt_size']) // net.scale, int(data.get('batch_size_per_gpu', 1))
    found = step_memory(net, {**TRAIN_DEFAULTS, **train}, batch, (side, side))
    return {'batch': batch, 'size': [side, side], 'bytes': found}


def _text(
    net: SPTNet, tuned: bool, macs: list[Macs], latency: Latency, memory: tuple[int, int], step: dict[str, Any] | None
) -> str:
    parameters = count_parameters(net)
    rows = [
        ['parameters', f'{parameters.backbone:,}', f'{parameters.backbone + parameters.added:,}'],
        ['  trainable', '', f'{parameters.trainable:,}'],
        ['  added at inference', '', f'{parameters.added:,} ({parameters.added / parameters.backbone:.2%})'],
    ]
    outputs = f'output {OUTPUT[1]}x{OUTPUT[0]}', f'input {INPUT[1]}x{INPUT[0]}'
    rows += [
        [f'multiply-adds, {name}', f'{one.backbone / 1e9:.2f} G', f'{one.tuned / 1e9:.2f} G']
        for name, one in zip(outputs, macs, strict=True)
    ]
    height, width = latency.size
    rows += [
        [f'time of {width}x{height}', _milliseconds(latency.backbone), _milliseconds(latency.tuned)],
        [f'peak memory of {width}x{height}', *(f'{one / _MIB:.1f} MiB' for one in memory)],
    ]
    if step:
        what = f'peak memory of a step, {step["batch"]} x {step["size"][0]}x{step["size"][1]}'
        rows.append([what, '', f'{step["bytes"] / _MIB:.1f} MiB'])
    name = type(net.backbone).__name__
    header = ['', name, f'tuned ({_way(net)})']
    if not tuned:
        header, rows = header[:2], [row[:2] for row in rows if row[1]]
    return '\n'.join([text_table(header, rows), '', *_notes(macs, latency, tuned)])


def _way(net: SPTNet) -> str:
    unit = [net.options['unit']['type']] if net.units else []
    return ', '.join(unit + ([f'tune: {net.tune}'] if net.learned else []))


def _milliseconds(spread: Spread) -> str:
    return f'{1e3 * spread.median:.1f} ms ({1e3 * spread.low:.1f} to {1e3 * spread.high:.1f})'


def _notes(macs: list[Macs], latency: Latency, tuned: bool) -> list[str]:
    height, width = macs[0].size
    notes = [
        'Multiply-adds are those of convolutions and products of matrices, for one image; one is two FLOPs. '
        f'Output {OUTPUT[1]}x{OUTPUT[0]} (width x height) is of an input of {width}x{height}.'
    ]
    if any(one.scaled for one in macs):
        notes.append('They were counted at three small sizes and scaled by the area, since this network needs values.')
    others = sorted(macs[0].uncounted.items(), key=lambda item: (-item[1], item[0]))
    notes.append(f'Operators that compute and are not counted: {", ".join(f"{name} {n}x" for name, n in others)}.')
    spread = f'median and quartiles of {latency.rounds} runs'
    if tuned:
        ratio = latency.ratio
        spread += f' by turns; tuned over backbone {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})'
    notes.append(f'Time: {spread}, on {latency.device}.')
    notes.append('Memory: what one forward pass allocates, output included, weights not.')
    return notes
