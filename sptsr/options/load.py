"""Reading option files: `base:` merged, `--force_yml` applied, all mistakes in one report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sptsr.core.devices import gpu_count
from sptsr.core.errors import UserError, naming
from sptsr.core.files import sha256_json
from sptsr.core.homes import expanded
from sptsr.core.values import plain_types
from sptsr.core.yaml_io import MAX_DEPTH, KeyPath, Lines, read_scalar, read_yaml
from sptsr.options.keys import LOGGER, LOGGER_DEFAULTS, PATH, SCHEDULES, TRAIN, TRAIN_DEFAULTS, VAL, VAL_DEFAULTS
from sptsr.options.problems import NotThere, wrong_values
from sptsr.options.schema import check, check_network

_MAX_BASES = 8


@dataclass(frozen=True)
class Options:
    """A checked option file.

    Attributes:
        path: the file.
        given: its content as written, `base` merged.
        opt: the same, complete and in BasicSR's form; a copy goes to whoever changes it.
        sha256: digest of what the user asked for (root and machine play no part).
    """

    path: str
    given: dict[str, Any]
    opt: dict[str, Any]
    sha256: str


def load_options(
    path: str | os.PathLike[str], is_train: bool, root: str | os.PathLike[str] = '.', force: Sequence[str] = ()
) -> Options:
    """Reads, checks and completes an option file. Nothing is written and no data is read.

    Args:
        path: the YAML file; `base: OTHER.yml` in it (relative to it) is read first and overridden key by key.
        is_train: for training; else for a test.
        root: where `experiments/`, `results/` and `tb_logger/` go.
        force: entries such as `train:ema_decay=0.999`, applied before the check.

    Raises:
        UserError: one report of all mistakes, each with file, line and the nearest right name.
    """
    opt, _, is_train = read_checked(path, is_train, force)
    digest = sha256_json(opt)
    return Options(str(path), opt, complete(opt, is_train, root), digest)


def read_checked(
    path: str | os.PathLike[str], is_train: bool | None, force: Sequence[str] = (), files: bool = True
) -> tuple[dict[str, Any], Lines, bool]:
    """Reads and checks an option file and imports its plugins.

    Args:
        path, force: see `load_options`.
        is_train: None to go by whether it has a section `train`.
        files: whether images, masks and weights that it names must be there.

    Returns:
        its content with `base` and `force` applied, where each key stands, and whether it is for training.
    """
    opt, lines = read_unchecked(path, force)
    is_train = 'train' in opt if is_train is None else is_train
    problems = [one for one in check(opt, is_train) if files or not isinstance(one[1], NotThere)]
    if problems:
        raise UserError(report(str(path), lines, problems))
    return opt, lines, is_train


def load_network(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the checked `network_g` section of an option file, and all of its content, which is not looked at."""
    opt, lines = read_unchecked(path)
    section = opt.get('network_g')
    if not isinstance(section, dict):
        raise UserError(f"{path}: 'network_g' is missing at the top")
    problems = check_network(expanded(section))
    if problems:
        raise UserError(report(str(path), lines, problems))
    return expanded(section), opt


def load_frozen(
    path: str | os.PathLike[str], weights: str | None = None
) -> tuple[dict[str, Any], str | None, str | None]:
    """Reads the network of an option file without units: the backbone of an SPTNet, or the network itself.

    Args:
        path: the option file.
        weights: file to take in place of the one that it names, which moved.

    Returns:
        its checked section, the file of its weights (None where the section names it), and the entry of that file.

    Raises:
        UserError: a mistake in the section, or no weights.
    """
    section, opt = load_network(path)
    files = opt.get('path') or {}
    if not isinstance(files, dict):
        raise UserError(f'{path}: path must be a section')
    problems = wrong_values(files, PATH, ('path',))
    if problems:
        raise UserError(f'{path}: {problems[0][1]}')
    if section['type'] == 'SPTNet':
        named, key = section.get('backbone_weights'), section.get('backbone_key')
        section = section['backbone']
    else:
        named, key = expanded(files.get('pretrain_network_g')), files.get('param_key_g')
    weights = named if weights is None else weights
    if weights is None and section['type'] != 'spandrel':
        raise UserError(f'{path}: names no weights of {section["type"]}; set backbone_weights, or pretrain_network_g')
    return section, weights, key


def read_unchecked(path: str | os.PathLike[str], force: Sequence[str] = ()) -> tuple[dict[str, Any], Lines]:
    """Reads a file with its `base` and `--force_yml`, and imports its plugins.

    Returns:
        its content, not checked, and where each key stands.
    """
    opt, lines = _read_with_base(Path(path))
    for entry in force:
        _force(opt, lines, entry)
    drop_sets(opt)
    make_whole(opt)
    import_plugins_of(opt, lines, path)
    return opt, lines


def import_plugins_of(opt: Mapping[str, Any], lines: Lines, path: str | os.PathLike[str]) -> None:
    """Imports the `plugins` of options; `lines` and `path` tell where a mistake stands."""
    plugins = opt.get('plugins') or []
    if not isinstance(plugins, list) or not all(isinstance(plugin, str) for plugin in plugins):
        raise UserError(f'{lines.get(("plugins",), path)}: plugins must be a list of modules and .py files')
    if plugins:
        from sptsr.core.registry import import_plugins, register_all

        register_all()  # a plug-in that takes a name of ours is told so
        with naming(f'{lines.get(("plugins",), path)}: plugins'):
            import_plugins(plugins)


def _read_with_base(path: Path, depth: int = 0) -> tuple[dict[str, Any], Lines]:
    opt, lines = read_yaml(path)
    base = opt.pop('base', None)
    if base is None:
        return opt, lines
    where = lines[('base',)]
    if not isinstance(base, str):
        study = '; a study file is for sptsr table' if isinstance(base, dict) else ''
        raise UserError(f'{where}: base must be the name of one YAML file{study}')
    if depth >= _MAX_BASES:
        raise UserError(f'{where}: base files go round in a circle; remove one')
    other = path.parent / expanded(base)
    if not other.is_file():
        raise UserError(f'{where}: base: {other}: no such file; it is relative to this file')
    below, below_lines = _read_with_base(other, depth + 1)
    return merge(below, opt), below_lines | lines


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides key by key; a section that names another `type` than the one below replaces it whole."""
    merged = deepcopy(dict(below))
    for key, value in above.items():
        old: Any = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        if both and ('type' not in old or value.get('type', old['type']) == old['type']):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def drop_sets(opt: Mapping[str, Any]) -> None:
    """Takes out the sets that are null: `test_2: ~` above a `base`, in a study or in `--force_yml`."""
    sets = _section(opt, 'datasets')
    for name in [name for name, data in sets.items() if data is None]:
        del sets[name]


def make_whole(opt: Mapping[str, Any]) -> None:
    """Turns numbers such as 5e3 and `!!float 5e3`, which BasicSR's files have, into whole ones where only these go."""
    for name, known in {'train': TRAIN, 'val': VAL, 'logger': LOGGER}.items():
        section = _section(opt, name)
        for key, value in section.items():
            if float not in plain_types(known.get(key, ())):
                section[key] = _whole(value)
    scheduler = _section(_section(opt, 'train'), 'scheduler')
    for key, value in scheduler.items():
        if key in SCHEDULES and SCHEDULES[key] != list[float] and isinstance(value, list):
            scheduler[key] = [_whole(one) for one in value]


def _section(opt: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = opt.get(key)
    return found if isinstance(found, dict) else {}


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _force(opt: dict[str, Any], lines: Lines, entry: str) -> None:
    keys, equals, text = entry.partition('=')
    path = tuple(key.strip() for key in keys.split(':'))
    if not equals or not all(path):
        raise UserError(f"--force_yml: '{entry}' is not of the form section:key=value")
    if len(path) > MAX_DEPTH:
        raise UserError(f'--force_yml: {path[0]}:... is nested more than {MAX_DEPTH} deep')
    section = opt
    for key in path[:-1]:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise UserError(f"--force_yml: '{entry}': {key} is a value, not a section")
    section[path[-1]] = read_scalar(text.strip(), f'--force_yml {keys}')
    for end in range(1, len(path) + 1):
        lines.setdefault(path[:end], '--force_yml')
    lines[path] = '--force_yml'


def report(file: str, lines: Lines, problems: Sequence[tuple[KeyPath, str]]) -> str:
    """Returns all mistakes as one message, each with the place of its key or of the section that it lies in."""
    rows = []
    for path, message in problems:
        while path and path not in lines:
            path = path[:-1]
        rows.append(f'{lines.get(path, file)}: {message}')
    rows = list(dict.fromkeys(rows))
    return rows[0] if len(rows) == 1 else '\n'.join([f'{file}: {len(rows)} mistakes', *(f'  {row}' for row in rows)])


def complete(opt: dict[str, Any], is_train: bool, root: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns checked options with BasicSR's derived keys and our defaults; imports what they may name."""
    from sptsr.core.registry import register_all  # seconds: not before the options are known to be right

    register_all()
    opt, root = expanded(deepcopy(opt)), Path(root)
    name = opt['name']
    if opt.get('num_gpu', 'auto') == 'auto':
        opt['num_gpu'] = gpu_count()
    if opt['num_gpu'] > 0 and not gpu_count():
        raise UserError(f'num_gpu: {opt["num_gpu"]}, but no GPU is usable here; set num_gpu: 0 (or auto)')
    if opt.get('manual_seed') is None:
        opt['manual_seed'] = 0  # a random one would make a resumed run another run
    opt.update(is_train=is_train, dist=False, rank=0, world_size=1, root_path=str(root))
    for phase, data in opt['datasets'].items():
        data['phase'] = phase.split('_')[0]
        data['scale'] = opt['scale']
    path = opt['path'] = dict(opt.get('path') or {})
    if is_train:
        home = root / 'experiments' / name
        path.update(experiments_root=str(home), models=str(home / 'models'), log=str(home))
        path.update(training_states=str(home / 'training_states'), visualization=str(home / 'visualization'))
        given = {key: value for key, value in opt['train'].items() if value is not None or not key.endswith('_opt')}
        opt['train'] = {**TRAIN_DEFAULTS, **given}
    else:
        home = root / 'results' / name
        path.update(results_root=str(home), log=str(home), visualization=str(home / 'visualization'))
    opt['val'] = {**VAL_DEFAULTS, **(opt.get('val') or {})}
    opt['logger'] = {**LOGGER_DEFAULTS, **(opt.get('logger') or {})}
    return opt
