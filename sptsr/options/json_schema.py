"""A JSON schema of option files, for editors: `sptsr options --schema`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from sptsr.core.optim import optimizers, schedulers
from sptsr.core.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    STEM_REGISTRY,
    UNIT_REGISTRY,
    lookup,
    register_all,
)
from sptsr.core.signatures import argument_texts, hint_of, parameters
from sptsr.core.values import choices, plain_types, range_of
from sptsr.options import keys
from sptsr.options.tune import RANKS

_JSON_TYPES = {int: 'integer', float: 'number', bool: 'boolean', str: 'string', list: 'array', tuple: 'array'}
_JSON_TYPES |= {dict: 'object', type(None): 'null'}


def json_schema() -> dict[str, Any]:
    """Returns a JSON schema (draft 7) of option files, for editors: keys, types, names, arguments by `type`.

    Names that a plugin registers are not in it, so an unknown `type` is left alone; `sptsr options`
    checks those as well.
    """
    register_all()
    network = _choice(ARCH_REGISTRY.keys(), lambda name: lookup(ARCH_REGISTRY, name))
    calling = {key: {'description': text} for key, text in keys.TEXTS['network'].items()}
    for rule in network['allOf']:
        if rule['if']['properties']['type']['const'] != 'SPTNet':
            rule['then']['properties'] = {**calling, **rule['then']['properties']}
    (sptnet,) = [rule for rule in network['allOf'] if rule['if']['properties']['type']['const'] == 'SPTNet']
    units = _choice(UNIT_REGISTRY.keys(), lambda name: lookup(UNIT_REGISTRY, name), ('channels',))
    stems = _choice(
        STEM_REGISTRY.keys(), lambda name: lookup(STEM_REGISTRY, name), ('in_channels', 'num_masks', 'width')
    )
    for rule in units['allOf']:
        if 'stem' in rule['then']['properties']:
            _refine(rule['then'], {'stem': {'anyOf': [_names(STEM_REGISTRY.keys()), {'$ref': '#/definitions/stem'}]}})
    rank = {'minimum': RANKS[0], 'maximum': RANKS[1]}
    _refine(sptnet['then'], {'backbone': {'allOf': [{'$ref': '#/definitions/network'}]}, 'unit': units, 'rank': rank})
    metric = _choice(METRIC_REGISTRY.keys(), lambda name: lookup(METRIC_REGISTRY, name), ('img', 'img2'), ('better',))
    train = _object('train', keys.TRAIN, keys.TRAIN_DEFAULTS)
    train['patternProperties'] = {'_opt$': _choice(LOSS_REGISTRY.keys(), lambda name: lookup(LOSS_REGISTRY, name))}
    _refine(
        train,
        {
            'optim_g': _choice(optimizers(), optimizers().get, ('params',)),
            'scheduler': _choice(schedulers(), schedulers().get, ('optimizer', 'last_epoch')),
        },
    )
    val = _object('val', keys.VAL, keys.VAL_DEFAULTS)
    _refine(val, {'metrics': {'additionalProperties': metric}})
    logger = _object('logger', keys.LOGGER, keys.LOGGER_DEFAULTS)
    _refine(logger, {'wandb': _object('logger.wandb', keys.WANDB)})
    dist = _object('dist_params', keys.DIST)
    top = _object('', {**keys.TOP, 'base': (str,)})
    sections = {'path': _object('path', keys.PATH), 'train': train, 'val': val, 'logger': logger, 'dist_params': dist}
    _refine(
        top,
        {
            'model_type': _names(MODEL_REGISTRY.keys()),
            'datasets': {'additionalProperties': {'$ref': '#/definitions/dataset'}},
            'network_g': {'allOf': [{'$ref': '#/definitions/network'}]},
            **sections,
        },
    )
    return {
        '$schema': 'http://json-schema.org/draft-07/schema#',
        'title': 'Option file of sptsr',
        **top,
        'definitions': {'network': network, 'dataset': _dataset(), 'stem': stems},
    }


def _refine(section: dict[str, Any], more: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds to what the schema of a section says of some keys; what it says already stays."""
    properties = section['properties']
    properties |= {key: {**schema, **properties[key]} for key, schema in more.items()}


def _dataset() -> dict[str, Any]:
    rules = []
    for name in DATASET_REGISTRY.keys():  # noqa: SIM118 (a registry, not a dict)
        settings = getattr(lookup(DATASET_REGISTRY, name), 'settings', None)
        if settings is not None:
            rules.append(_when(name, arguments_schema(settings, ('scale', 'phase'))))
    return {'type': 'object', 'properties': {'type': _names(DATASET_REGISTRY.keys())}, 'allOf': rules}


def _choice(
    names: Collection[str], find: Callable[[str], Any], skip: tuple[str, ...] = (), more: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Returns the schema of `{type: NAME, ...}`, with the arguments of what NAME stands for."""
    rules = [_when(name, {**arguments_schema(find(name), skip), **{key: {} for key in more}}) for name in sorted(names)]
    return {'type': 'object', 'properties': {'type': _names(names)}, 'allOf': rules}


def _when(name: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        'if': {'properties': {'type': {'const': name}}, 'required': ['type']},
        'then': {'properties': {'type': {}, **properties}, 'additionalProperties': False},
    }


def _names(names: Collection[str]) -> dict[str, Any]:
    return {'anyOf': [{'enum': sorted(names)}, {'type': 'string'}]}


def arguments_schema(function: Any, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the schema of each argument of a class or function: type, choices, default, and its docstring's text."""
    found: dict[str, Any] = {}
    texts = argument_texts(function)
    for name, parameter in parameters(function, skip).items():
        found[name] = _typed(hint_of(parameter))
        default = parameter.default
        if isinstance(default, bool | int | float | str | list | tuple) or default is None:
            found[name]['default'] = list(default) if isinstance(default, tuple) else default
        if name in texts:
            found[name]['description'] = texts[name]
    return found


def _typed(hint: Any) -> dict[str, Any]:
    """Returns the schema of a hint: types, choices and range."""
    values = choices(hint)
    if values:
        return {'enum': list(values)}
    names = sorted({_JSON_TYPES[kind] for kind in plain_types(hint)})
    if not names:
        return {}
    found: dict[str, Any] = {'type': names[0] if len(names) == 1 else names}
    bounds = range_of(hint)
    return found if bounds is None else {**found, 'minimum': bounds.low, 'maximum': bounds.high}


def _object(section: str, table: Mapping[str, keys.Types], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    properties = {key: {**_typed(types), 'description': keys.TEXTS[section][key]} for key, types in table.items()}
    for key, value in (defaults or {}).items():
        properties[key]['default'] = value
    return {'type': 'object', 'properties': properties, 'additionalProperties': False}
