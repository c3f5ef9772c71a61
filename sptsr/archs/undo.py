"""A module of someone else's is left as it was where something goes wrong with it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from sptsr.archs.backbone import Found


@contextmanager
def undone_on_error(net: object) -> Iterator[None]:
    """Where an error leaves it, a module has the attributes, children, hooks, modes and `requires_grad` of before.

    Its own attributes are put back, of modules inside it only children and hooks.

    Args:
        net: a module that is given by the user; anything else is nobody's yet, and is passed over.
    """
    if not isinstance(net, nn.Module):
        yield
        return
    found = Found.of(net)
    before = [(module, _tables(module)) for module in net.modules()]
    attributes = dict(vars(net))
    try:
        yield
    except BaseException:
        vars(net).clear()  # peft notes there what it did
        vars(net).update(attributes)
        for module, tables in before:
            for name, table in tables.items():
                own = getattr(module, name)
                own.clear()
                own.update(table)
        found.put_back(net)
        raise


def _tables(module: nn.Module) -> dict[str, dict[Any, Any]]:
    """Returns copies of the children and of all hooks of a module, by the attribute that holds them."""
    names = [name for name in vars(module) if name == '_modules' or '_hooks' in name]
    return {name: dict(table) for name in names if isinstance(table := vars(module)[name], dict | OrderedDict)}
