"""SAM prior tuning for frozen image-restoration networks, as a plug-in of BasicSR.

Importing this package first mends what keeps BasicSR 1.4.2 from importing on
today's libraries (see `sptsr.compat`), so `import sptsr` before `import basicsr`.
"""

from sptsr import compat as _compat  # must come first: spawned workers import it too
from sptsr.version import __version__

_compat.apply()

__all__ = ['__version__']
