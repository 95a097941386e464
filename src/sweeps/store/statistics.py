"""Statistics of repeated runs, as functions of arrays that can be read next to a textbook.

Only SciPy's special functions are imported, which takes a tenth of the time of ``scipy.stats``.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtri, stdtr, stdtrit

ALPHA = 0.05  # an interval misses, and a comparison errs, in at most this fraction of cases
POWER = 0.8  # the fraction of repetitions in which a difference of the size seen should be found
Array = NDArray[np.float64]


# Intervals


def compute_t_interval(values: Array) -> tuple[float, float]:
    """Return Student's 95% interval of the mean of at least two values (n,).

    It covers as stated from two values on, where bootstraps of so few values are too narrow.
    """
    count, mean = len(values), float(values.mean())
    variance = float(((values - mean) ** 2).sum()) / (count - 1)
    reach = float(stdtrit(count - 1, 1 - ALPHA / 2)) * math.sqrt(variance / count)
    return mean - reach, mean + reach


def compute_wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share (1927), for ``successes`` of ``trials``; both limits lie in [0, 1]."""
    z, rate = float(ndtri(1 - ALPHA / 2)), successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - reach), min(1.0, centre + reach)


# Comparisons with the best


class Comparison(NamedTuple):
    """What repeated runs say about which setting is best.

    Attributes:
        tied: (k,) True for each setting that cannot be told from the best.
        more: (k,) the runs that each of these settings and the best would need in addition to be told apart, if their
            true difference is the one seen; infinite without a difference, NaN for the best and for the other settings.
        is_paired: True if the last comparison was made within blocks.
    """

    tied: NDArray[np.bool_]
    more: Array
    is_paired: bool


def compare_with_best(values: Array, has_blocks: bool) -> Comparison | None:
    """Find the settings that cannot be told from the best at 5%.

    The best was picked by its mean, so that any pair could have come to be compared: the p-values are corrected for the
    number of pairs. The settings that are told apart are taken out and the others compared anew, with their own noise
    and number of pairs, until none is told apart (step by step, as by Holm, 1979). Of settings that are truly equal,
    one or more is taken out in at most 5% of cases.

    Args:
        values: (k, n) a row for each setting, higher is better; NaN where there is no run.
        has_blocks: True if columns are blocks (a seed or a fold), which affect all rows alike.

    Returns:
        The comparison; ``None`` if there is no noise to compare with: too few runs, or runs that are all alike.
    """
    left, is_paired = np.flatnonzero(~np.isnan(values).all(axis=1)), False
    while True:
        seen = values[left]
        behind, noise, freedom, paired = _compare_to_best_mean(seen, has_blocks)
        is_paired = paired if len(left) > 1 else is_paired
        if freedom < 1 or not noise.max() > 0:
            return None
        pairs = max(1, len(left) * (len(left) - 1) // 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            differs = 2 * stdtr(freedom, -behind / np.sqrt(noise)) * pairs <= ALPHA
        if not differs.any():
            break
        left = left[~differs]
    tied, more = np.zeros(len(values), bool), np.full(len(values), np.nan)
    tied[left] = True
    runs = (~np.isnan(seen)).sum(axis=1)
    more[left] = count_missing_runs(behind, noise * runs, runs, pairs)
    return Comparison(tied, more, is_paired)


def _compare_to_best_mean(values: Array, has_blocks: bool) -> tuple[Array, Array, int, bool]:
    """Compare the mean of each row to that of the best row.

    The noise of a row is that of all rows together, as for a few runs its own one may be small by chance; if its own is
    larger, it is taken, as some settings are noisier than others.

    Returns:
        By how much the means are behind, the variance of these differences, its degrees of freedom, and True if the
        comparison is paired: rows have the same blocks, whose effect is taken out.
    """
    used = values[:, ~np.isnan(values).all(axis=0)]
    rows, columns = used.shape
    runs, means = (~np.isnan(used)).sum(axis=1), np.nanmean(used, axis=1)
    residuals = used - means[:, None]
    is_paired = has_blocks and rows > 1 and not np.isnan(used).any()
    if is_paired:
        residuals = (residuals - residuals.mean(axis=0)) * math.sqrt(rows / (rows - 1))
    squares = np.nansum(residuals**2, axis=1)
    freedom = (rows - 1) * (columns - 1) if is_paired else int((runs - 1).sum())
    shared = squares.sum() / max(1, (runs - 1).sum())
    noise = np.maximum(squares / np.maximum(1, runs - 1), shared) / runs
    best = int(np.argmax(means))
    return means[best] - means, noise + noise[best], freedom, is_paired


def count_missing_runs(behind: Array, variance: Array, runs: NDArray[np.int_], pairs: int) -> Array:
    """Return how many more runs a comparison needs to find a difference with a probability of 80% (power).

    Args:
        behind: (k,) the true differences.
        variance: (k,) the variance of a difference of two single runs.
        runs: (k,) the runs so far.
        pairs: the number of comparisons that the p-values are corrected for.

    Returns:
        (k,) whole numbers from 1; infinite for no difference, NaN for the best. They follow from the normal
        distribution with Guenther's correction for Student's (1981).
    """
    z = ndtri(1 - ALPHA / (2 * pairs))
    with np.errstate(divide="ignore"):
        needed = variance * ((z + ndtri(POWER)) / behind) ** 2 + z**2 / 4
    more = np.maximum(1, np.ceil(needed - runs))
    more[np.argmin(behind)] = np.nan
    return more


# The value of a best


def estimate_optimism(values: Array) -> float:
    """Return by how much the mean of the best setting is too good because it was chosen as the best.

    Each run in turn is left out: the others choose, and the run that was left out of the chosen setting is compared
    with their mean. With one run less the noise is larger, by a factor that is taken out.

    Args:
        values: (k, n) a row for each setting, higher is better; n from 2.
    """
    runs = values.shape[1]
    others = (values.sum(axis=1, keepdims=True) - values) / (runs - 1)
    chosen = others.argmax(axis=0), np.arange(runs)
    if len(set(chosen[0])) == 1:
        return 0.0  # up to rounding
    return float((others[chosen] - values[chosen]).mean() * math.sqrt((runs - 1) / runs))


def compute_expected_best(values: Array, counts: NDArray[np.int_]) -> Array:
    """Return the expected highest value of k trials, for each k of ``counts``, from those of n ≥ k random trials.

    It is the mean over all choices of k of the n trials, which has no bias (Dodge et al., 2019, in the form of Tang et
    al., 2020, without repetition).

    Args:
        values: (…, n) the trials' values.
        counts: (m,) from 1 to n.

    Returns:
        (…, m) the expected values.
    """
    total = values.shape[-1]
    rank, k = np.arange(1, total + 1)[:, None], counts[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.exp(_log_binomial(rank - 1, k - 1) - _log_binomial(total, k))  # (n, m)
    return np.sort(values, axis=-1) @ np.where(rank >= k, weights, 0.0)


def compute_likely_least(values: Array, counts: NDArray[np.int_]) -> Array:
    """Return the value that the best of k further random trials reaches in 95% of cases, whatever they are drawn from.

    It is the highest of the sorted values x_i for which P(best of k < x_i) = E[U_i^k] is at most 5%, where U_i, the
    share of trials below it, follows Beta(i, n + 1 - i).

    Args:
        values: (n,) those of the trials so far.
        counts: (m,) from 1.

    Returns:
        (m,) the values; NaN where n is too small to tell.
    """
    total = len(values)
    rank, k = np.arange(1, total + 1)[:, None], counts[None]
    log_miss = gammaln(rank + k) - gammaln(rank) + gammaln(total + 1) - gammaln(total + k + 1)
    index = (log_miss <= math.log(ALPHA)).sum(axis=0)
    return np.where(index > 0, np.sort(values)[index - 1], np.nan)


def _log_binomial(n: NDArray[np.int_] | int, k: NDArray[np.int_]) -> Array:
    return np.asarray(gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0))
