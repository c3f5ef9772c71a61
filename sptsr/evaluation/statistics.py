"""How sure figures are: intervals of means, paired comparisons over images and training seeds, sign flips, Holm.

Sources:
    Cochran, W. G. (1964). Approximate significance levels of the Behrens-Fisher test. Biometrics 20, 191-195.
    Davison, A. C. and Hinkley, D. V. (1997). Bootstrap Methods and their Application. Cambridge University Press.
    Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scand. J. Statistics 6, 65-70.
    Owen, A. B. (2007). The pigeonhole bootstrap. Annals of Applied Statistics 1, 386-411.
    Searle, S. R., Casella, G. and McCulloch, C. E. (1992). Variance Components. Wiley. Chapter 4.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

Values = npt.NDArray[np.float64]

_EXACT_IMAGES = 20  # 2 ** 19 sums
_FLIPS = 99_999
_DRAWN_SIGNS = 500_000_000  # no more than this for one p
_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class PairedComparison:
    """What the runs of B gain over the runs of A on the same images.

    Attributes:
        images: number of images, n.
        runs: number of runs of A and of B.
        mean_a, mean_b: over images and runs.
        difference: mean of B - A.
        interval: 95 % confidence interval of `difference`; None for one image.
        bootstrap: the same by the two-level bootstrap (`bootstrap_interval`).
        seeds_of: the sides ('A', 'B') whose spread over training seeds the interval contains. Of a side with one
            run it is not known.
        better, equal: images on which B (averaged over its runs) is better than A, and as good.
        p: of the sign-flip test over images, two-sided.
        exact: whether `p` comes of all sign flips; else of random ones.
    """

    images: int
    runs: tuple[int, int]
    mean_a: float
    mean_b: float
    difference: float
    interval: tuple[float, float] | None
    bootstrap: tuple[float, float] | None
    seeds_of: tuple[str, ...]
    better: int
    equal: int
    p: float
    exact: bool


def half_width(values: Collection[float], level: float = 0.95) -> float | None:
    """Returns the half width of the confidence interval of a mean over images, by Student's t.

        t_{n-1, (1 + level) / 2} s / sqrt(n)

    It says how much the mean depends on which images are in the set. Two networks on the same images are
    compared by the interval of their differences, not by whether two of these overlap.

    Args:
        values: one of each image.
        level: of confidence, 0..1.

    Returns:
        the half width in the unit of the values; None for fewer than two values, or when one is not finite.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    return _quantile(len(values) - 1, level) * statistics.stdev(values) / math.sqrt(len(values))


def compare_paired(a: Values, b: Values, same_seeds: bool, higher_is_better: bool = True) -> PairedComparison:
    """Compares two networks on the same images, each trained once or with several seeds.

    Args:
        a: values of A, float64 [runs of A, n], finite.
        b: values of B, float64 [runs of B, n], finite.
        same_seeds: run r of A has the training seed of run r of B, so that their difference is taken run by run.
        higher_is_better: whether a greater value of the metric is the better one.

    Raises:
        ValueError: no image, or `same_seeds` with unequal numbers of runs.
    """
    differences, repeated = _paired(a, b, same_seeds)
    mean, interval = paired_interval(a, b, same_seeds)
    p, exact = sign_flip(differences)
    gains = differences if higher_is_better else -differences
    return PairedComparison(
        images=len(differences),
        runs=(len(a), len(b)),
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        difference=mean,
        interval=interval,
        bootstrap=bootstrap_interval(differences, list(repeated.values())),
        seeds_of=tuple(side for sides in repeated for side in sides),
        better=int((gains > 0).sum()),
        equal=int((gains == 0).sum()),
        p=p,
        exact=exact,
    )


def paired_interval(a: Values, b: Values, same_seeds: bool) -> tuple[float, tuple[float, float] | None]:
    """Returns the mean of B - A and its 95 % interval, None for one image; arguments and errors as `compare_paired`."""
    differences, repeated = _paired(a, b, same_seeds)
    mean = float(differences.mean())
    half = clustered_half_width(differences, list(repeated.values()))
    return mean, None if half is None else (mean - half, mean + half)


def _paired(a: Values, b: Values, same_seeds: bool) -> tuple[Values, dict[tuple[str, ...], Values]]:
    """Returns B - A of each image, and by the sides that they speak of the values that show the spread of seeds."""
    if a.shape[1] != b.shape[1] or a.size == 0 or b.size == 0 or (same_seeds and len(a) != len(b)):
        raise ValueError(f'values of {a.shape} and {b.shape} cannot be paired')
    layouts = {('A', 'B'): b - a} if same_seeds else {('A',): a, ('B',): b}
    return b.mean(axis=0) - a.mean(axis=0), {sides: layout for sides, layout in layouts.items() if len(layout) > 1}


def clustered_half_width(differences: Values, layouts: Sequence[Values], level: float = 0.95) -> float | None:
    """Returns the half width of the confidence interval of a mean difference over images and training seeds.

    Images and seeds are crossed random effects: y[s, i] = mean + seed[s] + image[i] + rest[s, i]. The variance of the
    mean has a part of the images and a part of the seeds of each layout with S seeds and n images,

        v_images = s_D^2 / n,    s_D: standard deviation of the differences over images
        v_seeds  = max(0, (MS_seeds - MS_rest) / (n S))

    with the mean squares of the analysis of variance (Searle et al. 1992, 4.3); v_images contains the rest. The half
    width is t* sqrt(v), where v is the sum of the parts and t* is the average of t_{n-1} and t_{S-1} weighted by
    v_images and v_seeds (Cochran 1964). Two layouts have the sum of their v_seeds, with the degrees of freedom of
    Welch's test. Without layouts this is Student's interval of paired differences.

    The pigeonhole bootstrap (Owen 2007) answers the same question. With three seeds it holds far less than it says,
    since three resampled seeds vary by a third too little and its quantiles know nothing of degrees of freedom;
    `tests/evaluation/test_coverage.py` measures both.

    Args:
        differences: B - A of each image, averaged over runs, [n].
        layouts: what the seeds' spread is taken from, [S, n] each, S at least 2: the differences of runs that share a
            seed, or else the values of the one side and of the other.
        level: of confidence, 0..1.

    Returns:
        the half width; None for fewer than two images.
    """
    count = len(differences)
    if count < 2:
        return None
    of_images = float(differences.var(ddof=1)) / count
    parts = [(_seed_variance(layout), len(layout) - 1) for layout in layouts]
    of_seeds = sum(variance for variance, _ in parts)
    total = of_images + of_seeds
    if total == 0:
        return 0.0
    quantile = of_images / total * _quantile(count - 1, level)
    if of_seeds > 0:
        freedom = of_seeds**2 / sum(variance**2 / freedom for variance, freedom in parts)
        quantile += of_seeds / total * _quantile(freedom, level)
    return quantile * math.sqrt(total)


def bootstrap_interval(
    differences: Values, layouts: Sequence[Values], level: float = 0.95, draws: int = 9_999
) -> tuple[float, float] | None:
    """Returns the interval of a mean difference by a two-level bootstrap with a correction for small samples.

    Images and seeds are drawn with replacement, as the pigeonhole bootstrap does (Owen 2007), but the deviations that
    both give are drawn apart, and each is made as wide as Student's interval of so few values is:

        deviation = c_n (mean of drawn images - mean) + sum over layouts of c_S r (mean of drawn seeds - mean)
        c_m = sqrt(m / (m - 1)) t_{m-1} / z
        r^2 = v_seeds / (variance of the mean over seeds)

    m values drawn from m vary by (m - 1) / m too little; r leaves the part out of the seeds' spread that comes of the
    rest (see `clustered_half_width`). The interval is between quantiles of mean + deviation, so it is not symmetric
    where images are not. Without c, three seeds that vary hold as little as 76 % (docs/statistics.md).

    Args:
        differences, layouts, level: as for `clustered_half_width`.
        draws: number of samples, from a fixed seed.

    Returns:
        lower and upper end; None for fewer than two images.
    """
    count = len(differences)
    if count < 2:
        return None
    generator = np.random.default_rng(0)
    mean = float(differences.mean())
    deviations = _drawn_means(generator, differences - mean, draws, level)
    for layout in layouts:
        variance = _seed_variance(layout)
        if variance > 0:
            by_seed = layout.mean(axis=1) - layout.mean()
            share = math.sqrt(variance / (by_seed.var(ddof=1) / len(by_seed)))
            deviations += share * _drawn_means(generator, by_seed, draws, level)
    low, high = np.quantile(deviations, [(1 - level) / 2, (1 + level) / 2])
    return mean + float(low), mean + float(high)


def _drawn_means(generator: np.random.Generator, values: Values, draws: int, level: float) -> Values:
    """Returns means of values drawn with replacement, [draws], widened as Student's interval is for so few."""
    count = len(values)
    widening = math.sqrt(count / (count - 1)) * _quantile(count - 1, level) / float(ndtri((1 + level) / 2))
    means = np.empty(draws)
    at_once = max(1, _AT_ONCE // count)
    for start in range(0, draws, at_once):
        number = min(at_once, draws - start)
        means[start : start + number] = generator.multinomial(count, [1 / count] * count, number) @ values / count
    return widening * means


def sign_flip(differences: Values) -> tuple[float, bool]:
    """Returns the two-sided p of a mean difference of 0 under sign flips over images, and whether it is exact.

    If neither network is better, each image's difference might as well have had the other sign. p is the share of
    sign flips whose mean is at least as far from 0 as the observed one: of all 2^n up to 20 images; above that
    (1 + k) / (1 + R), with k of R random flips (Davison and Hinkley 1997, 4.2.5), R = 99,999 (fewer above
    5,000 images, 999 at least), drawn from a fixed seed.
    It speaks of the images, for the runs as they are.

    Args:
        differences: B - A of each image, averaged over runs, [n].
    """
    values = np.abs(differences)
    # |sum| of a flip is reached by rounding only up to this
    reached = abs(differences.sum()) - 1e-12 * values.sum()
    if len(values) <= _EXACT_IMAGES:
        sums = values[:1]  # the first sign may stay: the other half of the flips mirrors this one
        for value in values[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= reached)), True
    count = int(np.clip(_DRAWN_SIGNS // len(values), 999, _FLIPS))
    generator = np.random.default_rng(0)
    at_once = max(1, _AT_ONCE // len(values))
    hits = 0
    for start in range(0, count, at_once):
        flips = generator.integers(0, 2, (min(at_once, count - start), len(values)), np.int8)
        hits += int((np.abs(2 * (flips @ values) - values.sum()) >= reached).sum())
    return (1 + hits) / (1 + count), False


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values adjusted for their number by Holm's step-down method, in their order.

    The k-th smallest of m (k from 1) becomes the largest of (m - j + 1) p_j over j up to k, and 1 at most. Rejecting
    what is below 0.05 is then wrong anywhere in at most 5 % of such families, whatever their dependence.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def _seed_variance(layout: Values) -> float:
    """Returns the part of the variance of the mean of [S, n] that comes of the seeds; 0 where it cannot be seen."""
    seeds, count = layout.shape
    by_seed, by_image = layout.mean(axis=1), layout.mean(axis=0)
    rest = layout - by_seed[:, None] - by_image + layout.mean()
    square_of_seeds = count * by_seed.var(ddof=1)
    square_of_rest = (rest**2).sum() / ((seeds - 1) * (count - 1))
    return max(0.0, float(square_of_seeds - square_of_rest) / (count * seeds))


def _quantile(freedom: float, level: float) -> float:
    """Returns Student's t with this many degrees of freedom that a share `level` lies within on both sides."""
    return float(stdtrit(freedom, (1 + level) / 2))
