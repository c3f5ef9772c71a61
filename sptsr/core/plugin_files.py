"""Python files of a user as modules that every process can import.

A class of a plug-in file is pickled by the name of its module when a dataset goes to a worker that was started by
`spawn` or `forkserver`. So the name carries the file's path, and lies below this module: importing it first imports
this module, which knows how to find it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

__path__: list[str] = []  # makes this module a package; `_PluginFinder` finds what is in it


def module_name(path: Path) -> str:
    """Returns the importable name of a file.

    Two files have two names, and a name is an identifier, because `torch.compile` writes it into code. Bytes of the
    absolute path other than ASCII letters and digits become `_` and two hexadecimal digits.
    """
    encoded = re.sub(rb'[^A-Za-z0-9]', lambda byte: b'_%02x' % ord(byte[0]), os.fsencode(path.resolve()))
    return f'{__name__}.{encoded.decode()}'


def _path(name: str) -> Path:
    encoded = name.removeprefix(f'{__name__}.').encode()
    decoded = re.sub(rb'_([0-9a-f]{2})', lambda digits: bytes.fromhex(digits[1].decode()), encoded)
    return Path(os.fsdecode(decoded))


class _PluginFinder(importlib.abc.MetaPathFinder):
    """Finds the modules that `module_name` names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(f'{__name__}.'):
            return None
        return importlib.util.spec_from_file_location(fullname, _path(fullname))


sys.meta_path.append(_PluginFinder())
