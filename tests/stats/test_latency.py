import numpy as np
import pytest
from scipy import stats

from harness.stats import mann_whitney, paired_ratio, percentiles, tpot_s
from harness.stats.paired import resample_blocks, resampled_quantiles


def seconds(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(0, 0.4, n)


def test_quantiles_are_numpys() -> None:
    raw = seconds(400)
    seen = percentiles(raw)
    assert [seen.median.value, seen.p90.value, seen.p99.value] == pytest.approx(np.quantile(raw, [0.5, 0.9, 0.99]))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [101, 400])
def test_quantiles_resample_like_drawing_every_value(share: float, n: int) -> None:
    raw = seconds(n)
    drawn = np.random.default_rng(7)
    plain = np.quantile(raw[drawn.integers(0, n, (4000, n))], share, axis=1)
    quick = resampled_quantiles(raw, share, seed=0)
    assert stats.ks_2samp(plain, quick).statistic < 0.04


@pytest.mark.parametrize("n", [1, 2])
def test_resampling_the_fewest_values_stays_among_them(n: int) -> None:
    draws = resampled_quantiles(np.array([1.0, 3.0][:n]), 0.99, seed=0)
    assert draws.min() >= 1
    assert draws.max() <= 3


@pytest.mark.parametrize(("n", "bounded"), [(1, []), (5, []), (6, ["median"]), (36, ["median", "p90"])])
def test_too_few_values_give_no_interval(n: int, bounded: list[str]) -> None:
    seen = percentiles(seconds(n))
    assert [name for name in ("median", "p90", "p99") if getattr(seen, name).interval] == bounded


def test_p99_is_bounded_from_368_values() -> None:
    assert percentiles(seconds(367)).p99.interval is None
    assert percentiles(seconds(368)).p99.interval is not None


def test_median_intervals_cover_the_truth() -> None:
    hits = [percentiles(seconds(100, seed), resamples=1000).median.interval for seed in range(600)]
    assert 0.92 <= np.mean([interval is not None and interval.covers(1.0) for interval in hits]) <= 0.98


def test_same_seed_same_numbers() -> None:
    raw, other = seconds(50), seconds(50, 1)
    assert percentiles(raw, seed=3) == percentiles(raw, seed=3)
    assert paired_ratio(raw, other, seed=3) == paired_ratio(raw, other, seed=3)
    assert paired_ratio(raw, other, seed=3) != paired_ratio(raw, other, seed=4)


def test_a_constant_factor_is_found_exactly() -> None:
    raw = seconds(80)
    seen = paired_ratio(1.5 * raw, raw)
    for estimate in (seen.ratio_of_medians, seen.median_of_ratios):
        assert estimate.value == pytest.approx(1.5)
        assert estimate.interval is not None
        assert (estimate.interval.low, estimate.interval.high) == pytest.approx((1.5, 1.5))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, np.nan], [1.0, 1.0], "1 of 2 are NaN"),
        ([1.0, 0.0], [1.0, 1.0], "1 of 2 are not above zero"),
        ([1.0], [1.0, 2.0], "1 values against 2"),
        ([], [], "non-empty"),
    ],
)
def test_bad_seconds_are_refused(a: list[float], b: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_ratio(a, b)


def test_nan_latencies_are_counted_and_refused() -> None:
    with pytest.raises(ValueError, match="2 of 3"):
        percentiles([np.nan, 1.0, np.inf])


def test_rank_test() -> None:
    a, b = seconds(30), 2 * seconds(40, 1)
    seen = mann_whitney(a, b)
    assert seen.p_value == pytest.approx(stats.mannwhitneyu(a, b).pvalue, abs=1e-12)
    assert seen.superiority == pytest.approx(np.mean(a[:, None] > b[None, :]), abs=1e-12)


def test_time_per_token() -> None:
    assert tpot_s(2.0, 0.5, 4) == pytest.approx(0.5)
    assert tpot_s(2.0, 0.5, 1) is None
    assert tpot_s(2.0, 0.5, 0) is None


@pytest.mark.parametrize(("latency_s", "ttft_s"), [(1.0, 2.0), (float("nan"), 0.1), (1.0, float("nan")), (1.0, -0.1)])
def test_impossible_times_are_refused(latency_s: float, ttft_s: float) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        tpot_s(latency_s, ttft_s, 5)


def test_blocks_bound_memory_and_add_up() -> None:
    sizes = list(resample_blocks(10_000, 6_000))
    assert sum(sizes) == 10_000
    assert max(sizes) * 6_000 <= 2_000_000
