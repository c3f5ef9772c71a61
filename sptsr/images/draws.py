"""What the images of a folder were degraded by, and the several noise draws of one image that it may hold."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sptsr.core.errors import UserError, naming, refusing
from sptsr.core.values import is_of
from sptsr.images.decode import RGB, luminance
from sptsr.images.noise import noisy_image

# Lowest and highest amount of each kind, and whether it must be a whole number.
_KINDS = {'noise': (0, 255, False), 'blur': (0, 100, False), 'jpeg': (1, 100, True), 'downsample': (1, 64, True)}
MOST_DRAWS = 1000
DEGRADATION_FILE = 'degradation.json'
_DRAW = re.compile(r'@\d+$')


def amount_text(low: float, high: float) -> str:
    """Returns `AMOUNT` or `LOW:HIGH`, which read back are the same numbers."""
    return ':'.join(f'{x:g}' if float(f'{x:g}') == x else repr(x) for x in dict.fromkeys((low, high)))


def amounts_of(text: str) -> tuple[float, float]:
    """Reads `AMOUNT`, which is given twice, or `LOW:HIGH`; raises ValueError for anything else."""
    low, colon, high = text.partition(':')
    if '_' in text:  # Python's own way to group digits
        raise ValueError(text)
    return float(low), float(high if colon else low)


class Drawn:
    """The names of several degraded images of each clean one."""

    draws: int

    def keys(self, key: str) -> list[str]:
        """Returns the keys of the draws of an image."""
        return [self.key(key, draw) for draw in range(self.draws)]

    def key(self, key: str, draw: int) -> str:
        """Returns the key of one draw of an image."""
        return f'{key}@{draw}' if self.draws > 1 else key


@dataclass(frozen=True)
class Degradation(Drawn):
    """How the images of a folder were degraded: all that is needed to make them again from the clean ones.

    Attributes:
        kind: `noise` (Gaussian), `blur` (Gaussian), `jpeg`, or `downsample` (MATLAB's bicubic).
        low, high: amount: sigma of 255, sigma in pixels, quality 1..100, or whole factor. They differ for noise
            only, where each draw of each image has a level of its own, evenly spread over low..high.
        seed: of the noise.
        draws: noisy images of each clean one. The key of draw n is `KEY@n`; it is `KEY` where there is one draw.
        gray: whether the noise was added to the luminance, which is then stored three times, as RGB.

    Raises:
        UserError: values that make no sense.
    """

    kind: str
    low: float
    high: float
    seed: int = 0
    draws: int = 1
    gray: bool = False

    def __post_init__(self) -> None:
        least, most, whole = _KINDS[self.kind]
        amounts = (self.low, self.high)
        if not least <= self.low <= self.high <= most or (whole and any(amount % 1 for amount in amounts)):
            shown = amount_text(self.low, self.high)
            kind = 'a whole number ' if whole else ''
            order = ', the lower amount first' if self.low != self.high else ''
            raise UserError(f'prior degrade: --{self.kind} {shown} must be {kind}in {least}..{most}{order}')
        if not 1 <= self.draws <= MOST_DRAWS:
            raise UserError(f'prior degrade: --draws {self.draws} must be in 1..{MOST_DRAWS}')
        if not 0 <= self.seed < 1 << 63:
            raise UserError(f'prior degrade: --seed {self.seed} must be in 0..2^63 - 1')
        if self.kind != 'noise' and (self.low != self.high or self.draws > 1 or self.gray):
            raise UserError(f'prior degrade: a range, --draws and --gray are for --noise, not for --{self.kind}')

    @classmethod
    def of_record(cls, record: object, where: object) -> Degradation:
        """Makes one from what `record` returned; raises UserError, naming `where`, for anything else."""
        types = {'kind': (str,), 'low': (float,), 'high': (float,), 'seed': (int,), 'draws': (int,), 'gray': (bool,)}
        if (
            not isinstance(record, Mapping)
            or record.keys() != types.keys()
            or not all(is_of(record[name], kinds) for name, kinds in types.items())
            or record['kind'] not in _KINDS
        ):
            raise UserError(f'{where}: does not say how images were degraded; make it again with sptsr prior degrade')
        with refusing(f'{where}: an amount is no number', 'make it again with sptsr prior degrade'):  # of 400 digits
            low, high = float(record['low']), float(record['high'])
        with naming(where):
            return cls(**{**record, 'low': low, 'high': high})

    def record(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """Returns the arguments of `sptsr prior degrade` that make such images."""
        words = [f'--{self.kind} {amount_text(self.low, self.high)}']
        words += [f'--draws {self.draws}'] if self.draws > 1 else []
        words += [f'--seed {self.seed}'] if self.seed else []
        words += ['--gray'] if self.gray else []
        return ' '.join(words)

    def level(self, key: str, draw: int) -> float:
        """Returns the noise level of one draw of an image, of 255: a function of key, seed and draw."""
        if self.low == self.high:
            return self.low
        digest = hashlib.sha256(f'level of draw {draw}: {key}'.encode()).digest()
        return float(np.random.default_rng([self.seed, *digest]).uniform(self.low, self.high))

    def level_of(self, key: str) -> float:
        """Returns the noise level of an image of the folder, of 255; its key is of one draw, as `key` makes it."""
        if self.draws == 1:
            return self.level(key, 0)
        if not _DRAW.search(key):
            raise UserError(f"{key}: is no draw of 'prior degrade {self}', whose names end in @0, @1, ...; remove it")
        image, _, draw = key.rpartition('@')
        return self.level(image, int(draw))

    def noisy(self, clean: RGB, key: str, draw: int) -> RGB:
        """Returns one noisy draw of a clean image, uint8 RGB [H, W, 3]: what its masks are made from."""
        level = self.level(key, draw)
        if not self.gray:
            return noisy_image(clean, key, level, self.seed, draw)
        return np.repeat(noisy_image(luminance(clean), key, level, self.seed, draw), 3, axis=2)


def image_of(key: str) -> str:
    """Returns the key of the image that a key names a draw of: `a` for `a@3`; other keys stay as they are."""
    return _DRAW.sub('', key)
