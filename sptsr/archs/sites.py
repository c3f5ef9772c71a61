"""Sites: the modules of a backbone whose output a unit refines, and the layouts of that output."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sptsr.archs.call import call_network
from sptsr.archs.sizes import round_up
from sptsr.core.errors import UserError, nearest

Layout = Literal['NCHW', 'NHWC', 'NLC']
_INSTEAD = {'sites': "say 'auto'", 'lora_sites': 'leave it out'}


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a feature map lie on the LQ image.

    Attributes:
        stride: size of the LQ image over size of the map; a fraction above the LQ's resolution.
        border: LQ pixels by which the map begins above and left of the image (padding inside the network).
    """

    stride: float = 1.0
    border: float = 0.0


@dataclass(frozen=True)
class Site:
    """A module whose output is a feature map.

    Attributes:
        path: its path in the backbone, as in `named_modules`.
        channels: C of its output.
        grid: where the pixels of its output lie on the LQ image.
        layout: `NCHW` [B, C, h, w], `NHWC` [B, h, w, C] or `NLC` tokens [B, h w, C].
    """

    path: str
    channels: int
    grid: Grid = Grid()
    layout: Layout = 'NCHW'

    def to_map(self, output: Tensor, given: Iterable[Any], size: tuple[int, int]) -> Tensor:
        """Returns the output as [B, C, h, w], a view.

        Args:
            output: what the module returned.
            given: the module's arguments, where the grid of tokens may stand (`x_size` of SwinIR).
            size: height and width of the LQ image.

        Raises:
            UserError: the output has another layout than the one declared.
        """
        if output.ndim != (3 if self.layout == 'NLC' else 4):
            raise UserError(
                f"sites: '{self.path}' returns {describe(output)}, not {self.layout}; choose another module"
            )
        if self.layout == 'NCHW':
            return output
        if self.layout == 'NHWC':
            return output.permute(0, 3, 1, 2)
        sides = token_sides(output.shape[1], given, size, self.grid.stride)
        if sides is None:
            raise UserError(
                f"sites: '{self.path}' returns {output.shape[1]} tokens, which is no grid of an image of "
                f'{size[0]}x{size[1]} (height x width); choose another module'
            )
        return output.unflatten(1, sides).permute(0, 3, 1, 2)

    def from_map(self, features: Tensor) -> Tensor:
        """Returns [B, C, h, w] in the site's own layout; the inverse of `to_map`."""
        if self.layout == 'NCHW':
            return features
        features = features.permute(0, 2, 3, 1)
        return features.flatten(1, 2) if self.layout == 'NLC' else features


def token_sides(length: int, given: Iterable[Any], size: tuple[int, int], stride: float) -> tuple[int, int] | None:
    """Returns height and width of L tokens: from the module's arguments, else from the LQ image's size.

    In the second case the image may have been padded inside the network, to a multiple up to 64.
    """
    for value in given:
        pair = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(side, int) for side in value)
        if pair and value[0] * value[1] == length:
            return value[0], value[1]
    if stride < 1:
        height, width = round(size[0] / stride), round(size[1] / stride)
        return (height, width) if height * width == length else None
    step = round(stride)
    for multiple in range(step, 64 + step, step):
        height, width = (round_up(side, multiple) // step for side in size)
        if height * width == length:
            return height, width
    return None


def describe(output: object) -> str:
    """Returns a description of a module's output, for messages."""
    if isinstance(output, Tensor):
        return f'a tensor of {output.ndim} dimensions {list(output.shape)}'
    return f'a {type(output).__name__}'


def match_sites(net: nn.Module, patterns: Sequence[str], key: str = 'sites') -> list[str]:
    """Returns the paths of the modules that the patterns name, in the network's own order.

    A pattern is a glob over a dotted path (`IMDB*`, `body.*.conv2`; `*` does not cross a dot), or
    `re:` and a regular expression that must match the whole path.

    Raises:
        UserError: a pattern matches nothing; names the closest module. `key` is the option that it blames.
    """
    paths = [path for path, _ in net.named_modules() if path]
    matched: set[str] = set()
    for pattern in patterns:
        found = [path for path in paths if _matches(path, pattern, key)]
        if not found:
            close = nearest(pattern.removeprefix('re:').replace('*', '1'), paths)
            tops = ', '.join(name for name, _ in net.named_children())
            raise UserError(
                f"{key}: '{pattern}' matches no module of {type(net).__name__}{close or f'; its modules: {tops}'}"
            )
        matched.update(found)
    if not matched:
        raise UserError(f'{key}: the list is empty; name at least one module, or {_INSTEAD[key]}')
    return [path for path in paths if path in matched]


def check_patterns(patterns: object, key: str = 'sites') -> None:
    """Raises UserError for regular expressions of a stranger's file that may take for ever, as `((a|a)+)+` does.

    No group may be repeated, and repetitions and alternatives are four at most: then the time grows with the fourth
    power of a path's length.
    """
    for pattern in patterns if isinstance(patterns, list) else ():
        if isinstance(pattern, str) and pattern.startswith('re:'):
            plain = pattern.replace('(?:', '(')  # what else begins with (? is refused: flags could hide a repetition
            if len(re.findall(r'[*+?{|]', plain)) > 4 or re.search(r'\)[*+?{]|\(\?', plain):
                raise UserError(f"{key}: '{pattern}' may take for ever to match; list the modules by name")


def _matches(path: str, pattern: str, key: str) -> bool:
    if pattern.startswith('re:'):
        try:
            return re.fullmatch(pattern[3:], path) is not None
        except re.error as error:
            raise UserError(f"{key}: '{pattern}' is no regular expression ({error})") from error
    names, globs = path.split('.'), pattern.split('.')
    return len(names) == len(globs) and all(fnmatchcase(n, g) for n, g in zip(names, globs, strict=True))


@dataclass
class Trace:
    """What one module did in one forward pass.

    Attributes:
        calls: how often it was called.
        shapes: shape of each tensor it returned.
        fault: description of an output that was not a tensor; empty otherwise.
        layout, channels, grid: of its output if that is a feature map, else layout is None.
    """

    calls: int = 0
    shapes: tuple[tuple[int, ...], ...] = ()
    fault: str = ''
    layout: Layout | None = None
    channels: int = 0
    grid: Grid = Grid()

    def note(self, output: object, given: Sequence[Any], size: tuple[int, int]) -> None:
        """Records one call of the module on an image of this size."""
        self.calls += 1
        if not isinstance(output, Tensor):
            self.fault = describe(output)
            return
        self.shapes += (tuple(output.shape),)
        self.layout, self.channels, self.grid = _feature_map(output, given, size)


@torch.no_grad()
def trace(net: nn.Module, paths: Iterable[str], lq: Tensor) -> tuple[dict[str, Trace], int]:
    """Runs a network once and records the outputs of some of its modules.

    Args:
        net: in eval mode.
        paths: of the modules to look at.
        lq: one image that the network takes, [1, C, h, w], twice as wide as high so that
            layouts can be told apart.

    Returns:
        a record for each path, and the scale (size of the output over size of the input).

    Raises:
        UserError: the output is no image at a whole scale.
    """
    size = (lq.shape[-2], lq.shape[-1])
    traces = {path: Trace() for path in paths}
    handles = [
        net.get_submodule(path).register_forward_hook(
            lambda _module, args, kwargs, output, record=record: record.note(output, [*args, *kwargs.values()], size),
            with_kwargs=True,
        )
        for path, record in traces.items()
    ]
    try:
        result = call_network(net, lq)
    finally:
        for handle in handles:
            handle.remove()
    scale = result.shape[-1] // size[1] if isinstance(result, Tensor) and result.ndim == 4 else 0
    if scale < 1 or result.shape[-2:] != (size[0] * scale, size[1] * scale):
        raise UserError(f'{type(net).__name__} does not return one image at a whole scale of its input')
    return traces, scale


def measure_sites(net: nn.Module, paths: Sequence[str], lq: Tensor) -> tuple[list[Site], int]:
    """Runs the network once and measures the output of each site.

    Args:
        net, paths, lq: as in `trace`; paths from `match_sites`.

    Returns:
        the sites, and the scale.

    Raises:
        UserError: a site is never called, called with different shapes, or gives no feature map.
    """
    traces, scale = trace(net, paths, lq)
    sites = []
    for path, record in traces.items():
        if record.calls == 0:
            raise UserError(f"sites: '{path}' is never called by {type(net).__name__}; choose a module that is")
        if record.fault:
            raise UserError(f"sites: '{path}' returns {record.fault}, not a feature map; choose another module")
        if len(set(record.shapes)) > 1:
            shapes = ' and '.join(str(list(shape)) for shape in dict.fromkeys(record.shapes))
            raise UserError(f"sites: '{path}' is called with different shapes ({shapes}); choose another module")
        if record.layout is None:
            raise UserError(
                f"sites: '{path}' returns a tensor {list(record.shapes[0])} for an image of "
                f'{lq.shape[-2]}x{lq.shape[-1]}, which is no feature map; choose another module'
            )
        sites.append(Site(path, record.channels, record.grid, record.layout))
    return sites, scale


def tile_step(net: nn.Module, lq: Tensor) -> int:
    """Returns the number of pixels that a network looks at its input in steps of: the strides of all its modules.

    Tiles that begin at other places give other results at their edges, even where the network takes any size.

    Args:
        net, lq: as in `trace`.
    """
    traces, _ = trace(net, [path for path, _ in net.named_modules() if path], lq)
    strides = {record.grid.stride for record in traces.values() if record.layout is not None}
    return math.lcm(*(int(stride) for stride in strides if stride >= 1))


def _feature_map(output: Tensor, given: Sequence[Any], size: tuple[int, int]) -> tuple[Layout | None, int, Grid]:
    """Returns layout, channels and grid of an output for one image of `size`, twice as wide as high."""
    shape = tuple(output.shape)
    if shape[0] != 1:  # windows in the place of images
        return None, 0, Grid()
    if len(shape) == 3:
        for stride in _STRIDES:
            sides = token_sides(shape[1], given, size, stride)
            fit = _fit(sides, size) if sides else None
            if fit:
                return 'NLC', shape[2], fit[1]
    if len(shape) == 4:
        first, last = _fit(shape[2:], size), _fit(shape[1:3], size)
        if last and (first is None or last[0] < first[0]):
            return 'NHWC', shape[3], last[1]
        if first:
            return 'NCHW', shape[1], first[1]
    return None, 0, Grid()


_STRIDES = (1, 2, 3, 4, 6, 8, 12, 16, 32, 1 / 2, 1 / 3, 1 / 4, 1 / 8)


def _fit(sides: tuple[int, ...], size: tuple[int, int]) -> tuple[tuple[int, int], Grid] | None:
    """Returns how badly, and on which grid, a map of these sides lies over an image of `size`; None if it does not.

    In order: exactly; with the same border all around (convolutions without padding, or padding on
    both sides); padded at the right and bottom to a multiple.
    """
    fits = []
    for rank, stride in enumerate(_STRIDES):
        covered = [round(side * stride, 6) for side in sides]
        extra = [over - full for over, full in zip(covered, size, strict=True)]
        if extra == [0, 0]:
            fits.append(((0, rank), Grid(stride)))
        elif extra[0] == extra[1] and abs(extra[0]) <= 64:
            fits.append(((1, rank), Grid(stride, extra[0] / 2)))
        elif any([round_up(full, multiple) for full in size] == covered for multiple in range(2, 65)):
            fits.append(((2, rank), Grid(stride)))
    return min(fits, key=lambda fit: fit[0]) if fits else None
