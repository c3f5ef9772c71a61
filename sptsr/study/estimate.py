"""How long the missing runs of a study may take, from a few measured steps and one image of each test set."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from sptsr.core.homes import expanded
from sptsr.core.progress import bar
from sptsr.core.registry import register_all
from sptsr.data.checked import open_dataset
from sptsr.data.loader import SeededIndex, collate
from sptsr.evaluation.cost import made_up_prior
from sptsr.options.load import complete
from sptsr.study.runs import Run
from sptsr.study.steps import threads
from sptsr.tuning.model import SPTModel

_STEPS = 3
_START = 8.0  # seconds until a process has imported all and built its network


def estimate(runs: Sequence[Run]) -> dict[str, float]:
    """Returns the seconds that each run may still take, by its id; nothing is written.

    Runs that differ in seed and masks only are measured once. Stores need not exist: made-up masks cost the same.
    """
    register_all()
    if not torch.cuda.is_available():
        torch.set_num_threads(int(threads()))
    missing = [run for run in runs if not run.done]
    measured: dict[str, tuple[float, float]] = {}
    found = {}
    with bar(len(missing), 'estimate', 'run') as shown:
        for run in missing:
            key = json.dumps([_cost_of(run.train or {}), [_cost_of(test) for test in run.tests.values()]])
            if key not in measured:
                step = 0.0 if run.train is None else _seconds_of_step(run.train)
                measured[key] = step, sum(map(_seconds_of_test, run.tests.values()))
            step, test = measured[key]
            left = 0 if run.train is None else run.size - run.progress
            starts = len(run.missing()) + (not run.trained)
            found[run.id] = left * step + test + starts * _START
            shown.update()
    return found


def shown_time(seconds: float) -> str:
    """Returns a time as people say it: `40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for size, unit in ((86400, 'days'), (3600, 'h')):
        if seconds >= 1.5 * size:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds / 60:.0f} min' if seconds >= 90 else f'{seconds:.0f} s'


def _cost_of(opt: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of some options the time depends on."""
    kept = {key: opt[key] for key in ('network_g', 'train', 'scale') if key in opt}
    skip = ('dataroot_prior', 'name')
    sets = {phase: {k: v for k, v in data.items() if k not in skip} for phase, data in opt.get('datasets', {}).items()}
    return {**kept, 'datasets': sets}


def _seconds_of_step(train: Mapping[str, Any]) -> float:
    opt = _complete(train, True)
    data = opt['datasets']['train']
    dataset = open_dataset(data)
    size = int(data['batch_size_per_gpu']) * int(opt['train']['accumulate'])
    model = SPTModel(opt)
    times = []
    for step in range(1, _STEPS + 2):
        start = time.perf_counter()
        indices = [(step * size + slot) % len(dataset) for slot in range(size)]
        model.feed_data(_batch([dataset[SeededIndex(index, step)] for index in indices]))
        model.update_learning_rate(step)
        model.optimize_parameters(step)
        times.append(_since(start))
    return statistics.median(times[1:])  # the first one is slower


def _seconds_of_test(test: Mapping[str, Any]) -> float:
    opt = _complete(test, False)
    model = SPTModel(opt)
    total = 0.0
    for data in opt['datasets'].values():
        dataset = open_dataset(data)
        start = time.perf_counter()
        model.restore(_batch([dataset[0]]))
        total += _since(start) * len(dataset)
    return total


def _complete(options: Mapping[str, Any], is_train: bool) -> dict[str, Any]:
    """Returns complete options without what may not be there yet: stores and the adapter."""
    opt = deepcopy(dict(options))
    weights = (opt.get('path') or {}).get('pretrain_network_g')
    if opt['network_g'].get('type') == 'SPTNet' or weights is None:
        opt.pop('path', None)
    opt['val'] = {key: value for key, value in (opt.get('val') or {}).items() if key != 'bands'}
    for data in opt['datasets'].values():
        store = data.get('dataroot_prior')
        if isinstance(store, str) and not Path(expanded(store)).is_dir():
            del data['dataroot_prior']
    return complete(opt, is_train, '.')


def _batch(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    priors = [sample.get('prior') or made_up_prior(sample['lq'].shape[-2:]) for sample in samples]
    return collate([{**sample, 'prior': prior} for sample, prior in zip(samples, priors, strict=True)])


def _since(start: float) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
