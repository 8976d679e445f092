"""Coordinate ascent for every conjugate family: exact where q can be the posterior, else a stationary lower bound."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from genjax import gamma, poisson
from scipy.special import logsumexp

from inference import cavi, fit, marginal
from tests.inference.test_conjugate_families import COLLAPSED, CONJUGATE, FAMILIES, built, kind, mixture
from zoo import MODELS

N = 6
SHARED = {"common variance", "common scalar precision", "common precision"}  # one spread for all components
REFUSED = SHARED | {"an address on a line of another"}
SERVED = [name for name in FAMILIES if name not in REFUSED]
EACH = [pytest.param(name, marks=() if name == "normal vectors" else pytest.mark.slow) for name in SERVED]
ONE_COMPONENT = [name for name in CONJUGATE if kind(name) != "dirichlet_multinomial"]
QUICK = next(name for name in ONE_COMPONENT if kind(name) == "nig")  # each of the others compiles again


@functools.cache
def best(name):
    model = FAMILIES[name][0]
    x = jax.tree.map(jnp.asarray, model.simulate(jax.random.key(3), N)[2])
    found, every, _ = cavi._best(model, x, jax.random.key(5), 4, 5000, 1e-13, None)
    return model, x, found, every


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == QUICK else pytest.mark.slow) for name in ONE_COMPONENT]
)
def test_with_one_component_the_elbo_is_the_stored_log_marginal_likelihood(name):
    model, _, x = built(name)
    found = cavi._best(model, jnp.asarray(x), jax.random.key(5), 1, 2000, 1e-10, None)[0]
    record = CONJUGATE[name]
    exact = record["value"].get("log_marginal", record["value"].get("log_p_sequence"))
    assert abs(found.elbo - exact) < record["tolerance"]["abs"]


@pytest.mark.parametrize("name", EACH)
def test_the_ascent_never_falls_and_ends_where_no_site_has_a_slope(name):
    model, x, found, every = best(name)
    assert every.fallen.max() == 0 and found.converged
    q = jax.tree.map(jnp.asarray, found.q)
    slopes = jax.jit(jax.grad(lambda q: cavi.bound(model, q, x)[0]))(q)
    for site, law in q.items():
        for slope, leaf in zip(jax.tree.leaves(slopes[site]), jax.tree.leaves(law), strict=True):
            if isinstance(law, dist.MultivariateNormal) and leaf.ndim == 3:
                slope = np.tril(slope)  # of a Cholesky factor
            # the last step raised the ELBO by at most 1e-13, or by its rounding of 20 eps: a slope is of its root
            assert np.abs(slope * np.maximum(np.abs(leaf), 1)).max() < 1e-5, site


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COLLAPSED if name in SERVED])
def test_the_elbo_is_below_the_log_evidence_summed_over_all_assignments(name):
    model, x, found, _ = best(name)
    every = jnp.array(list(itertools.product(range(2), repeat=N)))
    evidence = logsumexp(jax.jit(jax.vmap(lambda z: marginal.log_marginal(model, z, x)))(every))
    assert evidence - N < found.elbo < evidence


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVED)
def test_the_elbo_is_the_average_over_the_draws(name):
    """`cavi` says so itself where it is not: the average is of the model's own log joint."""
    draws = fit(FAMILIES[name][0], "cavi", jax.tree.map(np.asarray, best(name)[1]), seed=1, num_restarts=4)
    assert draws.warnings[0].startswith("draws from an approximation of the posterior (mean field)")
    assert not any("does not fit" in said or "fell" in said for said in draws.warnings), draws.warnings


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_spread_shared_by_all_components_and_coefficients_of_an_address_are_refused(name):
    assert cavi.refuses(FAMILIES[name][0], None).startswith("no coordinate-ascent update is built for ")


def test_observations_that_are_matrices_are_refused_by_the_names_of_the_sites():
    model = mixture("matrices", lambda: {"rates": gamma(np.full((2, 2, 3), 2.0), 0.7) @ "rates"}, poisson_of)
    assert cavi.refuses(model, None).startswith("no coordinate-ascent update is built for rates; advi serves")


def test_advi_is_not_named_where_it_refuses_too():
    said = cavi.refuses(MODELS["galaxy_finite_mixtures"], None)
    assert said.startswith("no coordinate-ascent update is built for ") and "advi" not in said


def poisson_of(params, z):
    return poisson(params["rates"][z])
