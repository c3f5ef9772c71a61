"""The adapter files of a run: what they are called, and what they say of their training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sptsr.archs.adapter import SIGMA, read_adapter
from sptsr.core.errors import UserError
from sptsr.core.files import write_bytes
from sptsr.core.values import misfit
from sptsr.priors.store import PriorStore


def numbered_file(models: Path, iteration: int) -> Path:
    """Returns the file of an iteration's adapter in the folder `models` of a run."""
    return models / f'net_g_{iteration}.safetensors'


def latest_file(models: Path) -> Path:
    """Returns the file of the adapter that a complete training ends with."""
    return models / 'net_g_latest.safetensors'


def best_file(models: Path, dataset: str, metric: str) -> Path:
    """Returns the file of the best adapter by a metric of a set."""
    name = re.sub(r'[^\w.+-]', '_', f'net_g_best_{dataset}_{metric}')
    return models / f'{name}.safetensors'


def adopt_best(models: Path, records: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Gives the best adapters of a run of sptsr 0.1, which kept them under their iterations, names of their own.

    Args:
        models: folder of the adapters.
        records: of the best by set and metric; `iter` is its iteration.
    """
    for dataset, by_metric in records.items():
        for metric, best in by_metric.items():
            file, numbered = best_file(models, dataset, metric), numbered_file(models, best['iter'])
            if not file.is_file() and numbered.is_file():
                write_bytes(file, numbered.read_bytes())


def with_adapters(models: Path, records: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Returns the records of the best whose adapters are there, if only under their iterations (see `adopt_best`)."""
    adopt_best(models, records)
    return {
        dataset: {name: best for name, best in by_metric.items() if best_file(models, dataset, name).is_file()}
        for dataset, by_metric in records.items()
    }


def is_finished(models: Path, total: int) -> bool:
    """Returns whether the adapter is there that a training of so many iterations ends with."""
    try:
        return read_adapter(latest_file(models)).iteration == total
    except UserError:
        return False


def trained_with(opt: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what an adapter says of its training (see `Adapter.trained_with`)."""
    data = opt['datasets']['train']
    record: dict[str, Any] = {'dataset': str(data['name']), 'seed': opt['manual_seed']}
    if misfit(data.get('sigma'), SIGMA) is None:  # a set of one's own may call something else so
        record['sigma'] = data['sigma']
    if data.get('dataroot_prior'):
        header = PriorStore(data['dataroot_prior']).header
        record['prior'] = {
            'source': header.source,
            'params': header.params,
            'weights_sha256': header.weights_sha256,
            'max_masks': header.max_masks,
            'fine': header.fine,
        }
    return record
