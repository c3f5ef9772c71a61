"""Degradations of several steps in a declared order, each of an amount that is drawn from a range."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sptsr.core.errors import UserError, naming, one_of
from sptsr.core.files import read_json, write_json
from sptsr.core.values import is_of
from sptsr.images.bicubic import imresize
from sptsr.images.decode import RGB, luminance
from sptsr.images.draws import DEGRADATION_FILE, MOST_DRAWS, Degradation, Drawn, amount_text, amounts_of

Pixels = npt.NDArray[np.float32]  # [H, W, C], 0..255

# Lowest and highest amount of each step.
_STEPS = {
    'blur': (0.0, 20.0),  # sigma of a Gaussian, in pixels
    'resize': (0.1, 1.0),  # share of the size that it is reduced to, and enlarged from again, bicubic
    'downsample': (2.0, 8.0),  # whole factor, MATLAB's bicubic; the image stays so small
    'noise': (0.0, 255.0),  # sigma of Gaussian noise, of 255
    'poisson': (1.0, 1e6),  # photons that a white pixel counts; fewer are noisier
    'jpeg': (1.0, 100.0),  # quality
}
_MOST_STEPS = 20


@dataclass(frozen=True)
class Step:
    """One step: its kind, and the range that its amount is evenly drawn from."""

    kind: str
    low: float
    high: float

    @classmethod
    def of(cls, text: str) -> Step:
        """Reads `KIND=AMOUNT` or `KIND=LOW:HIGH`, such as `noise=5:25`; raises UserError for anything else."""
        kind, _, amounts = text.partition('=')
        try:
            return cls(kind, *amounts_of(amounts))
        except ValueError as error:
            raise UserError(f"degradation: '{text}' is not KIND=AMOUNT or KIND=LOW:HIGH, such as noise=5:25") from error

    def __post_init__(self) -> None:
        if self.kind not in _STEPS:
            raise UserError(f"degradation: no step is called '{self.kind}'{one_of(self.kind, _STEPS)}")
        least, most = _STEPS[self.kind]
        if not least <= self.low <= self.high <= most:
            raise UserError(f'degradation: {self} must be in {least:g}..{most:g}, the lower amount first')
        if self.kind == 'downsample' and (self.low != self.high or self.low % 1):
            raise UserError(f'degradation: {self} must be one whole number: all images get the same scale')

    def __str__(self) -> str:
        return f'{self.kind}={amount_text(self.low, self.high)}'

    def apply(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """Returns the image after this step, its amount and noise drawn from `rng`."""
        amount = float(rng.uniform(self.low, self.high))
        return _APPLY[self.kind](image, amount, rng)


@dataclass(frozen=True)
class DegradationChain(Drawn):
    """A degradation of several steps: all that is needed to make degraded images again from the clean ones.

    Between steps the image has real numbers; they are rounded to 0..255 by JPEG, by `downsample` (before and behind it)
    and at the end, so that the network and the source of masks get the very same image.

    Attributes:
        steps: in the order in which they are applied.
        seed: of amounts and noise. Each draw of each image has amounts and noise of its own, a function of its key,
            the seed and the number of the draw.
        draws: degraded images of each clean one. The key of draw n is `KEY@n`; it is `KEY` where there is one draw.
        gray: whether the luminance is degraded; stored images then hold it three times, as RGB.

    Raises:
        UserError: values that make no sense.
    """

    steps: tuple[Step, ...]
    seed: int = 0
    draws: int = 1
    gray: bool = False

    @classmethod
    def of(cls, steps: Sequence[object], seed: int = 0, draws: int = 1, gray: bool = False) -> DegradationChain:
        """Makes one from texts such as `noise=5:25`."""
        return cls(tuple(Step.of(str(step)) for step in steps), seed, draws, gray)

    def __post_init__(self) -> None:
        if not 1 <= len(self.steps) <= _MOST_STEPS:
            raise UserError(
                f'degradation: {len(self.steps)} steps; say 1 to {_MOST_STEPS}, such as blur=0.8:1.6 noise=5:25'
            )
        if sum(step.kind == 'downsample' for step in self.steps) > 1:
            raise UserError('degradation: downsample may come once')
        if not 1 <= self.draws <= MOST_DRAWS:
            raise UserError(f'degradation: {self.draws} draws must be in 1..{MOST_DRAWS}')
        if not 0 <= self.seed < 1 << 63:
            raise UserError(f'degradation: the seed {self.seed} must be in 0..2^63 - 1')

    @property
    def scale(self) -> int:
        """Size of the clean image over size of the degraded one."""
        return next((int(step.low) for step in self.steps if step.kind == 'downsample'), 1)

    def record(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return {'steps': [str(step) for step in self.steps], 'seed': self.seed, 'draws': self.draws, 'gray': self.gray}

    def __str__(self) -> str:
        """Returns the arguments of `sptsr prior degrade` that make such images."""
        words = ['--steps', *map(str, self.steps)]
        words += [f'--draws {self.draws}'] if self.draws > 1 else []
        words += [f'--seed {self.seed}'] if self.seed else []
        words += ['--gray'] if self.gray else []
        return ' '.join(words)

    def degraded(self, clean: RGB, key: str, draw: int) -> npt.NDArray[np.uint8]:
        """Returns one draw of an image: uint8 [H / scale, W / scale, C], C is 3, or 1 with `gray`.

        Args:
            clean: uint8 RGB [H, W, 3], of a size that is a multiple of the scale.
            key: of the image.
            draw: its number, from 0; also beyond `draws`, for fresh ones.

        Raises:
            UserError: names the key of an image of another size.
        """
        height, width = clean.shape[:2]
        self.check_size(height, width, key)
        digest = hashlib.sha256(f'draw {draw}: {key}'.encode()).digest()
        image = (luminance(clean) if self.gray else clean).astype(np.float32)
        for number, step in enumerate(self.steps):
            # Each step has random numbers of its own, so that one which takes more does not change those behind it.
            image = step.apply(image, np.random.default_rng([self.seed, number, *digest]))
        return _rounded(image)

    def check_size(self, height: int, width: int, key: str) -> None:
        """Raises UserError, naming the key, for a clean image whose size is no multiple of the scale."""
        if height % self.scale or width % self.scale:
            raise UserError(
                f'{key}: {height}x{width} is not a multiple of downsample={self.scale} (height x width); '
                'cut it, for instance by sptsr data prepare --mod-crop'
            )

    def stored(self, clean: RGB, key: str, draw: int) -> RGB:
        """Returns one draw of an image as RGB: what its masks are made from."""
        return np.broadcast_to(image := self.degraded(clean, key, draw), (*image.shape[:2], 3)).copy()


def degradation_of(record: object, where: object) -> Degradation | DegradationChain:
    """Makes a degradation from what its `record` returned; raises UserError, naming `where`, for anything else."""
    if not isinstance(record, Mapping) or 'steps' not in record:
        return Degradation.of_record(record, where)
    types = {'steps': (list,), 'seed': (int,), 'draws': (int,), 'gray': (bool,)}
    if record.keys() != types.keys() or not all(is_of(record[name], kinds) for name, kinds in types.items()):
        raise UserError(f'{where}: does not say how images were degraded; make it again with sptsr prior degrade')
    with naming(where):
        return DegradationChain.of(record['steps'], record['seed'], record['draws'], record['gray'])


def read_degradation(folder: str | os.PathLike[str]) -> Degradation | DegradationChain | None:
    """Returns how the images of a folder were degraded, or None where `prior degrade` noted nothing."""
    path = Path(folder) / DEGRADATION_FILE
    if not path.is_file():
        return None
    return degradation_of(read_json(path, 'make it again with sptsr prior degrade'), path)


def write_degradation(folder: str | os.PathLike[str], degradation: Degradation | DegradationChain) -> None:
    """Notes in a folder how its images were degraded."""
    write_json(Path(folder) / DEGRADATION_FILE, degradation.record())


def _rounded(image: Pixels) -> npt.NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _blur(image: Pixels, sigma: float, _rng: np.random.Generator) -> Pixels:
    return _as_pixels(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT), image) if sigma else image


def _resize(image: Pixels, share: float, _rng: np.random.Generator) -> Pixels:
    height, width = image.shape[:2]
    small = max(1, round(width * share)), max(1, round(height * share))
    # `INTER_AREA` averages what a smaller pixel covers; the other methods of OpenCV would skip pixels.
    reduced = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return _as_pixels(cv2.resize(reduced, (width, height), interpolation=cv2.INTER_CUBIC), image)


def _downsample(image: Pixels, factor: float, _rng: np.random.Generator) -> Pixels:
    return imresize(_rounded(image), 1 / int(factor)).astype(np.float32)


def _noise(image: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    return image + np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)


def _poisson(image: Pixels, photons: float, rng: np.random.Generator) -> Pixels:
    counts = rng.poisson(np.clip(image, 0, 255).astype(np.float64) * (photons / 255))
    return (counts * (255 / photons)).astype(np.float32)


def _jpeg(image: Pixels, quality: float, _rng: np.random.Generator) -> Pixels:
    ok, content = cv2.imencode('.jpg', _rounded(image)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, round(quality)])
    if not ok:
        raise UserError(f'degradation: jpeg: {image.shape[0]}x{image.shape[1]} (height x width) is too large; cut it')
    decoded = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE if image.shape[2] == 1 else cv2.IMREAD_COLOR)
    assert decoded is not None
    return _as_pixels(decoded, image)[:, :, ::-1]


def _as_pixels(result: Any, like: Pixels) -> Pixels:
    """Returns what OpenCV made as float32 [H, W, C]; it leaves out the axis of a single channel."""
    return np.asarray(result, np.float32).reshape(*result.shape[:2], like.shape[2])


_APPLY = {
    'blur': _blur,
    'resize': _resize,
    'downsample': _downsample,
    'noise': _noise,
    'poisson': _poisson,
    'jpeg': _jpeg,
}
