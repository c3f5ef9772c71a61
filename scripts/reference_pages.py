"""The reference pages of the docs, made from the code that checks options and parses the command line.

Each function returns one page as Markdown; `scripts/docs_pages.py` puts them among the other pages of the site.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sptsr
from sptsr.archs.recipes import ALL, find_recipe
from sptsr.commands.line import build_parser
from sptsr.core.optim import optimizers, schedulers
from sptsr.core.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    SOURCE_REGISTRY,
    STEM_REGISTRY,
    UNIT_REGISTRY,
    lookup,
    register_all,
)
from sptsr.options import keys
from sptsr.options.json_schema import arguments_schema, json_schema

Schema = Mapping[str, Any]

_TYPES = {'integer': 'whole number', 'number': 'number', 'string': 'text', 'boolean': 'true or false', 'array': 'list'}
_TYPES |= {'object': 'section', 'null': 'empty (`~`)'}
_TORCH = 'https://docs.pytorch.org/docs/stable/generated/torch.optim'


class MissingTextError(Exception):
    """A key or an argument of sptsr that nothing explains."""


def options_page() -> str:
    """Returns the page of all sections of an option file."""
    schema = json_schema()
    top = schema['properties']
    loss = top['train']['patternProperties']['_opt$']
    metric = top['val']['properties']['metrics']['additionalProperties']
    sptnet = _by_name(schema['definitions']['network'])['SPTNet']
    parts = [
        '# Options',
        'Every key that an option file may have, as `sptsr train` and `sptsr test` check it. Made from the code of the '
        'check. A key that is not here is refused, with its line and the nearest right name.',
        '`base: OTHER.yml` at the top (relative to the file) is read first and overridden key by key, and '
        '`--force_yml section:key=value` overrides both. `sptsr options -opt X.yml` shows a file as it is understood; '
        '`sptsr options --schema` prints it all as a JSON schema, with which editors complete and check option files.',
        '## The top level',
        _table(top, 'the top level'),
        '## path',
        _table(top['path']['properties'], 'path'),
        '## datasets',
        'One section for each set: `train`, and `val`, `val_2`, … in training; `test`, `test_2`, … in a test. `type` '
        'says which of these it is; `scale` and `phase` follow from the rest of the file.',
        *_all(schema['definitions']['dataset'], DATASET_REGISTRY, 3),
        '## network_g',
        'An `SPTNet`, or one of the [networks](networks.md) by itself, which tests it as it was published.',
        *_one('SPTNet', sptnet, ARCH_REGISTRY, 3),
        '## network_g.unit',
        '`type` is the name of a unit.',
        *_all(sptnet['unit'], UNIT_REGISTRY, 3),
        '## network_g.unit.stem',
        'The name of a stem, or a section in which `type` is the name.',
        *_all(schema['definitions']['stem'], STEM_REGISTRY, 3),
        '## train',
        _table(top['train']['properties'], 'train'),
        'Optimisers and schedulers have [a page of their own](optimisers.md).',
        '## Losses of train',
        '`pixel_opt` is a loss, and so is every other key that ends in `_opt`; they are added. `type` is its name.',
        *_all(loss, LOSS_REGISTRY, 3),
        '## val',
        _table(top['val']['properties'], 'val'),
        '## val.metrics',
        'A section for each metric, under a name of your choice. `type` is the name of a metric; `better: higher` (the '
        'default) or `better: lower` decides which adapter is the best one.',
        *_all(metric, METRIC_REGISTRY, 3),
        '## logger',
        _table(top['logger']['properties'], 'logger'),
        '## logger.wandb',
        _table(top['logger']['properties']['wandb']['properties'], 'logger.wandb'),
        '## dist_params',
        _table(top['dist_params']['properties'], 'dist_params'),
    ]
    return _joined(parts)


def networks_page() -> str:
    """Returns the page of all networks: those with a recipe first."""
    register_all()
    networks = {name: arguments_schema(found) for name, found in ARCH_REGISTRY if name != 'SPTNet'}
    known = {name for name in networks if find_recipe(name) is not None}
    parts = [
        '# Networks',
        'What `network_g: {type: NAME, …}` and `backbone: {type: NAME, …}` may name. `sptsr sites NAME` shows where '
        'units can go; a network of your own joins by [a plug-in](../plug-in.md). Made from the code.',
        '## Keys of every network',
        'Beside its arguments, for a network that was not written for sptsr. An argument of the same name comes first.',
        _table({key: {'description': text} for key, text in keys.TEXTS['network'].items()}, 'network'),
        '## Networks with a recipe',
        '`sites: auto` works for these.',
    ]
    for name in sorted(known):
        recipe = find_recipe(name)
        assert recipe is not None
        heading, *rest = _one(name, networks[name], ARCH_REGISTRY, 3)
        patterns = ', '.join(f'`{pattern}`' for pattern in recipe.sites)
        fewer = '' if recipe.units == ALL else ' Some of them get units, and all get LoRA.'
        parts += [heading, f'`sites: auto` takes modules of {patterns}.{fewer}', *rest]
    parts += [
        '## Other networks',
        'Give `sites` yourself. Networks of BasicSR that are no image-to-image networks fail.',
    ]
    for name in sorted(set(networks) - known):
        parts += _one(name, networks[name], ARCH_REGISTRY, 3)
    return _joined(parts)


def sources_page() -> str:
    """Returns the page of the sources of priors and their parameters."""
    parts = [
        '# Sources of priors',
        'What `sptsr prior extract --source NAME --set k=v …` may name, and the parameters of each. Made from the '
        'code; [Priors](../priors.md) explains how to use them.',
    ]
    for name in sorted(SOURCE_REGISTRY.keys()):
        parts += _one(name, arguments_schema(lookup(SOURCE_REGISTRY, name)), SOURCE_REGISTRY, 2)
    return _joined(parts)


def optimisers_page() -> str:
    """Returns the page of optimisers and schedulers."""
    parts = [
        '# Optimisers and schedulers',
        'What `train.optim_g` and `train.scheduler` may name, with their arguments and defaults in the torch that this '
        "page was made with. Made from the code; the texts are torch's and BasicSR's.",
        '## Optimisers',
    ]
    for kinds, skip in ((optimizers(), ('params',)), (schedulers(), ('optimizer', 'last_epoch'))):
        if 'optimizer' in skip:
            parts.append('## Schedulers')
        for name, kind in sorted(kinds.items()):
            place = _TORCH + ('.lr_scheduler' if 'optimizer' in skip else '')
            own = kind.__module__.startswith('torch.')
            parts.append(f'### {name}')
            parts.append(f'[torch.optim.{name}]({place}.{name}.html)' if own else _summary(kind))
            parts.append(_table(arguments_schema(kind, skip), name, False, 'needed'))
    return _joined(parts)


def commands_page() -> str:
    """Returns the page of all commands: the help that each prints."""
    parts = [
        '# Command line',
        'The help of every command. Exit codes: 0, done; 1, done, and something is wrong with what was looked at; 2, a '
        'mistake of the user, in one line. `python -m sptsr` is the same as `sptsr`.',
    ]
    for parser in _parsers(build_parser()):
        level = min(3, 1 + len(parser.prog.split()))
        parts += [f'{"#" * level} {parser.prog}', f'```text\n{_help(parser)}\n```']
    return _joined(parts)


def api_page() -> str:
    """Returns the page of the public names of `sptsr`."""
    parts = [
        '# Python API',
        'What `import sptsr` offers. [In your own training loop](../own-loop.md) uses it; [For plug-ins](plugins.md) '
        'has what plug-ins build on.',
    ]
    for name in sptsr.__all__:
        found = getattr(sptsr, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            parts.append(f'::: {found.__module__}.{name}\n    options: {{heading: sptsr.{name}, toc_label: {name}}}')
    return _joined(parts)


def plugins_page() -> str:
    """Returns the page of what plug-ins build on: registries, base classes and the data that passes between them."""
    names = [
        'sptsr.archs.units.SPTUnit',
        'sptsr.archs.stems.MaskStem',
        'sptsr.archs.spt_arch.SPTNet',
        'sptsr.archs.pooling.SiteMasks',
        'sptsr.masks.prior.Prior',
        'sptsr.masks.batch.PriorBatch',
        'sptsr.masks.regions.Regions',
        'sptsr.priors.sources.source.Source',
        'sptsr.priors.store.PriorStore',
        'sptsr.images.folder.ImageFolder',
        'sptsr.data.checked.CheckedDataset',
    ]
    parts = [
        '# For plug-ins',
        'Networks, units, stems, sources, datasets, losses and metrics join by a file that registers them (`plugins:` '
        'in the option file; [Your own network](../plug-in.md)). `sptsr.registry` has the registries and `register`.',
    ]
    return _joined([*parts, *(f'::: {name}' for name in names)])


def modules_page() -> str:
    """Returns the page of all modules, room by room, each with the first sentence of its docstring."""
    package = Path(sptsr.__file__).parent
    parts = ['# Modules', 'Every module with what it is for. Made from the docstrings.']
    rooms = sorted(path for path in package.iterdir() if (path / '__init__.py').is_file())
    for room in rooms:
        rows = [
            f'| `{path.relative_to(package).as_posix()}` | {_cell(_first_sentence(path))} |'
            for path in sorted(room.rglob('*.py'))
            if path.name != '__init__.py'
        ]
        about = _first_sentence(room / '__init__.py')
        parts += [f'## {room.name}', about, '\n'.join(['| module | what it is for |', '| --- | --- |', *rows])]
    return _joined(parts)


PAGES = {
    'reference/options.md': options_page,
    'reference/networks.md': networks_page,
    'reference/sources.md': sources_page,
    'reference/optimisers.md': optimisers_page,
    'reference/commands.md': commands_page,
    'reference/api.md': api_page,
    'reference/plugins.md': plugins_page,
    'reference/modules.md': modules_page,
}


def _joined(parts: list[str]) -> str:
    return '\n\n'.join(part for part in parts if part) + '\n'


def _by_name(choice: Schema) -> dict[str, dict[str, Any]]:
    """Returns the arguments of each name that `type` may be."""
    return {rule['if']['properties']['type']['const']: rule['then']['properties'] for rule in choice['allOf']}


def _all(choice: Schema, registry: Any, level: int) -> Iterator[str]:
    for name, arguments in _by_name(choice).items():
        yield from _one(name, arguments, registry, level)


def _one(name: str, arguments: Schema, registry: Any, level: int) -> Iterator[str]:
    """Yields heading, description and table of one name of a registry."""
    found = lookup(registry, name)
    yield f'{"#" * level} {name}'
    yield _summary(found)
    yield _table({k: v for k, v in arguments.items() if k not in ('type', 'better')}, name, _is_ours(found), 'needed')


def _is_ours(found: Any) -> bool:
    return found.__module__.startswith('sptsr.')


def _summary(found: Any) -> str:
    """Returns what a docstring says before its sections; of others' docstrings the first paragraph."""
    doc = inspect.cleandoc(found.__doc__ or '')
    doc = re.split(r'\n(?=(?:Args|Attributes|Raises|Returns|Items|Shapes)\b.*:)', doc)[0].strip()
    if _is_ours(found):
        return doc
    return _prose(' '.join(doc.split('\n\n')[0].split()))


def _table(arguments: Schema, where: str, strict: bool = True, needed: str = '') -> str:
    """Returns a table of keys: type or choices, default, text.

    Args:
        arguments: schema of each key.
        where: what the keys belong to, for the message.
        strict: whether each key must have a text; else texts are others', written for Sphinx.
        needed: what to say for a default where there is none.

    Raises:
        MissingTextError: a key has no text, and `strict` asks for one.
    """
    if not arguments:
        return 'It takes no arguments.'
    rows = ['| key | value | default | meaning |', '| --- | --- | --- | --- |']
    for key, schema in arguments.items():
        text = schema.get('description', '')
        if strict and not text:
            raise MissingTextError(f'{where}: nothing explains the key {key}')
        default = f'`{_yaml(schema["default"])}`' if 'default' in schema else needed
        rows.append(f'| `{key}` | {_value(schema)} | {default} | {_cell(_prose(text) if not strict else text)} |')
    return '\n'.join(rows)


def _value(schema: Schema) -> str:
    """Returns in words what a key may be."""
    if 'enum' in schema:
        return ', '.join(f'`{_yaml(value)}`' for value in schema['enum'])
    kinds = schema.get('type', [])
    words = [_TYPES[kind] for kind in ([kinds] if isinstance(kinds, str) else sorted(kinds, key=lambda k: k == 'null'))]
    bounds = [
        f'{sign} {schema[key]:g}'
        for key, sign in (('minimum', '≥'), ('exclusiveMinimum', '>'), ('maximum', '≤'), ('exclusiveMaximum', '<'))
        if key in schema
    ]
    return ' or '.join(words) + (f', {", ".join(bounds)}' if bounds else '')


def _yaml(value: Any) -> str:
    if value is None:
        return '~'
    if isinstance(value, bool):
        return str(value).lower()
    return '[' + ', '.join(map(_yaml, value)) + ']' if isinstance(value, list) else str(value)


def _cell(text: str) -> str:
    return text.replace('|', '\\|')


def _prose(text: str) -> str:
    """Returns text that others wrote for Sphinx as Markdown that shows it as it stands."""
    text = re.sub(r':\w+:`~?([^`<]*)(<[^`]*>)?`', r'`\1`', text).replace('``', '`')
    # Odd parts stand between backquotes.
    parts = text.split('`')
    return '`'.join(part if n % 2 else re.sub(r'([*_<\[\]])', r'\\\1', part) for n, part in enumerate(parts))


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yields a parser and, below it, those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _parsers(command)


def _help(parser: argparse.ArgumentParser) -> str:
    """Returns a parser's help, at a width that does not depend on the terminal."""
    kind = parser.formatter_class
    parser.formatter_class = lambda prog: kind(prog, width=90)  # type: ignore[assignment]
    parser.color = False  # Python 3.14 colours it
    return parser.format_help().strip()


def _first_sentence(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text())) or ''
    return ' '.join(doc.split('\n\n')[0].split())
