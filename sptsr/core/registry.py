"""The registries, and the one place that imports modules for registration."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    Registry,
)

from sptsr.core.catalogue import BASICSR, OWN, full_name
from sptsr.core.errors import UserError, nearest
from sptsr.core.plugin_files import file_of, load_plugin, plugin_modules

T = TypeVar('T', bound=type | FunctionType)

UNIT_REGISTRY = Registry('unit')
STEM_REGISTRY = Registry('stem')
SOURCE_REGISTRY = Registry('source')
_REGISTRIES = {
    registry._name: registry
    for registry in (
        ARCH_REGISTRY,
        DATASET_REGISTRY,
        LOSS_REGISTRY,
        METRIC_REGISTRY,
        MODEL_REGISTRY,
        SOURCE_REGISTRY,
        STEM_REGISTRY,
        UNIT_REGISTRY,
    )
}

__all__ = [
    'ARCH_REGISTRY',
    'DATASET_REGISTRY',
    'LOSS_REGISTRY',
    'METRIC_REGISTRY',
    'MODEL_REGISTRY',
    'SOURCE_REGISTRY',
    'STEM_REGISTRY',
    'UNIT_REGISTRY',
    'import_named',
    'import_plugins',
    'lookup',
    'register',
    'register_all',
]


def register_all() -> None:
    """Imports everything that registers itself: BasicSR's parts and ours. May be called again."""
    for name in (*BASICSR, *OWN):
        importlib.import_module(name)


def register(registry: Registry, name: str | None = None, replaceable: bool = False) -> Callable[[T], T]:
    """Returns a decorator that registers a class or function under its name, or another.

    Args:
        registry: such as `ARCH_REGISTRY`, `UNIT_REGISTRY`, `STEM_REGISTRY` or `SOURCE_REGISTRY`.
        name: that options give it; that of the class or function by default.
        replaceable: where the name is taken, leave out this one: the one that a user registered before stays.

    Raises:
        AssertionError: when the decorator is applied, and the name is taken, as in BasicSR.
    """

    def add(found: T) -> T:
        key = name or found.__name__
        if not (replaceable and key in registry):
            registry._do_register(key, found)
        return found

    return add


def lookup(registry: Registry, name: str) -> Any:
    """Returns the registered object of this name, else of `NAME_basicsr` (as BasicSR calls some of its own).

    BasicSR's own `get` prints when it does the latter; this does not.

    Raises:
        UserError: no such name; the message has the nearest right one.
    """
    return registry._obj_map[full_name(registry._name, name, registry._obj_map)]


def import_plugins(plugins: Sequence[str], root: str | Path = '.') -> None:
    """Imports a user's own modules, so that what they register can be named in options.

    What a file registers with BasicSR's registries of its own project's copy of BasicSR is registered with ours, unless
    the name is taken.

    Args:
        plugins: importable names (`package.module`), files (`path/to/net.py`), or files with a network in them that
            registers itself nowhere (`path/to/net.py:NAME`).
        root: folder that relative file names start from.

    Raises:
        UserError: no such file, module or network, a name that is taken, or it fails to import. In the last case the
            plugin's own traceback is printed first: only its author can mend it.
    """
    for plugin in plugins:
        if (file := file_of(plugin)) is not None:
            module = _import_file(Path(root) / file[0], plugin)
            _adopt(module, plugin)
            if file[1] is not None:
                _register_network(module, file[1], plugin)
            continue
        if not re.fullmatch(r'[^\W\d]\w*(\.[^\W\d]\w*)*', plugin) or plugin == '__main__':
            raise UserError(f"'{plugin}' is neither a module's name nor the path of a .py file")
        try:
            found = importlib.util.find_spec(plugin) is not None
        except (ImportError, ValueError):  # its package is missing, or was not imported as one
            found = False
        if not found:
            raise UserError(f"no module '{plugin}'; install it, or give the path of a .py file")
        _guarded(lambda plugin=plugin: importlib.import_module(plugin), plugin)


def import_named(name: str) -> tuple[str, list[str]]:
    """Imports our parts, and the file of `path/to/file.py:NAME`; returns NAME and the files, one or none.

    Raises:
        UserError: no such file, or it fails to import, or NAME is missing.
    """
    register_all()
    if name.endswith('.py'):
        raise UserError(f'{name}: is a file; say what of it, {name}:NAME')
    file, _, registered = name.rpartition(':')
    plugins = [file] if file else []
    import_plugins(plugins)
    return registered, plugins


def _import_file(path: Path, shown: str) -> ModuleType:
    if not path.is_file():
        raise UserError(f'{shown}: no such file; check the path')
    return _guarded(lambda: load_plugin(path), shown)


def _guarded(load: Callable[[], ModuleType], shown: str) -> ModuleType:
    try:
        return load()
    except SystemExit as error:
        raise UserError(
            f"{shown}: importing it ends the program; put what it runs under if __name__ == '__main__':"
        ) from error
    except Exception as error:
        print(traceback.format_exc(), file=sys.stderr)
        raise UserError(f'{shown}: importing it failed ({error}); its traceback is above') from error


def _adopt(plugin: ModuleType, shown: str) -> None:
    """Registers with our registries what stands in those of a project's own copy of BasicSR."""
    own = {id(registry): registry for registry in _REGISTRIES.values()}
    for module in plugin_modules():
        for theirs in list(vars(module).values()):
            if type(theirs).__name__ != 'Registry' or id(theirs) in own or theirs._name not in _REGISTRIES:
                continue
            ours = _REGISTRIES[theirs._name]
            for name, found in theirs._obj_map.items():
                if name not in ours:
                    ours._do_register(name, found)
                elif ours._obj_map[name] is not found and found.__module__ == plugin.__name__:
                    raise UserError(f"{shown}: registers '{name}', a name that BasicSR or sptsr has already; rename it")


def _register_network(plugin: ModuleType, name: str, shown: str) -> None:
    """Registers a network of a plug-in file that does not register itself."""
    from torch import nn

    found = vars(plugin).get(name)
    if any(found is known for registry in _REGISTRIES.values() for _, known in registry):
        return
    if name in ARCH_REGISTRY and found is None:  # registered under this name, and called otherwise in the file
        return
    networks = [key for key, value in vars(plugin).items() if isinstance(value, type) and issubclass(value, nn.Module)]
    if name not in networks:
        raise UserError(f"{shown}: no network '{name}' in this file{nearest(name, networks)}")
    if name in ARCH_REGISTRY:
        raise UserError(f"{shown}: a network called '{name}' is registered already; rename this one")
    ARCH_REGISTRY._do_register(name, found)
