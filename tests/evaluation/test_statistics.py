import numpy as np
import pytest
import scipy.stats

from sptsr.evaluation.statistics import (
    bootstrap_interval,
    clustered_half_width,
    compare_paired,
    half_width,
    holm,
    sign_flip,
)


def _differences(count: int, seed: int = 0, shift: float = 0.2) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, count)


def test_half_widths():
    # t_{4, 0.975} = 2.776445; s of 1..5 = sqrt(2.5)
    assert half_width([1, 2, 3, 4, 5]) == pytest.approx(2.776445 * 2.5**0.5 / 5**0.5, rel=1e-6)
    assert half_width([3.0]) is None
    assert half_width([1.0, float('inf')]) is None
    assert half_width([1.0, float('nan')]) is None


@pytest.mark.parametrize('count', [2, 5, 14, 16])
def test_exact_sign_flips_are_scipys(count):
    values = _differences(count)
    expected = scipy.stats.permutation_test(
        (values,), np.mean, permutation_type='samples', n_resamples=np.inf, vectorized=True, batch=1 << 12
    )
    assert sign_flip(values) == (pytest.approx(expected.pvalue, abs=1e-12), True)


@pytest.mark.parametrize('count', [6, 13])
def test_sign_flips_of_ranks_are_wilcoxons_test(count):
    values = _differences(count, seed=2)
    ranks = scipy.stats.rankdata(np.abs(values)) * np.sign(values)
    expected = scipy.stats.wilcoxon(values, method='exact').pvalue
    assert sign_flip(ranks)[0] == pytest.approx(expected, abs=1e-12)


def test_random_sign_flips_come_near_scipys_and_are_the_same_every_time():
    values = _differences(60, shift=0.25)
    p, exact = sign_flip(values)
    assert not exact
    expected = scipy.stats.permutation_test(
        (values,), np.mean, permutation_type='samples', n_resamples=99_999, vectorized=True, rng=1
    ).pvalue
    # two Monte-Carlo estimates: within four standard errors of their difference
    assert abs(p - expected) < 4 * (2 * p * (1 - p) / 99_999) ** 0.5
    assert sign_flip(values)[0] == p


def test_sign_flips_at_the_ends():
    assert sign_flip(np.zeros(7)) == (1.0, True)
    assert sign_flip(np.ones(5)) == (2 / 2**5, True)
    assert sign_flip(np.ones(20)) == (2 / 2**20, True)
    assert not sign_flip(np.ones(21))[1]
    # with no effect at all, a p of at most 0.05 comes up in at most 5 % of experiments
    small = [sign_flip(_differences(8, seed, shift=0))[0] <= 0.05 for seed in range(2000)]
    assert 0.03 < np.mean(small) < 0.06


def test_one_run_a_side_is_the_paired_t_test():
    generator = np.random.default_rng(4)
    a = generator.normal(30, 3, (1, 12))
    b = a + generator.normal(0.1, 0.2, (1, 12))
    figures = compare_paired(a, b, same_seeds=False)
    expected = scipy.stats.ttest_rel(b[0], a[0]).confidence_interval()
    assert figures.interval == pytest.approx((expected.low, expected.high))
    assert figures.seeds_of == ()
    assert figures.difference == pytest.approx(figures.mean_b - figures.mean_a)
    assert figures.better == int((b > a).sum())


def test_where_only_seeds_vary_it_is_the_t_test_over_seeds():
    effects = np.random.default_rng(5).normal(0.2, 1, 4)
    layout = np.repeat(effects[:, None], 9, axis=1)  # every image gains the same
    figures = compare_paired(np.zeros((4, 9)), layout, same_seeds=True)
    expected = scipy.stats.ttest_1samp(effects, 0).confidence_interval()
    assert figures.interval == pytest.approx((expected.low, expected.high))
    assert figures.seeds_of == ('A', 'B')


def test_where_only_seeds_vary_other_seeds_on_each_side_give_welchs_test():
    generator = np.random.default_rng(6)
    a, b = generator.normal(0, 1, 4), generator.normal(0, 1, 4)
    figures = compare_paired(np.repeat(a[:, None], 7, axis=1), np.repeat(b[:, None], 7, axis=1), same_seeds=False)
    assert figures.seeds_of == ('A', 'B')
    welch = scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert figures.interval == pytest.approx((welch.low, welch.high))


def test_seeds_that_differ_widen_the_interval_and_equal_ones_do_not():
    differences = _differences(30)
    rest = np.random.default_rng(7).normal(0, 0.1, (3, 30))
    shift = np.array([[-0.4], [0.0], [0.4]])
    wide, narrow = (clustered_half_width(differences, [differences + rest + by * shift]) for by in (1, 0))
    alone = clustered_half_width(differences, [])
    assert wide is not None
    assert narrow is not None
    assert wide > 1.5 * narrow
    assert narrow == pytest.approx(alone, rel=0.1)


def test_one_image_has_no_interval_and_direction_counts():
    single = compare_paired(np.ones((3, 1)), np.zeros((3, 1)), same_seeds=True)
    assert single.interval is None
    figures = compare_paired(np.array([[3.0, 4.0, 5.0]]), np.array([[2.0, 4.0, 6.0]]), False, higher_is_better=False)
    assert (figures.better, figures.equal) == (1, 1)
    with pytest.raises(ValueError, match='cannot be paired'):
        compare_paired(np.ones((2, 3)), np.ones((3, 3)), same_seeds=True)


def test_holm_is_the_step_down_of_the_paper():
    # worked by hand: 4 * .005, 3 * .01, max(2 * .03, before), max(.04, before)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_bootstrap_of_images_is_scipys_but_for_its_width():
    values = np.random.default_rng(8).exponential(size=30)
    expected = scipy.stats.bootstrap((values,), np.mean, n_resamples=99_999, method='percentile', rng=1)
    widening = (30 / 29) ** 0.5 * scipy.stats.t.ppf(0.975, 29) / scipy.stats.norm.ppf(0.975)
    low, high = (
        values.mean() + widening * (end - values.mean())
        for end in (expected.confidence_interval.low, expected.confidence_interval.high)
    )
    found = bootstrap_interval(values, [])
    assert found == pytest.approx((low, high), abs=0.03 * (high - low))  # both are random
    assert found[1] - values.mean() > 1.02 * (values.mean() - found[0])  # it sees that the values are skewed
    assert bootstrap_interval(values, []) == found
    assert bootstrap_interval(values[:1], []) is None


def test_the_bootstrap_of_seeds_alone_is_of_the_width_of_students_interval():
    layout = np.random.default_rng(9).normal(size=(20, 1)) + np.zeros((1, 6))
    half = clustered_half_width(layout.mean(axis=0), [layout])
    low, high = bootstrap_interval(layout.mean(axis=0), [layout])
    assert high - low == pytest.approx(2 * half, rel=0.05)
