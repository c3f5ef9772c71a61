"""Building a network, and whose fault it is when its code raises."""

from __future__ import annotations

import math
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sptsr.core.errors import UserError
from sptsr.core.free_memory import must_fit

_PACKAGE = Path(__file__).parents[1]
_TORCH = Path(torch.__file__).parent
_FACTORIES = {'empty', 'empty_strided', 'full', 'ones', 'rand', 'randn', 'zeros'}  # of torch: a size comes first


_MOST_TENSORS = 20_000  # some times as many as the largest networks have


class _Asked(TorchDispatchMode):
    """Raises UserError before the tensors that code makes take more memory than is free, or are without number."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.bytes, self.tensors = what, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in _FACTORIES and args and isinstance(args[0], list | tuple):
            kind = kwargs.get('dtype') or torch.get_default_dtype()
            size = math.prod(args[0]) * kind.itemsize
            self.bytes += size
            self.tensors += 1
            if self.tensors > _MOST_TENSORS:
                raise UserError(f'{self.what}: more than {_MOST_TENSORS:,} tensors; lower its numbers of layers')
            if size > 1 << 24:  # asking costs more than a small tensor
                must_fit(self.what, self.bytes, 'lower the arguments that say how large it is')
        return func(*args, **kwargs)


def build(name: str, network: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Returns what a class of networks builds.

    Raises:
        UserError: it needs more memory than there is, or raises.
    """
    try:
        with _Asked(f'network: {name}'):
            return network(**arguments)
    except UserError:
        raise
    except Exception as error:
        raise fault(name, 'cannot be built', error, 'check its arguments') from error


def fault(name: str, what: str, error: Exception, remedy: str) -> Exception:
    """Returns an error that a network's code raised as one line, or the error itself where sptsr's own code did.

    Args:
        name: of the network.
        what: does not work.
        error: caught around a call of the network.
        remedy: where the code is not a user's own.
    """
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first one is of who caught it
    files = [(_origin(frame.filename), frame) for frame in frames]
    files = [(origin, frame) for origin, frame in files if origin != 'library']
    origin, frame = files[-1] if files else ('installed', None)  # a network may consist of torch's modules only
    if origin == 'sptsr':
        return error
    said = ' '.join(str(error).split())[:300]
    if not isinstance(error, ValueError):  # that is what a check of arguments raises
        said = f'{type(error).__name__}: {said}' if said else type(error).__name__
    if origin == 'user' and frame is not None:
        remedy = f'it comes from {frame.filename}:{frame.lineno}, which is not part of sptsr'
        return UserError(f'network: {name} {what} ({said}); {remedy} (--debug shows the traceback)')
    return UserError(f'network: {name} {what} ({said}); {remedy}')


def _origin(file: str) -> str:
    """Returns whose a file is: `sptsr`, `user`, `installed`, or `library` for what only passes an error on."""
    path = Path(file)
    if path.is_relative_to(_PACKAGE):
        if path.name in ('building.py', 'call.py'):
            return 'library'
        return 'installed' if path.parent.name == 'backbones' else 'sptsr'
    if file.startswith('<') or path.is_relative_to(_TORCH):
        return 'library'
    if any(path.is_relative_to(sysconfig.get_path(key)) for key in ('purelib', 'platlib')):
        return 'installed'
    return 'library' if path.is_relative_to(sysconfig.get_path('stdlib')) else 'user'
