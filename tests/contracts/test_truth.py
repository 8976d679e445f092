"""Point estimates and evidences of every model against an answer that the back end did not produce."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density
from scipy import integrate, optimize, stats

from diagnostics import calibration, compare
from diagnostics.truth import stored
from inference import fit, space
from inference.importance import log_evidence, no_evidence, pareto_k, weight_ess
from zoo import MODELS

UNKNOWN = [name for name in calibration.NAMED if MODELS[name].param_shapes]


@functools.cache
def twin_density(name):
    """u -> log p(params, x) by the twin, its gradient, its Hessian; no Jacobian, since the mode is that of the declared
    parameters."""
    model = MODELS[name]
    of, x = space.space_of(model), jnp.asarray(model.data.x)
    density = lambda u: log_density(model.twin, (x,), {}, of.constrain(u))[0]
    return jax.jit(density), jax.jit(jax.grad(density)), jax.jit(jax.hessian(density))


def highest_by_scipy(name, num_starts=40):
    """The highest of the local maxima that a trust region reaches from prior draws, scale collapses left out."""
    model, found = MODELS[name], []
    minus = [lambda u, f=f: -np.asarray(f(u)) for f in twin_density(name)]
    of = space.space_of(model)
    draws = model.prior_draws(jax.random.key(8), num_starts)
    for i in range(num_starts):
        start = np.asarray(of.unconstrain({k: leaf[i] for k, leaf in draws.items()}))
        with np.errstate(all="ignore"):
            run = optimize.minimize(minus[0], start, jac=minus[1], hess=minus[2], method="trust-exact")
        params = of.constrain(jnp.asarray(run.x))
        scales = {**params, **model.derived(params)}.get("scales", np.inf)
        if run.success and np.min(scales) > 0.02 * np.std(model.data.x):
            found.append(-run.fun)
    return max(found)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("bento", "coffee") else pytest.mark.slow) for name in UNKNOWN]
)
def test_the_mode_found_by_em_is_stationary_for_the_twin_and_no_lower_than_what_another_optimiser_finds(name):
    result = fit(MODELS[name], "em", seed=1)
    best = {k: leaf[0] for k, leaf in result.params.items()}
    value, gradient, hessian = (f(space.space_of(MODELS[name]).unconstrain(best)) for f in twin_density(name))
    assert result.admissible[0]
    np.testing.assert_allclose(value, result.log_density[0], rtol=1e-10)
    assert np.abs(gradient).max() < 1e-4 and np.linalg.eigvalsh(hessian).max() < 0
    assert result.log_density[0] > highest_by_scipy(name) - 1e-6


def three_gaussians_evidence(x):
    """log p(x_0, x_1): each alone, or both in one component, whose mean and scale are integrated out."""

    def over_scales(density):
        low, high = 0.0, 40.0
        return integrate.quad(lambda s: density(s) * stats.halfnorm(scale=5).pdf(s), low, high, limit=200)[0]

    one = [over_scales(lambda s, v=v: stats.norm(15, np.hypot(10, s)).pdf(v)) for v in x]
    both = over_scales(
        lambda s: stats.multivariate_normal([15, 15], s**2 * np.eye(2) + 100, allow_singular=True).pdf(x)
    )
    together = 0.5  # sum_k E[w_k^2] under Dirichlet(1, 1, 1)
    return np.log(together * both + (1 - together) * one[0] * one[1])


@pytest.mark.parametrize("backend", ["importance", "importance_joint"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("bento", "coffee") else pytest.mark.slow) for name in UNKNOWN]
)
def test_the_evidence_of_two_observations_is_the_exact_one(name, backend):
    model = MODELS[name]
    x = model.data.x[:2]
    truth = three_gaussians_evidence(x) if name == "three_gaussians" else fit(model, "enumeration", x=x).log_evidence
    found = fit(model, backend, x=x, num_particles=500_000, seed=2)
    value, error = log_evidence(found.log_weights)  # the result has none where Pareto k is above .7
    assert error < 0.2 and abs(value - truth) < 4 * error
    none = no_evidence(weight_ess(found.log_weights), pareto_k(found.log_weights))
    assert found.log_evidence == (None if none else value)


@pytest.mark.slow
@pytest.mark.parametrize("name", UNKNOWN)
def test_importance_from_the_prior_on_all_the_data_is_right_within_its_error_or_says_that_it_is_not_usable(name):
    found = compare(MODELS[name], backends=["importance", "importance_joint"], seed=3)
    for entry in found.backends.values():
        assert entry["status"] == "ok"
        if name == "coffee" and entry["usable"]:
            truth = stored("coffee")["coffee.log_evidence"]["value"]
            assert abs(entry["log_evidence"] - truth) < 4 * entry["log_evidence_se"]
        else:
            assert entry["usable"] is False and "not usable" in entry["verdict"]
