"""What option files may say; every section is checked before anything runs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sptsr.core.catalogue import find
from sptsr.core.errors import UserError, one_of
from sptsr.core.homes import expanded
from sptsr.core.losses import check_loss
from sptsr.core.values import shown
from sptsr.core.yaml_io import KeyPath
from sptsr.options.data_sections import check_datasets, is_folder_name, names_of
from sptsr.options.keys import (
    DIST,
    LOGGER,
    METRIC,
    PATH,
    SCHEDULES,
    TOP,
    TRAIN,
    VAL,
    WANDB,
)
from sptsr.options.problems import NotThere, Problem, wrong_call, wrong_keys, wrong_name, wrong_value
from sptsr.options.tune import tune_problems


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
    problems = wrong_keys(opt, TOP, ())
    for key in ('name', 'model_type', 'datasets', 'network_g'):
        if key not in opt:
            problems.append(((), f"'{key}' is missing at the top"))
    name = opt.get('name')
    if isinstance(name, str) and not is_folder_name(name):
        problems.append((('name',), f"'{name}' cannot be a folder's name; use letters, digits, - and _"))
    if isinstance(opt.get('model_type'), str):
        problems += _model(opt['model_type'])
    sections: dict[str, Callable[[Mapping[str, Any]], list[Problem]]] = {
        'datasets': lambda section: check_datasets(section, opt, is_train),
        'network_g': _network,
        'path': _path,
        'train': _train,
        'val': lambda section: _val(section, opt.get('datasets'), is_train),
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


def _model(name: str) -> list[Problem]:
    path = ('model_type',)
    problems = wrong_name('model', name, path)
    if not problems and find('model', name).module.startswith('basicsr.'):
        return [(path, f"model_type: {name} is BasicSR's, which tunes no units; say SPTModel")]
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


def check_network(section: Mapping[str, Any]) -> list[Problem]:
    """Lists the mistakes of a `network_g` section; files of weights are not looked for."""
    path = ('network_g',)
    problems = wrong_call(section, 'arch', path, calling=section.get('type') != 'SPTNet')
    if section.get('type') != 'SPTNet':
        return problems
    if 'backbone' in section and not isinstance(section['backbone'], Mapping):
        message = f'network_g.backbone: {shown(section["backbone"])} is not a section {{type: NAME, ...}} of a network'
        problems.append(((*path, 'backbone'), message))
    problems += [((*path, key), f'network_g.{message}') for key, message in tune_problems(section)]
    problems += wrong_call(section.get('backbone'), 'arch', (*path, 'backbone'), calling=True)
    unit = section.get('unit')
    problems += wrong_call(unit, 'unit', (*path, 'unit'), ('channels',))
    return problems + _stem(unit.get('stem') if isinstance(unit, Mapping) else None, (*path, 'unit', 'stem'))


def _stem(stem: object, path: KeyPath) -> list[Problem]:
    if isinstance(stem, str):
        return wrong_name('stem', stem, path)
    return wrong_call(stem, 'stem', path, ('in_channels', 'num_masks', 'width'))


def _network(section: Mapping[str, Any]) -> list[Problem]:
    path = ('network_g',)
    problems = check_network(section)
    weights = section.get('backbone_weights')
    if isinstance(weights, str) and not Path(weights).is_file():
        message = NotThere(f'network_g.backbone_weights: {weights}: no such file; check the path')
        problems.append(((*path, 'backbone_weights'), message))
    return problems


def _path(section: Mapping[str, Any]) -> list[Problem]:
    problems = wrong_keys(section, PATH, ('path',))
    if section.get('strict_load_g') is False:
        problems.append(
            (('path', 'strict_load_g'), 'path.strict_load_g: weights are always loaded strictly; remove it')
        )
    for key in ('pretrain_network_g', 'resume_state'):
        value = section.get(key)
        if isinstance(value, str) and not Path(value).is_file():
            problems.append((('path', key), NotThere(f'path.{key}: {value}: no such file; check the path')))
    return problems


def _train(section: Mapping[str, Any]) -> list[Problem]:
    losses = [key for key in section if key.endswith('_opt')]
    problems = wrong_keys(section, {**TRAIN, **dict.fromkeys(losses, (dict, type(None)))}, ('train',))
    for key in ('total_iter', 'optim_g', 'scheduler'):
        if key not in section:
            problems.append((('train',), f"train needs '{key}'"))
    if all(section[key] is None or key == 'stay_opt' for key in losses):
        problems.append((('train', 'pixel_opt'), "train needs 'pixel_opt', or another loss NAME_opt"))
    problems += wrong_call(section.get('optim_g'), 'optimizer', ('train', 'optim_g'), ('params',))
    problems += wrong_call(section.get('scheduler'), 'scheduler', ('train', 'scheduler'), ('optimizer', 'last_epoch'))
    for key in losses:
        problems += wrong_call(section[key], 'loss', ('train', key))
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
    if isinstance(scheduler, Mapping):
        wrong = [
            problem
            for key in SCHEDULES.keys() & scheduler.keys()
            for problem in wrong_value(scheduler[key], (SCHEDULES[key],), ('train', 'scheduler', key))
        ]
        problems += wrong
        periods = scheduler.get('periods')
        if periods is not None and not wrong and isinstance(total, int) and sum(periods) < total:
            message = f'train.scheduler.periods: they end at {sum(periods)}, before total_iter {total}'
            problems.append((('train', 'scheduler', 'periods'), message))
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


def _val(section: Mapping[str, Any], datasets: object, is_train: bool) -> list[Problem]:
    problems = wrong_keys(section, VAL, ('val',))
    suffix = section.get('suffix')
    if isinstance(suffix, str) and os.sep in suffix:
        problems.append((('val', 'suffix'), f"val.suffix: '{suffix}' ends a file's name; take out {os.sep}"))
    if is_train and 'val_freq' not in section:
        problems.append((('val',), "val needs 'val_freq', a whole number"))
    bands = section.get('bands')
    for name, store in bands.items() if isinstance(bands, Mapping) else ():
        if isinstance(datasets, Mapping) and name not in (sets := names_of(datasets)):
            problems.append((('val', 'bands', name), f"val.bands: no set is called '{name}'{one_of(str(name), sets)}"))
        if not isinstance(store, str) or not Path(store).is_dir():
            message = f'val.bands.{name}: {store}: no such prior store; check the path'
            problems.append((('val', 'bands', name), NotThere(message) if isinstance(store, str) else message))
    metrics = section.get('metrics')
    for name, metric in metrics.items() if isinstance(metrics, Mapping) else ():
        path = ('val', 'metrics', name)
        if not isinstance(metric, Mapping):
            problems.append((path, f'{".".join(path)} must be a section'))
            continue
        problems += wrong_call(metric, 'metric', path, ('img', 'img2'), ('better',))
        for key in METRIC.keys() & metric.keys():
            problems += wrong_value(metric[key], METRIC[key], (*path, key))
    return problems


def _logger(section: Mapping[str, Any]) -> list[Problem]:
    problems = wrong_keys(section, LOGGER, ('logger',))
    wandb = section.get('wandb')
    if not isinstance(wandb, Mapping):
        return problems
    problems += wrong_keys(wandb, WANDB, ('logger', 'wandb'))
    if wandb.get('project'):
        here = ('logger', 'wandb')
        if not section.get('use_tb_logger'):
            problems.append((here, 'logger.wandb: it takes up what TensorBoard gets; set use_tb_logger: true'))
        if importlib.util.find_spec('wandb') is None:
            problems.append((here, 'logger.wandb: not installed; pip install wandb, or set project: ~'))
    return problems


def _dist(section: Mapping[str, Any]) -> list[Problem]:
    return wrong_keys(section, DIST, ('dist_params',))
