"""What a network asks of the size of its input."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SizeRules:
    """What a network asks of the size of its input.

    Attributes:
        multiple: height and width must be multiples of this.
        minimum: height and width must be at least this.
        square: height and width must be equal.
        grid: tiles must begin at multiples of this, since the network looks at its input in such steps
            (windows, strides, pixel unshuffling) even where it takes any size.
    """

    multiple: int = 1
    minimum: int = 1
    square: bool = False
    grid: int = 1

    def padding(self, height: int, width: int) -> tuple[int, int]:
        """Returns the pixels to add at the right and at the bottom."""
        smallest = max(self.minimum, height if self.square else 0, width if self.square else 0)
        return tuple(round_up(max(side, smallest), self.multiple) - side for side in (width, height))  # type: ignore[return-value]


def round_up(length: int, multiple: int) -> int:
    """Returns the smallest multiple that is not below `length`."""
    return (length + multiple - 1) // multiple * multiple
