"""Uncertainty of figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection

from scipy.stats import t


def half_width(values: Collection[float], level: float = 0.95) -> float | None:
    """Returns the half width of the confidence interval of a mean over images, by Student's t.

        t_{n-1, (1 + level) / 2} s / sqrt(n)

    It says how much the mean depends on which images are in the set. Two networks on the same images are
    compared by the interval of their differences, not by whether two of these overlap.

    Args:
        values: one of each image.
        level: of confidence, 0..1.

    Returns:
        the half width in the unit of the values; None for fewer than two, or infinite ones.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    return float(t.ppf((1 + level) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
