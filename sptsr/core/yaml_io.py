"""Reading YAML as data: no tags, no duplicate keys, and the line of every key."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import Any

import yaml

from sptsr.core.errors import UserError
from sptsr.core.files import read_bounded
from sptsr.core.homes import expanded

KeyPath = tuple[str, ...]
Lines = dict[KeyPath, str]  # 'file:line' of each key

_MAX_BYTES = 1 << 20
MAX_DEPTH = 50
_MAX_NODES = 20_000  # far above any option file; Python reads so many in about a second
_MAX_VALUES = 100_000  # aliases of aliases can name millions
_PLAIN = {f'tag:yaml.org,2002:{kind}' for kind in ('str', 'int', 'float', 'bool', 'null')}
_NOT_TEXT = re.compile('[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]')


class _Loader(yaml.SafeLoader):
    """SafeLoader with bounds, whose numbers are those of YAML 1.2: 1e-4 is one, and 4:00:00, 010 and 1_000 are text.

    So are dates.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (declared so by yaml)
        first: [(tag, pattern) for tag, pattern in rules if tag.rpartition(':')[2] in ('null', 'bool', 'merge')]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.nodes += 1
        self.depth += 1
        if self.nodes > _MAX_NODES or self.depth > MAX_DEPTH:
            what = f'more than {_MAX_NODES} values' if self.nodes > _MAX_NODES else f'nested more than {MAX_DEPTH} deep'
            raise yaml.MarkedYAMLError(problem=what, problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Puts in what `<<` names, each key once: else sections of sections that are named ten times have millions."""
        super().flatten_mapping(node)
        last = {key.value if isinstance(key, yaml.ScalarNode) else id(key): (key, value) for key, value in node.value}
        node.value = list(last.values())


_WHOLE = r'[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+'
_REAL = (
    r'[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)'
)
_Loader.add_implicit_resolver('tag:yaml.org,2002:int', re.compile(f'^({_WHOLE})$'), list('-+0123456789'))
_Loader.add_implicit_resolver('tag:yaml.org,2002:float', re.compile(f'^({_REAL})$'), list('-+.0123456789'))


def read_yaml(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Lines]:
    """Reads one YAML file of at most 1 MB.

    Returns:
        its mapping, and for each key path the 'file:line' where it stands.

    Raises:
        UserError: a file that is missing, special (a pipe, a device) or too large; bad syntax; a tag such as
            `!!python/object`; a duplicate key; a value that is none of YAML's plain ones; or no mapping at the
            top. Names file and line.
    """
    content = read_bounded(path, _MAX_BYTES)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: is not UTF-8 (byte {error.start}); save it as UTF-8') from error
    value, lines = _parse(text, str(path))
    if not isinstance(value, dict):
        raise UserError(f'{path}: holds no "key: value" lines; see options/ for examples')
    return value, lines


def read_scalar(text: str, name: str = 'value') -> Any:
    """Reads one value as YAML does: `0.9`, `1e-4`, `true`, `~`, `[1, 2]`, text.

    Args:
        text: the value.
        name: what to call it in a message.

    Raises:
        UserError: not YAML, or outside of the bounds of `read_yaml`.
    """
    try:
        return _parse(text, name)[0]
    except UserError as error:
        shown = ascii(text if len(text) <= 60 else f'{text[:60]}...')
        raise UserError(f'{name}: {shown} is not readable as a YAML value; correct or quote it') from error


def _parse(text: str, name: str) -> tuple[Any, Lines]:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        reader = _Reader(loader, name)
        return (None if node is None else reader.value(node, ())), reader.lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f'{name}:{mark.line + 1}' if mark else name
        raise UserError(f'{where}: {error.problem or error}; correct the YAML') from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f'{name}: not readable as YAML ({str(error).splitlines()[0]}); correct it') from error


def read_settings(settings: Sequence[str], flag: str) -> dict[str, Any]:
    """Reads `k=v` entries of a command line, values as in YAML; `flag` is what to call them in a message.

    `~` in front of a path is expanded.
    """
    arguments = {}
    for setting in settings:
        key, equals, text = setting.partition('=')
        if not equals or not key.strip():
            raise UserError(f"{flag}: '{setting}' is not of the form k=v")
        arguments[key.strip()] = expanded(read_scalar(text.strip(), f'{flag} {key.strip()}'))
    return arguments


class _Reader:
    """Turns nodes into plain values and notes where keys stand."""

    def __init__(self, loader: _Loader, name: str) -> None:
        self.loader, self.name = loader, name
        self.lines: Lines = {}
        self.open: set[int] = set()
        self.flat: set[int] = set()  # sections whose `<<` are resolved; an alias leads to one again
        self.count = 0

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        if id(node) not in self.flat:
            self.flat.add(id(node))
            self._check_keys(node)
            self.loader.flatten_mapping(node)  # `<<: *anchor`
        result = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            self.lines[(*path, key)] = f'{self.name}:{key_node.start_mark.line + 1}'
            result[key] = self.value(value_node, (*path, key))
        return result

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or _NOT_TEXT.search(key_node.value):
                raise UserError(f'{self.name}:{line}: a key must be text')
            if key_node.value in seen:
                raise UserError(
                    f"{self.name}:{line}: '{key_node.value}' stands twice in this section "
                    f'(first in line {seen[key_node.value]}); remove one'
                )
            seen[key_node.value] = line

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.count += 1
        where = f'{self.name}:{node.start_mark.line + 1}'
        if id(node) in self.open:
            raise UserError(f'{where}: an alias that contains itself; write it out')
        if self.count > _MAX_VALUES:
            raise UserError(f'{where}: aliases name more than {_MAX_VALUES} values; write less')
        if len(self.open) >= MAX_DEPTH:  # by aliases of what is nested less
            raise UserError(f'{where}: nested more than {MAX_DEPTH} deep; write it flatter')
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == 'tag:yaml.org,2002:map':
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == 'tag:yaml.org,2002:seq':
                return [self.value(item, (*path, str(number))) for number, item in enumerate(node.value)]
            if not isinstance(node, yaml.ScalarNode) or node.tag not in _PLAIN:
                self.loader.construct_undefined(node)  # raises
            return self.scalar(node, f'{where}: {".".join(path)}' if path else where)
        finally:
            self.open.discard(id(node))

    def scalar(self, node: yaml.Node, where: str) -> Any:
        if node.tag.endswith(':int') and len(node.value) > 70:
            raise UserError(f'{where}: a number of {len(node.value)} digits; numbers have at most 64 bits')
        try:
            value = self.loader.construct_object(node)
        except (KeyError, IndexError, ValueError) as error:  # by a tag such as !!bool
            raise UserError(f"{where}: '{node.value}' is no {node.tag.rpartition(':')[2]}; correct the YAML") from error
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise UserError(f'{where}: {value} is too large; whole numbers have at most 64 bits')
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f'{where}: {node.value} is not a finite number')
        if isinstance(value, str) and _NOT_TEXT.search(value):
            raise UserError(f'{where}: {value[:60]!a} holds control characters; remove them')
        return value
