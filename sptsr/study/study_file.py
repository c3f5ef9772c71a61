"""The study file: rows, arms and seeds over two option files, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sptsr.core.errors import UserError, one_of
from sptsr.core.homes import expanded
from sptsr.core.template import check_template
from sptsr.core.values import is_of, misfit
from sptsr.core.yaml_io import KeyPath, Lines, read_yaml
from sptsr.options.keys import TOP
from sptsr.options.load import report
from sptsr.options.tune import WAYS, WITH_LORA

Problem = tuple[KeyPath, str]

TUNES = ('none', *WAYS)
CONTROLS = ('shuffle', 'random', 'oracle')
COLUMNS = ('params', 'macs', 'latency', 'memory')
_KEYS: dict[str, tuple[type, ...]] = {
    'title': (str,),
    'base': (dict,),
    'seeds': (list,),
    'rows': (dict,),
    'arms': (dict,),
    'control': (str,),
    'published': (dict,),
    'columns': (list,),
}
_NOT_CHANGED = {
    'name': 'the study names its runs',
    'manual_seed': 'give seeds: [...] at the top',
}
_ROW = ('base', 'prior')
_ARM = ('tune', 'rank', 'prior')
_PATH = ('param_key_g',)
_LONGEST = 80
_PICTURES = ('GT', 'LQ')
_MOST_RUNS = 10_000


@dataclass(frozen=True)
class Part:
    """A row or an arm: what it changes in the option files.

    Attributes:
        name: as the table shows it.
        changes: to both option files.
        lines: where the keys of `changes` stand.
        line: where the part itself stands.
        base: option files of a row's own by `train` and `test`; the study's where they are not given.
        tune: of an arm: one of `TUNES`; None leaves what the option files say.
        rank: of LoRA.
        prior: `shuffle`, `random`, `oracle`, a store, or the section `{source: NAME, ...}` of a source; None leaves
            the stores of the option files.
    """

    name: str
    changes: dict[str, Any]
    lines: Lines
    line: str
    base: dict[str, Path] = field(default_factory=dict)
    tune: str | None = None
    rank: int | None = None
    prior: str | dict[str, Any] | None = None


@dataclass(frozen=True)
class Published:
    """Published figures of one row and arm.

    Attributes:
        figures: by dataset and metric.
        source: where they are from; empty where the study does not say it.
        line: where they stand in the study file.
    """

    figures: dict[str, dict[str, float]]
    source: str
    line: str

    def each(self) -> Iterator[tuple[str, str, float]]:
        """Yields dataset, metric and figure."""
        for dataset, figures in self.figures.items():
            for metric, figure in figures.items():
                yield dataset, metric, figure


@dataclass(frozen=True)
class Study:
    """A study file.

    Attributes:
        path: the file.
        title: of the table.
        base: option files by `train` and `test`.
        seeds: training seeds.
        rows, arms: in the order of the file.
        control: name of the arm that the others are compared with; None where there is one arm only.
        published: figures by row and arm.
        columns: what is counted and measured beside the metrics, of `COLUMNS`.
    """

    path: Path
    title: str
    base: dict[str, Path]
    seeds: tuple[int, ...]
    rows: tuple[Part, ...]
    arms: tuple[Part, ...]
    control: str | None
    published: dict[str, dict[str, Published]]
    columns: tuple[str, ...]


def read_study(path: str | os.PathLike[str]) -> Study:
    """Reads a study file; the option files that it names are not looked at.

    Raises:
        UserError: one report of all mistakes, each with its line and the nearest right name.
    """
    content, lines = read_yaml(path)
    problems = _problems(content, Path(path))
    if problems:
        raise UserError(report(str(path), lines, problems))
    here = Path(path).parent
    rows = tuple(_part('rows', name, part or {}, lines, here) for name, part in content['rows'].items())
    arms = tuple(_part('arms', name, part or {}, lines, here) for name, part in content['arms'].items())
    published = {
        row: {
            arm: Published(
                {dataset: dict(figures) for dataset, figures in sets.items() if dataset != 'source'},
                sets.get('source', ''),
                lines[('published', row, arm)],
            )
            for arm, sets in by_arm.items()
        }
        for row, by_arm in content.get('published', {}).items()
    }
    return Study(
        path=Path(path),
        title=content.get('title', Path(path).stem),
        base={key: here / expanded(file) for key, file in content.get('base', {}).items()},
        seeds=tuple(content.get('seeds', (0,))),
        rows=rows,
        arms=arms,
        control=content.get('control'),
        published=published,
        columns=tuple(content.get('columns', ())),
    )


def _part(kind: str, name: str, content: Mapping[str, Any], lines: Lines, here: Path) -> Part:
    own = _ROW if kind == 'rows' else _ARM
    changes = {key: value for key, value in content.items() if key not in own}
    below = {path[2:]: line for path, line in lines.items() if path[:2] == (kind, name) and len(path) > 2}
    return Part(
        name=name,
        changes=changes,
        lines=below,
        line=lines[(kind, name)],
        base={key: here / expanded(file) for key, file in content.get('base', {}).items()},
        tune=content.get('tune'),
        rank=content.get('rank'),
        prior=content.get('prior'),
    )


def _problems(content: Mapping[str, Any], path: Path) -> list[Problem]:
    problems: list[Problem] = []
    for key, value in content.items():
        if key not in _KEYS:
            problems.append(((key,), f"unknown key '{key}'{one_of(key, _KEYS)}"))
        elif (fault := misfit(value, _KEYS[key])) is not None:
            problems.append(((key,), f'{key} {fault}'))
    for key in ('rows', 'arms'):
        if not content.get(key):
            problems.append(((), f"'{key}' is missing at the top; a study has at least one"))
    if problems:
        return problems
    problems += _seeds(content.get('seeds', [0]))
    problems += _base(content.get('base', {}), ('base',), path.parent)
    for kind in ('rows', 'arms'):
        for name, part in content[kind].items():
            problems += _part_problems(kind, name, part, path.parent)
    problems += _control(content)
    for number, column in enumerate(content.get('columns', ())):
        if column not in COLUMNS:
            problems.append((('columns', str(number)), f'columns: {column!r}{one_of(str(column), COLUMNS)}'))
    if len(content['rows']) * len(content['arms']) * len(content.get('seeds', [0])) > _MOST_RUNS:
        problems.append(((), f'more than {_MOST_RUNS:,} runs; split the study'))
    return problems + _published(content)


def _seeds(seeds: list[Any]) -> list[Problem]:
    if not seeds or not all(is_of(seed, (int,)) and 0 <= seed < 2**32 for seed in seeds):
        return [(('seeds',), f'seeds: {seeds!r} is not a list of whole numbers in 0..4294967295')]
    twice = next((seed for number, seed in enumerate(seeds) if seed in seeds[:number]), None)
    return [] if twice is None else [(('seeds',), f'seeds: {twice} stands twice; equal seeds are equal runs')]


def _base(base: Any, path: KeyPath, folder: Path) -> list[Problem]:
    dotted = '.'.join(path)
    if not isinstance(base, Mapping):
        return [(path, f'{dotted} must be {{train: X.yml, test: Y.yml}}')]
    problems: list[Problem] = []
    for key, file in base.items():
        here = (*path, key)
        if key not in ('train', 'test'):
            problems.append((here, f"{dotted}: unknown key '{key}'{one_of(key, ('train', 'test'))}"))
        elif not isinstance(file, str) or not (folder / expanded(file)).is_file():
            problems.append((here, f'{dotted}.{key}: {file}: no such file; it is relative to the study file'))
    return problems


def _part_problems(kind: str, name: str, part: Any, folder: Path) -> list[Problem]:
    here = (kind, name)
    if not name.strip() or len(name) > _LONGEST or not name.isprintable():
        return [(here, f'{kind}: {name!a} cannot be a name in a table; use 1 to {_LONGEST} printable characters')]
    if kind == 'arms' and name in _PICTURES:
        return [(here, f"arms: '{name}' is what the report calls other pictures; choose another name")]
    if part is None:
        return []
    if not isinstance(part, Mapping):
        return [(here, f'{kind}.{name} must be a section of changes; {{}} for none')]
    own = _ROW if kind == 'rows' else _ARM
    known = (*own, *(key for key in TOP if key not in _NOT_CHANGED))
    problems: list[Problem] = []
    for key, value in part.items():
        dotted = f'{kind}.{name}.{key}'
        if key in _NOT_CHANGED:
            problems.append(((*here, key), f'{dotted}: {_NOT_CHANGED[key]}; remove it'))
        elif key not in known:
            problems.append(((*here, key), f"unknown key '{dotted}'{one_of(key, known)}"))
        elif key == 'path' and isinstance(value, Mapping):
            wrong = [inner for inner in value if inner not in _PATH]
            problems += [((*here, key), f'{dotted}.{inner}: the study sets it; remove it') for inner in wrong]
        elif key in TOP and (fault := misfit(value, TOP[key])) is not None:
            problems.append(((*here, key), f'{dotted} {fault}'))
    if 'base' in part and 'base' in own:
        problems += _base(part['base'], (*here, 'base'), folder)
    if 'tune' in part and 'tune' in own and part['tune'] not in TUNES:
        problems.append(((*here, 'tune'), f'{kind}.{name}.tune: {part["tune"]!r}{one_of(str(part["tune"]), TUNES)}'))
    if 'rank' in part and 'rank' in own and not (part.get('tune') in WITH_LORA and is_of(part['rank'], (int,))):
        problems.append(((*here, 'rank'), f'{kind}.{name}.rank: a whole number, for tune: lora and adapter+lora only'))
    if part.get('tune') == 'none' and own == _ARM:
        told = {'prior': 'sees no masks', 'train': 'is not trained'}
        problems += [
            ((*here, key), f'{kind}.{name}.{key}: the bare network of tune: none {why}; remove it')
            for key, why in told.items()
            if part.get(key) is not None
        ]
    if part.get('prior') is not None:
        problems += _prior(part['prior'], (*here, 'prior'), kind)
    return problems


def _prior(prior: Any, path: KeyPath, kind: str) -> list[Problem]:
    dotted = '.'.join(path)
    if isinstance(prior, Mapping):
        if not isinstance(prior.get('source'), str):
            return [(path, f'{dotted} needs source, such as {{source: felzenszwalb}}')]
        return []
    if not isinstance(prior, str) or not prior:
        return [(path, f'{dotted}: {prior!r} is neither {", ".join(CONTROLS)}, nor a store, nor {{source: NAME}}')]
    if prior in CONTROLS and kind == 'rows':
        return [(path, f'{dotted}: {prior} is made from the stores of a row; say it of an arm')]
    if '{' in prior:
        try:
            check_template(prior, dotted, "the set's")
        except UserError as error:
            return [(path, str(error))]
    return []


def _control(content: Mapping[str, Any]) -> list[Problem]:
    control, arms = content.get('control'), content['arms']
    if control is None and len(arms) > 1:
        return [((), f"'control' is missing at the top: the arm that the others are compared with{one_of('', arms)}")]
    if control is not None and control not in arms:
        return [(('control',), f"control: no arm is called '{control}'{one_of(control, arms)}")]
    return []


def _published(content: Mapping[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    for row, by_arm in content.get('published', {}).items():
        here: KeyPath = ('published', row)
        if row not in content['rows']:
            problems.append((here, f"published: no row is called '{row}'{one_of(row, content['rows'])}"))
            continue
        if not isinstance(by_arm, Mapping):
            problems.append((here, f'published.{row} must be {{ARM: {{SET: {{psnr: 27.56}}}}}}'))
            continue
        for arm, sets in by_arm.items():
            dotted = f'published.{row}.{arm}'
            if arm not in content['arms']:
                problems.append(
                    ((*here, arm), f"published.{row}: no arm is called '{arm}'{one_of(arm, content['arms'])}")
                )
            elif not isinstance(sets, Mapping):
                problems.append(((*here, arm), f'{dotted} must be {{SET: {{psnr: 27.56}}}}'))
            else:
                for dataset, figures in sets.items():
                    place = (*here, arm, dataset)
                    if dataset == 'source':
                        if not isinstance(figures, str):
                            problems.append((place, f'{dotted}.source must be text: where the figures are from'))
                    elif not isinstance(figures, Mapping) or not all(is_of(v, (float,)) for v in figures.values()):
                        problems.append(
                            (place, f'{dotted}.{dataset} must be figures by metric, such as {{psnr: 27.56}}')
                        )
    return problems
