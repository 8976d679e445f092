"""Gamma rates and precisions: found, right against the joint, against enumeration, and as M-steps."""

import itertools

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from genjax import categorical, exponential, gamma, gen, normal, poisson
from jax.scipy.special import gammaln, logsumexp

from diagnostics import calibration
from inference import conjugacy, fit, gibbs
from zoo import Mixture

HALF = np.array([0.5, 0.5])
SHAPE, RATE = np.array([2.0, 5.0]), 1.5


def model_of(draw, name):
    @gen
    def prior():
        return {"rates": gamma(SHAPE, RATE) @ "rates"}

    @gen
    def observation(params):
        z = categorical(probs=HALF) @ "z"
        return draw(params["rates"][z]) @ "x"

    def twin(x):
        rates = numpyro.sample("rates", dist.Gamma(SHAPE, RATE).to_event(1))
        each = {"poisson": dist.Poisson, "exponential": dist.Exponential}.get(
            name, lambda rate: dist.Normal(3.0, rate**-0.5)
        )
        with numpyro.plate("n", len(x)):
            numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(probs=jnp.asarray(HALF)), each(rates)), obs=x)

    return Mixture(name=name, num_components=2, exchangeable=False, prior=prior, observation=observation, twin=twin)


MODELS = {
    "poisson": model_of(poisson, "poisson"),
    "exponential": model_of(exponential, "exponential"),
    "precision": model_of(lambda rate: normal(3.0, rate**-0.5), "precision"),
}
NAMES = {"poisson": "Gamma rate, Poisson", "exponential": "Gamma rate, exponential", "precision": "Gamma precision"}
X = {"poisson": [0.0, 3.0, 7.0, 2.0], "exponential": [0.1, 2.0, 0.7, 0.3], "precision": [3.3, 1.0, 2.9, 4.2]}


EACH = [pytest.param(name, marks=pytest.mark.slow if name == "poisson" else ()) for name in MODELS]
JOINT = [pytest.param(name, marks=() if name == "precision" else pytest.mark.slow) for name in MODELS]


@pytest.mark.parametrize("name", MODELS)
def test_the_rule_is_found_and_has_the_ratios_of_the_joint(name):
    assert [rule.name for rule in conjugacy.rules(MODELS[name])] == [NAMES[name]]
    assert calibration.ratio_test(MODELS[name], jax.random.key(0))["rates"] < 1e-12


@pytest.mark.parametrize("name", JOINT)
def test_gibbs_leaves_the_joint_law_invariant(name):
    result = calibration.joint_test(MODELS[name], gibbs.build(MODELS[name], 0), jax.random.key(1))
    assert result.passed, result


def log_subset(name, x, a, b):
    """log of the integral over one rate of its prior times the densities of x, by the constants of both."""
    n = len(x)
    c, t, constant = {
        "poisson": (sum(x), n, -sum(gammaln(v + 1) for v in x)),
        "exponential": (n, sum(x), 0.0),
        "precision": (n / 2, sum((v - 3.0) ** 2 for v in x) / 2, -n / 2 * np.log(2 * np.pi)),
    }[name]
    return a * np.log(b) - gammaln(a) + gammaln(a + c) - (a + c) * np.log(b + t) + constant


@pytest.mark.parametrize("name", JOINT)
def test_gibbs_has_the_enumerated_probability_that_two_observations_share_a_component(name):
    x = X[name]
    masses, together = [], []
    for z in itertools.product(range(2), repeat=len(x)):
        parts = [[v for v, k in zip(x, z, strict=True) if k == j] for j in range(2)]
        masses.append(sum(log_subset(name, parts[j], SHAPE[j], RATE) for j in range(2)))
        together.append(z[0] == z[1])
    masses = jnp.array(masses)
    truth = float(jnp.exp(masses - logsumexp(masses)) @ jnp.array(together, float))
    z = fit(MODELS[name], "gibbs", np.array(x), seed=1, num_draws=10_000).assignments
    same = (z[..., 0] == z[..., 1]).astype(float)
    assert az.ess(same) > 1000 and abs(same.mean() - truth) < 4.4 * az.mcse(same)


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_the_m_step_is_the_maximum(name, prior):
    model = MODELS[name]
    params, _, x = model.simulate(jax.random.key(3), 12)
    r = jax.random.dirichlet(jax.random.key(4), jnp.ones(2), (12,))
    (rule,) = conjugacy.rules(model)

    def expected(rates):
        p = {"rates": rates}
        return (r * model.log_components(p, x)).sum() + (model.log_prior(p) if prior else 0.0)

    best = rule.mode(params, r, x, prior)
    np.testing.assert_allclose(jax.jit(jax.grad(expected))(best), np.zeros(2), atol=1e-9)
    assert np.linalg.eigvalsh(jax.jit(jax.hessian(expected))(best)).max() < 0


def test_a_rate_that_is_shifted_is_no_rule():
    assert conjugacy.rules(model_of(lambda rate: exponential(rate + 0.1), "shifted")) == ()
