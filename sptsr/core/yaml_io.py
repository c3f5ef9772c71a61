"""Reading YAML as data: no tags, no duplicate keys, and the line of every key."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sptsr.core.errors import UserError

KeyPath = tuple[str, ...]
Lines = dict[KeyPath, str]  # 'file:line' of each key

_MAX_NODES = 100_000  # far above any option file; aliases of aliases can name millions


class _Loader(yaml.SafeLoader):
    """SafeLoader that also takes 1e-4 for a number, as YAML 1.2 does and YAML 1.1 does not."""


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$'), list('-+0123456789')
)


def read_yaml(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Lines]:
    """Reads one YAML file.

    Returns:
        its mapping, and for each key path the 'file:line' where it stands.

    Raises:
        UserError: missing file, bad syntax, a tag such as `!!python/object`, a duplicate key, or
            no mapping at the top; names file and line.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else 'not UTF-8'
        raise UserError(f'{path}: cannot read it ({reason}); check the path') from error
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f'{path}: holds no "key: value" lines; see options/ for examples')
        reader = _Reader(loader, str(path))
        return reader.mapping(node, ()), reader.lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f'{path}:{mark.line + 1}' if mark else str(path)
        raise UserError(f'{where}: {error.problem or error}; correct the YAML') from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f'{path}: not readable as YAML ({str(error).splitlines()[0]}); correct it') from error
    finally:
        loader.dispose()


def read_scalar(text: str) -> Any:
    """Reads one value as YAML does: `0.9`, `1e-4`, `true`, `~`, `[1, 2]`, text. Tags are refused."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"'{text}': not readable as a YAML value; quote it") from error


def read_settings(settings: Sequence[str], flag: str) -> dict[str, Any]:
    """Reads `k=v` entries of a command line, values as in YAML; `flag` is what to call them in a message."""
    arguments = {}
    for setting in settings:
        key, equals, text = setting.partition('=')
        if not equals or not key.strip():
            raise UserError(f"{flag}: '{setting}' is not of the form k=v")
        arguments[key.strip()] = read_scalar(text.strip())
    return arguments


class _Reader:
    """Turns nodes into plain values and notes where keys stand."""

    def __init__(self, loader: _Loader, name: str) -> None:
        self.loader, self.name = loader, name
        self.lines: Lines = {}
        self.open: set[int] = set()
        self.count = 0

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f'{self.name}:{line}: a key must be text')
            if key_node.value in seen:
                raise UserError(
                    f"{self.name}:{line}: '{key_node.value}' stands twice in this section "
                    f'(first in line {seen[key_node.value]}); remove one'
                )
            seen[key_node.value] = line
        self.loader.flatten_mapping(node)  # `<<: *anchor`
        result = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            self.lines[(*path, key)] = f'{self.name}:{key_node.start_mark.line + 1}'
            result[key] = self.value(value_node, (*path, key))
        return result

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.count += 1
        if id(node) in self.open or self.count > _MAX_NODES:
            raise UserError(f'{self.name}:{node.start_mark.line + 1}: an alias that contains itself; write it out')
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == 'tag:yaml.org,2002:map':
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == 'tag:yaml.org,2002:seq':
                return [self.value(item, (*path, str(number))) for number, item in enumerate(node.value)]
            return self.loader.construct_object(node, deep=True)
        finally:
            self.open.discard(id(node))
