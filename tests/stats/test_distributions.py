"""The distributions that stand in for `scipy.stats` give its values."""

import numpy as np
import pytest
from scipy import stats

from harness.stats.distributions import fair_ppf, sign_test, t_ppf, t_tails


@pytest.mark.parametrize("p", [0.3, 0.025, 0.004, 1e-5])
def test_heads_of_a_fair_coin(p):
    throws = np.arange(3000)
    assert (fair_ppf(p, throws) == np.maximum(stats.binom.ppf(p, throws, 0.5), 0)).all()


@pytest.mark.parametrize("p", [1e-6, 0.025, 0.5, 0.8, 0.975])
def test_quantiles(p):
    assert [t_ppf(p, df) for df in (1, 2, 30)] == pytest.approx(stats.t.ppf(p, [1, 2, 30]), rel=1e-12, abs=1e-12)
    assert t_tails(-2.2, 5) == t_tails(2.2, 5) == pytest.approx(2 * stats.t.sf(2.2, 5), rel=1e-12)


@pytest.mark.parametrize("wins", [0, 1, 7, 90])
@pytest.mark.parametrize("losses", [1, 7, 90, 500])
def test_sign_tests(wins, losses):
    assert sign_test(wins, losses) == pytest.approx(stats.binomtest(wins, wins + losses, 0.5).pvalue, rel=1e-10)
