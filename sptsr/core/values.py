"""What a value from YAML or JSON must be, said by type hints: types, choices, and ranges of numbers."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

_SHOWN = 60  # characters of a wrong value in a message
_PLAIN = {int: 'a whole number', float: 'a number', bool: 'true or false', str: 'text', type(None): 'empty (~)'}
_PLAIN |= {list: 'a list', tuple: 'a list', dict: 'a section'}


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a number, both included: `Annotated[int, Range(1, 64)]`."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return '..'.join(str(end) if isinstance(end, int) else f'{end:g}' for end in (self.low, self.high))


def misfit(value: Any, hint: Any) -> str | None:
    """Returns what is wrong with a value, such as `must be a whole number in 1..64, got 0`; None where it fits a hint.

    The entries of a list are looked at as well.

    Args:
        value: as YAML or JSON gives it.
        hint: of `int`, `float`, `bool`, `str`, `list`, `tuple`, `dict`, `None`, their unions, `Literal`, and
            `Annotated` with a `Range`; anything else fits any value. A tuple means one of several hints.
    """
    if _fits(value, hint):
        return None
    kind = '' if is_of(value, plain_types(hint)) else f'{type_name(type(value))} '
    return f'must be {" or ".join(sorted(set(_words(hint))))}, got {kind}{shown(value)}'


def shown(value: object) -> str:
    """Returns a value as a message shows it: on one line, cut where it is long."""
    if isinstance(value, str | bytes):
        value = value[: _SHOWN + 1]
    elif isinstance(value, list | tuple):
        value = list(value[:_SHOWN])
    text = ascii(value)
    return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'


def range_of(hint: Any) -> Range | None:
    """Returns the range of a number; None where a hint has none."""
    for part in parts(hint):
        if typing.get_origin(part) is Annotated:
            return next((more for more in typing.get_args(part)[1:] if isinstance(more, Range)), None)
    return None


def choices(hint: Any) -> tuple[Any, ...]:
    """Returns the values of a hint that names them all (`Literal`); empty where it does not."""
    found = [
        value for part in parts(hint) if typing.get_origin(part) is typing.Literal for value in typing.get_args(part)
    ]
    named = all(typing.get_origin(part) is typing.Literal for part in parts(hint))
    return tuple(found) if named else ()


def parts(hint: Any) -> list[Any]:
    """Lists the members of a union, or of a tuple of hints; of another hint, itself."""
    if isinstance(hint, tuple):
        return [inner for part in hint for inner in parts(part)]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return [inner for part in typing.get_args(hint) for inner in parts(part)]
    return [hint]


def plain_types(hint: Any) -> tuple[type, ...]:
    """Returns the types of YAML that a hint means; an empty tuple where any value may be right."""
    found: list[type] = []
    for part in parts(hint):
        if typing.get_origin(part) is Annotated:
            part = typing.get_args(part)[0]
        if typing.get_origin(part) is typing.Literal:
            found += [type(value) for value in typing.get_args(part)]
            continue
        part = typing.get_origin(part) or part
        if part is None:
            part = type(None)
        if part is Any or not isinstance(part, type):
            return ()
        if part in _PLAIN:
            found.append(part)
        elif issubclass(part, Mapping):
            found.append(dict)
        elif issubclass(part, Sequence) or part.__module__ in ('collections.abc', 'typing'):
            found.append(list)
        else:
            return ()
    return tuple(dict.fromkeys(found))


def is_of(value: Any, expected: tuple[type, ...]) -> bool:
    """Returns whether a YAML value fits. An int counts as a float and a tuple as a list; a bool is not an int."""
    if value is None:
        return type(None) in expected
    if isinstance(value, bool):
        return bool in expected
    if isinstance(value, int) and float in expected:
        return True
    if isinstance(value, list | tuple) and (list in expected or tuple in expected):
        return True
    return isinstance(value, expected)


def type_name(kind: type) -> str:
    """Returns the word for a type that a YAML author knows."""
    return _PLAIN.get(kind, kind.__name__)


def _fits(value: Any, hint: Any) -> bool:
    return any(_fits_part(value, part) for part in parts(hint))


def _fits_part(value: Any, part: Any) -> bool:
    origin, inner = typing.get_origin(part), typing.get_args(part)
    if origin is typing.Literal:
        return any(value == choice and isinstance(value, type(choice)) for choice in inner)
    if origin is Annotated:
        bounds = [more for more in inner[1:] if isinstance(more, Range)]
        return _fits(value, inner[0]) and all(value in bound for bound in bounds)
    expected = plain_types(part)
    if not expected:
        return True
    if not is_of(value, expected):
        return False
    if not isinstance(value, list | tuple) or not inner:
        return True
    if origin is tuple and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(_fits, value, inner))
    return all(_fits(entry, inner[0]) for entry in value)


def _words(hint: Any) -> list[str]:
    return [word for part in parts(hint) for word in _words_of(part)]


def _words_of(part: Any) -> list[str]:
    origin, inner = typing.get_origin(part), typing.get_args(part)
    if origin is typing.Literal:
        return [str(choice) for choice in inner]
    if origin is Annotated:
        bound = range_of(part)
        return [f'{word} in {bound}' if bound else word for word in _words(inner[0])]
    names = [type_name(kind) for kind in plain_types(part)]
    if names == ['a list'] and origin is tuple and inner and inner[-1] is not Ellipsis:
        return [f'a list of {len(inner)}']
    if names != ['a list'] or not inner or not plain_types(inner[0]):
        return names
    return [f'a list (each {" or ".join(sorted(set(_words(inner[0]))))})']
