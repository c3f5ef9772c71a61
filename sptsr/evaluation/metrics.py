"""Metrics: the sections of `val.metrics`, tried before the first image, and one value of one image."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sptsr.core.errors import UserError, one_of
from sptsr.core.registry import METRIC_REGISTRY, lookup
from sptsr.core.signatures import parameters

_SSIM_WINDOW = 11
_NIQE_BLOCK = 96  # calculate_niqe fits a Gaussian to the features of such blocks: it needs two of them
_LOWER_IS_BETTER = ('calculate_niqe', 'calculate_lpips', 'calculate_dists')
_WHERE = ('weights', 'download')  # arguments that say where a file is, not what is measured
_TRIAL_SIDE = 2 * _NIQE_BLOCK
_TRIAL_BORDER = 4


class CannotMeasure(Exception):
    """A metric has no value for one image; the message says why."""


def _takes_reference(metric: Callable[..., Any]) -> bool:
    """Returns whether a metric can be given `img2`; one of no reference need not."""
    known = inspect.signature(metric).parameters
    return 'img2' in known or any(p.kind is p.VAR_KEYWORD for p in known.values())


@dataclass(frozen=True)
class Metric:
    """One section of `val.metrics`.

    Attributes:
        name: of the section.
        type: registered name, such as `calculate_psnr`.
        arguments: of the registered function, with its defaults filled in.
        better: `higher` or `lower`.
        masks: digest of what made the masks by which it is measured; empty without any.
    """

    name: str
    type: str
    arguments: dict[str, Any]
    better: str
    masks: str = ''

    @property
    def options(self) -> dict[str, Any]:
        """What makes two values comparable, for `metrics.json`."""
        decisive = {key: value for key, value in self.arguments.items() if key not in _WHERE}
        return {'type': self.type, **decisive, 'better': self.better}

    @property
    def needs_gt(self) -> bool:
        """Whether it measures an image against its GT."""
        img2 = parameters(lookup(METRIC_REGISTRY, self.type)).get('img2')
        return img2 is not None and img2.default is img2.empty

    def too_small(self, height: int, width: int) -> str | None:
        """Returns why an image of this size cannot be measured, or None."""
        border = self.arguments.get('crop_border', 0)
        height_inside, width_inside = height - 2 * border, width - 2 * border
        if self.type == 'calculate_niqe':
            fits = (height_inside // _NIQE_BLOCK) * (width_inside // _NIQE_BLOCK) >= 2 and height_inside > 0
            asks = f', which needs two blocks of {_NIQE_BLOCK}x{_NIQE_BLOCK} ({_NIQE_BLOCK}x{2 * _NIQE_BLOCK})'
        else:
            fits = min(height_inside, width_inside) >= (_SSIM_WINDOW if 'ssim' in self.type else 1)
            asks = ''
        return None if fits else f'{height}x{width} is too small for {self.type} with crop_border {border}{asks}'

    def measure(self, image: Any, reference: Any) -> float:
        """Returns the value of one image.

        Args:
            image: restored, uint8 [H, W, 3] in BGR order, or [H, W].
            reference: the GT in the same form, or None.

        Returns:
            the value; it may be infinite (PSNR of equal images) or NaN.

        Raises:
            CannotMeasure: the image is too small, its size is not its GT's, or the metric itself fails.
        """
        reason = self.unlike(image, reference)
        if reason is not None:
            raise CannotMeasure(reason)
        return self._call(image, reference, self.arguments)

    def unlike(self, image: Any, reference: Any) -> str | None:
        """Returns why these cannot be measured: too small, or not of one size; None where they can."""
        reason = self.too_small(*image.shape[:2])
        if reason is None and reference is not None and reference.shape != image.shape:
            return f'restored {_size(image)}, but its GT is {_size(reference)}'
        return reason

    def _call(self, image: Any, reference: Any, arguments: Mapping[str, Any]) -> float:
        try:
            with np.errstate(all='ignore'), warnings.catch_warnings():
                warnings.simplefilter('ignore', RuntimeWarning)  # a NaN is told by name, not by numpy's warning
                function = lookup(METRIC_REGISTRY, self.type)
                given = {'img': image, **({'img2': reference} if _takes_reference(function) else {})}
                return float(function(**given, **arguments))
        except UserError:
            raise
        except Exception as error:
            raise CannotMeasure(f'{self.type} fails: {" ".join(str(error).split()) or type(error).__name__}') from error

    def try_out(self) -> None:
        """Runs it on a small image of noise, in colour and, if that fails, in gray.

        Raises:
            UserError: it fails on both.
        """
        generator = np.random.default_rng(0)
        arguments = dict(self.arguments)
        if 'crop_border' in arguments:
            arguments['crop_border'] = min(arguments['crop_border'], _TRIAL_BORDER)
        side = _TRIAL_SIDE + 2 * _TRIAL_BORDER
        image, reference = generator.integers(0, 256, (2, side, side, 3), np.uint8)
        try:
            self._call(image, reference, arguments)
        except CannotMeasure as failure:
            try:
                self._call(image[:, :, 0], reference[:, :, 0], arguments)
            except CannotMeasure:
                raise UserError(
                    f'val.metrics.{self.name}: it cannot be used here ({failure}); a metric gets img and img2 as '
                    'uint8 arrays [H, W, 3] in BGR order, or [H, W], and returns a number'
                ) from failure


def read_metrics(sections: Mapping[str, Mapping[str, Any]] | None) -> list[Metric]:
    """Returns the metrics of `val.metrics`, each tried on a small image.

    Args:
        sections: by name, such as `{'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}`.

    Raises:
        UserError: an argument that the metric does not understand, or a metric that cannot measure images.
    """
    metrics = []
    for name, section in (sections or {}).items():
        known = parameters(lookup(METRIC_REGISTRY, section['type']))
        defaults = {key: p.default for key, p in known.items() if p.default is not p.empty and key != 'img2'}
        given = {key: value for key, value in section.items() if key not in ('type', 'better')}
        metric = Metric(name, section['type'], defaults | given, better_of(section))
        _check_arguments(metric)
        metric.try_out()
        metrics.append(metric)
    return metrics


def better_of(section: Mapping[str, Any]) -> str:
    """Returns which values of a section of `val.metrics` are better, `higher` or `lower`."""
    return section.get('better', 'lower' if section['type'] in _LOWER_IS_BETTER else 'higher')


def _check_arguments(metric: Metric) -> None:
    """Raises UserError for arguments that BasicSR's metrics take without a word and that make their values wrong."""
    where, arguments = f'val.metrics.{metric.name}', metric.arguments
    border = arguments.get('crop_border', 0)
    if isinstance(border, bool) or not isinstance(border, int) or border < 0:
        raise UserError(f'{where}.crop_border: {border!r} is not a whole number of pixels from 0 up')
    order = arguments.get('input_order', 'HWC')
    orders = ('HWC', 'HW') if metric.type == 'calculate_niqe' else ('HWC',)
    if order not in orders:
        raise UserError(f"{where}.input_order: '{order}', but images are [H, W, C]; write HWC or remove it")
    if metric.type == 'calculate_niqe' and arguments['convert_to'] not in ('y', 'gray'):
        wrong = arguments['convert_to']
        raise UserError(f"{where}.convert_to: '{wrong}'{one_of(str(wrong), ('y', 'gray'))}")


def _size(image: Any) -> str:
    return 'x'.join(map(str, image.shape))
