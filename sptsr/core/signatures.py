"""Checking arguments against a callable's own signature, before it is called."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sptsr.core.errors import one_of


def parameters(function: Callable[..., Any], skip: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """Returns the parameters that can be given by name, without `self`, `*args`, `**kwargs` and `skip`."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(function).parameters
    return {name: p for name, p in found.items() if p.kind in named and name not in skip and name != 'self'}


def argument_problems(
    function: Callable[..., Any], arguments: Mapping[str, Any], what: str, skip: Collection[str] = ()
) -> list[tuple[str | None, str]]:
    """Lists what is wrong with the arguments, as (argument or None, message).

    A type is taken from the annotation, else from the default's type. A `**kwargs` of the
    callable is not taken for leave to pass anything: a typo would vanish in it.

    Args:
        function: class or function that will be called with `**arguments`.
        arguments: values as YAML gives them.
        what: what to call the callable in a message.
        skip: parameters that are given by the program, not by the user.
    """
    known = parameters(function, skip)
    problems: list[tuple[str | None, str]] = []
    for name, value in arguments.items():
        if name not in known:
            problems.append((name, f"{what} takes no '{name}'{one_of(name, known)}"))
        else:
            expected = expected_types(function, known[name])
            if expected and not is_of(value, expected):
                wanted = ' or '.join(sorted(type_name(t) for t in expected))
                problems.append((name, f"'{name}' of {what} must be {wanted}, got {type_name(type(value))} {value!r}"))
    for name, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            problems.append((None, f"{what} needs '{name}'"))
    return problems


def expected_types(function: Callable[..., Any], parameter: inspect.Parameter) -> tuple[type, ...]:
    """Returns the types a parameter takes; an empty tuple means "unknown, take anything"."""
    target = function.__init__ if inspect.isclass(function) else function
    try:
        hint = typing.get_type_hints(target).get(parameter.name)
    except (NameError, TypeError):  # a plugin's hints may name what cannot be resolved
        hint = None
    if hint is not None:
        return _flatten(hint)
    default = parameter.default
    if default is inspect.Parameter.empty or default is None:
        return ()
    if isinstance(default, tuple | list):
        return (list,)
    if isinstance(default, int | float) and not isinstance(default, bool):
        return (float,)  # a default of 0 or 1 says "number" where nothing is annotated (eta_min=0, res_scale=1)
    return (type(default),) if isinstance(default, bool | str) else ()


def is_of(value: Any, expected: tuple[type, ...]) -> bool:
    """Returns whether a YAML value fits: an int is a float, a bool is no int, a tuple is a list."""
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
    names = {int: 'a whole number', float: 'a number', bool: 'true or false', str: 'text', type(None): 'empty (~)'}
    names |= {list: 'a list', tuple: 'a list', dict: 'a section'}
    return names.get(kind, kind.__name__)


def _flatten(hint: Any) -> tuple[type, ...]:
    if hint is Any:
        return ()
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        parts = [_flatten(part) for part in typing.get_args(hint)]
        return () if any(not part for part in parts) else tuple({t for part in parts for t in part})
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return tuple({type(value) for value in typing.get_args(hint)})
    if origin is not None:
        hint = origin
    if not isinstance(hint, type):
        return ()
    if hint in (bool, int, float, str, list, tuple, dict, type(None)):
        return (hint,)
    if issubclass(hint, Mapping):
        return (dict,)
    if hint.__module__.startswith('collections') or hint.__module__ == 'typing':
        return (list,)
    return ()
