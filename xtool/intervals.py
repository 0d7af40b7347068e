"""Intervals: Student's t from its closed form, so that no number stands without its spread.

The distribution function for whole degrees of freedom is the finite series of Abramowitz and
Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4; beyond 200 degrees the
expansion 26.7.8 is closer than 1e-6.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean, stdev

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval over `n` independent values; no interval for one value."""

    value: float
    low: float | None
    high: float | None
    n: int


def two_sided(t: float, df: int) -> float:
    """The probability that |T| is below `t` >= 0 with `df` >= 1 degrees of freedom."""
    if df > 200:
        z = t * (1 - 1 / (4 * df)) / math.sqrt(1 + t * t / (2 * df))
        return 2 * NormalDist().cdf(z) - 1
    theta = math.atan(t / math.sqrt(df))
    cosine = math.cos(theta)
    if df == 1:
        return 2 * theta / math.pi
    term = cosine if df % 2 else 1.0
    total, first = 0.0, 1 if df % 2 else 0
    for k in range(first, df - 1, 2):
        total += term
        term *= cosine * cosine * (k + 1) / (k + 2)
    if df % 2:
        return 2 / math.pi * (theta + math.sin(theta) * total)
    return math.sin(theta) * total


@lru_cache
def critical(df: int) -> float:
    """The t that holds 95 % of the mass between -t and t."""
    low, high = 0.0, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, df) < LEVEL else (low, middle)
    return high


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and t interval of independent values (seeds, or examples).

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to average")
    mean, n = fmean(values), len(values)
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = critical(n - 1) * stdev(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of `n`, which does not vanish at 0 or 1."""
    z = critical(10**6)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def p_value(differences: Sequence[float]) -> float:
    """The two-sided paired t test: how often a difference this large comes by chance alone.

    Never below 1e-6, where the expansion for many values is no longer exact.
    """
    n = len(differences)
    if n < 2:
        return 1.0
    mean, spread = fmean(differences), stdev(differences)
    if spread == 0:
        return 1.0 if mean == 0 else 1e-6
    return max(1e-6, 1 - two_sided(abs(mean) / (spread / math.sqrt(n)), n - 1))
