"""What may be claimed from repeated runs: the statistics keep their promises in simulated sweeps."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import stdtrit

from src.sweeps.store.statistics import (
    compare_with_best,
    compute_expected_best,
    compute_likely_least,
    compute_t_interval,
    compute_wilson_interval,
    count_missing_runs,
    estimate_optimism,
)

SWEEPS = 1000
AT_MOST = 0.05 + 2 * (0.05 * 0.95 / SWEEPS) ** 0.5  # 5%, and two standard errors of counting in so many sweeps
Values = NDArray[np.float64]


def draw_noise(kind: str, generator: np.random.Generator, shape: tuple[int, ...]) -> Values:
    """The noise of runs; the skewed one is that of accuracies near 100%, blocks are seeds that matter much."""
    noise = generator.normal(size=shape)
    if kind == "skewed":
        return -np.exp(0.8 * noise)
    return noise + 2 * generator.normal(size=(1, shape[-1])) if kind == "blocks" else noise


def count_false_claims(kind: str, settings: int, seeds: int, has_blocks: bool, equal: int | None = None) -> float:
    """The fraction of sweeps in which one of the settings that are truly best is told from the best.

    ``equal`` settings are the best, all by default; the others are worse by up to eight standard deviations.
    """
    generator = np.random.default_rng(7)
    equal = settings if equal is None else equal
    worse = np.zeros(settings)
    worse[equal:] = np.linspace(0.5, 8, settings - equal)
    false = 0
    for _ in range(SWEEPS):
        found = compare_with_best(draw_noise(kind, generator, (settings, seeds)) - worse[:, None], has_blocks)
        assert found is not None
        false += not found.tied[:equal].all()
    return false / SWEEPS


@pytest.mark.parametrize("kind", ["normal", "skewed", "blocks"])
@pytest.mark.parametrize(("settings", "seeds"), [(2, 5), (4, 3), (12, 3), (40, 2), (40, 5)])
def test_equal_settings_are_rarely_told_apart(kind: str, settings: int, seeds: int) -> None:
    """Without any effect at most 5% of sweeps claim one."""
    for has_blocks in (True, False):
        assert count_false_claims(kind, settings, seeds, has_blocks) <= AT_MOST


def test_best_of_several_are_rarely_told_apart() -> None:
    """Settings that are truly worse do not lead to more false claims about those that are not."""
    assert count_false_claims("normal", 12, 3, True, equal=4) <= AT_MOST
    assert count_false_claims("skewed", 40, 3, False, equal=10) <= AT_MOST


def test_large_effects_are_found() -> None:
    """A setting that is worse by eight standard deviations is told from the best with three seeds."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(200, 6, 3))
    values[:, 3:] -= 8
    found = [compare_with_best(each, True) for each in values]
    assert np.mean([each is not None and not each.tied[3:].any() for each in found]) > 0.99


def test_pairing_finds_what_seeds_hide() -> None:
    """A difference that is the same for each seed is found if runs are compared by seed, and only then."""
    generator = np.random.default_rng(0)
    values = 5 * generator.normal(size=(1, 5)) + np.array([[0.0], [-1.0], [-2.0]]) + 0.1 * generator.normal(size=(3, 5))
    paired, unpaired = compare_with_best(values, True), compare_with_best(values, False)
    assert paired is not None and unpaired is not None
    assert (paired.tied.tolist(), paired.is_paired) == ([True, False, False], True)
    assert (unpaired.tied.tolist(), unpaired.is_paired) == ([True, True, True], False)


def test_noisy_setting_is_not_told_apart() -> None:
    """The noise of a setting that varies more than the others counts."""
    values = np.array([[1.0, 1.1, 0.9], [1.0, 0.9, 1.1], [1.5, 0.8, -0.8], [1.1, 1.0, 0.9]])
    found = compare_with_best(values, False)
    assert found is not None and found.tied.all()


def test_runs_without_noise_claim_nothing() -> None:
    assert compare_with_best(np.array([[1.0, 1.0], [0.5, 0.5]]), True) is None
    assert compare_with_best(np.array([[1.0], [0.5]]), True) is None


def test_missing_runs_give_the_power() -> None:
    """With the further runs that are asked for, four of five comparisons find the difference."""
    generator = np.random.default_rng(0)
    more = count_missing_runs(np.array([0.0, 1.0]), np.array([2.0, 2.0]), np.array([3, 3]), pairs=1)
    assert np.isnan(more[0]) and more[1] == 14  # 17 in each group, as in the tables of Cohen (1988) for d = 1
    values = generator.normal(size=(2, 4000, 17)) - np.array([0.0, 1.0])[:, None, None]
    pooled = np.sqrt(values.var(axis=-1, ddof=1).sum(axis=0) / 17)
    t = (values[0].mean(axis=-1) - values[1].mean(axis=-1)) / pooled
    assert np.mean(t > stdtrit(32, 0.975)) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("count", [2, 3, 5, 10, 30])
def test_intervals_cover_the_mean(count: int) -> None:
    values = np.random.default_rng(count).normal(size=(4000, count))
    limits = np.array([compute_t_interval(each) for each in values])
    assert 0.93 <= np.mean((limits[:, 0] <= 0) & (limits[:, 1] >= 0)) <= 0.97


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.7, 0.9])
def test_intervals_cover_the_share(rate: float) -> None:
    """For a hundred runs Wilson's intervals cover as stated."""
    solved = np.random.default_rng(0).binomial(100, rate, size=4000)
    covered = [low <= rate <= high for low, high in (compute_wilson_interval(int(each), 100) for each in solved)]
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize(("settings", "seeds", "effect"), [(4, 3, 0.0), (12, 3, 0.0), (12, 5, 0.0), (12, 4, 1.0)])
def test_optimism_matches_the_truth(settings: int, seeds: int, effect: float) -> None:
    """The estimate is right on average: by so much the chosen mean is above the truth."""
    generator = np.random.default_rng(0)
    truth = effect * generator.normal(size=(2000, settings))
    values = truth[..., None] + generator.normal(size=(2000, settings, seeds))
    means = values.mean(axis=-1)
    chosen = np.arange(2000), means.argmax(axis=1)
    estimates = [estimate_optimism(each) for each in values]
    assert np.mean(estimates) == pytest.approx((means[chosen] - truth[chosen]).mean(), abs=0.06 + 0.1 * (effect > 0))


def test_expected_best_is_the_mean_over_choices() -> None:
    """Of 1, 2 and 4 the best of two is 2, 4 or 4; large searches do not overflow."""
    best = compute_expected_best(np.array([4.0, 1.0, 2.0]), np.array([1, 2, 3]))
    np.testing.assert_allclose(best, [7 / 3, 10 / 3, 4])
    uniform = np.linspace(0, 1, 2001)
    np.testing.assert_allclose(compute_expected_best(uniform, np.array([9, 2001])), [0.9, 1], atol=1e-3)


def test_likely_least_is_reached() -> None:
    """The best of k new trials is as good as said in 95% of cases or more, also beyond the trials so far."""
    generator, counts = np.random.default_rng(0), np.array([1, 5, 40, 80])
    reached = np.zeros(4)
    for _ in range(SWEEPS):
        least = compute_likely_least(generator.normal(size=40), counts)
        reached += [generator.normal(size=count).max() >= limit for count, limit in zip(counts, least, strict=True)]
    assert (reached / SWEEPS > 0.935).all()
    assert np.isnan(compute_likely_least(np.arange(10.0), np.array([1]))).all()
