"""ADVI: exact where the posterior is Normal, a bound of the evidence elsewhere, refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from genjax import categorical, exponential, gamma, gen, normal
from scipy.special import gammaln

from diagnostics.truth import stored
from inference import Refused, advi, fit, loop
from zoo import MODELS, Mixture

X = np.array([1.3, 2.2, 0.4, 1.9, 1.1, 2.7])


@gen
def prior():
    a = normal(np.float64(1.0), 1.0) @ "a"
    b = normal(np.float64(0.0), 1.0) @ "b"
    return {"sum": a + b}


@gen
def observation(params):
    categorical(probs=np.array([1.0])) @ "z"
    return normal(params["sum"], 1.0) @ "x"


def twin(x):
    total = numpyro.sample("a", dist.Normal(1.0, 1.0)) + numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("n", len(x)):
        numpyro.sample("x", dist.Normal(total, 1.0), obs=x)


# a posterior that is exactly Normal, of precision I + N 1 1^T: strongly correlated
NORMAL = Mixture(name="sum", num_components=1, exchangeable=False, prior=prior, observation=observation, twin=twin)
PRECISION = np.eye(2) + len(X)
MEAN = np.linalg.solve(PRECISION, np.array([1.0, 0.0]) + X.sum())
# sd of m and of log sd in units of the posterior sd that the last steps of Adam leave: a step a = 5e-4 on gradients
# of noise s = 1/4 (16 draws) wanders by sqrt(a s / 2)
WANDER = np.sqrt(5e-4 / 4 / 2)


@pytest.mark.parametrize("guide", ["mean_field", pytest.param("full_rank", marks=pytest.mark.slow)])
def test_an_exactly_normal_posterior_is_recovered_as_far_as_the_guide_reaches(guide):
    draws = fit(NORMAL, "advi", X, seed=1, guide=guide)
    u = np.stack([draws.params["a"], draws.params["b"]], -1).reshape(-1, 2)
    exact = np.linalg.inv(PRECISION)
    covariance = exact if guide == "full_rank" else np.diag(1 / np.diag(PRECISION))  # Bishop 2006, eq. 10.12-10.15
    sd, num = np.sqrt(np.diag(covariance)), len(u)
    assert np.all(np.abs(u.mean(0) - MEAN) < 5 * np.sqrt(1 / num + WANDER**2) * np.sqrt(np.diag(exact)))
    assert np.all(np.abs(u.std(0) / sd - 1) < 5 * np.sqrt(1 / (2 * num) + WANDER**2))
    marginal = np.eye(len(X)) + 2  # of x: N(1, I + 2 1 1^T)
    evidence = -(len(X) * np.log(2 * np.pi) + np.linalg.slogdet(marginal)[1]) / 2
    evidence -= (X - 1) @ np.linalg.solve(marginal, X - 1) / 2
    kl = (np.linalg.slogdet(exact)[1] - np.linalg.slogdet(covariance)[1]) / 2  # traces cancel at the optimum
    elbo = draws.stats["elbo"][0, 0]
    assert draws.stats["lp"].shape == (4, 1000)
    assert abs(elbo - (evidence - kl)) < 5 * (1.5 / np.sqrt(num) * (guide == "mean_field") + WANDER**2 * 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bento", "coffee"])
def test_the_elbo_is_below_the_log_evidence_within_its_error(name):
    draws = fit(MODELS[name], "advi", seed=2)
    truth = stored(name)[f"{name}.log_evidence"]["value"]
    elbo = draws.stats["elbo"][0, 0]
    if name == "bento":  # two labellings apart from each other, each exactly Normal
        assert abs(elbo - (truth - np.log(2))) < 5 * 5 * WANDER**2
    assert elbo < truth and draws.log_evidence is None
    assert draws.warnings[0].startswith("draws from an approximation of the posterior (full rank Normal")


@pytest.mark.slow
def test_the_normal_of_a_log_rate_is_the_closed_form():
    """Posterior Gamma(a, b): the best Normal of log(rate) has mean log(a/b) - 1/(2a), variance 1/a, and an ELBO below
    the log evidence by the error of Stirling's formula for log Gamma(a)."""

    @gen
    def prior():
        return {"rate": gamma(np.float64(2.0), 1.5) @ "rate"}

    @gen
    def observation(params):
        categorical(probs=np.array([1.0])) @ "z"
        return exponential(params["rate"]) @ "x"

    def twin(x):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.5))
        with numpyro.plate("n", len(x)):
            numpyro.sample("x", dist.Exponential(rate), obs=x)

    model = Mixture(name="rate", num_components=1, exchangeable=False, prior=prior, observation=observation, twin=twin)
    draws = fit(model, "advi", X, seed=1)
    a, b = 2 + len(X), 1.5 + X.sum()
    u = np.log(draws.params["rate"]).ravel()
    assert abs(u.mean() - (np.log(a / b) - 0.5 / a)) < 5 * np.sqrt(1 / u.size + WANDER**2) * a**-0.5
    assert abs(u.std() * a**0.5 - 1) < 5 * np.sqrt(1 / (2 * u.size) + WANDER**2)
    evidence = 2 * np.log(1.5) - gammaln(2) + gammaln(a) - a * np.log(b)
    stirling = a * np.log(a) - a - gammaln(a) + np.log(2 * np.pi / a) / 2
    weights = (
        draws.stats["lp"].ravel() + u + (u - np.log(a / b) + 0.5 / a) ** 2 * a / 2
    )  # log p - log q, and a constant
    error = weights.std() / np.sqrt(u.size)
    assert abs(draws.stats["elbo"][0, 0] - (evidence + stirling)) < 5 * (error + 2 * WANDER**2)


def test_a_run_whose_elbo_still_rises_says_so():
    steps = np.linspace(0, 1, 1000).reshape(10, 100)
    noise = np.random.default_rng(0).normal(0, 0.3, (10, 100))
    assert "the ELBO still rose by 1" in advi._unfinished(-10 * steps + noise)[0]
    assert advi._unfinished(noise) == ()


@pytest.mark.slow
def test_a_model_whose_twin_is_derived_is_served_and_one_without_parameters_refused():
    bare = dataclasses.replace(MODELS["bento"], twin=None)
    settings = dict(seed=1, num_restarts=1, num_steps=50, num_draws=10)
    assert np.isfinite(fit(bare, "advi", **settings).params["means"]).all()
    with pytest.raises(Refused, match="no unknown parameter"):
        fit(MODELS["bento_known"], "advi")


def test_an_unknown_guide_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="advi: guide should be 'full_rank' or 'mean_field', got 'full'"):
        fit(MODELS["bento"], "advi", guide="full")


# ten points in two groups far apart: no optimum of EM is admissible, and restarts begin at prior draws
TWO_GROUPS = np.array([35.393, 35.061, 3.227, 35.22, 3.288, 35.42, 36.036, 35.971, 3.516, 35.117])


def test_q_starts_no_wider_than_the_prior_where_a_component_is_empty():
    """There the density is all but straight in log(scale): its curvature alone gave q an sd of 98, and a bound of
    -1e124."""
    fitting = advi._fitting(MODELS["three_gaussians"], "full_rank", 16, 0.05, 10)
    spread = fitting.prior_spread  # means, log scales, weights by stick breaking
    sd_of = lambda u: np.diff(np.quantile(u, [0.25, 0.75]))[0] / 1.349
    log_scales = np.log(5 * np.abs(np.random.default_rng(0).normal(size=100_000)))
    error = 5 * 1.57 / 1.349 / np.sqrt(256)  # of quartiles of 256 normal draws; half more for a skew law
    assert np.all(np.abs(spread[:3] / 10 - 1) < error)
    assert np.all(np.abs(spread[3:6] / sd_of(log_scales) - 1) < 1.5 * error)
    start = {
        "means": jnp.array([[36.4, 16.7, -0.3]]),
        "scales": jnp.array([[0.8, 0.036, 7.6]]),
        "weights": jnp.array([[0.69, 0.25, 0.06]]),
    }
    _, root = fitting.standardise(start, spread, jnp.asarray(TWO_GROUPS))
    assert np.linalg.eigvalsh(root[0] @ root[0].T / spread / spread[:, None]).max() < 1 + 1e-9


@pytest.mark.slow
def test_ten_points_whose_scales_are_far_below_their_spread_have_a_bound_below_the_log_evidence():
    model = MODELS["three_gaussians"]
    elbos = [fit(model, "advi", TWO_GROUPS, seed=s, num_restarts=1, num_steps=1000).stats["elbo"] for s in range(5)]
    exact = fit(model, "smc", TWO_GROUPS, seed=1, num_particles=512)
    assert np.isfinite(elbos).all() and np.max(elbos) < exact.log_evidence + 5 * exact.log_evidence_se


def test_steps_that_were_not_taken_are_counted():
    loss = np.zeros((10, 100))
    loss[3, :7] = np.nan
    (said,) = advi._unfinished(loss)
    assert said.startswith("7 of 1000 steps were not taken, because the density or its gradient is not finite")
    (said,) = advi._unfinished(np.full((10, 100), np.nan))
    assert said.startswith("1000 of 1000 steps were not taken")


def test_ctrl_c_keeps_the_steps_that_were_taken():
    def stop_at(when):
        def stop(done, total):
            if done == when:
                raise KeyboardInterrupt

        return stop

    part = fit(NORMAL, "advi", X, seed=1, progress=stop_at(3))
    assert part.interrupted and part.warnings[0] == "interrupted: only 3 of 10 parts of the steps were taken"
    assert part.params["a"].shape == (4, 1000)
    once = fit(NORMAL, "advi", X, seed=1, progress=stop_at(1))
    assert once.warnings[0].startswith("interrupted: only 1 of 10")


@pytest.mark.slow
def test_the_curvature_where_a_restart_begins_takes_no_more_memory_than_a_few_gradients():
    model = MODELS["digits"]
    fitting, x = advi._fitting(model, "full_rank", 16, 0.05, 200), jnp.asarray(model.data.x)
    params = jax.tree.map(lambda leaf: leaf[:1], model.prior_draws(jax.random.key(0), 2))
    program = fitting.standardise.lower(params, fitting.prior_spread, x).compile()
    rows, columns = x.shape
    gradient = 8 * rows * columns * model.num_components  # bytes of the twin's table by item
    assert 0 < loop.program_bytes(program) < 10 * gradient  # 649 rows of the Hessian at once would take hundreds


def test_a_restart_begins_in_the_coordinates_that_whiten_a_normal_posterior():
    fitting = advi._fitting(NORMAL, "full_rank", 16, 0.05, 200)
    params = {name: jnp.array([value]) for name, value in zip("ab", MEAN, strict=True)}
    centre, root = fitting.standardise(params, jnp.full(2, 50.0), jnp.asarray(X))
    np.testing.assert_allclose(centre[0], MEAN, rtol=1e-12)
    np.testing.assert_allclose(root[0] @ root[0].T, np.linalg.inv(PRECISION), rtol=1e-10)
