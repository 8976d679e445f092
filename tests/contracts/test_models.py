"""Every identity of the contract, on every model of the zoo: a new model brings its tests with it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from diagnostics import contract
from diagnostics.calibration import NAMED
from zoo import MODELS

QUICK = ("acidity", "faithful", "candy", "scotch", "tone_experts", "directions", "galaxy_student")
FIRST = ("assignment_has_k_values", "own_data_are_served", "twin_equals_table")  # of models that are not named


def quick(names, all_names=MODELS):
    return [pytest.param(name, marks=() if name in names else pytest.mark.slow) for name in all_names]


@pytest.mark.parametrize("name", quick([name for name in NAMED if name != "bento_full"]))
def test_model_keeps_its_contract(name):
    broken = {k: f.detail for k, f in contract.check(MODELS[name]).items() if not f.holds}
    assert not broken


@pytest.mark.parametrize("name", quick(QUICK, [name for name in MODELS if name not in NAMED]))
def test_model_has_its_twin_and_its_data(name):
    assert MODELS[name].twin is not None and MODELS[name].data is not None
    found = {identity: contract.IDENTITIES[identity](MODELS[name]) for identity in FIRST}
    assert not {identity: f.detail for identity, f in found.items() if not f.holds}


def test_contract_catches_a_twin_with_another_density():
    model = MODELS["bento"]

    def twin(x):
        means = numpyro.sample("means", dist.Normal(400.0, 50.5).expand([2]).to_event(1))
        parts = dist.Normal(means, 2.0)
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(logits=0 * means), parts), obs=x)

    found = contract.twin_equals_table(dataclasses.replace(model, twin=twin))
    assert not found.holds, found.detail


def test_contract_catches_a_twin_that_forgets_the_weights():
    model = MODELS["three_gaussians"]

    def twin(x):
        with numpyro.handlers.scale(scale=1.0):
            numpyro.sample("weights", dist.Dirichlet(model.data.params["weights"] * 0 + 1.0))
        means = numpyro.sample("means", dist.Normal(15.0, 10.0).expand([3]).to_event(1))
        scales = numpyro.sample("scales", dist.HalfNormal(5.0).expand([3]).to_event(1))
        parts = dist.Normal(means, scales)
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(logits=0 * means), parts), obs=x)

    broken = dataclasses.replace(model, twin=twin)
    assert not contract.twin_equals_table(broken).holds
    assert not contract.twin_gradient_equals_tables(broken).holds


def test_contract_catches_a_false_claim_of_exchangeability():
    found = contract.exchangeable_as_declared(dataclasses.replace(MODELS["coffee"], exchangeable=True))
    assert not found.holds, found.detail


def test_contract_catches_wrongly_declared_component_parameters():
    model = dataclasses.replace(MODELS["three_gaussians"], component_params=("means",), permute=None)
    assert not contract.declared_leaves_are_probed(model).holds
    assert not contract.relabelling_permutes_columns(model).holds


def test_contract_catches_a_faster_table_that_is_another_table():
    model = MODELS["bento"]
    slow = model.log_table
    broken = dataclasses.replace(model, table=lambda params, x: slow(params, x) + 1e-6)
    assert not contract.halves_sum_to_the_table(broken).holds


@pytest.mark.parametrize("name", ("scotch", "digits"))
def test_the_table_by_products_is_the_derived_one_on_the_border_too(name):
    """Where a probability is 0 or 1, what cannot happen has density 0 and what must happen adds nothing."""
    model = MODELS[name]
    x = np.array(model.data.x[:40])
    x[:2, :9], x[0, 3:7] = 0, 1
    draw = model.prior_draws(jax.random.key(1), 1)
    probs = draw["probs"][0].at[:2, :9].set(0.0).at[1, 3:7].set(1.0)  # rows 1 and 0 can come from these alone
    params = {"weights": draw["weights"][0], "probs": probs}
    derived = dataclasses.replace(model, table=None).log_table(params, x)
    assert np.isneginf(derived[0, 0]) and np.isfinite(derived[1, 0])
    assert np.isfinite(derived[0, 1]) and np.isneginf(derived[1, 1])
    np.testing.assert_allclose(model.log_table(params, x), derived, rtol=1e-13)


@pytest.mark.parametrize("name", ("scotch", "digits", "candy_negative_binomial", "ais"))
def test_a_table_of_its_own_is_the_derived_one(name):
    model = MODELS[name]
    x = jax.tree.map(lambda leaf: leaf[:40], model.data.x)
    params = {name: leaf[0] for name, leaf in model.prior_draws(jax.random.key(1), 1).items()}
    derived = dataclasses.replace(model, table=None)
    np.testing.assert_allclose(model.log_table(params, x), derived.log_table(params, x), rtol=1e-11)
    lost = {**params, "weights": jnp.full_like(params["weights"], np.nan)}
    assert np.isnan(model.log_table(lost, x)).all()


def test_a_probability_that_is_no_number_makes_the_table_no_number():
    model = MODELS["scotch"]
    lost = {"weights": jnp.full(3, 1 / 3), "probs": jnp.full((3, 21), 0.5).at[1, 2].set(jnp.nan)}
    assert np.isnan(model.log_table(lost, model.data.x[:4])[:, 1]).all()


def test_a_negative_binomial_of_mean_0_is_a_point_mass_at_0():
    """EM reaches it on packages of candy, most of which are none; so must the table, and its derivative."""
    model = MODELS["candy_negative_binomial"]
    params = {"weights": jnp.array([0.4, 0.6]), "means": jnp.array([0.0, 3.0]), "sizes": jnp.array([2.0, 1.5])}
    x = jnp.arange(4.0)
    derived = dataclasses.replace(model, table=None).log_table(params, x)
    assert derived[0, 0] == pytest.approx(np.log(0.4), rel=1e-14) and np.isneginf(derived[1:, 0]).all()
    np.testing.assert_allclose(model.log_table(params, x), derived, rtol=1e-12)
    slopes = jax.grad(lambda m: model.log_likelihood({**params, "means": m}, x[:1]))(params["means"])
    assert np.isfinite(slopes).all()
