"""What plug-ins import to register a network, unit, stem, source, dataset, loss or metric."""

from sptsr.core.registry import *  # noqa: F403 (its `__all__`)
from sptsr.core.registry import __all__ as __all__
