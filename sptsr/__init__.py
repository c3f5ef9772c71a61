"""SAM prior tuning for frozen image-restoration networks, as a plug-in of BasicSR.

The public names are loaded when they are first used, so that `import sptsr` takes no time and no torch.
Importing this package mends what keeps BasicSR 1.4.2 from importing on today's libraries (see
`sptsr.core.compat`), so `import sptsr` before `import basicsr`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sptsr.core import compat as _compat  # must come first: spawned workers import it too
from sptsr.core import moved as _moved
from sptsr.core.errors import UserError
from sptsr.core.version import __version__

if TYPE_CHECKING:
    from sptsr.archs.attach import attach, detach, load, save
    from sptsr.core.registry import register
    from sptsr.priors.one_image import make_prior
    from sptsr.restoring.restorer import restore

_compat.apply()
_moved.apply()

__all__ = ['UserError', '__version__', 'attach', 'detach', 'load', 'make_prior', 'register', 'restore', 'save']

_HOMES = {
    'attach': 'sptsr.archs.attach',
    'detach': 'sptsr.archs.attach',
    'load': 'sptsr.archs.attach',
    'make_prior': 'sptsr.priors.one_image',
    'register': 'sptsr.core.registry',
    'restore': 'sptsr.restoring.restorer',
    'save': 'sptsr.archs.attach',
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sptsr' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
