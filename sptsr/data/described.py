"""Priors of training crops with the statistics of their whole images, which are taken once a process."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sptsr.data.checked import to_tensor
from sptsr.data.transforms import Pixels, Sample
from sptsr.masks.batch import statistics_of, sums_of
from sptsr.masks.mask_statistics import CodeSums
from sptsr.masks.prior import Prior


class Described:
    """Gives priors their statistics (`Prior.statistics`), and keeps what it took of an image: some kilobytes."""

    def __init__(self) -> None:
        self.statistics: dict[Hashable, npt.NDArray[np.float32]] = {}
        self.sums: dict[Hashable, CodeSums] = {}

    def whole(self, key: Hashable, prior: Prior, image: Callable[[], Pixels]) -> Prior:
        """Returns the prior of an image that is the same each time.

        Args:
            key: of the image.
            prior: of the whole image.
            image: makes its pixels [H, W, C], as `to_tensor` takes them.
        """
        if key not in self.statistics:
            self.statistics[key] = statistics_of(prior, to_tensor(image()))
        return replace(prior, statistics=self.statistics[key])

    def noisy_statistics(
        self,
        key: Hashable,
        prior: Prior,
        clean: Callable[[], Pixels],
        crop: Sample,
        sigma: float,
        rng: np.random.Generator,
    ) -> npt.NDArray[np.float32]:
        """Returns the statistics of a noisy crop, as if its whole image had noise: around the crop it is made up.

        Args:
            key: of the image.
            prior: of the whole image.
            clean: makes its pixels without noise.
            crop: `lq` has noise and `gt` has none. Its prior has the image's grid, and was brought to it before it was
                turned: a turned one is read off at other pixels, which are not those of the whole image's sums.
            sigma: of the noise, of 255.
            rng: where the noise around the crop comes from.
        """
        assert crop.prior is not None
        if key not in self.sums:
            self.sums[key] = sums_of(prior, to_tensor(clean()))
        around = self.sums[key] - sums_of(crop.prior, to_tensor(crop.gt))
        sums = around.with_noise(sigma / 255, rng) + sums_of(crop.prior, to_tensor(crop.lq))
        return statistics_of(prior, sums)
