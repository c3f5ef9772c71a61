"""Modules of 0.1 under their old names, for plug-ins that were written for it.

`from sptsr.masks.batch import MaskCodes` gives what `sptsr.masks.batch` calls it today, with a `DeprecationWarning`
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
    'sptsr.data.noise': ('sptsr.images.noise',),
    'sptsr.data.resize': ('sptsr.images.bicubic',),
    'sptsr.data.degrade': ('sptsr.images.degrade',),
    'sptsr.data.prepare': ('sptsr.images.prepare',),
    'sptsr.priors.regions': ('sptsr.masks.regions',),
    'sptsr.priors.prior': ('sptsr.masks.prior',),
    'sptsr.codes': ('sptsr.masks.batch', 'sptsr.masks.prior'),
    'sptsr.priors.compare': ('sptsr.priors.likeness',),
    'sptsr.priors.sources.base': ('sptsr.priors.sources.source',),
    'sptsr.archs.resize': ('sptsr.archs.to_site',),
    'sptsr.archs.regions': ('sptsr.archs.pooling',),
    'sptsr.sizing': ('sptsr.archs.sizes', 'sptsr.restoring.tiling'),
    'sptsr.report.metrics': ('sptsr.evaluation.evaluate',),
    'sptsr.report.statistics': ('sptsr.evaluation.statistics',),
    'sptsr.models': (),  # the folder
    'sptsr.models.spt_model': ('sptsr.tuning.model',),
    'sptsr.models.tuner': ('sptsr.tuning.tuner',),
    'sptsr.states': ('sptsr.tuning.states',),
    'sptsr.archs.recompute': ('sptsr.tuning.recompute',),
    'sptsr.data.base': ('sptsr.data.checked',),
    'sptsr.keys': ('sptsr.options.keys',),
    'sptsr.schema': ('sptsr.options.schema',),
}
# What was renamed as well, by old name.
RENAMED: Mapping[str, str] = {
    'MaskCodes': 'PriorBatch',
    'RegionMap': 'SiteMasks',
    'Join': 'LadderHead',
    'compare': 'likeness_of',
}


def old_name(old: str, name: str, targets: Sequence[str]) -> Any:
    """Returns what the module `old` of 0.1 held as `name`, from the modules where it may live today.

    Raises:
        AttributeError: it held no such thing.
    """
    for target in targets:
        module = importlib.import_module(target)
        wanted = name if name in vars(module) else RENAMED.get(name, name)
        if wanted in vars(module):
            warnings.warn(f'{old}.{name} is {target}.{wanted} since sptsr 0.2', DeprecationWarning, stacklevel=3)
            return vars(module)[wanted]
    raise AttributeError(f"module '{old}' has no '{name}'")


class _OldModule(ModuleType):
    """Hands on what it is asked for from where it lives today."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        return old_name(self.__name__, name, MOVED[self.__name__])


class _OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of `MOVED`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in MOVED:
            return None
        is_folder = not MOVED[fullname]
        return importlib.machinery.ModuleSpec(fullname, self, is_package=is_folder)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing runs: names are looked up when they are asked for."""


def apply() -> None:
    """Makes the old names importable. May be called again."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())
