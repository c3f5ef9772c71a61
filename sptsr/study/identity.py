"""What a run is: the digest of its options and of the content of what they name. Equal runs are made once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sptsr.core.catalogue import find
from sptsr.core.errors import UserError
from sptsr.core.files import sha256_json
from sptsr.core.homes import expanded
from sptsr.options.keys import TRAIN_DEFAULTS, VAL_DEFAULTS
from sptsr.study.digests import Digests

# What changes neither the adapter nor a figure.
_PROGRESS = ('name', 'num_gpu', 'logger', 'dist_params', 'find_unused_parameters', 'model_type')
_LOADING = (
    'name',
    'num_worker_per_gpu',
    'prefetch_mode',
    'pin_memory',
    'persistent_workers',
    'io_backend',
    'phase',
)
_SHOWN = ('save_img', 'suffix', 'pbar', 'val_freq')
_LENGTH = 16


def identity(value: Mapping[str, Any]) -> str:
    """Returns the name of what a record describes: 16 digits of the sha256 of its JSON."""
    return sha256_json(value)[:_LENGTH]


def training_record(
    opt: Mapping[str, Any], digests: Digests, priors: Mapping[str, str], processes: int = 1
) -> dict[str, Any]:
    """Returns all that decides an adapter.

    Args:
        opt: options of the training.
        digests: of files and folders.
        priors: digests of stores that do not exist yet, by path.
        processes: ranks of the run, each of which has a batch of its own.
    """
    record = _record(opt, digests, priors)
    record['train'] = _called(_without(opt['train'], TRAIN_DEFAULTS))
    record['datasets'] = {'train': record['datasets']['train']}
    record.pop('val', None)
    return {**record, **({'processes': processes} if processes > 1 else {})}


def test_record(opt: Mapping[str, Any], digests: Digests, priors: Mapping[str, str]) -> dict[str, Any]:
    """Returns all that decides the figures of a test beside its adapter; see `training_record`."""
    record = _record(opt, digests, priors)
    record.pop('manual_seed', None)  # the noise of a test has a seed of its own
    val = {key: value for key, value in (opt.get('val') or {}).items() if key not in _SHOWN}
    val = _without(val, VAL_DEFAULTS)
    if 'metrics' in val:
        val['metrics'] = {name: _metric(section, digests) for name, section in val['metrics'].items()}
    if 'bands' in val:
        val['bands'] = {name: _store(path, digests, priors) for name, path in val['bands'].items()}
    names = {phase: data.get('name') for phase, data in opt['datasets'].items()}
    return {**record, 'val': val, 'names': names}


def _record(opt: Mapping[str, Any], digests: Digests, priors: Mapping[str, str]) -> dict[str, Any]:
    record = {key: value for key, value in opt.items() if key not in _PROGRESS}
    record['network_g'] = _network(opt['network_g'], digests)
    record['datasets'] = {phase: _dataset(data, digests, priors) for phase, data in opt['datasets'].items()}
    record['plugins'] = digests.plugins(opt.get('plugins') or [])
    path = dict(opt.get('path') or {})
    if isinstance(path.get('pretrain_network_g'), str):
        path['pretrain_network_g'] = digests.file(str(Path(expanded(path['pretrain_network_g']))))
    record['path'] = path
    return record


def _network(section: Mapping[str, Any], digests: Digests) -> dict[str, Any]:
    from sptsr.archs.recipes import rules_told  # seconds

    network = _shortest(section, 'arch')
    if isinstance(network.get('backbone'), Mapping):
        network['backbone'] = _network(network['backbone'], digests)
    if network.get('type') == 'SPTNet':
        network['unit'] = _shortest(network.get('unit') or {'type': 'ModulationUnit'}, 'unit')
        network['rules'] = rules_told(section)  # what a unit is where its arguments are left out, and where units are
    for key in ('backbone_weights', 'path'):  # `path` is of spandrel's networks
        if isinstance(network.get(key), str) and Path(expanded(network[key])).is_file():
            network[key] = digests.file(str(Path(expanded(network[key]))))
    return network


def _dataset(section: Mapping[str, Any], digests: Digests, priors: Mapping[str, str]) -> dict[str, Any]:
    data = {key: value for key, value in _shortest(section, 'dataset', 'settings').items() if key not in _LOADING}
    for key, value in data.items():
        if not isinstance(value, str):
            continue
        path = str(Path(expanded(value)))
        if key == 'dataroot_prior':
            data[key] = _store(value, digests, priors)
        elif key.startswith('dataroot_'):
            data[key] = digests.folder(path)
        elif key.endswith('_file') and Path(path).is_file():
            data[key] = digests.file(path)
    return data


def _metric(section: Any, digests: Digests) -> Any:
    """Returns the section of a metric with the digest of its weights in the place of their file."""
    file = expanded(section['weights']) if isinstance(section, Mapping) and section.get('weights') else ''
    return {**section, 'weights': digests.file(str(Path(file)))} if file and Path(file).is_file() else section


def _store(path: str, digests: Digests, priors: Mapping[str, str]) -> str:
    return priors[path] if path in priors else digests.store(str(Path(expanded(path))))


def _called(train: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {'optim_g': 'optimizer', 'scheduler': 'scheduler'}
    kinds |= {key: 'loss' for key in train if key.endswith('_opt')}
    train = {key: value for key, value in train.items() if value is not None or kinds.get(key) != 'loss'}
    return {key: _shortest(value, kinds[key]) if key in kinds else value for key, value in train.items()}


def _shortest(section: Any, kind: str, method: str = '__init__') -> dict[str, Any]:
    """Returns a section `{type: NAME, ...}` without what is the default of what NAME stands for.

    So it does not matter whether a default is written out, and a new argument of a newer version makes no other run.
    """
    try:
        known = find(kind, str(section['type'])).parameters(method) or {}
    except UserError:
        known = {}
    return {key: value for key, value in section.items() if key not in known or not _equal(value, known[key].default)}


def _equal(value: Any, default: Any) -> bool:
    """Returns whether a value of YAML is a default of Python; `1` and `true` differ, and a tuple is a list."""
    default = list(default) if isinstance(default, tuple) else default
    return type(value) is type(default) and value == default


def _without(section: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in defaults or value != defaults[key]}
