"""Sites: the modules of a backbone whose output a unit refines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from sptsr.errors import UserError, nearest


@dataclass(frozen=True)
class Site:
    """A module whose output is a feature map.

    Attributes:
        path: its path in the backbone, as in `named_modules`.
        channels: C of its output [B, C, h, w].
        stride: size of the LQ image over size of the output; a fraction above the LQ's resolution.
    """

    path: str
    channels: int
    stride: float


def match_sites(net: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Returns the paths of the modules that the patterns name, in the network's own order.

    A pattern is a glob over a dotted path (`IMDB*`, `body.*.conv2`; `*` does not cross a dot), or
    `re:` and a regular expression that must match the whole path.

    Raises:
        UserError: a pattern matches nothing; names the closest module.
    """
    paths = [path for path, _ in net.named_modules() if path]
    matched: set[str] = set()
    for pattern in patterns:
        found = [path for path in paths if _matches(path, pattern)]
        if not found:
            close = nearest(pattern.removeprefix('re:').replace('*', '1'), paths)
            tops = ', '.join(name for name, _ in net.named_children())
            raise UserError(
                f"sites: '{pattern}' matches no module of {type(net).__name__}{close or f'; its modules: {tops}'}"
            )
        matched.update(found)
    if not matched:
        raise UserError("sites: the list is empty; name at least one module, or say 'auto'")
    return [path for path in paths if path in matched]


def _matches(path: str, pattern: str) -> bool:
    if pattern.startswith('re:'):
        try:
            return re.fullmatch(pattern[3:], path) is not None
        except re.error as error:
            raise UserError(f"sites: '{pattern}' is no regular expression ({error})") from error
    names, globs = path.split('.'), pattern.split('.')
    return len(names) == len(globs) and all(fnmatchcase(n, g) for n, g in zip(names, globs, strict=True))


@torch.no_grad()
def measure_sites(net: nn.Module, paths: Sequence[str], lq: Tensor) -> tuple[list[Site], int]:
    """Runs the network once and reads off what comes out at each site.

    Args:
        net: the backbone, in eval mode.
        paths: module paths from `match_sites`.
        lq: an input that the network takes, [B, C, h, w].

    Returns:
        the sites, and the scale (size of the output over size of the input).

    Raises:
        UserError: a site is never called or gives no feature map, or the output is no image.
    """
    outputs: dict[str, object] = {}
    handles = [
        net.get_submodule(path).register_forward_hook(lambda _m, _i, output, path=path: outputs.update({path: output}))
        for path in paths
    ]
    try:
        result = net(lq)
    finally:
        for handle in handles:
            handle.remove()
    sites = []
    for path in paths:
        if path not in outputs:
            raise UserError(f"sites: '{path}' is never called by {type(net).__name__}; choose a module that is")
        output = feature_map(outputs[path], path)
        sites.append(Site(path, output.shape[1], lq.shape[-1] / output.shape[-1]))
    if not isinstance(result, Tensor) or result.ndim != 4 or result.shape[-1] % lq.shape[-1]:
        raise UserError(f'{type(net).__name__} does not return one image at a whole scale of its input')
    return sites, result.shape[-1] // lq.shape[-1]


def feature_map(output: object, path: str) -> Tensor:
    """Returns the output of a site if it is [B, C, h, w]; raises UserError otherwise."""
    if not isinstance(output, Tensor) or output.ndim != 4:
        got = f'a tensor of {output.ndim} dimensions' if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"sites: '{path}' returns {got}, not a feature map [B, C, h, w]; choose another module")
    return output
