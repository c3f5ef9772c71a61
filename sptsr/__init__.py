"""SAM prior tuning for frozen image-restoration networks, as a plug-in of BasicSR.

Importing this package first mends what keeps BasicSR 1.4.2 from importing on
today's libraries (see `sptsr.core.compat`), so `import sptsr` before `import basicsr`.
"""

from sptsr.core import compat as _compat  # must come first: spawned workers import it too
from sptsr.core import moved as _moved
from sptsr.core.version import __version__

_compat.apply()
_moved.apply()

__all__ = ['__version__']
