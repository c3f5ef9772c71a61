"""The registries, and the one place that imports modules for registration."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
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
from sptsr.core.errors import UserError
from sptsr.core.plugin_files import module_name

T = TypeVar('T', bound=type | FunctionType)

UNIT_REGISTRY = Registry('unit')
STEM_REGISTRY = Registry('stem')
SOURCE_REGISTRY = Registry('source')

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

    A name that is taken is an error, as in BasicSR. A `replaceable` class is left out instead: the one that
    a user registered before stays.
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

    Args:
        plugins: importable names (`package.module`) or files (`path/to/net.py`).
        root: folder that relative file names start from.

    Raises:
        UserError: no such file or module, or it fails to import. In the last case the
            plugin's own traceback is printed first: only its author can mend it.
    """
    for plugin in plugins:
        if plugin.endswith('.py'):
            _import_file((Path(root) / plugin).resolve(), plugin)
            continue
        if not re.fullmatch(r'[^\W\d]\w*(\.[^\W\d]\w*)*', plugin) or plugin == '__main__':
            raise UserError(f"plugins: '{plugin}' is neither a module's name nor the path of a .py file")
        try:
            found = importlib.util.find_spec(plugin) is not None
        except (ImportError, ValueError):  # its package is missing, or was not imported as one
            found = False
        if not found:
            raise UserError(f"plugins: no module '{plugin}'; install it, or give the path of a .py file")
        _guarded(lambda plugin=plugin: importlib.import_module(plugin), plugin)


def import_named(name: str) -> tuple[str, list[str]]:
    """Imports our parts, and the file of `path/to/file.py:NAME`; returns NAME and the files, one or none.

    Raises:
        UserError: no such file, or it fails to import.
    """
    register_all()
    file, _, registered = name.rpartition(':')
    plugins = [file] if file else []
    import_plugins(plugins)
    return registered, plugins


def _import_file(path: Path, shown: str) -> None:
    if not path.is_file():
        raise UserError(f'plugins: {shown}: no such file; check the path')
    _guarded(lambda: importlib.import_module(module_name(path)), shown)


def _guarded(load: Any, shown: str) -> None:
    try:
        load()
    except Exception as error:
        print(traceback.format_exc(), file=sys.stderr)
        raise UserError(f'plugins: {shown}: importing it failed ({error}); its traceback is above') from error
