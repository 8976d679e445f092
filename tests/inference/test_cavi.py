"""Coordinate ascent: closed forms, textbook ELBO, bound of the exact evidence, warnings and refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import optimize, stats
from scipy.special import digamma, gammaln, logsumexp

from diagnostics import compare, report_tables
from diagnostics.truth import stored
from inference import Refused, cavi, expected, fit
from tests.inference.test_conjugate_gamma import MODELS as GAMMA
from tests.inference.test_conjugate_gamma import RATE, SHAPE, X
from zoo import MODELS
from zoo.models.bento import bento_full

KEY = jax.random.key(5)
# overlapping components, constants of one size with the data
FULL = bento_full(concentration=(1.5, 1.5), prior_mean=0.5, prior_sd=2.0, variance_shape=2.5, variance_scale=1.5)
FEW = np.array([-1.2, 0.3, 1.9, 0.8, 3.1, -0.4])


@functools.cache
def best(model, values=None):
    x = jnp.asarray(model.data.x if values is None else values, float)
    return cavi._best(model, x, KEY, 16, 2000, 1e-10, None)[0]


def test_where_assignments_are_certain_q_is_the_conjugate_posterior_and_the_bound_lacks_only_the_labellings():
    model, found = MODELS["bento"], best(MODELS["bento"])
    heavy, light = np.argsort(-found.q["means"].loc)
    for k, x in ((heavy, model.data.x[model.data.x > 425]), (light, model.data.x[model.data.x < 425])):
        precision = 1 / 50**2 + len(x) / 2**2
        np.testing.assert_allclose(found.q["means"].loc[k], (400 / 50**2 + x.sum() / 2**2) / precision, rtol=1e-12)
        np.testing.assert_allclose(found.q["means"].scale[k], precision**-0.5, rtol=1e-12)
    truth = stored("bento")["bento.log_evidence"]["value"]
    assert abs(found.elbo + np.log(2) - truth) < 1e-9


def test_the_elbo_is_below_the_stored_log_evidence():
    coffee = stored("coffee")["coffee.log_evidence"]["value"]
    bento_425 = stored("bento425")["bento425.evidence_and_ordered_means"]["value"]["log_evidence"]
    assert coffee - 0.1 < best(MODELS["coffee"]).elbo < coffee  # the labelling of q has .956 of the mass
    assert best(MODELS["bento_425"]).elbo < bento_425 - np.log(2) + 1e-9  # two labellings, apart from each other


@pytest.mark.slow
def test_the_elbo_with_everything_unknown_is_below_the_enumerated_log_evidence():
    assert best(FULL, tuple(FEW)).elbo < fit(FULL, "enumeration", FEW).log_evidence


# -- against the textbook -------------------------------------------------------------------------------------------


def gamma_kl(a, b, a0, b0):
    return (a - a0) * digamma(a) - gammaln(a) + gammaln(a0) + a0 * np.log(b / b0) + a * (b0 / b - 1)


def textbook_elbo(m, v, a, b, alpha, x):
    """Bishop 2006, section 10.2, for FULL, with every r_n at its optimum; no code of the package."""
    e_log_tau, e_tau = digamma(a) - np.log(b), a / b
    expected = digamma(alpha) - digamma(alpha.sum()) - np.log(2 * np.pi) / 2 + e_log_tau / 2
    table = expected - e_tau * ((x[:, None] - m) ** 2 + v) / 2
    kl = ((v + (m - 0.5) ** 2) / 4 - 1 + np.log(4 / v)).sum() / 2 + gamma_kl(a, b, 2.5, 1.5).sum()
    kl += gammaln(alpha.sum()) - gammaln(alpha).sum() - gammaln(3.0) + 2 * gammaln(1.5)
    kl += ((alpha - 1.5) * (digamma(alpha) - digamma(alpha.sum()))).sum()
    return logsumexp(table, axis=1).sum() - kl


def test_the_elbo_is_the_textbook_one_and_no_neighbour_has_a_higher():
    found = best(FULL, tuple(FEW))
    q = found.q
    at = [q["means"].loc, q["means"].scale ** 2, q["variances"].concentration, q["variances"].rate]
    at = np.concatenate([np.asarray(leaf) for leaf in (*at, q["weights"].concentration)])
    assert abs(textbook_elbo(*at.reshape(5, 2), FEW) - found.elbo) < 1e-10
    moved = lambda u: -textbook_elbo(*np.concatenate([u[:2], np.exp(u[2:])]).reshape(5, 2), FEW)
    climbed = optimize.minimize(moved, np.concatenate([at[:2], np.log(at[2:])]), method="BFGS")
    assert -climbed.fun < found.elbo + 1e-7


@pytest.mark.parametrize("name", ["InverseGamma variance", "Gamma precision"])
def test_spreads_of_one_shape_for_all_columns_count_in_every_column(name):
    law = dist.InverseGamma if name.startswith("Inverse") else dist.Gamma
    rates = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    excess = lambda shape: expected.FAMILIES[name].excess(law(shape, rates), {})
    each = digamma(4.0) - np.log(4.0)  # of every column
    np.testing.assert_allclose(excess(jnp.full((2, 1), 4.0)), np.full((2, 3), each / 2), rtol=1e-12)
    np.testing.assert_allclose(excess(jnp.full((2, 3), 4.0)), np.full((2, 3), each / 2), rtol=1e-12)


def log_joint(name, rates, z, x):
    draw = {
        "poisson": lambda r: stats.poisson(r).logpmf(x),
        "exponential": lambda r: stats.expon(scale=1 / r).logpdf(x),
        "precision": lambda r: stats.norm(3.0, r**-0.5).logpdf(x),
    }[name]
    given = draw(rates[np.arange(len(rates))[:, None], z])
    return stats.gamma(SHAPE, scale=1 / RATE).logpdf(rates).sum(-1) + (np.log(0.5) + given).sum(-1)


@pytest.mark.parametrize("name", GAMMA)
def test_the_elbo_of_gamma_models_is_the_average_over_q_and_below_the_evidence(name):
    x = np.array(X[name])
    found = best(GAMMA[name], tuple(X[name]))
    rng, q = np.random.default_rng(0), stats.gamma(found.q["rates"].concentration, scale=1 / found.q["rates"].rate)
    rates = q.rvs((20_000, 2), random_state=rng)
    z = (rng.random((20_000, len(x))) > np.exp(found.r[:, 0])).astype(int)
    log_q = q.logpdf(rates).sum(-1) + found.r[np.arange(len(x)), z].sum(-1)
    each = log_joint(name, rates, z, x) - log_q
    assert abs(each.mean() - found.elbo) < 4 * each.std() / np.sqrt(20_000)
    prior = stats.gamma(SHAPE, scale=1 / RATE).rvs((200_000, 2), random_state=rng)
    every = np.array(np.meshgrid(*[[0, 1]] * len(x))).reshape(len(x), -1).T
    flat = stats.gamma(SHAPE, scale=1 / RATE).logpdf(prior).sum(-1)
    likelihood = sum(np.exp(log_joint(name, prior, np.tile(z, (len(prior), 1)), x) - flat) for z in every)
    evidence, error = likelihood.mean(), likelihood.std() / np.sqrt(len(prior))
    assert np.exp(found.elbo) < evidence + 4 * error
    assert np.exp(found.elbo) > 0.5 * evidence


# -- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_draws_have_the_moments_of_q_and_assignments_are_independent_of_the_parameters():
    found = best(FULL, tuple(FEW))
    draws = fit(FULL, "cavi", FEW, seed=2, permute=False, tolerance=1e-10)
    low = np.argsort(draws.params["means"].mean((0, 1)))
    order = np.argsort(found.q["means"].loc)
    for site in ("means", "variances", "weights"):
        leaf = draws.params[site].reshape(-1, 2)[:, low]
        error = leaf.std(0) / np.sqrt(len(leaf))
        assert np.all(np.abs(leaf.mean(0) - np.asarray(found.q[site].mean)[order]) < 5 * error)
    in_high = (draws.assignments == low[1]).reshape(-1, len(FEW))
    p = np.exp(found.r[:, order[1]])
    assert np.all(np.abs(in_high.mean(0) - p) < 5 * np.sqrt(p * (1 - p) / len(in_high)) + 1e-6)
    correlation = np.corrcoef(draws.params["means"].reshape(-1, 2)[:, low[1]], in_high[:, 3])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(len(in_high))


def test_an_exchangeable_model_has_draws_in_every_labelling_and_one_with_labels_in_one():
    means = fit(MODELS["bento"], "cavi", seed=1).params["means"]
    share = (means[..., 0] > means[..., 1]).mean()
    assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(4000)
    coffee = fit(MODELS["coffee"], "cavi", seed=1).params["means"]
    assert (np.diff(coffee, axis=-1) > 0).all()


def test_a_rule_that_does_not_fit_the_model_is_reported(monkeypatch):
    wrong = expected.FAMILIES["Normal mean"]._replace(excess=lambda q, _: 0.0 * q.loc)
    monkeypatch.setitem(expected.FAMILIES, "Normal mean", wrong)
    cavi.build.cache_clear()
    try:
        said = " ".join(fit(MODELS["bento"], "cavi", seed=1).warnings)
    finally:
        cavi.build.cache_clear()
    assert "a conjugate rule does not fit the joint density; do not trust this result" in said


def test_ctrl_c_keeps_the_restarts_that_had_ended(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    part = fit(MODELS["bento"], "cavi", seed=1, progress=stop)
    assert part.interrupted and part.warnings[0] == "interrupted: only 4 of 32 restarts had ended"
    assert part.params["means"].shape == (4, 1000, 2)
    np.testing.assert_array_equal(
        part.params["means"], fit(MODELS["bento"], "cavi", seed=1, num_restarts=4).params["means"]
    )
    monkeypatch.setattr(cavi.loop, "compiled", stop)
    with pytest.raises(KeyboardInterrupt, match="before a restart had ended: nothing is kept"):
        fit(MODELS["bento"], "cavi", seed=1)


def test_it_says_that_it_approximates_and_what_is_wrong_with_a_run():
    draws = fit(FULL, "cavi", FEW, seed=1, permute=False, max_steps=2)
    assert draws.warnings[0].startswith("draws from an approximation of the posterior (mean field)")
    assert any("had not converged after 2 steps" in said for said in draws.warnings)
    assert draws.log_evidence is None and np.ptp(draws.stats["elbo"]) == 0


def test_a_model_with_a_site_that_is_not_conjugate_is_refused_by_the_name_of_the_site():
    with pytest.raises(Refused, match="no coordinate-ascent update is built for scales"):
        fit(MODELS["three_gaussians"], "cavi")


@pytest.mark.slow
def test_a_comparison_shows_the_bound_and_how_much_too_small_the_spread_is():
    found = compare(FULL, ["enumeration", "cavi"], FEW, seed=1)
    entry = found.backends["cavi"]
    assert entry["status"] == "ok" and entry["verdict"].startswith("an approximation; disagrees with enumeration in")
    ratios = {row["functional"]: row["sd"] / row["reference_sd"] for row in found.rows if row["z"] is not None}
    least = min(ratios, key=ratios.get)
    assert ratios[least] < 0.8 and f"from {ratios[least]:.2f} ({least}) to" in entry["verdict"]
    said = found.to_dict()["backends"]
    assert said["cavi"]["elbo"] < said["enumeration"]["log_evidence"] and said["enumeration"]["elbo"] is None
    assert said["cavi"]["log_evidence"] is None and said["cavi"]["kind"] == "approximate"
    line = next(line for line in report_tables.evidence(found) if line["name"] == "cavi")
    assert line["says"] == "ELBO, a lower bound" and line["difference"].startswith("−")
