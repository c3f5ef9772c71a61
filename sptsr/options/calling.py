"""How a network that was not written for sptsr is called: what a section says of it beside its arguments."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sptsr.core.errors import UserError, one_of

# Keys of a network's section that are not arguments of the network.
CALLING_KEYS = ('input', 'output', 'size_multiple')
_LARGEST_MULTIPLE = 1024


@dataclass(frozen=True)
class Calling:
    """What lies between our images and a network's own.

        x = lq range - mean,    result = (y + mean) / range

    Attributes:
        range: white of the network's images: 1, or 255.
        mean: what the network expects to be subtracted from its input, in its own range: nothing, one value, or one
            value a channel.
        output: which entry of the list or tuple that it returns is the image; None where it returns an image.
        size_multiple: height and width of its input must be multiples of this.
    """

    range: float = 1.0
    mean: tuple[float, ...] = ()
    output: int | None = None
    size_multiple: int = 1


def split_calling(section: Mapping[str, Any], own: Collection[str]) -> tuple[dict[str, Any], Calling]:
    """Separates the arguments of a network from what its section says of calling it.

    A key that the network itself has as an argument is its argument.

    Args:
        section: `{type: NAME, ...}`, for example with `input: {range: 255}`, `size_multiple: 8` or `output: 0`.
        own: names of the network's arguments.

    Returns:
        the arguments without `type`, and how to call the network.

    Raises:
        UserError: a value that makes no sense.
    """
    keys = [key for key in CALLING_KEYS if key in section and key not in own]
    arguments = {key: value for key, value in section.items() if key != 'type' and key not in keys}
    said = {key: section[key] for key in keys}
    return arguments, Calling(
        **_input(said.get('input', {})),
        output=_whole(said, 'output', -64, 64, None),
        size_multiple=_whole(said, 'size_multiple', 1, _LARGEST_MULTIPLE, 1),
    )


def _input(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f'input: {value!r} is not a section, such as {{range: 255}}')
    for key in value:
        if key not in ('range', 'mean'):
            raise UserError(f"input: unknown key '{key}'{one_of(str(key), ('range', 'mean'))}")
    top, mean = value.get('range', 1.0), value.get('mean', [])
    if not _is_number(top) or not 0 < top <= 1e6:
        raise UserError(f'input: range {top!r} is not a number above 0, such as 255')
    mean = mean if isinstance(mean, list | tuple) else [mean]
    if not all(_is_number(part) for part in mean) or len(mean) > 4:
        raise UserError(f'input: mean {mean!r} is not a number, nor a list with one number a channel')
    return {'range': float(top), 'mean': tuple(float(part) for part in mean)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(said: Mapping[str, Any], key: str, low: int, high: int, default: Any) -> Any:
    value = said.get(key, default)
    if key in said and (not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high):
        raise UserError(f'{key}: {value!r} is not a whole number in {low}..{high}')
    return value
