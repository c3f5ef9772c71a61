"""Checking arguments against a callable's own signature, before it is called."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from inspect import Parameter
from typing import Any

from sptsr.core.errors import one_of


def parameters(function: Callable[..., Any], skip: Collection[str] = ()) -> dict[str, Parameter]:
    """Returns the parameters that can be given by name, without `self`, `*args`, `**kwargs` and `skip`.

    Their annotations are types; one that names what cannot be resolved is left out.
    """
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    try:
        hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError):
        hints = {}
    found = inspect.signature(function).parameters
    return {
        name: p.replace(annotation=hints.get(name, Parameter.empty))
        for name, p in found.items()
        if p.kind in named and name not in skip and name != 'self'
    }


def argument_problems(
    known: Mapping[str, Parameter], arguments: Mapping[str, Any], what: str
) -> list[tuple[str | None, str]]:
    """Lists what is wrong with the arguments of a call, as (argument or None, message).

    A type is taken from the annotation, else from the type of the default. An argument that only a `**kwargs`
    would take is an error: a typing mistake would vanish in it.

    Args:
        known: what the callable takes, from `parameters`.
        arguments: values as YAML gives them.
        what: what a message calls the callable.
    """
    problems: list[tuple[str | None, str]] = []
    for name, value in arguments.items():
        if name not in known:
            problems.append((name, f"{what} takes no '{name}'{one_of(name, known)}"))
        else:
            expected = expected_types(known[name])
            if expected and not is_of(value, expected):
                wanted = ' or '.join(sorted(type_name(t) for t in expected))
                problems.append((name, f"'{name}' of {what} must be {wanted}, got {type_name(type(value))} {value!r}"))
    for name, parameter in known.items():
        if parameter.default is Parameter.empty and name not in arguments:
            problems.append((None, f"{what} needs '{name}'"))
    return problems


def expected_types(parameter: Parameter) -> tuple[type, ...]:
    """Returns the types that a parameter takes; an empty tuple where they are unknown, and any value is taken."""
    if parameter.annotation is not Parameter.empty:
        return _flatten(parameter.annotation)
    default = parameter.default
    if default is Parameter.empty or default is None:
        return ()
    if isinstance(default, tuple | list):
        return (list,)
    if isinstance(default, int | float) and not isinstance(default, bool):
        return (float,)  # a default of 0 or 1 says "number" where nothing is annotated (eta_min=0, res_scale=1)
    return (type(default),) if isinstance(default, bool | str) else ()


def choices(parameter: Parameter) -> tuple[Any, ...]:
    """Returns the values that a parameter annotated with `Literal` takes; empty where it is not."""
    hint = parameter.annotation
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def argument_texts(function: Callable[..., Any]) -> dict[str, str]:
    """Returns what the docstring's section `Args:` says of each argument, on one line.

    Of a class, that of its own docstring, then of `__init__`'s, then of its bases'. One entry may
    name several arguments (`a, b: text`). A type in brackets, as BasicSR writes it, is left out.
    """
    owners = (
        [part for kind in inspect.getmro(function) for part in (kind, vars(kind).get('__init__'))]
        if (inspect.isclass(function))
        else [function]
    )
    texts: dict[str, str] = {}
    for owner in owners:
        texts = _args_section(inspect.cleandoc(getattr(owner, '__doc__', None) or '')) | texts
    return texts


def _args_section(doc: str) -> dict[str, str]:
    section = re.search(r'^Args:\n((?:[ \t]+.*\n?|\n)+)', doc, re.MULTILINE)
    if section is None:
        return {}
    body = inspect.cleandoc('\n' + section[1])
    entries = re.split(r'\n(?=\S)', re.sub(r',\n(?=\S)', ', ', body))
    texts = {}
    for entry in entries:
        found = re.match(r'(\w+(?:, *\w+)*) *(?:\(.*?\))?:\s*(.*)', ' '.join(entry.split()))
        if found:
            texts |= dict.fromkeys(re.split(', *', found[1]), found[2])
    return texts


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
