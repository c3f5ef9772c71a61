"""Values that are wrong, or may be, as text of YAML and of JSON; and every option, parameter and key to give them to.

What can be given is taken from the tables and signatures that the programs themselves check with, so what is added
there is tried without a word here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sptsr.core.catalogue import entries, find
from sptsr.core.signatures import hint_of
from sptsr.core.values import choices, plain_types, range_of
from sptsr.options import keys
from tests.archs.cases import CASES
from tests.tuning.test_resume import CHANGES

_LONG = 'x' * 100_000
# By kind: values as a YAML author writes them.
PLAIN: dict[type, list[str]] = {
    type(None): ['~'],
    bool: ['true', 'false'],
    int: [
        *('0', '1', '-1', '-8', '3', '70', '65537', '1000000', '4294967296'),
        *('9223372036854775807', '-9223372036854775808'),
    ],
    float: ['0.0', '-0.5', '1.5', '1e-300', '-1e300', '1e300', '.inf', '-.inf'],
    str: [
        *("''", 'word', "' '", "'1'", 'wörter', "'-'", "'a,b'", "'re:['", "'*'", "'%s'", "'a\\nb'", '2001-99-99'),
        *("'{}'", "'{0.__class__}'", "'{:9999999999}'", '2001-01-01', 'cuda:9', 'meta', f"'{_LONG}'"),
        *("'../..'", "'/'", "'.'", "'~nosuchuser/x'", '/dev/zero', '/dev/null', '/dev/full', f"'{_LONG[:5000]}/x'"),
        *('pipe', './pipe', 'text.txt', 'empty', 'set', 'set/LRx4', 'set/prior', 'tiny.pth'),
    ],
    list: [
        *('[]', '[~]', '[1, a, ~]', '[-1]', '[[[]]]', '[{}]', '[.inf, -.inf]', f'[{"1, " * 15000}1]', '[pipe]', '[1]'),
        *('[a]', '[0.5, 2]', '[0, 0]', '[1000000, 1000000]'),
    ],
    dict: [
        *('{}', '{a: 1}', '{type: 3}', '{type: ~}', '{type: []}', '{type: SPTNet}', '{1: 2}', '{a: {b: {c: []}}}'),
        "{'': 1}",
    ],
}
# Values that no option has.
NEVER = [
    *('.nan', '[.nan]', '9' * 40, '-' + '9' * 40, '9' * 5000, '0x' + 'f' * 60, '1' + ':59' * 40, '"', "'", '[', '{'),
    *('[' * 5000 + ']' * 5000, '{a: ' * 200 + '}' * 200, '&a [*a, 1]', '&a {b: *a}', '*b', '- a: 1', '[1, 2', '"\\'),
    *('!!python/name:os.system', '!!python/object/apply:os.getpid []', '!!binary aGk=', '!!set {a}', '!own 1', '@'),
    *('!!timestamp 2001-01-01', '{[1]: 2}', '{a: 1, a: 2}', '{? {a: 1} : 2}', '{"a\\0": 1}', '`', '%', '\x07'),
    *('"\\0"', '"a\\u0007b"', '"\\ud800"', '"\\x7f"', f'[{"1, " * 300_000}1]'),
]
# As a JSON author writes them; of the second kind is no key's value.
JSON = [
    *('null', 'true', '0', '-1', '3', '1.5', '1e999', '9' * 40, '""', '"word"', f'"{_LONG}"', '"\\u0000"', '"\\ud800"'),
    *('"pipe"', '"/dev/zero"', '"~nosuchuser/x"', '"../.."', '"{0.__class__}"', '"text.txt"', '"empty"', '"a\\nb"'),
    *('[]', '[[]]', '[null]', '["a", 1]', '[-1]', '{}', '{"a": 1}', '{"type": 3}', '{"type": "SPTNet"}', '{"": {}}'),
    *('{"type": "IMDN", "nf": 100000000}', '{"type": "EDSR"}', '{"type": "IMDN", "num_modules": 1000000000}'),
    *('{"type": "SpandrelNet", "path": "/dev/zero"}', '"sam"', '"transformers"', '"labels"', '"random"'),
]
NEVER_JSON = [
    *(
        'NaN',
        '-Infinity',
        '9' * 5000,
        '{"a": 1, "a": 2}',
        '[' * 10_000 + ']' * 10_000,
        '{"a":' * 9999 + '1' + '}' * 9999,
    ),
    *('', '"', '[1', 'word', '\x07', '0x1'),
]
# Arguments that make a section of this type complete.
NEEDED: dict[str, dict[str, Any]] = {
    **dict(CASES.values()),
    **{name: arguments for name, (arguments, _) in CHANGES.items()},
    'Adam': {'lr': 1e-3},
    'calculate_psnr': {'crop_border': 4},
    'calculate_ssim': {'crop_border': 4},
    'calculate_niqe': {'crop_border': 0},
}


# Values of the right type that mean a long run or many processes, not a wrong one.
LASTING = {'total_iter', 'accumulate', 'batch_size_per_gpu', 'num_worker_per_gpu', 'compile'}
CHANGES_OF_SECTIONS = tuple[tuple[tuple[str, ...], Any], ...]


@dataclass(frozen=True)
class Place:
    """Something that takes a value.

    Attributes:
        path: keys that lead to it.
        hint: what its values must be (see `sptsr.core.values.misfit`).
        within: what must stand around it for it to be looked at: path and value of other keys.
    """

    path: tuple[str, ...]
    hint: Any = Any
    within: CHANGES_OF_SECTIONS = field(default=(), repr=False)

    @property
    def types(self) -> tuple[type, ...]:
        return plain_types(self.hint)

    @property
    def takes(self) -> set[type]:
        """Types of its values as YAML knows them: a whole number is a number, a tuple is a list."""
        return {*self.types, *((int,) if float in self.types else ()), *((list,) if tuple in self.types else ())}

    def wrong(self) -> list[str]:
        """Lists values of another type, outside of its range, and text that is none of its few values."""
        kinds = [kind for kind in PLAIN if self.types and kind not in self.takes]
        kinds += [str] if choices(self.hint) and str in self.takes else []
        found = [value for kind in kinds for value in PLAIN[kind]]
        return found + [
            value for value in (*PLAIN[int], *PLAIN[float]) if value not in found and self.is_outside(value)
        ]

    def is_outside(self, value: str) -> bool:
        """Returns whether a number is outside of the range."""
        bounds = range_of(self.hint)
        number = int(value) if value in PLAIN[int] else float(value.replace('.inf', 'inf'))
        return bounds is not None and number not in bounds

    def doubtful(self) -> list[str]:
        """Lists values of a type that it takes: they may be right."""
        kinds = [kind for kind in PLAIN if not self.types or kind in self.takes]
        found = [value for kind in kinds for value in PLAIN[kind] if value not in self.wrong()]
        return [value for value in found if value in ('1', 'false')] if self.path[-1] in LASTING else found


def value_at(place: Place, number: int) -> tuple[str, str]:
    """Returns how a value is (`wrong`, `never`, `doubtful`) and the value, of a number that stands for it."""
    return _at({'wrong': place.wrong(), 'never': NEVER, 'doubtful': place.doubtful()}, number)


def json_at(_: Place, number: int) -> tuple[str, str]:
    """Returns the same for values of JSON."""
    return _at({'never': NEVER_JSON, 'doubtful': JSON}, number)


def _at(groups: Mapping[str, list[str]], number: int) -> tuple[str, str]:
    some = [(how, group) for how, group in groups.items() if group]
    how, group = some[number % len(some)]
    return how, group[number // len(some) % len(group)]


def _table(section: tuple[str, ...], table: Mapping[str, tuple[type, ...]], *within: Any) -> list[Place]:
    return [Place((*section, key), types, within) for key, types in table.items()]


def _arguments(
    kind: str, name: str, section: tuple[str, ...], skip: Sequence[str] = (), *within: Any, method: str = '__init__'
) -> list[Place]:
    """Lists the arguments of what a section `{type: NAME, ...}` names."""
    around = ((section, {'type': name, **NEEDED.get(name, {})}), *within)
    found = find(kind, name).parameters(method) or {}
    return [Place((*section, key), hint_of(p), around) for key, p in found.items() if key not in skip]


def option_places() -> dict[str, list[Place]]:
    """Returns every option of the option files, by the section that it stands in."""
    bare = (('network_g', 'backbone_weights'), None)
    places = {
        'top': [*_table((), keys.TOP), Place(('base',), str | None)],
        'path': _table(('path',), keys.PATH),
        'train': _table(('train',), keys.TRAIN),
        'val': _table(('val',), keys.VAL),
        'logger': _table(('logger',), keys.LOGGER),
        'wandb': _table(('logger', 'wandb'), keys.WANDB, (('logger', 'use_tb_logger'), True)),
        'dist_params': _table(('dist_params',), keys.DIST),
        'SPTNet': [
            Place(('network_g', key), hint_of(p)) for key, p in (find('arch', 'SPTNet').parameters() or {}).items()
        ],
        'calling': [Place(('network_g', 'backbone', key)) for key in keys.TEXTS['network']],
    }
    for name in entries('unit'):
        places[name] = _arguments('unit', name, ('network_g', 'unit'), ['channels'])
    for name in entries('stem'):
        places[f'stem {name}'] = _arguments(
            'stem', name, ('network_g', 'unit', 'stem'), ['in_channels', 'num_masks', 'width']
        )
    for name in sorted({arch for arch, _ in CASES.values()}):
        places[name] = _arguments('arch', name, ('network_g', 'backbone'), (), bare)
    for name in entries('optimizer'):
        places[name] = _arguments('optimizer', name, ('train', 'optim_g'), ['params'])
    for name in entries('scheduler'):
        places[name] = _arguments('scheduler', name, ('train', 'scheduler'), ['optimizer', 'last_epoch'])
    for name in entries('loss'):
        places[name] = _arguments('loss', name, ('train', 'pixel_opt'))
    for name in entries('metric'):
        places[name] = _arguments('metric', name, ('val', 'metrics', 'psnr'), ['img', 'img2'])
        places[name].append(Place(('val', 'metrics', 'psnr', 'better'), Literal['higher', 'lower']))
    for name in ('PriorPairedImageDataset', 'PriorDenoisingDataset'):
        settings = find('dataset', name).parameters('settings') or {}
        section = ('datasets', 'train')
        around = tuple(((*section, key), value) for key, value in DATASETS[name].items())
        places[name] = [
            Place((*section, key), hint_of(p), around) for key, p in settings.items() if key not in ('scale', 'phase')
        ]
    around = tuple((('datasets', 'train', key), value) for key, value in DATASETS['PairedImageDataset'].items())
    plain = (('network_g', 'unit'), {'type': 'PlainUnit', 'width': 4})
    places['PairedImageDataset'] = [
        Place(('datasets', 'train', key), types, (*around, plain)) for key, types in keys.STOCK_DATASET.items()
    ]
    return places


DATASETS: dict[str, dict[str, Any]] = {
    'PriorPairedImageDataset': {},
    'PriorDenoisingDataset': {
        'type': 'PriorDenoisingDataset',
        'sigma': 25,
        'dataroot_lq': None,
        'dataroot_prior': None,
    },
    'PairedImageDataset': {'type': 'PairedImageDataset', 'io_backend': {'type': 'disk'}, 'dataroot_prior': None},
}


def changed(options: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """Returns options with a value at a place, and what stands around it; None takes a key away."""
    options = copy.deepcopy(options)
    for path, content in (*place.within, (place.path, value)):
        section = options
        for key in path[:-1]:
            if not isinstance(section.get(key), dict):
                section[key] = {}
            section = section[key]
        if content is None:
            section.pop(path[-1], None)
        else:
            section[path[-1]] = copy.deepcopy(content)
    return options


def source_places(name: str) -> list[Place]:
    """Returns the parameters of a prior source."""
    return [Place((key,), hint_of(p)) for key, p in (find('source', name).parameters() or {}).items()]


def record_places(record: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[Place]:
    """Yields every key of a JSON object, and of the objects in it."""
    for key, value in record.items():
        yield Place((*path, key))
        if isinstance(value, dict):
            yield from record_places(value, (*path, key))
