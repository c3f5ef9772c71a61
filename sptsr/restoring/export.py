"""Exporting a tuned network to ONNX or as a program of `torch.export`, compared with PyTorch before it is kept."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.traced_call import TracedCall
from sptsr.core.errors import UserError
from sptsr.core.files import sha256_tensors, write_atomic
from sptsr.core.version import __version__
from sptsr.masks.batch import PriorBatch
from sptsr.options.calling import Calling
from sptsr.restoring.tiling import restore_padded

SUFFIXES = ('.onnx', '.pt2')
OPSET = 20
TOLERANCE = 1e-4  # of 0..1, between the file's output and PyTorch's
RECORD = 'sptsr_record.json'  # entry of a .pt2 with the record; in an ONNX file it is a property of this name
# Sizes that a file is tried with, two of them odd, and palettes of as many codes.
SIZES = ((48, 64), (37, 53), (61, 45))
_CODES = (40, 7, 300)
_TRACED = (52, 68), 12  # size and codes of the example that is traced: none of the above
_LARGE = 1 << 14  # pixels of a side: what is decided otherwise for such an image is not decided by the file
_MASK_FORMAT = 'index [1, fine h, fine w] int64: row of palette; palette [K, masks] uint8: 1 inside, largest mask first'
_EXTRA = "pip install 'sptsr[export]'"


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        record: its metadata (see `record_of`).
        differences: largest difference from PyTorch's output, of 0..1, by size (height, width).
    """

    record: dict[str, Any]
    differences: dict[tuple[int, int], float]


def export(net: SPTNet, path: str | os.PathLike[str], adapter_sha256: str | None = None) -> Exported:
    """Writes a network with its units to a file that needs no sptsr, for images and masks of any size.

    Its inputs are the arguments of `TracedCall.forward`. It is tried at three sizes before it gets its name.

    Args:
        net: from `attach` or `load`; the file computes in float32 whatever it computes in.
        path: ends in `.onnx`, or in `.pt2` for a program of `torch.export`.
        adapter_sha256: digest of the adapter's file, for the record.

    Raises:
        UserError: another suffix, missing packages, a network that cannot be exported, or one whose file gives other
            images than PyTorch.
    """
    path = Path(path)
    check_path(path)
    name = type(net.backbone).__name__
    call = TracedCall(net)
    record = record_of(net, call, adapter_sha256)
    differences: dict[tuple[int, int], float] = {}
    plain = copy.deepcopy(net).to('cpu', torch.float32).eval()  # what a file computes in

    def write(temporary: str) -> None:
        with _one_line(name), _quiet():
            program = traced(call)
            open_file = _write_onnx if path.suffix == '.onnx' else _write_program
            run = open_file(program, temporary, call.input_names, record)
            for size, codes in zip(SIZES, _CODES, strict=True):
                given = example(net, call.input_names, size, codes)
                differences[size] = float(np.abs(run(given) - expected(plain, given)).max())
        worst = float(np.max([*differences.values()]))  # NaN where one is
        if not worst <= TOLERANCE:
            raise UserError(f'export: the file of {name} differs by {worst:.2g} from PyTorch, so it is not kept')

    write_atomic(path, write)
    return Exported(record, differences)


def check_path(path: str | os.PathLike[str]) -> None:
    """Raises UserError unless the name says which kind of file is wanted, and its packages are installed."""
    path = Path(path)
    if path.suffix not in SUFFIXES or path.is_dir():
        raise UserError(f'{path}: a file is .onnx, or .pt2 for torch.export; name it so')
    wanted = ('onnx', 'onnxscript', 'onnxruntime') if path.suffix == '.onnx' else ()
    missing = [package for package in wanted if not importlib.util.find_spec(package)]
    if missing:
        raise UserError(f'export: {", ".join(missing)} is not installed; {_EXTRA}')


def record_of(net: SPTNet, call: TracedCall, adapter_sha256: str | None) -> dict[str, Any]:
    """Returns what a file says of itself, JSON values."""
    calling = getattr(net.backbone, 'calling', None)
    calling = calling if isinstance(calling, Calling) else Calling()
    return {
        'sptsr': __version__,
        'network': net.options['backbone'].get('type') or net.options['backbone'].get('module'),
        'unit': net.options['unit']['type'] if len(net.units) > 0 else None,
        'tune': net.tune,
        'inputs': list(call.input_names),
        'smallest': call.smallest,
        'scale': net.scale,
        'channels': net.in_channels,
        # The file pads and cuts by itself; these are what the network inside it asks for.
        'sizes': {'multiple': net.sizes.multiple, 'minimum': net.sizes.minimum, 'grid': net.sizes.grid},
        'range': [0.0, 1.0],
        'network_range': [0.0, calling.range],
        'network_mean': list(calling.mean),
        'masks': net.num_masks if net.uses_masks else 0,
        'mask_format': _MASK_FORMAT if net.uses_masks else None,
        'fine': net.fine if net.uses_masks else None,
        'adapter_sha256': adapter_sha256 or sha256_tensors(net.adapter_state()),
        'backbone_sha256': net.backbone_digest(),
    }


@torch.no_grad()
def traced(call: TracedCall) -> ExportedProgram:
    """Returns the program of a call for images of any size, `call.smallest` or more, and palettes of 2 rows or more."""
    height, width = (Dim(side, min=call.smallest) for side in ('height', 'width'))
    codes = Dim('codes', min=2)
    fine = call.net.fine
    sides: Any = (height, width) if fine == 1 else (fine * height, fine * width)
    shapes = {'lq': {2: height, 3: width}, 'index': dict(enumerate(sides, 1)), 'palette': {0: codes}, 'sigma': {}}
    given = example(call.net, call.input_names, *_TRACED)
    program = torch.export.export(
        call,
        (),
        dict(given),
        dynamic_shapes={name: shapes[name] for name in given},
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    # What held for the example's strides is asserted for all sizes, though no result depends on it.
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            _must_hold_for_large(node.args[0], type(call.net.backbone).__name__)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _must_hold_for_large(condition: Any, name: str) -> None:
    """Raises UserError for a bound from above on a size: the network does something else with larger images."""
    value = condition.meta.get('val') if hasattr(condition, 'meta') else condition
    bound: Any = getattr(getattr(value, 'node', None), 'expr', None)
    if getattr(bound, 'rel_op', None) in ('<', '<=', '>', '>='):
        symbols = sorted(bound.free_symbols, key=str)
        for order in (symbols, symbols[::-1]):
            if bound.subs({symbol: _LARGE + 96 * n for n, symbol in enumerate(order)}) == False:  # noqa: E712 (sympy's)
                raise UserError(
                    f'export: {name} does otherwise with large images than with small ones, and a file does one thing; '
                    'restore with sptsr'
                )


def example(net: SPTNet, names: Sequence[str], size: tuple[int, int], codes: int) -> dict[str, Tensor]:
    """Returns inputs of a file by name: a smooth image with noise on it, and random regions."""
    random = torch.Generator().manual_seed(size[0] * size[1])
    coarse = torch.rand(1, net.in_channels, 5, 7, generator=random)
    lq = torch.nn.functional.interpolate(coarse, size, mode='bilinear')
    lq = (lq + 0.1 * torch.randn(lq.shape, generator=random)).clamp(0, 1)
    height, width = net.fine * size[0], net.fine * size[1]
    blocks = torch.randint(codes, (1, 1, -(-height // 4), -(-width // 4)), generator=random)
    index = torch.nn.functional.interpolate(blocks.float(), scale_factor=4)[:, 0, :height, :width].long()
    palette = (torch.rand(codes, net.num_masks, generator=random) < 0.2).to(torch.uint8)
    given = {'lq': lq, 'index': index, 'palette': palette, 'sigma': torch.tensor([25 / 255])}
    return {name: given[name] for name in names}


@torch.no_grad()
def expected(net: SPTNet, given: Mapping[str, Tensor]) -> np.ndarray:
    """Returns what the network itself gives for the inputs of a file."""
    masks = None
    if 'index' in given:
        bits = given['palette'].long()
        palette = (bits << torch.arange(bits.shape[1])).sum(dim=1)
        masks = PriorBatch(palette, given['index'].int(), fine=net.fine)
    sigma = given.get('sigma')
    result = restore_padded(lambda lq, own: net(lq, own, sigma), given['lq'], masks, net.sizes, net.scale)
    return result.numpy()


Run = Callable[[Mapping[str, Tensor]], Any]  # gives an array


def _write_program(program: ExportedProgram, path: str, _names: Sequence[str], record: Mapping[str, Any]) -> Run:
    torch.export.save(program, path, extra_files={RECORD: json.dumps(record)})
    module = torch.export.load(path).module()
    return lambda given: module(**given).numpy()


def _write_onnx(program: ExportedProgram, path: str, names: Sequence[str], record: Mapping[str, Any]) -> Run:
    import onnxruntime

    made: Any = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(names),
        output_names=['restored'],
        verbose=False,
        external_data=False,
    )
    made.model.metadata_props[RECORD] = json.dumps(record)
    made.model.producer_name, made.model.producer_version = 'sptsr', __version__
    made.save(path, external_data=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    return lambda given: session.run(None, {name: value.numpy() for name, value in given.items()})[0]


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turns what makes an export fail, which may be raised anywhere, into one line."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        reason = next((line.strip() for line in str(first).splitlines() if line.strip()), '')
        raise UserError(f'export: {name} cannot be exported ({type(first).__name__}: {reason})') from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's progress and its remarks for developers from the terminal."""
    nowhere = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter('ignore')
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
