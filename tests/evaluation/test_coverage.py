"""How often the 95 % interval holds the truth, on clustered data of a known effect.

`python -m tests.evaluation.test_coverage` prints the table of docs/statistics.md.
"""

import numpy as np
import pytest

from sptsr.evaluation.statistics import bootstrap_interval, clustered_half_width

EFFECT = 0.3
REST = 0.3  # standard deviation of what is neither image nor seed; images have 1
RUNS = 1500


def layouts(seeds: int, images: int, of_seeds: float, count: int, seed: int = 0, skewed: bool = False) -> np.ndarray:
    """Differences [count, seeds, images] with image effects of sd 1, seed effects of sd `of_seeds`, and a rest."""
    generator = np.random.default_rng([seed, seeds, images, int(1000 * of_seeds)])
    of_images = (
        (generator.exponential(size=(count, 1, images)) - 1) if skewed else generator.normal(size=(count, 1, images))
    )
    of_seed = of_seeds * generator.normal(size=(count, seeds, 1))
    return EFFECT + of_images + of_seed + REST * generator.normal(size=(count, seeds, images))


def ours(layout: np.ndarray) -> bool:
    differences = layout.mean(axis=0)
    half = clustered_half_width(differences, [layout] if len(layout) > 1 else [])
    assert half is not None
    return bool(abs(differences.mean() - EFFECT) <= half)


def pigeonhole(layout: np.ndarray, draws: int = 200) -> bool:
    """The two-level bootstrap of percentiles: seeds and images drawn with replacement (Owen 2007)."""
    generator = np.random.default_rng(1)
    seeds, images = layout.shape
    by_seed = generator.multinomial(seeds, [1 / seeds] * seeds, draws) / seeds
    by_image = generator.multinomial(images, [1 / images] * images, draws) / images
    low, high = np.quantile(np.einsum('ds,si,di->d', by_seed, layout, by_image, optimize=True), [0.025, 0.975])
    return bool(low <= EFFECT <= high)


def bootstrap(layout: np.ndarray) -> bool:
    """The two-level bootstrap with our correction for small samples."""
    interval = bootstrap_interval(layout.mean(axis=0), [layout] if len(layout) > 1 else [], draws=600)
    assert interval is not None
    return bool(interval[0] <= EFFECT <= interval[1])


def coverage(seeds: int, images: int, of_seeds: float, runs: int = RUNS, interval=ours, skewed: bool = False) -> float:
    return float(np.mean([interval(layout) for layout in layouts(seeds, images, of_seeds, runs, skewed=skewed)]))


# The share of the seeds in the variance of the mean goes from none over equal to nearly all.
@pytest.mark.parametrize(
    ('seeds', 'images', 'of_seeds'),
    [(1, 5, 0), (1, 50, 0), (3, 5, 0), (3, 20, 0), (3, 50, 0.1), (3, 100, 0.4), (3, 20, 1), (5, 20, 0), (5, 100, 0.2)],
)
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds, images, of_seeds):
    # 1,500 experiments: standard error 0.6 %
    assert coverage(seeds, images, of_seeds) == pytest.approx(0.95, abs=0.02 + 0.006)


@pytest.mark.parametrize(('seeds', 'images', 'of_seeds'), [(1, 20, 0), (3, 5, 0), (3, 20, 0.1), (3, 20, 1)])
def test_so_does_the_corrected_bootstrap(seeds, images, of_seeds):
    # 1,000 experiments: standard error 0.7 %
    assert coverage(seeds, images, of_seeds, 1000, bootstrap) == pytest.approx(0.95, abs=0.02 + 0.007)


def test_it_is_conservative_where_seeds_and_few_images_vary_alike():
    assert 0.95 < coverage(5, 5, 1) < 0.99


def test_one_seed_says_nothing_of_other_seeds():
    assert coverage(1, 50, 0.5) < 0.6


def test_the_pigeonhole_bootstrap_holds_too_little_with_three_seeds():
    assert coverage(3, 20, 1, 300, pigeonhole) < 0.85
    assert coverage(3, 20, 1, 300) > 0.93


def test_other_seeds_on_each_side():
    """The arms share no seed: both sides' spread over seeds is in the interval."""
    held = []
    for a, b in zip(layouts(3, 40, 0.2, 1500), layouts(3, 40, 0.2, 1500, seed=9), strict=True):
        differences = b.mean(axis=0) - a.mean(axis=0)
        half = clustered_half_width(differences, [a, b])
        held.append(half is not None and abs(differences.mean()) <= half)
    assert 0.93 < np.mean(held) < 0.985


def _main() -> None:
    print('| seeds | images | spread of seeds | interval | skewed images | bootstrap | skewed images | pigeonhole |')
    print('| --- | --- | --- | --- | --- | --- | --- | --- |')
    for seeds in (1, 3, 5):
        for images in (5, 20, 100):
            for of_seeds in (0, 0.1, 0.3, 1) if seeds > 1 else (0,):
                cell = (seeds, images, of_seeds)
                shares = [coverage(*cell, 3000), coverage(*cell, 3000, skewed=True)]
                shares += [coverage(*cell, 1000, bootstrap), coverage(*cell, 1000, bootstrap, skewed=True)]
                shares += [coverage(*cell, 1000, pigeonhole)]
                print('|', ' | '.join([*map(str, cell), *(f'{share:.3f}' for share in shares)]), '|', flush=True)


if __name__ == '__main__':
    _main()
