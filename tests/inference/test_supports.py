"""Parameters whose supports differ by component or depend on each other, and declarations that are cut off where only
the data are: right, or refused in a sentence."""

import dataclasses

import arviz as az
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from genjax import gen, normal, uniform
from scipy import stats

from inference import BACKENDS, Refused, fit, labels
from inference.marginal import misfit
from zoo import MODELS, Dataset
from zoo.distributions import categorical
from zoo.mixture import Mixture

LOW, HIGH = np.array([0.0, 10.0]), np.array([12.0, 30.0])
BETWEEN = np.array([10.5, 11.0, 11.3, 11.8, 10.9, 11.5])  # where both components may be


@gen
def halves(params):
    z = categorical(probs=np.array([0.5, 0.5])) @ "z"
    return normal(params["means"][z], 1.0) @ "x"


def of(prior, observation, x, exchangeable=False, twin=None):
    data = Dataset(name="mine", x=np.asarray(x, float))
    about = {"num_components": 2, "exchangeable": exchangeable, "data": data}
    return Mixture(name="mine", prior=prior, observation=observation, twin=twin, **about)


def bounded(x, low=LOW, high=HIGH, **more):
    @gen
    def prior():
        return {"means": uniform(low, high) @ "means"}

    return of(prior, halves, x, **more)


def clipped(x):
    @gen
    def prior():
        return {"means": normal(np.zeros(2), 10.0) @ "means"}

    @gen
    def observation(params):
        z = categorical(probs=np.array([0.5, 0.5])) @ "z"
        return normal(jnp.clip(params["means"][z], -25.0, 25.0), 2.0) @ "x"

    return of(prior, observation, x, exchangeable=True)


def test_bounds_of_a_components_own_leave_no_relabelling():
    assert not labels.same_supports(bounded(BETWEEN)) and not labels.moves(bounded(BETWEEN), True)
    alike = bounded(BETWEEN, np.zeros(2), np.full(2, 30.0), exchangeable=True)
    assert labels.same_supports(alike) and labels.moves(alike, True)
    with pytest.raises(ValueError, match="declared exchangeable"):
        labels.moves(bounded(BETWEEN, exchangeable=True), True)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["nuts", "metropolis", "gibbs", "smc", "importance_modes"])
def test_no_draw_leaves_bounds_of_a_components_own_and_all_of_them_are_right(backend):
    model = bounded(BETWEEN)
    how = {"num_chains": 4, "num_draws": 2000} if BACKENDS[backend].kind == "mcmc" else {}
    how |= {"num_resampled": 20_000} if backend == "importance_modes" else {}
    draws = fit(model, backend, seed=1, **how)
    draws = draws.resampled if draws.resampled is not None else draws
    means = np.asarray(draws.params["means"])
    assert np.all((means >= LOW) & (means <= HIGH))
    grid = [np.linspace(low, high, 2401) for low, high in zip(LOW, HIGH, strict=True)]
    first, second = (stats.norm.pdf(BETWEEN[:, None], at) for at in grid)
    density = np.prod(0.5 * first[:, :, None] + 0.5 * second[:, None, :], axis=0)
    truth = density[grid[0] >= 10][:, grid[1] <= 12].sum() / density.sum()
    inside = ((means[..., 0] >= 10) & (means[..., 1] <= 12)).astype(float)
    chains = inside if inside.shape[0] > 1 else inside.reshape(4, -1)
    assert 0.6 < truth < 0.8 and abs(inside.mean() - truth) < 4 * float(az.mcse(chains)), (inside.mean(), truth)


def test_a_support_that_depends_on_another_parameter_is_refused():
    @gen
    def prior():
        top = uniform(np.array(1.0), np.array(10.0)) @ "top"
        return {"means": uniform(np.zeros(2), jnp.full(2, top)) @ "means"}

    model = of(prior, halves, [1.0, 2.0, 6.0], exchangeable=True)
    assert model.lacks_twin.startswith("the support of means in mine depends on other parameters")
    with pytest.raises(Refused, match="depends on other parameters"):
        fit(model, "nuts")


@pytest.mark.slow
def test_bounds_that_jax_computes_are_numbers():
    @gen
    def prior():
        return {"means": uniform(jnp.zeros(2), 2 * jnp.full(2, 6.0)) @ "means"}

    model = of(prior, halves, [1.0, 2.0, 6.0], exchangeable=True)
    assert model.lacks_twin is None
    for backend in ("metropolis", "gibbs"):  # whose program reaches them first
        fresh = dataclasses.replace(model)
        draws = fit(fresh, backend, num_chains=2, num_warmup=20, num_draws=20)
        assert np.all((draws.params["means"] >= 0) & (draws.params["means"] <= 12))


@pytest.mark.parametrize("bounds", [lambda x: (jnp.min(x), jnp.max(x)), lambda x: (0.0, jnp.std(x))])
def test_a_support_that_depends_on_the_data_is_refused(bounds):
    def twin(x):
        means = numpyro.sample("means", dist.Uniform(*bounds(x)).expand([2]).to_event(1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample(
                "x", dist.MixtureSameFamily(dist.Categorical(jnp.full(2, 0.5)), dist.Normal(means, 1)), obs=x
            )

    @gen
    def prior():
        return {"means": uniform(np.full(2, 1.0), np.full(2, 6.0)) @ "means"}

    model = of(prior, halves, [1.0, 2.0, 6.0], exchangeable=True, twin=twin)
    assert model.lacks_twin.startswith("the support of means in mine depends on the data")


def test_a_location_cut_off_where_only_the_data_are_is_seen_on_them():
    near, far = np.array([-3.0, -1.0, 2.0, 3.0]), np.array([-33.0, -31.0, 2.0, 3.0])
    model = clipped(far)
    with pytest.raises(ValueError, match="its joint density is another; enumeration cannot serve it"):
        fit(model, "enumeration", num_draws=100)
    assert fit(model, "enumeration", x=near, num_draws=100).log_evidence < 0
    assert "does not fit the joint density on these data" in misfit(model, jnp.asarray(far))
    assert misfit(model, jnp.asarray(near)) is None


def test_a_model_with_covariates_takes_no_data_without_them():
    with pytest.raises(ValueError, match="x should be a dict with the keys x, covariates, got ndarray"):
        MODELS["tone"].check(MODELS["tone"].data.x["x"])
