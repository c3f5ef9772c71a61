"""Images: reading folders and LMDBs, MATLAB's bicubic, noise and degradations, making sets."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Gives what the module `sptsr.images` of 0.1 held, for plug-ins of then."""
    if name.startswith('__'):
        raise AttributeError(name)
    from sptsr.core.moved import old_name

    return old_name(__name__, name, ('sptsr.images.decode', 'sptsr.images.folder'))
