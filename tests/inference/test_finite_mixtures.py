"""An unknown number of components, a discrete parameter: who serves it, and whether they find the exact posterior."""

import functools
import itertools

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import gammaln, logsumexp

from diagnostics import calibration
from inference import BACKENDS, conjugacy, fit, space
from zoo.models.overfitted import galaxy_finite_mixtures

X = np.array([9.0, 10.5, 19.0, 21.0, 26.0])
LARGEST = 3


@functools.cache
def exact():
    """log p(x), and p(K | x) for K = 1, 2, 3: the sum over all assignments, means integrated out in closed form,
    variances by the trapezoidal rule."""
    log_v = np.linspace(np.log(0.05), np.log(5e4), 4001)
    v = np.exp(log_v)

    @functools.cache
    def log_marginal(rows):
        """log of the integral over v of InverseGamma(v; 3, 20) Normal(x; 20, v I + 100 J)."""
        n, gap = len(rows), X[list(rows)] - 20.0
        squares = (gap @ gap - 100.0 * gap.sum() ** 2 / (v + 100.0 * n)) / v
        log_det = (n - 1) * log_v + np.log(v + 100.0 * n)
        log_f = stats.invgamma.logpdf(v, 3.0, scale=20.0) - 0.5 * (n * np.log(2 * np.pi) + log_det + squares)
        return logsumexp(log_f + log_v) + np.log(log_v[1] - log_v[0])

    log_prior = stats.poisson.logpmf(np.arange(LARGEST), 1.0)
    log_prior -= logsumexp(log_prior)
    joint = []
    for K in range(1, LARGEST + 1):
        terms = []
        for z in itertools.product(range(K), repeat=len(X)):
            groups = [tuple(n for n, k in enumerate(z) if k == own) for own in range(K)]
            counts = np.array([len(rows) for rows in groups])
            log_z = gammaln(K) - gammaln(K + len(X)) + gammaln(1 + counts).sum()
            terms.append(log_z + sum(log_marginal(rows) for rows in groups if rows))
        joint.append(log_prior[K - 1] + logsumexp(terms))
    return logsumexp(joint), np.exp(joint - logsumexp(joint))


@pytest.mark.slow
def test_gibbs_finds_the_exact_probabilities_of_the_number_of_components():
    draws = fit(galaxy_finite_mixtures(num_components=LARGEST), "gibbs", x=X, num_draws=5000)
    assert draws.stats["conjugacy_error"].max() < 1e-10
    for k, probability in enumerate(exact()[1]):
        hits = np.asarray(draws.params["extra"] == k, float)
        assert float(az.ess(hits)) > 400
        assert abs(hits.mean() - probability) < 4.4 * float(az.mcse(hits))


@pytest.mark.slow
def test_importance_finds_the_exact_evidence_and_number_of_components():
    draws = fit(galaxy_finite_mixtures(num_components=LARGEST), "importance", x=X)
    log_evidence, probabilities = exact()
    assert abs(draws.log_evidence - log_evidence) < 4.4 * draws.log_evidence_se < 0.1
    w = np.exp(draws.log_weights[0] - logsumexp(draws.log_weights[0]))
    for k, probability in enumerate(probabilities):
        hit = draws.params["extra"][0] == k
        error = np.sqrt(np.sum(w**2 * (hit - probability) ** 2))
        assert abs(w @ hit - probability) < 4.4 * error


@pytest.mark.slow
def test_gibbs_leaves_the_joint_law_of_number_parameters_and_data_as_it_was():
    model = galaxy_finite_mixtures(num_components=4, variance_scale=100.0)
    kernel = calibration.kernels(model, ["gibbs"])["gibbs"]
    found = calibration.joint_test(model, kernel, jax.random.key(0), num_replicates=10_000, num_steps=10)
    assert "extra[0]" in found.names and np.all(np.abs(found.z) < found.threshold), str(found)
    assert found.moved["extra"] > 0.2


def test_the_number_is_drawn_in_proportion_to_the_joint_density():
    model = galaxy_finite_mixtures(num_components=LARGEST)
    (rule,) = [rule for rule in conjugacy.rules(model) if rule.site == "extra"]
    params = {name: jnp.asarray(leaf[0]) for name, leaf in model.prior_draws(jax.random.key(1), 256).items()}
    z = jnp.array([0, 0, 1, 1, 0], jnp.int32)
    found = rule.conditional(params, jax.nn.one_hot(z, LARGEST), jnp.asarray(X)).probs
    log_joint = jnp.stack([model.log_joint({**params, "extra": jnp.int32(k)}, z, jnp.asarray(X)) for k in range(3)])
    np.testing.assert_allclose(found, jax.nn.softmax(log_joint), rtol=1e-10)
    assert found[0] == 0  # component 1 is occupied


def test_back_ends_over_continuous_parameters_say_what_is_discrete():
    model = galaxy_finite_mixtures()
    assert space.discrete(model) == ("extra",) and "extra" not in space.space_of(model).slices
    for name in ("nuts", "em", "metropolis", "smc", "advi"):
        assert BACKENDS[name].refuses(model, model.data.x).startswith("extra is discrete")
    assert BACKENDS["gibbs"].refuses(model, model.data.x) is None
    assert model.num_free_parameters == 31
