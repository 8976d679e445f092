"""Simulation-based calibration: its test of uniformity, and back ends that are right, wrong and stuck."""

import numpy as np
import pytest
from scipy import stats

import inference
from diagnostics import calibration, sbc
from inference import fit


def test_p_values_of_uniform_ranks_are_uniform():
    rng = np.random.default_rng(0)
    p = np.array([sbc.uniformity(rng.integers(0, 101, 50), 100) for _ in range(300)])
    for level in (0.01, 0.05, 0.2, 0.5):
        share, error = np.mean(p <= level), np.sqrt(level * (1 - level) / 300)
        assert level - 4 * error < share < level + 3.3 * error


def test_p_value_is_that_of_counting_every_outcome():
    # three ranks on 0..8 with looks at 4 and 8: by brute force over the 9^3 outcomes
    every = np.array(np.meshgrid(*[np.arange(9)] * 3)).reshape(3, -1).T

    def statistic(ranks):
        found = []
        for edge in (4, 8):
            below = np.sum(ranks < edge, axis=-1)
            law = stats.binom(3, edge / 9)
            found.append(2 * np.minimum(law.cdf(below), law.sf(below - 1)))
        return np.minimum(*found)

    for ranks in ([0, 1, 2], [0, 5, 8], [8, 8, 8], [3, 3, 4]):
        expected = np.mean(statistic(every) <= statistic(np.array(ranks)) * (1 + 1e-9))
        np.testing.assert_allclose(sbc.uniformity(np.array(ranks), 8), expected, rtol=1e-10)


@pytest.mark.parametrize("power", [0.8, 1.25])
def test_ranks_of_a_wrong_location_have_small_p(power):
    u = np.random.default_rng(1).uniform(size=1000) ** power
    assert sbc.uniformity(np.floor(101 * u).astype(int), 100) < 1e-3


def test_ranks_of_a_spread_too_small_have_small_p():
    u = stats.norm.cdf(np.random.default_rng(2).normal(0, 1.25, 1000))
    assert sbc.uniformity(np.floor(101 * u).astype(int), 100) < 1e-3


@pytest.mark.parametrize("backend", [pytest.param("gibbs", marks=pytest.mark.slow), "enumeration"])
def test_a_right_back_end_passes(backend):
    model = calibration.wide("bento")
    result = sbc.sbc(model, backend, 1, num_datasets=40, level=0.001)
    assert result.verdict == "passed", result
    assert len(result.names) == sbc.num_quantities(model) == len(result.p) == 9


@pytest.mark.slow
def test_an_unknown_number_of_components_is_ranked_and_one_that_never_changes_fails(monkeypatch):
    model = calibration.wide("galaxy_finite_mixtures", num_components=3)
    result = sbc.sbc(model, "gibbs", 0, num_datasets=20, level=0.001)
    assert result.verdict == "passed" and "extra" in result.names, result
    assert len(result.names) == sbc.num_quantities(model)
    fixed = lambda draws: draws._replace(params=draws.params | {"extra": 0 * draws.params["extra"] + 2})
    only(monkeypatch, fixed)
    result = sbc.sbc(model, "gibbs", 0, num_datasets=40, level=1e-4)
    assert result.p[result.names.index("extra")] < 1e-4, result


def only(monkeypatch, change):
    """Every result of `fit` changed: `change(draws)`."""
    monkeypatch.setattr(inference, "fit", lambda *args, **settings: change(fit(*args, **settings)))


def test_draws_too_narrow_fail(monkeypatch):
    def narrow(draws):
        centre = draws.params["means"].mean(axis=(0, 1))
        return draws._replace(params={"means": centre + 0.5 * (draws.params["means"] - centre)})

    only(monkeypatch, narrow)
    result = sbc.sbc(calibration.wide("bento"), "gibbs", 1, num_datasets=40)
    assert result.verdict == "FAILED" and result.worst[1] < 1e-4


def test_assignments_that_ignore_the_parameters_fail(monkeypatch):
    def uniform(draws):
        z = np.random.default_rng(0).integers(0, 2, draws.assignments.shape)
        return draws._replace(assignments=z)

    only(monkeypatch, uniform)
    result = sbc.sbc(calibration.wide("bento"), "gibbs", 1, num_datasets=40)
    assert result.verdict == "FAILED" and result.worst[0] == "log joint"


def test_chains_that_do_not_mix_are_dropped_and_nothing_is_established(monkeypatch):
    def stuck(draws):
        return draws._replace(params={"means": np.repeat(draws.params["means"][:, :1], 250, axis=1)})

    only(monkeypatch, stuck)
    result = sbc.sbc(calibration.wide("bento"), "gibbs", 1, num_datasets=5)
    assert result.num_dropped == 5 and result.verdict == "not established"


@pytest.mark.parametrize("error", [0.01, np.nan])
def test_a_conjugate_draw_that_was_mended_fails(monkeypatch, error):
    def mended(draws):
        return draws._replace(stats=draws.stats | {"conjugacy_error": np.full_like(draws.stats["lp"], error)})

    only(monkeypatch, mended)
    assert sbc.sbc(calibration.wide("bento"), "gibbs", 1, num_datasets=3).verdict == "FAILED"


def test_dropping_never_sees_the_generating_values():
    model = calibration.wide("bento")
    x = calibration.example(model, 10)
    draws = fit(model, "gibbs", x, **sbc.SHORT)
    thinned, left = sbc.independent(model, draws, True, x, np.random.default_rng(0))
    assert all(f.size == sbc.NUM_RANKED for f in thinned.values()) and np.abs(left).max() < 0.15
