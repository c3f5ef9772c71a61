"""Modules of 0.1 under their old names, for plug-ins that were written for it.

`from sptsr.codes import MaskCodes` gives what `sptsr.masks.batch` calls it today, with a `DeprecationWarning`
that says so. Nothing of sptsr itself imports an old name.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

# Old module: where what it held lives today; the first module that has a name gives it.
MOVED: dict[str, tuple[str, ...]] = {
    'sptsr.errors': ('sptsr.core.errors',),
    'sptsr.files': ('sptsr.core.files',),
    'sptsr.lmdb_env': ('sptsr.core.lmdb_env',),
    'sptsr.logs': ('sptsr.core.logs',),
    'sptsr.progress': ('sptsr.core.progress',),
    'sptsr.signatures': ('sptsr.core.signatures',),
    'sptsr.yaml_io': ('sptsr.core.yaml_io',),
    'sptsr.distributed': ('sptsr.core.distributed',),
    'sptsr.optim': ('sptsr.core.optim',),
    'sptsr.compat': ('sptsr.core.compat',),
    'sptsr.version': ('sptsr.core.version',),
    # moves
}
# What was renamed as well, by old name.
RENAMED: Mapping[str, str] = {}


class _OldModule(ModuleType):
    """Hands on what it is asked for from where it lives today."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        for target in MOVED[self.__name__]:
            module = importlib.import_module(target)
            wanted = name if hasattr(module, name) else RENAMED.get(name, name)
            if hasattr(module, wanted):
                message = f'{self.__name__}.{name} is {target}.{wanted} since sptsr 0.2'
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                return getattr(module, wanted)
        raise AttributeError(f"module '{self.__name__}' had no '{name}' in sptsr 0.1")


class _OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of `MOVED`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing runs: names are looked up when they are asked for."""


def apply() -> None:
    """Makes the old names importable. May be called again."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())
