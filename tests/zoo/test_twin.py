"""The derived NumPyro twin: the density of the declaration, or a sentence."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import beta, categorical, dirichlet, gen, half_cauchy, normal, student_t, truncated_normal, uniform
from numpyro.infer.util import log_density

from inference import fit, space
from zoo import MODELS, Mixture, twin

NAMES = ("bento", pytest.param("coffee_full", marks=pytest.mark.slow), "three_gaussians")


def without(name):
    return dataclasses.replace(MODELS[name], twin=None, name=f"{name} without a twin")


@pytest.mark.parametrize("name", NAMES)
def test_the_derived_twin_has_the_density_and_gradient_of_the_hand_written_one(name):
    model, bare = MODELS[name], without(name)
    of, x = space.space_of(model), jnp.asarray(model.data.x)
    assert bare.lacks_twin is None and space.space_of(bare).slices == of.slices

    def both(u):
        densities = [
            lambda u, m=m: log_density(m, (x,), {}, of.constrain(u))[0] for m in (model.twin, bare.numpyro_model)
        ]
        return [jax.value_and_grad(density)(u) for density in densities]

    draws = {k: leaf[:8] for k, leaf in model.prior_draws(jax.random.key(0), 256).items()}
    hand, derived = jax.jit(jax.vmap(lambda p: both(of.unconstrain(p))))(draws)
    for one, other in zip(hand, derived, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.slow
def test_nuts_on_the_derived_twin_is_nuts_on_the_hand_written_one():
    settings = dict(num_chains=2, num_warmup=100, num_draws=100, seed=1)
    hand, derived = (
        fit(model, "nuts", MODELS["bento"].data.x, **settings) for model in (MODELS["bento"], without("bento"))
    )
    np.testing.assert_allclose(hand.params["means"][:, :5], derived.params["means"][:, :5], rtol=1e-6)


def model_of(prior, component):
    @gen
    def observation(params):
        z = categorical(probs=np.array([0.5, 0.5])) @ "z"
        return component(params, z) @ "x"

    return Mixture(name="user", num_components=2, exchangeable=False, prior=gen(prior), observation=observation)


def test_many_families_of_priors_are_known():
    number = lambda value: np.array(value, float)  # of bare Python numbers TFP makes float32

    def prior():
        return {
            "shift": student_t(number(4), number(0), number(1)) @ "shift",
            "share": beta(number(2), number(3)) @ "share",
            "scale": half_cauchy(loc=number(0), scale=number(2)) @ "scale",
            "low": uniform(np.full(2, -1.0), np.ones(2)) @ "low",
            "cut": truncated_normal(number(0), number(1), number(-0.5), number(2)) @ "cut",
            "items": dirichlet(np.ones((2, 3))) @ "items",
            "means": normal(np.zeros(2), 1.0) @ "means",
        }

    def component(p, z):
        shift = p["shift"] + p["share"] + p["cut"] + p["low"][z] + p["items"][z, 0]
        return normal(p["means"][z] + shift, p["scale"])

    model = model_of(prior, component)
    assert model.lacks_twin is None and model.num_free_parameters == 1 + 1 + 1 + 2 + 1 + 4 + 2


def test_a_prior_that_numpyro_does_not_have_is_refused_by_name():
    def prior():
        from genjax import moyal

        return {"means": moyal(np.zeros(2), 1.0) @ "means"}

    model = model_of(prior, lambda p, z: normal(p["means"][z], 1.0))
    assert "the prior site means is a Moyal" in model.lacks_twin and "Mixture(twin=...)" in model.lacks_twin
    with pytest.raises(ValueError, match="nuts refuses user: no NumPyro twin can be derived"):
        fit(model, "nuts", np.zeros(3))


def test_a_twin_of_another_density_is_not_handed_out(monkeypatch):
    monkeypatch.setitem(twin.CLASSES, "Normal", ("Laplace", {"loc": "loc", "scale": "scale"}))
    with pytest.raises(ValueError, match="has another log density"):
        twin.derived(without("bento"))
