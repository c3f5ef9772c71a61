"""What option files may say; every section is checked before anything runs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from sptsr.core.catalogue import find
from sptsr.core.errors import UserError, one_of
from sptsr.core.homes import expanded
from sptsr.core.losses import check_loss
from sptsr.core.signatures import argument_problems
from sptsr.core.template import check_template
from sptsr.core.values import Range, misfit, shown
from sptsr.core.yaml_io import KeyPath
from sptsr.options.calling import split_calling
from sptsr.options.keys import (
    DIST,
    LOGGER,
    METRIC,
    PATH,
    STOCK_DATASET,
    STOCK_NEEDS,
    STOCK_TRAIN_NEEDS,
    TOP,
    TRAIN,
    VAL,
    WANDB,
    Types,
)
from sptsr.options.tune import tune_problems

Problem = tuple[KeyPath, str]

_PERIODS = list[Annotated[int, Range(1, 10**9)]]  # of BasicSR's schedulers, in iterations


def check(opt: Mapping[str, Any], is_train: bool) -> list[Problem]:
    """Lists every mistake of an option file as (key path, message); an empty list means none.

    Args:
        opt: the file's content, `base` merged and `--force_yml` applied; plugins imported.
        is_train: for `sptsr train`; else for `sptsr test`.
    """
    problems = _homes(opt, ())
    if problems:
        return problems
    opt = expanded(opt)
    problems = _keys(opt, TOP, ())
    for key in ('name', 'model_type', 'datasets', 'network_g'):
        if key not in opt:
            problems.append(((), f"'{key}' is missing at the top"))
    name = opt.get('name')
    if isinstance(name, str) and (not name or name in ('.', '..') or os.sep in name):
        problems.append((('name',), f"'{name}' cannot be a folder's name; use letters, digits, - and _"))
    if isinstance(opt.get('model_type'), str):
        problems += _registered('model', opt['model_type'], ('model_type',))
    sections: dict[str, Callable[[Mapping[str, Any]], list[Problem]]] = {
        'datasets': lambda section: _datasets(section, opt, is_train),
        'network_g': _network,
        'path': _path,
        'train': _train,
        'val': lambda section: _val(section, is_train),
        'logger': _logger,
        'dist_params': _dist,
    }
    for key, checker in sections.items():
        if isinstance(opt.get(key), Mapping):
            problems += checker(opt[key])
    if is_train:
        problems += [
            ((), f"'{key}' is missing at the top, and training needs it") for key in ('train',) if key not in opt
        ]
    return problems


def _homes(value: Any, path: KeyPath) -> list[Problem]:
    """Lists the texts that begin with `~USER/` where there is no such user."""
    if isinstance(value, Mapping):
        return [problem for key, item in value.items() for problem in _homes(item, (*path, key))]
    try:
        expanded(value)
    except UserError as error:
        return [(path, f'{".".join(path)}: {error}')]
    return []


def _keys(section: Mapping[str, Any], known: Mapping[str, Types], path: KeyPath) -> list[Problem]:
    problems: list[Problem] = []
    for key, value in section.items():
        here = (*path, key)
        if key not in known:
            problems.append((here, f"unknown key '{'.'.join(here)}'{one_of(key, known)}"))
        else:
            problems += _value(value, known[key], here)
    return problems


def _value(value: object, types: Types, path: KeyPath) -> list[Problem]:
    """Lists a value that fits none of the types of its key."""
    fault = misfit(value, types)
    return [] if fault is None else [(path, f'{".".join(path)} {fault}')]


def _registered(kind: str, name: object, path: KeyPath) -> list[Problem]:
    try:
        find(kind, str(name))
    except UserError as error:
        return [(path, f'{".".join(path)}: {error}')]
    return []


def _call(
    section: Any,
    kind: str,
    path: KeyPath,
    skip: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
    calling: bool = False,
) -> list[Problem]:
    """Checks a `{type: NAME, ...}` section against the parameters of what NAME stands for.

    Args:
        section: the section; anything else passes, for whoever checks its type.
        kind: what NAME names (see `sptsr.core.catalogue.find`).
        path: of the section.
        skip: parameters that the program gives.
        drop: keys of the section that are not arguments.
        calling: whether the section may say how to call a network (see `sptsr.options.calling`).
    """
    if not isinstance(section, Mapping):
        return []
    if 'type' not in section:
        return [(path, f"{'.'.join(path)} needs 'type'")]
    try:
        entry = find(kind, str(section['type']))
    except UserError as error:
        return [((*path, 'type'), f'{".".join(path)}: {error}')]
    known = {name: p for name, p in (entry.parameters() or {}).items() if name not in skip}
    try:
        arguments, _ = split_calling(section, known) if calling else (dict(section), None)
    except UserError as error:
        return [(path, f'{".".join(path)}.{error}')]
    arguments = {key: value for key, value in arguments.items() if key not in ('type', *drop)}
    found = argument_problems(known, arguments, str(section['type']))
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
    names: dict[object, str] = {}
    for phase, data in section.items():
        name = data.get('name') if isinstance(data, Mapping) and phase.split('_')[0] != 'train' else None
        if name is not None and name in names:
            message = f"datasets.{phase}.name: '{name}' is the name of datasets.{names[name]} too; rename one"
            problems.append((('datasets', phase, 'name'), message))
        elif isinstance(name, str):
            names[name] = phase
    return problems


def _dataset(data: Mapping[str, Any], path: KeyPath, opt: Mapping[str, Any]) -> list[Problem]:
    dotted = '.'.join(path)
    if 'type' not in data:
        return [(path, f"{dotted} needs 'type'")]
    problems = _registered('dataset', data['type'], (*path, 'type'))
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
        problems += _keys(data, STOCK_DATASET, path)
    if isinstance(data.get('filename_tmpl'), str):  # BasicSR's datasets would look up attributes in it
        try:
            check_template(data['filename_tmpl'], f'{dotted}.filename_tmpl')
        except UserError as error:
            problems.append(((*path, 'filename_tmpl'), str(error)))
    for key in ('dataroot_gt', 'dataroot_lq', 'dataroot_prior'):
        if isinstance(data.get(key), str) and not Path(data[key]).is_dir():
            problems.append(((*path, key), f'{dotted}.{key}: {data[key]}: no such folder; see datasets/README.md'))
    if path[1] == 'train' and 'batch_size_per_gpu' not in data:
        problems.append((path, f"{dotted} needs 'batch_size_per_gpu', a whole number"))
    return problems


def check_network(section: Mapping[str, Any]) -> list[Problem]:
    """Lists the mistakes of a `network_g` section; files of weights are not looked for."""
    path = ('network_g',)
    problems = _call(section, 'arch', path, calling=section.get('type') != 'SPTNet')
    if section.get('type') != 'SPTNet':
        return problems
    if 'backbone' in section and not isinstance(section['backbone'], Mapping):
        message = f'network_g.backbone: {shown(section["backbone"])} is not a section {{type: NAME, ...}} of a network'
        problems.append(((*path, 'backbone'), message))
    problems += [((*path, key), f'network_g.{message}') for key, message in tune_problems(section)]
    problems += _call(section.get('backbone'), 'arch', (*path, 'backbone'), calling=True)
    unit = section.get('unit')
    problems += _call(unit, 'unit', (*path, 'unit'), ('channels',))
    return problems + _stem(unit.get('stem') if isinstance(unit, Mapping) else None, (*path, 'unit', 'stem'))


def _stem(stem: object, path: KeyPath) -> list[Problem]:
    if isinstance(stem, str):
        return _registered('stem', stem, path)
    return _call(stem, 'stem', path, ('in_channels', 'num_masks', 'width'))


def _network(section: Mapping[str, Any]) -> list[Problem]:
    path = ('network_g',)
    problems = check_network(section)
    weights = section.get('backbone_weights')
    if isinstance(weights, str) and not Path(weights).is_file():
        problems.append(
            ((*path, 'backbone_weights'), f'network_g.backbone_weights: {weights}: no such file; check the path')
        )
    return problems


def _path(section: Mapping[str, Any]) -> list[Problem]:
    problems = _keys(section, PATH, ('path',))
    if section.get('strict_load_g') is False:
        problems.append(
            (('path', 'strict_load_g'), 'path.strict_load_g: weights are always loaded strictly; remove it')
        )
    for key in ('pretrain_network_g', 'resume_state'):
        value = section.get(key)
        if isinstance(value, str) and not Path(value).is_file():
            problems.append((('path', key), f'path.{key}: {value}: no such file; check the path'))
    return problems


def _train(section: Mapping[str, Any]) -> list[Problem]:
    losses = [key for key in section if key.endswith('_opt')]
    problems = _keys(section, {**TRAIN, **dict.fromkeys(losses, (dict,))}, ('train',))
    for key in ('total_iter', 'optim_g', 'scheduler', 'pixel_opt'):
        if key not in section:
            problems.append((('train',), f"train needs '{key}'"))
    problems += _call(section.get('optim_g'), 'optimizer', ('train', 'optim_g'), ('params',))
    problems += _call(section.get('scheduler'), 'scheduler', ('train', 'scheduler'), ('optimizer', 'last_epoch'))
    for key in losses:
        problems += _call(section[key], 'loss', ('train', key))
        problems += _loss(section[key], ('train', key))
    total = section.get('total_iter')
    if section.get('ema_decay') == 1:
        problems.append((('train', 'ema_decay'), 'train.ema_decay: 1 would keep the untrained adapter for ever'))
    clip = section.get('clip_grad_norm')
    if isinstance(clip, int | float) and clip <= 0:
        problems.append(
            (('train', 'clip_grad_norm'), f'train.clip_grad_norm: {clip} is not above 0; ~ switches it off')
        )
    if section.get('compile') and section.get('checkpoint'):
        problems.append((('train', 'checkpoint'), 'train.checkpoint: compile chooses what to keep itself; remove one'))
    scheduler = section.get('scheduler')
    if isinstance(scheduler, Mapping) and 'periods' in scheduler:
        periods, path = scheduler['periods'], ('train', 'scheduler', 'periods')
        wrong = _value(periods, (_PERIODS,), path)
        problems += wrong
        if not wrong and isinstance(total, int) and sum(periods) < total:
            problems.append((path, f'train.scheduler.periods: they end at {sum(periods)}, before total_iter {total}'))
    return problems


def _loss(section: Any, path: KeyPath) -> list[Problem]:
    """Lists what makes a registered loss none for tuning."""
    if not isinstance(section, Mapping) or 'type' not in section:
        return []
    try:
        check_loss(str(section['type']))
    except UserError as error:
        return [((*path, 'type'), f'{".".join(path)}: {error}')]
    return []


def _val(section: Mapping[str, Any], is_train: bool) -> list[Problem]:
    problems = _keys(section, VAL, ('val',))
    if is_train and not isinstance(section.get('val_freq'), int):
        problems.append((('val',), "val needs 'val_freq', a whole number"))
    bands = section.get('bands')
    for name, store in bands.items() if isinstance(bands, Mapping) else ():
        if not isinstance(store, str) or not Path(store).is_dir():
            problems.append((('val', 'bands', name), f'val.bands.{name}: {store}: no such prior store; check the path'))
    metrics = section.get('metrics')
    for name, metric in metrics.items() if isinstance(metrics, Mapping) else ():
        path = ('val', 'metrics', name)
        if not isinstance(metric, Mapping):
            problems.append((path, f'{".".join(path)} must be a section'))
            continue
        problems += _call(metric, 'metric', path, ('img', 'img2'), ('better',))
        for key in METRIC.keys() & metric.keys():
            problems += _value(metric[key], METRIC[key], (*path, key))
    return problems


def _logger(section: Mapping[str, Any]) -> list[Problem]:
    problems = _keys(section, LOGGER, ('logger',))
    wandb = section.get('wandb')
    if not isinstance(wandb, Mapping):
        return problems
    problems += _keys(wandb, WANDB, ('logger', 'wandb'))
    if wandb.get('project'):
        here = ('logger', 'wandb')
        if not section.get('use_tb_logger'):
            problems.append((here, 'logger.wandb: it takes up what TensorBoard gets; set use_tb_logger: true'))
        if importlib.util.find_spec('wandb') is None:
            problems.append((here, 'logger.wandb: not installed; pip install wandb, or set project: ~'))
    return problems


def _dist(section: Mapping[str, Any]) -> list[Problem]:
    return _keys(section, DIST, ('dist_params',))
