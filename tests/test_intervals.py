import pytest

from xtool.intervals import critical, estimate, p_value, two_sided

# Student's t, two-sided 95 %, from any printed table.
TABLE = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 30: 2.0423, 120: 1.9799}


@pytest.mark.parametrize("df", TABLE)
def test_critical_values_are_those_of_the_printed_table(df: int) -> None:
    assert critical(df) == pytest.approx(TABLE[df], abs=1e-4)


def test_the_expansion_for_many_degrees_joins_the_series() -> None:
    assert two_sided(2.0, 201) == pytest.approx(two_sided(2.0, 200), abs=5e-6)
    assert critical(10**6) == pytest.approx(1.95996, abs=1e-4)


def test_an_interval_is_centred_and_shrinks_with_more_values() -> None:
    few, many = estimate([1.0, 2.0, 3.0]), estimate([1.0, 2.0, 3.0] * 10)
    assert few.value == many.value == 2.0
    assert few.low == pytest.approx(2 - 4.30265 / 3**0.5, abs=1e-4)
    assert many.high - many.low < few.high - few.low  # type: ignore[operator]


def test_one_value_has_no_interval() -> None:
    assert estimate([3.0]).low is None


def test_the_p_value_of_a_paired_difference() -> None:
    # t = 2 / (1 / sqrt(3)) = 3.4641 with 2 degrees of freedom: p = 0.07418.
    assert p_value([1.0, 2.0, 3.0]) == pytest.approx(0.07418, abs=1e-5)
    assert p_value([0.0, 0.0]) == 1.0
    assert p_value([1.0, 1.0]) == 1e-6, "the least value: that a sample has no spread proves little"
