"""What a network costs: parameters, multiply-adds, time, memory."""

from __future__ import annotations

import copy
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from sptsr.archs.backbone import kind_of
from sptsr.archs.call import call_network, takes_sigma
from sptsr.archs.sizes import round_up
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.allocator import keep_freed_memory
from sptsr.masks.batch import PriorBatch
from sptsr.masks.prior import MAX_MASKS, Prior

OUTPUT = (720, 1280)  # height and width for which papers on super-resolution count
INPUT = (256, 256)
_CELLS = 16  # the masks that are run with have 16 x 16 different codes, as those of a photograph do
_SMALL = 48
# Operators that move or make values and compute none.
_MOVES = frozenset(
    """
    _to_copy arange cat clone constant_pad_nd copy_ detach empty empty_like empty_strided fill_ full full_like index
    index_put_ index_select lift_fresh new_empty new_zeros ones ones_like pixel_shuffle pixel_unshuffle
    reflection_pad2d repeat replication_pad2d roll scalar_tensor stack zero_ zeros zeros_like
    """.split()  # noqa: SIM905 (one a line is 32 lines)
)


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters.

    Attributes:
        backbone: of the network alone.
        trainable: what is tuned.
        added: what a tuned network has more than its backbone when it restores images; LoRA is added to its weights.
    """

    backbone: int
    trainable: int
    added: int


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one forward pass. One multiply-add is two FLOPs.

    Attributes:
        size: height and width of the input.
        backbone, tuned: of convolutions and products of matrices; a bias counts nothing.
        uncounted: operators that compute something else, and how often the tuned network calls each.
        scaled: whether it was counted at three small sizes, as a polynomial of degree 2 in the area; else at `size`.
    """

    size: tuple[int, int]
    backbone: int
    tuned: int
    uncounted: dict[str, int]
    scaled: bool


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of several measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Returns the spread of at least one value."""
        low, middle, high = (
            statistics.quantiles(values, n=4, method='inclusive') if len(values) > 1 else [values[0]] * 3
        )
        return cls(middle, low, high)


@dataclass(frozen=True)
class Latency:
    """Times of one image, of the backbone and the tuned network by turns.

    Attributes:
        size: height and width of the input.
        device: its name, and the threads of a CPU.
        rounds: how often each was run.
        backbone, tuned: seconds.
        ratio: of the two times of a round, tuned over backbone.
    """

    size: tuple[int, int]
    device: str
    rounds: int
    backbone: Spread
    tuned: Spread
    ratio: Spread


def count_parameters(net: SPTNet) -> Parameters:
    """Returns the numbers of parameters of a network."""
    trainable = _number(net.adapter_parameters().values())
    whole = _number(net.backbone.parameters())
    learned = _number(net.learned.parameters().values()) if net.learned else 0
    beside = learned if net.learned and net.learned.layers else 0  # LoRA stands in the backbone
    return Parameters(whole - beside, trainable, trainable - learned)


def count_macs(net: SPTNet, size: tuple[int, int]) -> Macs:
    """Counts the multiply-adds of a network and of its backbone by `torch.utils.flop_counter`.

    Nothing is computed: tensors have shapes and no values (`meta`). Where a network needs values to run, it is run at
    three small sizes on the CPU, and the polynomial of degree 2 in the area through these is taken; it is exact for
    convolutions, attention in windows and attention over the whole image.

    Args:
        net: the network; its masks are made up (see `made_up_masks`).
        size: height and width of the input; brought up to what the network takes.
    """
    height, width = size_for(net, size)
    try:
        backbone, tuned, others = _counted(_for_inference(net).to('meta'), (height, width))
    except (RuntimeError, TypeError):  # what torch raises where a value is asked for
        return _extrapolated(_for_inference(net).to('cpu'), (height, width))
    return Macs((height, width), backbone, tuned, others, scaled=False)


def made_to_measure(section: Mapping[str, Any], size: tuple[int, int]) -> tuple[SPTNet, tuple[int, int]]:
    """Returns the network of a checked `network_g` section, without weights, and a size of image that it takes.

    A bare network becomes the backbone of one that is tuned as a whole: its figures are those of that backbone.

    Args:
        section: of an `SPTNet` or a bare network.
        size: height and width, which are brought up to what the network takes.
    """
    given = section if section['type'] == 'SPTNet' else {'backbone': section, 'tune': 'all'}
    net = SPTNet(**{key: value for key, value in given.items() if key not in ('type', 'backbone_weights')})
    net.to('cuda' if torch.cuda.is_available() else 'cpu').eval()
    return net, size_for(net, size)


def size_for(net: SPTNet, size: tuple[int, int]) -> tuple[int, int]:
    """Returns height and width brought up to what a network takes."""
    right, bottom = net.sizes.padding(*size)
    return size[0] + bottom, size[1] + right


def input_for(net: SPTNet, output: tuple[int, int] = OUTPUT) -> tuple[int, int]:
    """Returns height and width of the input for which a network gives an output of at least this size."""
    height, width = (round_up(-(-side // net.scale), net.sizes.multiple) for side in output)
    return height, width


def made_up_prior(size: Sequence[int]) -> Prior:
    """Returns masks to measure with: 16 x 16 cells of an image, with different codes, in about half of 64 masks."""
    codes = np.random.default_rng(0).integers(0, 2**64 - 1, _CELLS**2, np.uint64, endpoint=True)
    rows, columns = (np.arange(side) * _CELLS // side for side in size)
    return Prior(codes, (rows[:, None] * _CELLS + columns).astype(np.uint16), MAX_MASKS)


def made_up_masks(batch: int, size: tuple[int, int], device: torch.device) -> PriorBatch:
    """Returns the masks of `made_up_prior` for each image of a batch."""
    return PriorBatch.of([made_up_prior(size)] * batch).to(device)


def measure_latency(net: SPTNet, size: tuple[int, int], rounds: int = 9) -> Latency:
    """Runs a tuned network and its backbone by turns on one image, after two runs of each that do not count.

    The process keeps freed memory from then on, as `sptsr restore` does.
    """
    keep_freed_memory()
    net = _for_inference(net)
    backbone, tuned = _runs(net, size)
    with torch.inference_mode():
        for run in (backbone, tuned) * 2:
            run()
        pairs = [(seconds(backbone), seconds(tuned)) for _ in range(rounds)]
    return Latency(
        size,
        device_name(kind_of(net)['device']),
        rounds,
        Spread.of([one for one, _ in pairs]),
        Spread.of([other for _, other in pairs]),
        Spread.of([other / one for one, other in pairs]),
    )


def measure_memory(net: SPTNet, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the peaks in bytes of what a forward pass of backbone and tuned network allocates, output included."""
    net = _for_inference(net)
    with torch.inference_mode():
        runs = _runs(net, size)
        for run in runs:
            run()  # the first one makes what later ones find there
        backbone, tuned = (peak_bytes(run, str(kind_of(net)['device'])) for run in runs)
    return backbone, tuned


def seconds(run: Callable[[], Any]) -> float:
    """Returns how long one run takes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # what was begun before does not count
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(run: Callable[[], Any], device: str) -> int:
    """Returns the peak of what a run allocates on a device."""
    if device.startswith('cuda'):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # it tells stderr when it starts, and that there is no GPU
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = run()
    del result
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]']  # type: ignore[union-attr]
    current = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        peak = max(peak, current)
    return peak


def device_name(device: torch.device) -> str:
    """Returns the name of a device; of a CPU with the number of threads that torch uses."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration), open('/proc/cpuinfo') as lines:
        name = next(line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    threads = torch.get_num_threads()
    return f'{name}, {threads} thread{"s" if threads > 1 else ""}'


def _number(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _for_inference(net: SPTNet) -> SPTNet:
    """Returns a copy of a network as it restores images."""
    return copy.deepcopy(net).eval().merge()


def _runs(net: SPTNet, size: tuple[int, int]) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Returns functions that run the backbone and the tuned network on one image."""
    kind = kind_of(net.backbone)
    lq = torch.rand(1, net.in_channels, *size, **kind)
    sigma = torch.full((1,), 0.1, **kind) if takes_sigma(net.backbone) else None
    masks = made_up_masks(1, size, lq.device) if net.uses_masks else None
    return (lambda: call_network(net.backbone, lq, sigma)), (lambda: net(lq, masks, sigma))


@torch.no_grad()
def _counted(net: SPTNet, size: tuple[int, int]) -> tuple[int, int, dict[str, int]]:
    """Returns the multiply-adds of backbone and tuned network, and what the latter computes beside them."""
    found = []
    others = _Others()
    for run in _runs(net, size):
        others.calls.clear()
        counter = FlopCounterMode(display=False)
        with others, counter:
            run()
        found.append(counter.get_total_flops() // 2)
    return found[0], found[1], dict(others.calls)


class _Others(TorchDispatchMode):
    """Notes the operators that compute something and have no count."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        if not (func.is_view or name in _MOVES or func._overloadpacket in flop_registry):
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


def _extrapolated(net: SPTNet, size: tuple[int, int]) -> Macs:
    side = round_up(max(_SMALL, net.sizes.minimum), net.sizes.multiple)
    counts = [_counted(net, small) for small in ((side, side), (side, 2 * side), (2 * side, 2 * side))]
    areas = Fraction(size[0] * size[1], side * side)
    backbone = _parabola(areas, [count[0] for count in counts])
    tuned = _parabola(areas, [count[1] for count in counts])
    return Macs(size, backbone, tuned, counts[-1][2], scaled=True)


def _parabola(x: Fraction, values: Sequence[int]) -> int:
    """Returns at x the polynomial of degree 2 that has these values at 1, 2 and 4, rounded."""
    one, two, four = values
    return round(one * (x - 2) * (x - 4) / 3 - two * (x - 1) * (x - 4) / 2 + four * (x - 1) * (x - 2) / 6)
