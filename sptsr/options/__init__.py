"""Option files: what they may say, the check, completing them, and what they are understood as."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Gives what the module `sptsr.options` of 0.1 held."""
    if name.startswith('__'):
        raise AttributeError(name)
    from sptsr.core.moved import old_name

    return old_name(__name__, name, ('sptsr.options.load',))
