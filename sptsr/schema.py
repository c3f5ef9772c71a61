"""What option files may say; every section is checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sptsr.errors import UserError, one_of
from sptsr.optim import find_optimizer, find_scheduler
from sptsr.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    UNIT_REGISTRY,
    lookup,
)
from sptsr.signatures import argument_problems, is_of, type_name
from sptsr.yaml_io import KeyPath

Problem = tuple[KeyPath, str]
Types = tuple[type, ...]
_NONE = type(None)

_TOP: dict[str, Types] = {
    'name': (str,),
    'model_type': (str,),
    'scale': (int,),
    'num_gpu': (int, str),
    'manual_seed': (int,),
    'plugins': (list,),
    'datasets': (dict,),
    'network_g': (dict,),
    'path': (dict, _NONE),
    'train': (dict,),
    'val': (dict, _NONE),
    'logger': (dict,),
    'dist_params': (dict,),  # BasicSR's; of no effect in one process
    'find_unused_parameters': (bool,),
}
_PATH: dict[str, Types] = {
    'pretrain_network_g': (str, _NONE),
    'strict_load_g': (bool,),
    'param_key_g': (str, _NONE),
    'resume_state': (str, _NONE),
}
_TRAIN: dict[str, Types] = {
    'total_iter': (int,),
    'warmup_iter': (int,),
    'ema_decay': (float,),
    'optim_g': (dict,),
    'scheduler': (dict,),
    'pixel_opt': (dict,),
    'precision': (str,),
    'channels_last': (bool,),
}
_VAL: dict[str, Types] = {
    'val_freq': (int,),
    'save_img': (bool,),
    'suffix': (str, _NONE),
    'pbar': (bool,),
    'metrics': (dict, _NONE),
    'tile': (int, _NONE),
    'tile_overlap': (int,),
}
_LOGGER: dict[str, Types] = {
    'print_freq': (int,),
    'save_checkpoint_freq': (int,),
    'use_tb_logger': (bool,),
    'wandb': (dict, _NONE),
}
# Keys that BasicSR's own paired datasets read; they check nothing themselves.
_STOCK_DATASET = {
    *('name', 'type', 'dataroot_gt', 'dataroot_lq', 'filename_tmpl', 'meta_info_file', 'io_backend', 'gt_size'),
    *('use_hflip', 'use_rot', 'color', 'mean', 'std', 'batch_size_per_gpu', 'num_worker_per_gpu'),
    *('dataset_enlarge_ratio', 'prefetch_mode', 'num_prefetch_queue', 'pin_memory', 'persistent_workers'),
}
_STOCK_NEEDS = ('dataroot_gt', 'dataroot_lq', 'io_backend')
_STOCK_TRAIN_NEEDS = ('gt_size', 'use_hflip', 'use_rot')
_PRECISIONS = ('fp32', 'bf16')


def check(opt: Mapping[str, Any], is_train: bool) -> list[Problem]:
    """Lists every mistake of an option file as (key path, message); an empty list means none.

    Args:
        opt: the file's content, `base` merged and `--force_yml` applied; plugins imported.
        is_train: for `sptsr train`; else for `sptsr test`.
    """
    problems = _keys(opt, _TOP, ())
    for key in ('name', 'model_type', 'datasets', 'network_g'):
        if key not in opt:
            problems.append(((), f"'{key}' is missing at the top"))
    name = opt.get('name')
    if isinstance(name, str) and (not name or name in ('.', '..') or os.sep in name):
        problems.append((('name',), f"'{name}' cannot be a folder's name; use letters, digits, - and _"))
    if isinstance(opt.get('model_type'), str):
        problems += _registered(MODEL_REGISTRY, opt['model_type'], ('model_type',))
    if isinstance(opt.get('num_gpu'), str) and opt['num_gpu'] != 'auto':
        problems.append((('num_gpu',), f"'{opt['num_gpu']}' is neither a number nor auto"))
    for section, checker in _SECTIONS.items():
        if isinstance(opt.get(section), Mapping):
            problems += checker(opt[section], opt, is_train)
    if is_train:
        problems += [
            ((), f"'{key}' is missing at the top, and training needs it") for key in ('train',) if key not in opt
        ]
    return problems


def _keys(section: Mapping[str, Any], known: Mapping[str, Types], path: KeyPath) -> list[Problem]:
    problems: list[Problem] = []
    for key, value in section.items():
        if key not in known:
            problems.append(((*path, key), f"unknown key '{'.'.join((*path, key))}'{one_of(key, known)}"))
        elif not is_of(value, known[key]):
            wanted = ' or '.join(type_name(kind) for kind in known[key])
            dotted = '.'.join((*path, key))
            problems.append(((*path, key), f'{dotted} must be {wanted}, got {type_name(type(value))} {value!r}'))
    return problems


def _registered(registry: Any, name: object, path: KeyPath) -> list[Problem]:
    try:
        lookup(registry, str(name))
    except UserError as error:
        return [(path, f'{".".join(path)}: {error}')]
    return []


def _call(
    section: Any, find: Callable[[str], Any], path: KeyPath, skip: tuple[str, ...] = (), drop: tuple[str, ...] = ()
) -> list[Problem]:
    """Checks a `{type: NAME, ...}` section against the signature of what NAME stands for."""
    if not isinstance(section, Mapping):
        return []
    if 'type' not in section:
        return [(path, f"{'.'.join(path)} needs 'type'")]
    try:
        target = find(str(section['type']))
    except UserError as error:
        return [((*path, 'type'), f'{".".join(path)}: {error}')]
    arguments = {key: value for key, value in section.items() if key not in ('type', *drop)}
    found = argument_problems(target, arguments, str(section['type']), skip)
    return [((*path, key) if key else path, f'{".".join(path)}: {message}') for key, message in found]


def _datasets(section: Mapping[str, Any], opt: Mapping[str, Any], is_train: bool) -> list[Problem]:
    problems: list[Problem] = []
    if is_train and 'train' not in section:
        problems.append((('datasets',), "datasets: 'train' is missing"))
    for phase, data in section.items():
        path = ('datasets', phase)
        if phase.split('_')[0] not in ('train', 'val', 'test'):
            problems.append((path, f"datasets: '{phase}' must be train, val, val_2, test, test_2, ..."))
        elif not isinstance(data, Mapping):
            problems.append((path, f'datasets.{phase} must be a section'))
        else:
            problems += _dataset(data, path, opt)
    return problems


def _dataset(data: Mapping[str, Any], path: KeyPath, opt: Mapping[str, Any]) -> list[Problem]:
    dotted = '.'.join(path)
    if 'type' not in data:
        return [(path, f"{dotted} needs 'type'")]
    problems = _registered(DATASET_REGISTRY, data['type'], (*path, 'type'))
    if problems:
        return problems
    if 'name' not in data:
        problems.append((path, f"{dotted} needs 'name'"))
    dataset = lookup(DATASET_REGISTRY, data['type'])
    if 'scale' not in opt:
        problems.append(((), "'scale' is missing at the top; say 1 where LQ and GT are of one size"))
    settings = getattr(dataset, 'settings', None)
    if settings is not None:
        found = argument_problems(
            settings, {k: v for k, v in data.items() if k != 'type'}, data['type'], ('scale', 'phase')
        )
        problems += [
            ((*path, key) if key else path, f'{dotted}: {message}')
            for key, message in found
            if message != f"{data['type']} needs 'name'"
        ]
    elif dataset.__module__.startswith('basicsr.'):
        needed = _STOCK_NEEDS if data['type'] == 'PairedImageDataset' else ()
        needed += _STOCK_TRAIN_NEEDS if needed and path[1] == 'train' else ()
        problems += [(path, f"{data['type']} needs '{key}'") for key in needed if key not in data]
        problems += [
            ((*path, key), f"unknown key '{dotted}.{key}'{one_of(key, _STOCK_DATASET)}")
            for key in data
            if key not in _STOCK_DATASET
        ]
    for key in ('dataroot_gt', 'dataroot_lq', 'dataroot_prior'):
        if isinstance(data.get(key), str) and not Path(data[key]).expanduser().is_dir():
            problems.append(((*path, key), f'{dotted}.{key}: {data[key]}: no such folder; see datasets/README.md'))
    if path[1] == 'train' and not is_of(data.get('batch_size_per_gpu'), (int,)):
        problems.append((path, f"{dotted} needs 'batch_size_per_gpu', a whole number"))
    return problems


def check_network(section: Mapping[str, Any]) -> list[Problem]:
    """Lists the mistakes of a `network_g` section but for missing weights."""
    path = ('network_g',)
    problems = _call(section, lambda name: lookup(ARCH_REGISTRY, name), path)
    if section.get('type') != 'SPTNet':
        return problems
    problems += _call(section.get('backbone'), lambda name: lookup(ARCH_REGISTRY, name), (*path, 'backbone'))
    return problems + _call(section.get('unit'), lambda n: lookup(UNIT_REGISTRY, n), (*path, 'unit'), ('channels',))


def _network(section: Mapping[str, Any], opt: Mapping[str, Any], is_train: bool) -> list[Problem]:
    del opt, is_train
    path = ('network_g',)
    problems = check_network(section)
    weights = section.get('backbone_weights')
    if isinstance(weights, str) and not Path(weights).expanduser().is_file():
        problems.append(
            ((*path, 'backbone_weights'), f'network_g.backbone_weights: {weights}: no such file; check the path')
        )
    return problems


def _path(section: Mapping[str, Any], opt: Mapping[str, Any], is_train: bool) -> list[Problem]:
    del opt, is_train
    problems = _keys(section, _PATH, ('path',))
    if section.get('strict_load_g') is False:
        problems.append(
            (('path', 'strict_load_g'), 'path.strict_load_g: weights are always loaded strictly; remove it')
        )
    for key in ('pretrain_network_g', 'resume_state'):
        value = section.get(key)
        if isinstance(value, str) and not Path(value).expanduser().is_file():
            problems.append((('path', key), f'path.{key}: {value}: no such file; check the path'))
    return problems


def _train(section: Mapping[str, Any], opt: Mapping[str, Any], is_train: bool) -> list[Problem]:
    del opt, is_train
    problems = _keys(section, _TRAIN, ('train',))
    for key in ('total_iter', 'optim_g', 'scheduler', 'pixel_opt'):
        if key not in section:
            problems.append((('train',), f"train needs '{key}'"))
    problems += _call(section.get('optim_g'), find_optimizer, ('train', 'optim_g'), ('params',))
    problems += _call(section.get('scheduler'), find_scheduler, ('train', 'scheduler'), ('optimizer', 'last_epoch'))
    problems += _call(section.get('pixel_opt'), lambda name: lookup(LOSS_REGISTRY, name), ('train', 'pixel_opt'))
    total = section.get('total_iter')
    if isinstance(total, int) and total < 1:
        problems.append((('train', 'total_iter'), f'train.total_iter: {total} is less than one iteration'))
    decay = section.get('ema_decay', 0)
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        problems.append((('train', 'ema_decay'), f'train.ema_decay: {decay} is not in 0..1 (1 excluded)'))
    if section.get('precision', 'fp32') not in _PRECISIONS:
        problems.append((('train', 'precision'), f"train.precision: '{section['precision']}'{one_of('', _PRECISIONS)}"))
    periods = (section.get('scheduler') or {}).get('periods')
    if isinstance(periods, list) and isinstance(total, int) and sum(periods) < total:
        message = f'train.scheduler.periods: they end at {sum(periods)}, before total_iter {total}'
        problems.append((('train', 'scheduler', 'periods'), message))
    return problems


def _val(section: Mapping[str, Any], opt: Mapping[str, Any], is_train: bool) -> list[Problem]:
    del opt
    problems = _keys(section, _VAL, ('val',))
    if is_train and not isinstance(section.get('val_freq'), int):
        problems.append((('val',), "val needs 'val_freq', a whole number"))
    metrics = section.get('metrics')
    for name, metric in metrics.items() if isinstance(metrics, Mapping) else ():
        path = ('val', 'metrics', name)
        if not isinstance(metric, Mapping):
            problems.append((path, f'{".".join(path)} must be a section'))
            continue
        problems += _call(metric, lambda n: lookup(METRIC_REGISTRY, n), path, ('img', 'img2'), ('better',))
        if metric.get('better', 'higher') not in ('higher', 'lower'):
            problems.append(((*path, 'better'), f'{".".join(path)}.better must be higher or lower'))
    return problems


def _logger(section: Mapping[str, Any], opt: Mapping[str, Any], is_train: bool) -> list[Problem]:
    del opt, is_train
    problems = _keys(section, _LOGGER, ('logger',))
    if isinstance(section.get('wandb'), Mapping) and section['wandb'].get('project') is not None:
        problems.append((('logger', 'wandb'), 'logger.wandb: not built yet; set project: ~ and use_tb_logger: true'))
    for key in ('print_freq', 'save_checkpoint_freq'):
        value = section.get(key)
        if isinstance(value, int) and value < 1:
            problems.append((('logger', key), f'logger.{key}: {value} is less than 1'))
    return problems


_SECTIONS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any], bool], list[Problem]]] = {
    'datasets': _datasets,
    'network_g': _network,
    'path': _path,
    'train': _train,
    'val': _val,
    'logger': _logger,
}
