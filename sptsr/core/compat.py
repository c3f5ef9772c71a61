"""The one place that knows what is broken upstream and patches it.

Each patch says which line of BasicSR 1.4.2 it mends; `docs/upstream.md` has the
list with the tests. `apply()` runs when `sptsr` is imported. It imports nothing
heavy: the patches are applied when the module concerned is first imported.
"""

from __future__ import annotations

import glob
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_FUNCTIONAL_TENSOR = 'torchvision.transforms.functional_tensor'


def apply() -> None:
    """Makes `import basicsr` work and its LMDB client safe. May be called again."""
    if not any(isinstance(finder, _UpstreamFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _UpstreamFinder())
    for name, patch in _PATCHES.items():
        if name in sys.modules:
            patch(sys.modules[name])


class _UpstreamFinder(importlib.abc.MetaPathFinder):
    """Finds the removed torchvision module, and patches modules of BasicSR as they load."""

    _inside = threading.local()  # whether this thread is looking a module up already

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == 'basicsr':
            return _installed_basicsr()
        if getattr(self._inside, 'busy', False) or fullname not in (_FUNCTIONAL_TENSOR, *_PATCHES):
            return None
        self._inside.busy = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._inside.busy = False
        if fullname == _FUNCTIONAL_TENSOR:
            # torchvision 0.15 and older still have it.
            return spec or importlib.machinery.ModuleSpec(fullname, _FunctionalTensorLoader())
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader, _PATCHES[fullname])
        return spec


def _installed_basicsr() -> importlib.machinery.ModuleSpec | None:
    """Returns the spec of the basicsr that was installed, which a project's own copy may hide.

    `python -m sptsr` and torchrun put the present folder first in `sys.path`, and many projects have such a folder.
    None leaves the search to Python.
    """
    for place in sys.path:
        if glob.glob(os.path.join(glob.escape(place), 'basicsr-*.dist-info')):
            return importlib.machinery.PathFinder.find_spec('basicsr', [place])
    return None


class _FunctionalTensorLoader(importlib.abc.Loader):
    """basicsr/data/degradations.py:8 imports a module that torchvision 0.17 removed."""

    def exec_module(self, module: ModuleType) -> None:
        from torchvision.transforms.functional import rgb_to_grayscale

        module.__dict__['rgb_to_grayscale'] = rgb_to_grayscale


class _PatchingLoader(importlib.abc.Loader):
    """Loads a module and then patches it."""

    def __init__(self, loader: importlib.abc.Loader, patch: Callable[[Any], None]) -> None:
        self.loader, self.patch = loader, patch

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        self.patch(module)


def _patch_file_client(module: Any) -> None:
    module.LmdbBackend.__init__ = _lmdb_backend_init
    module.LmdbBackend.get = _lmdb_backend_get


def _lmdb_backend_init(
    self: Any, db_paths: str | list[str], client_keys: str | list[str] = 'default', **kwargs: Any
) -> None:
    """file_client.py:112 opens an environment for each dataset: lmdb 3.0 refuses the second one
    of a path, and none survives a pickle. Keep the paths here, the environments per process."""
    del kwargs  # readonly, lock, readahead: a reader is always read-only and without a lock
    paths = [db_paths] if isinstance(db_paths, str | os.PathLike) else list(db_paths)
    keys = [client_keys] if isinstance(client_keys, str) else list(client_keys)
    if len(paths) != len(keys):
        raise ValueError(f'client_keys and db_paths differ in length: {len(keys)} and {len(paths)}')
    self.db_paths = [str(path) for path in paths]
    self._client = dict(zip(keys, self.db_paths, strict=True))


def _lmdb_backend_get(self: Any, filepath: Any, client_key: str) -> bytes:
    """img_util.py:127 turns a missing key (None) into a TypeError without a name."""
    from sptsr.core.errors import UserError
    from sptsr.core.lmdb_env import read_transaction

    with read_transaction(self._client[client_key]) as transaction:
        value = transaction.get(str(filepath).encode())
    if value is None:
        raise UserError(
            f"{self._client[client_key]}: no entry '{filepath}'; where its names have dots, "
            'PriorPairedImageDataset reads it; else make it again from its images'
        )
    return value


def _patch_swinir(module: Any) -> None:
    module.BasicLayer.forward = _basic_layer_forward


def _basic_layer_forward(self: Any, x: Any, x_size: tuple[int, int]) -> Any:
    """archs/swinir_arch.py:461 calls a block without its second argument when `use_checkpoint` is on."""
    from torch.utils.checkpoint import checkpoint

    for block in self.blocks:
        x = checkpoint(block, x, x_size, use_reentrant=False) if self.use_checkpoint else block(x, x_size)
    return x if self.downsample is None else self.downsample(x)


_PATCHES: dict[str, Callable[[Any], None]] = {
    'basicsr.utils.file_client': _patch_file_client,
    'basicsr.archs.swinir_arch': _patch_swinir,
}
