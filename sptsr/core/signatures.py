"""Checking arguments against a callable's own signature, before it is called."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Collection, Mapping
from inspect import Parameter
from typing import Any

from sptsr.core.errors import one_of
from sptsr.core.values import misfit


def parameters(function: Callable[..., Any], skip: Collection[str] = ()) -> dict[str, Parameter]:
    """Returns the parameters that can be given by name, without `self`, `*args`, `**kwargs` and `skip`.

    Their annotations are types; one that names what cannot be resolved is left out.
    """
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    try:
        hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function, include_extras=True)
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

    Types, choices and ranges are taken from the annotation (see `misfit`), else a type from that of the default. An
    argument that only a `**kwargs` would take is an error: a typing mistake would vanish in it.

    Args:
        known: what the callable takes, from `parameters`.
        arguments: values as YAML gives them.
        what: what a message calls the callable.
    """
    problems: list[tuple[str | None, str]] = []
    for name, value in arguments.items():
        if name not in known:
            problems.append((name, f"{what} takes no '{name}'{one_of(str(name), known)}"))
        else:
            fault = misfit(value, hint_of(known[name]))
            if fault is not None:
                problems.append((name, f"'{name}' of {what} {fault}"))
    for name, parameter in known.items():
        if parameter.default is Parameter.empty and name not in arguments:
            problems.append((None, f"{what} needs '{name}'"))
    return problems


def hint_of(parameter: Parameter) -> Any:
    """Returns the annotation of a parameter, else what its default says; Any where neither says anything."""
    if parameter.annotation is not Parameter.empty:
        return parameter.annotation
    default = parameter.default
    if isinstance(default, bool | str):
        return type(default)
    if isinstance(default, int | float):
        return float  # a default of 0 or 1 says "number" where nothing is annotated (eta_min=0, res_scale=1)
    return list if isinstance(default, tuple | list) else Any


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
