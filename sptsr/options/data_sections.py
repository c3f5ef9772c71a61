"""The check of the section `datasets` of option files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sptsr.core.catalogue import find
from sptsr.core.errors import UserError
from sptsr.core.signatures import argument_problems
from sptsr.core.template import check_template
from sptsr.core.yaml_io import KeyPath
from sptsr.options.keys import STOCK_DATASET, STOCK_NEEDS, STOCK_TRAIN_NEEDS
from sptsr.options.problems import NotThere, Problem, wrong_keys, wrong_name


def check_datasets(section: Mapping[str, Any], opt: Mapping[str, Any], is_train: bool) -> list[Problem]:
    """Lists the mistakes of the section; `opt` is the whole file."""
    problems: list[Problem] = []
    if is_train and 'train' not in section:
        problems.append((('datasets',), "datasets: 'train' is missing"))
    for phase, data in section.items():
        path = ('datasets', phase)
        if phase != 'train' and phase.split('_')[0] not in ('val', 'test'):
            problems.append((path, f"datasets: '{phase}' must be train, val, val_2, test, test_2, ..."))
        elif not isinstance(data, Mapping):
            problems.append((path, f'datasets.{phase} must be a section'))
        else:
            problems += _dataset(data, path, opt)
    names: dict[object, str] = {}
    for phase, data in section.items():
        name = data.get('name') if isinstance(data, Mapping) and phase.split('_')[0] != 'train' else None
        here, path = f'datasets.{phase}.name', ('datasets', phase, 'name')
        if isinstance(name, str) and name in names:
            problems.append((path, f"{here}: '{name}' is the name of datasets.{names[name]} too; rename one"))
        elif isinstance(name, str):
            names[name] = phase
        if isinstance(name, str) and not is_folder_name(name):
            problems.append((path, f"{here}: '{name}' cannot be a folder's name, where its images go; choose another"))
    return problems


def is_folder_name(name: str) -> bool:
    """Returns whether a folder in another one can be called so."""
    return name not in ('', '.', '..') and os.sep not in name


def names_of(section: Mapping[str, Any]) -> list[str]:
    """Returns what the sets that are validated or tested are called, of a section `datasets` that may be wrong."""
    sets = [data for phase, data in section.items() if isinstance(data, Mapping) and phase != 'train']
    return [str(data['name']) for data in sets if 'name' in data]


def _dataset(data: Mapping[str, Any], path: KeyPath, opt: Mapping[str, Any]) -> list[Problem]:
    dotted = '.'.join(path)
    if 'type' not in data:
        return [(path, f"{dotted} needs 'type'")]
    problems = wrong_name('dataset', data['type'], (*path, 'type'))
    if problems:
        return problems
    if 'name' not in data:
        problems.append((path, f"{dotted} needs 'name'"))
    dataset = find('dataset', str(data['type']))
    if 'scale' not in opt:
        problems.append(((), "'scale' is missing at the top; say 1 where LQ and GT are of one size"))
    settings = dataset.parameters('settings')
    if settings is not None:
        known = {name: p for name, p in settings.items() if name not in ('scale', 'phase')}
        found = argument_problems(known, {k: v for k, v in data.items() if k != 'type'}, data['type'])
        problems += [
            ((*path, key) if key else path, f'{dotted}: {message}')
            for key, message in found
            if message != f"{data['type']} needs 'name'"
        ]
        if 'dataroot_gt' in known and 'dataroot_gt' not in data and path[1].split('_')[0] != 'test':
            problems.append((path, f"{dotted}: {data['type']} needs 'dataroot_gt'; only a test does without GT"))
    elif dataset.module.startswith('basicsr.'):
        needed = STOCK_NEEDS if data['type'] == 'PairedImageDataset' else ()
        needed += STOCK_TRAIN_NEEDS if needed and path[1] == 'train' else ()
        problems += [(path, f"{data['type']} needs '{key}'") for key in needed if data.get(key) is None]
        problems += wrong_keys(data, _stock_keys(str(data['type'])), path)
        if isinstance(data.get('io_backend'), Mapping) and data['io_backend'].get('type') == 'lmdb':
            problems += [
                (
                    (*path, key),
                    f'{dotted}.{key}: plays no part in an LMDB of {data["type"]}; PriorPairedImageDataset takes it',
                )
                for key in ('meta_info_file', 'filename_tmpl')
                if data.get(key, '{}') not in (None, '{}')
            ]
    if isinstance(data.get('filename_tmpl'), str):  # BasicSR's datasets would look up attributes in it
        try:
            check_template(data['filename_tmpl'], f'{dotted}.filename_tmpl')
        except UserError as error:
            problems.append(((*path, 'filename_tmpl'), str(error)))
    for key in ('dataroot_gt', 'dataroot_lq', 'dataroot_prior'):
        if isinstance(data.get(key), str) and not Path(data[key]).is_dir():
            message = NotThere(f'{dotted}.{key}: {data[key]}: no such folder; see datasets/README.md')
            problems.append(((*path, key), message))
    if path[1] == 'train' and 'batch_size_per_gpu' not in data:
        problems.append((path, f"{dotted} needs 'batch_size_per_gpu', a whole number"))
    return problems


def _stock_keys(kind: str) -> dict[str, Any]:
    """Returns the keys that a dataset of BasicSR reads."""
    keys = dict(STOCK_DATASET)
    if kind == 'RealESRGANPairedDataset':
        keys['meta_info'] = keys.pop('meta_info_file')
    return keys
