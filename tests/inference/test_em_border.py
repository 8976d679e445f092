"""Optima on the border of a simplex: a category that one component never shows has a share of 0 there, and no place in
unconstrained space."""

import functools
import itertools

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import dirichlet, gen, normal
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import gammaln, logsumexp
from scipy.stats import norm

from inference.em import em
from inference.importance_modes import importance_modes
from inference.nuts import nuts
from zoo.distributions import categorical
from zoo.mixture import Mixture

KEY = jax.random.key(0)
MEANS = np.array([-1.5, 1.5])
ROWS = 8  # few enough for every assignment to be listed


@functools.cache
def shops():
    """Two groups of buyers: a spending of known means, and one of three shops."""

    @gen
    def prior():
        weights = dirichlet(np.ones(2)) @ "weights"
        shops = dirichlet(np.ones((2, 3))) @ "shops"
        return {"weights": weights, "shops": shops}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"
        normal(jnp.asarray(MEANS)[z], 1.0) @ "spending"
        return categorical(probs=params["shops"][z]) @ "shop"

    return Mixture(name="shops", num_components=2, exchangeable=False, prior=prior, observation=observation)


def buyers(num, apart):
    """Rows of which the first group never visits shop 2."""
    rng = np.random.default_rng(3)
    z = np.arange(num) % 2
    shop = np.where(z == 0, rng.choice(3, num, p=[0.7, 0.3, 0.0]), rng.choice(3, num, p=[0.2, 0.2, 0.6]))
    return z, {"spending": apart * MEANS[z] + rng.standard_normal(num), "shop": shop.astype(np.int32)}


def log_likelihood(weights, shops, x):
    each = np.log(weights) + norm.logpdf(x["spending"][:, None], MEANS, 1.0) + np.log(shops[:, x["shop"]]).T
    return logsumexp(each, axis=1).sum()


@pytest.mark.parametrize("prior", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_shares_of_separated_groups_are_their_counts_zero_included(prior):
    z, x = buyers(40, apart=12.0)
    result = em(shops(), x, KEY, prior=prior, num_restarts=4)
    assert result.admissible.all()
    (said,) = result.warnings
    assert said == "shares that are 0 or 1 at the best admissible optimum, on the border (1), have no standard errors"
    assert np.isnan(result.standard_errors["shops"]).sum() == 1
    counts = np.stack([np.bincount(x["shop"][z == k], minlength=3) for k in (0, 1)])
    assert np.sum(counts == 0) == 1
    assert_allclose(result.params["shops"][0], counts / 20, atol=1e-12)


def test_where_the_groups_overlap_another_optimiser_finds_the_same_border():
    _, x = buyers(200, apart=1.0)
    result = em(shops(), x, KEY, prior=False, num_restarts=4)
    assert result.admissible.all()

    def simplexes(p):
        return np.array([p[0], 1 - p[0]]), np.stack([[*p[1:3], 1 - p[1:3].sum()], [*p[3:5], 1 - p[3:5].sum()]])

    def lost(p):
        return -log_likelihood(*(np.maximum(part, 1e-300) for part in simplexes(p)), x)

    sums = [{"type": "ineq", "fun": lambda p, i=i: 1 - p[i] - p[i + 1]} for i in (1, 3)]
    found = minimize(lost, np.full(5, 0.3), method="SLSQP", bounds=[(0, 1)] * 5, constraints=sums, tol=1e-12)
    weights, each = simplexes(found.x)
    assert each[0, 2] == pytest.approx(0, abs=1e-6)
    assert result.log_density[0] == pytest.approx(-found.fun, abs=1e-6)
    assert_allclose(result.params["weights"][0], weights, atol=1e-4)
    assert_allclose(result.params["shops"][0], each, atol=1e-4)


@pytest.mark.slow
def test_back_ends_that_begin_at_such_an_optimum_are_right():
    """Evidence and chains against every assignment, shares and weights integrated out."""
    _, x = buyers(ROWS, apart=1.0)
    normaliser = lambda counts: gammaln(counts + 1).sum(axis=-1) - gammaln(counts.sum(axis=-1) + counts.shape[-1])
    each, share = [], []
    for z in itertools.product((0, 1), repeat=ROWS):
        z = np.array(z)
        counts = np.stack([np.bincount(x["shop"][z == k], minlength=3) for k in (0, 1)])
        sizes = counts.sum(axis=1)
        # Dirichlet(1, .., 1) has density (L - 1)!
        log_joint = norm.logpdf(x["spending"], MEANS[z], 1.0).sum() + normaliser(sizes)
        each.append(log_joint + (normaliser(counts) + np.log(2)).sum())
        share.append((counts[0, 2] + 1) / (sizes[0] + 3))
    exact = logsumexp(each)
    mean = np.exp(np.array(each) - exact) @ np.array(share)

    result = importance_modes(shops(), x, KEY)
    assert abs(result.log_evidence - exact) < 4 * result.log_evidence_se < 0.1
    draws = nuts(shops(), x, KEY, starts="em", num_warmup=300, num_draws=500)
    values = draws.params["shops"][:, :, 0, 2]
    assert np.isfinite(draws.stats["lp"]).all()
    assert abs(values.mean() - mean) < 4 * float(az.mcse(values))
