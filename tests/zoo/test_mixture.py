"""The declaration: what follows from it, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pandas as pd
import pytest
from genjax import (
    bernoulli,
    beta,
    binomial,
    categorical,
    exponential,
    flip,
    gamma,
    gen,
    half_normal,
    normal,
    poisson,
    switch,
    uniform,
    von_mises,
)
from jax.experimental import disable_x64
from numpy.testing import assert_allclose

from diagnostics import contract
from zoo import MODELS, Dataset, introspect
from zoo.dataset import shipped
from zoo.distributions import beta_binomial, multinomial
from zoo.load import load
from zoo.mixture import Mixture
from zoo.models.bento import bento, bento_full, bento_known
from zoo.models.coffee import coffee


def test_builders_return_the_identical_model_for_equal_constants():
    assert bento() is MODELS["bento"] is bento(scale=2) is bento(weights=[0.5, 0.5])
    assert bento(scale=25) is bento(scale=25.0) and bento(scale=25).name == "bento[scale=25.0]"
    assert coffee(prior_sd=5).name == "coffee[prior_sd=5.0]"


def test_exchangeable_follows_the_constants():
    assert bento().exchangeable and not bento(weights=(0.7, 0.3)).exchangeable
    assert not coffee().exchangeable and coffee(prior_means=(100, 100, 100)).exchangeable
    assert not bento_full(concentration=(1, 2)).exchangeable


@pytest.mark.parametrize(
    "constants, sentence",
    [
        ({"scal": 2.0}, "no constant 'scal': did you mean 'scale'"),
        ({"scale": "wide"}, "scale should be a float"),
        ({"scale": True}, "scale should be a float"),
        ({"scale": -1.0}, "scale should be positive"),
        ({"scale": float("nan")}, "scale should be finite"),
        ({"weights": (0.5, 0.6)}, "sum to 1"),
        ({"weights": (1.0,)}, "should have 2 values"),
        ({"weights": ["a", "b"]}, "weights should be a tuple like"),
    ],
)
def test_builders_refuse_bad_constants_in_a_sentence(constants, sentence):
    with pytest.raises(ValueError, match=sentence):
        bento(**constants)


@pytest.mark.parametrize(
    "x, sentence",
    [
        ([1.0, np.nan], "1 rows with NaN or infinite"),
        ([1.0, np.inf], "NaN or infinite"),
        ([], "no rows"),
        (np.ones((3, 1)), r"use x\[:, 0\]"),
        (["a", "b"], "should be numbers"),
        ([[1.0], [1.0, 2.0]], "different lengths"),
        (3.0, "should have shape"),
        ([1e200], "rescale"),
        ({"x": np.ones(3)}, None),
    ],
)
def test_check_refuses_bad_data_in_a_sentence(x, sentence):
    if sentence is None:  # a dict with the one address is the same data
        assert MODELS["bento"].check(x)["x"].shape == (3,)
        return
    with pytest.raises(ValueError, match=sentence):
        MODELS["bento"].check(x)


@pytest.mark.parametrize(
    "site, bad",
    [
        (lambda u: bernoulli(probs=u), 5.0),
        (lambda u: binomial(10.0, probs=u), 12.0),
        (lambda u: poisson(u), 1.5),
        (lambda u: gamma(1.0, u), -1.0),
        (lambda u: gamma(2.0, u), 0.0),
        (lambda u: exponential(u), -1.0),
        (lambda u: beta(1.0, u), 1.5),
        (lambda u: half_normal(u), -2.0),
        (lambda u: beta_binomial(total_count=10.0, concentration1=9 * u, concentration0=5.0), 2.5),
        (lambda u: beta_binomial(total_count=10.0, concentration1=9 * u, concentration0=5.0), 11.0),
        (lambda u: beta_binomial(total_count=10.0, concentration1=9 * u, concentration0=5.0), -1.0),
        (lambda u: binomial(np.array([10.0, 5.0]), probs=u), [3.0, 6.0]),
        (lambda u: multinomial(total_count=9.0, probs=jnp.array([u, 1 - u])), [4.5, 4.5]),
        (lambda u: multinomial(total_count=9.0, probs=jnp.array([u, 1 - u])), [4.0, 4.0]),
        (lambda u: switch(poisson, poisson)(0, (9 * u,), (jnp.ones(()),)), 1.5),
        (lambda u: switch(poisson, poisson)(0, (9 * u,), (jnp.ones(()),)), -1.0),
    ],
)
def test_a_value_outside_the_support_is_refused_in_a_sentence(site, bad):
    @gen
    def prior():
        return {"u": uniform(np.full(2, 0.2), 0.8) @ "u"}

    @gen
    def observation(params):
        z = categorical(probs=np.full(2, 0.5)) @ "z"
        return site(params["u"][z]) @ "x"

    model = Mixture(name="m", num_components=2, exchangeable=True, prior=prior, observation=observation)
    good = model.simulate(jax.random.key(0), 2)[2]
    model.check(good)
    with pytest.raises(ValueError, match="row 1 is .* outside the support of m"):
        model.check(np.array([good[0], bad]))


def test_an_assignment_of_another_number_of_values_than_components_is_told():
    for wrong in (dataclasses.replace(bento(), num_components=3), dataclasses.replace(coffee(), num_components=2)):
        with pytest.raises(ValueError, match=r"num_components is \d, but its assignment z is one of \d; the two"):
            wrong.check(wrong.data.x)


def test_columns_of_these_names_have_the_mean_and_sd_taken_out_that_the_models_own_data_had():
    model, raw = MODELS["thyroid"], shipped("thyroid")
    frame = pd.DataFrame(raw.x, columns=[name.upper() for name in raw.feature_names])
    assert_allclose(model.check(frame), model.data.x, rtol=1e-12)
    first = model.of_frame(frame.iloc[:9, ::-1])  # in any order; by the model's mean and sd, not their own
    assert_allclose(first.x, model.data.x[:9], rtol=1e-12)
    assert list(first.standardized.values()) == list(model.data.standardized.values())
    assert first.units == "standardised"
    with pytest.raises(ValueError, match="for standardised columns, rt3u, .* and these are a, b, c, d, e; give raw"):
        model.check(frame.set_axis(list("abcde"), axis=1))
    with pytest.raises(ValueError, match="rt3u, t4, t3, tsh, dtsh with means near 0 and sds near 1 already"):
        model.check(pd.DataFrame(model.data.columns))


def mixture_of(site, weights=(0.5, 0.5)):
    @gen
    def prior():
        return {"u": uniform(np.full(2, 0.2), 0.8) @ "u"}

    @gen
    def observation(params):
        z = categorical(probs=np.array(weights)) @ "z"
        return site(z, params["u"][z])

    return Mixture(name="m", num_components=2, exchangeable=False, prior=prior, observation=observation)


def test_counts_in_a_table_are_held_to_the_trials_of_their_row_of_it():
    rows = mixture_of(lambda z, u: multinomial(total_count=9.0, probs=np.full((2, 2), 0.5)) @ "x")
    rows.check(np.array([[[4.0, 5.0], [3.0, 6.0]]]))
    with pytest.raises(ValueError, match="counts of a row sum to its number of trials, 9"):
        rows.check(np.array([[[4.0, 5.0], [3.0, 5.0]]]))
    cells = mixture_of(lambda z, u: binomial(np.array([[10.0], [5.0], [1.0]]), probs=np.full((3, 2), 0.5)) @ "x")
    cells.check(np.array([[[10.0, 10.0], [5.0, 5.0], [0.0, 1.0]]]))
    with pytest.raises(ValueError, match="a count is from 0 to its number of trials"):
        cells.check(np.array([[[10.0, 10.0], [6.0, 5.0], [0.0, 1.0]]]))


def test_a_flip_beside_a_family_that_is_not_known_and_a_rare_component_of_real_numbers_are_served():
    def both(z, u):
        flip(0.5) @ "y"
        return uniform(0.0, u) @ "x"

    mixture_of(both).check({"y": np.array([0.0, 1.0]), "x": np.array([0.1, 0.15])})
    rare = mixture_of(lambda z, u: switch(poisson, normal)(z, (9 * u,), (5 * u, 1.0 + 0 * u)) @ "x", (0.998, 0.002))
    rare.check(np.array([1.0, 2.0, 2.5]))


@pytest.mark.parametrize("site", [lambda u: exponential(u), lambda u: gamma(1.0, u), lambda u: uniform(0.0, 9 * u)])
def test_a_value_that_some_parameters_allow_is_taken(site):
    @gen
    def prior():
        return {"u": gamma(np.full(2, 2.0), 1.0) @ "u"}

    @gen
    def observation(params):
        z = categorical(probs=np.full(2, 0.5)) @ "z"
        return site(params["u"][z]) @ "x"

    model = Mixture(name="m", num_components=2, exchangeable=True, prior=prior, observation=observation)
    assert len(model.check(np.array([0.0, 500.0]))) == 2


def test_simulation_works_vmapped_over_keys():
    model = bento_known()
    draw = jax.jit(jax.vmap(lambda key: model.simulate(key, 1)))
    _, kinds, grams = draw(jax.random.split(jax.random.key(42), 20))
    assert kinds.shape == grams.shape == (20, 1) and kinds.dtype == jnp.int32
    expected = jnp.where(kinds == 0, 500.0, 350.0)
    assert jnp.all(jnp.abs(grams - expected) < 5 * 2.0)


def test_joint_is_a_genjax_function_with_the_declared_addresses():
    trace = MODELS["coffee"].joint(5).simulate(jax.random.key(0), ())
    choices = trace.get_choices()
    assert choices["means"].shape == (3,)
    assert choices["obs", "z"].shape == choices["obs", "x"].shape == (5,)
    with pytest.raises(ValueError, match="positive whole number"):
        MODELS["coffee"].joint(0)


def test_component_parameters_are_probed():
    names = ("bento", "bento_known", "bento_full", "coffee", "three_gaussians")
    found = {name: set(MODELS[name].component_leaves) for name in names}
    assert found["bento"] == found["coffee"] == {"means"}
    assert found["bento_known"] == set()
    assert found["bento_full"] == {"weights", "means", "variances"}
    assert found["three_gaussians"] == {"weights", "means", "scales"}


def pair(prior, weights=(0.5, 0.5), **declared):
    @gen
    def observation(params):
        z = categorical(probs=np.array(weights)) @ "z"
        return normal(params["means"][z], 2.0) @ "x"

    return Mixture(**{"name": "pair", "num_components": 2, "prior": prior, "observation": observation, **declared})


@gen
def numbered():
    return {"means": jnp.stack([normal(np.float64(0), 20.0) @ "m0", normal(np.float64(0), 20.0) @ "m1"])}


@gen
def together():
    return {"means": normal(np.full(2, 400.0), 50.0) @ "means"}


def swapped(params, s):
    moved = jnp.stack([params["m0"], params["m1"]])[jnp.argsort(s)]
    return {"m0": moved[0], "m1": moved[1]}


def test_unequal_fixed_weights_are_seen_however_the_rows_fall():
    assert pair(together, exchangeable=True).exchanges
    for weight in (0.55, 0.6, 0.7):  # two rows of each component, and the sum over rows says nothing
        assert not pair(together, (weight, 1 - weight), exchangeable=True).exchanges


def test_a_permute_of_ones_own_needs_no_component_params_and_fails_the_contract_where_it_relabels_nothing():
    assert not pair(numbered, exchangeable=False).relabels
    model = pair(numbered, exchangeable=True, permute=swapped)
    assert model.own_permute and model.relabels and model.exchanges
    stretched = lambda params, s: {name: 2 * leaf for name, leaf in swapped(params, s).items()}
    doubled = dataclasses.replace(model, permute=stretched)
    assert not doubled.relabels
    fault = contract.relabelling_permutes_columns(doubled)
    assert not fault.holds and "is not used" in fault.detail


@gen
def three_means():
    return {"means": normal(np.full(3, 400.0), 50.0) @ "means"}


def test_a_permute_of_ones_own_that_only_shifts_is_none():
    thirds = pair(three_means, (1 / 3,) * 3, num_components=3, exchangeable=True)
    shifts = lambda params, s: {"means": jnp.roll(params["means"], s[0])}
    assert thirds.relabels and not dataclasses.replace(thirds, permute=shifts).relabels


@gen
def broken_stick():
    first = beta(np.full(2, 2.0), np.full(2, 2.0)) @ "sticks"
    means = normal(np.zeros(3), 2.0) @ "means"
    return {"sticks": first, "means": means}


@gen
def of_sticks(params):
    z = categorical(probs=of_sticks_weights(params["sticks"])) @ "z"
    return normal(params["means"][z], 1.0) @ "x"


def of_sticks_weights(sticks):
    return jnp.append(sticks, 1.0) * jnp.append(1.0, jnp.cumprod(1 - sticks))


def permute_sticks(params, s):
    weights = of_sticks_weights(params["sticks"])[jnp.argsort(s)]
    return {"sticks": weights[:2] / jnp.append(1.0, 1 - weights[0]), "means": params["means"][jnp.argsort(s)]}


def test_sticks_are_not_relabelled_without_their_jacobian():
    sticks = dict(name="sticks", num_components=3, exchangeable=False, prior=broken_stick, observation=of_sticks)
    model = Mixture(**sticks, permute=permute_sticks)
    params, x = {"sticks": jnp.array([0.2, 0.5]), "means": jnp.array([0.0, 1.0, 2.0])}, jnp.array([0.3])
    s = jnp.array([1, 2, 0])
    assert_allclose(model.log_table(model.permute(params, s), x)[:, s], model.log_table(params, x), rtol=1e-12)
    assert not model.relabels and not contract.relabelling_permutes_columns(model).holds


def test_a_copy_with_another_prior_permutes_by_its_own_leaves():
    model = pair(together, exchangeable=True)
    moved = dataclasses.replace(model, prior=numbered, permute=model.permute)
    assert model.relabels and not moved.own_permute and not moved.relabels


def test_probing_is_reached_safely_from_inside_a_jitted_function():
    model = bento(scale=3.5)  # a model nothing has probed yet
    moved = jax.jit(lambda p: model.permute(p, jnp.array([1, 0])))({"means": jnp.array([1.0, 2.0])})
    assert_allclose(moved["means"], [2.0, 1.0])


def test_permute_sends_component_k_to_s_of_k():
    model, s = MODELS["three_gaussians"], jnp.array([2, 0, 1])
    params, z, x = model.simulate(jax.random.key(1), 6)
    moved = model.permute(params, s)
    for name in params:
        assert_allclose(moved[name][s], params[name])
    assert_allclose(model.log_joint(moved, s[z], x), model.log_joint(params, z, x), rtol=1e-12)


def test_derived_values_are_what_the_prior_returns_beside_its_choices():
    params = {"weights": jnp.array([0.3, 0.7]), "means": jnp.array([1.0, 2.0]), "variances": jnp.array([4.0, 9.0])}
    derived = bento_full().derived(params)
    assert set(derived) == {"scales"}
    assert_allclose(derived["scales"], [2.0, 3.0])
    assert bento().derived({"means": params["means"]}) == {}


def test_number_of_free_parameters_counts_a_simplex_once_less():
    counts = {
        "bento": 2,
        "bento_425": 2,
        "bento_known": 0,
        "bento_full": 5,
        "coffee": 3,
        "coffee_full": 8,
        "three_gaussians": 8,
        "ais": 27,
        "iris": 44,
        "scotch": 65,
        "tone": 7,
    }
    assert {name: MODELS[name].num_free_parameters for name in counts} == counts


def test_sites_name_the_distributions_and_their_arguments():
    params = {"means": jnp.array([350.0, 500.0])}
    found = bento().observation_sites(params, 1, {"x": jnp.array(498.0)})
    assert found["x"].family == "Normal" and found["z"].family == "Categorical"
    assert_allclose(found["x"].parameters["loc"], 500.0)
    assert_allclose(found["z"].parameters["probs"], [0.5, 0.5])
    total, _ = introspect.sites(bento().prior, (), params)
    assert_allclose(total["means"].score, bento().log_prior(params))


def test_an_unknown_model_is_named_with_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'coffee'"):
        MODELS["cofee"]


def test_a_model_is_loaded_from_a_strangers_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from zoo.models.bento import bento\nmodel = bento(scale=7.0)\nnumber = 3\n")
    assert load(f"{file}:model") is bento(scale=7.0)
    with pytest.raises(ValueError, match="it should be a Mixture"):
        load(f"{file}:number")
    with pytest.raises(ValueError, match="did you mean 'model'"):
        load(f"{file}:modell")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(ValueError, match="ModuleNotFoundError"):
        load(f"{tmp_path / 'broken.py'}:model")
    with pytest.raises(ValueError, match="no file"):
        load("nowhere.py:model")


def test_a_strangers_mistake_inside_the_model_is_told_in_a_sentence(tmp_path):
    file = tmp_path / "faulty.py"
    file.write_text(
        "from genjax import categorical, gen, normal\nimport numpy as np\nfrom zoo import Mixture\n"
        "@gen\ndef prior():\n    m = normal(np.zeros(2), 1.0) @ 'm'\n    return {'m': m}\n"
        "@gen\ndef observation(params):\n    z = categorical(probs=np.ones(2) / 2) @ 'z'\n"
        "    return normal(params['nope'][z], 1.0) @ 'x'\n"
        "@gen\ndef no_z(params):\n    return normal(params['m'][0], 1.0) @ 'x'\n"
        "make = lambda o: Mixture(name='f', num_components=2, exchangeable=True, prior=prior, observation=o)\n"
        "bad, lacking = make(observation), make(no_z)\n"
    )
    with pytest.raises(ValueError, match="the observation function cannot be traced: KeyError: 'nope'"):
        load(f"{file}:bad")
    with pytest.raises(ValueError, match="needs a site 'z'"):
        load(f"{file}:lacking")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_can_be_traced_in_float32(name):
    model = MODELS[name]

    def parts(key):
        params, _, x = model.simulate(key, 3)
        with numpyro.handlers.seed(rng_seed=key):
            numpyro.handlers.trace(model.numpyro_model).get_trace(x)
        return params, model.log_density(params, x)

    assert model.component_leaves is not None and model.numpyro_model  # probed in float64, as the other tests do
    with disable_x64():
        out = jax.eval_shape(parts, jax.random.key(0))
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(out))


def test_float32_works_and_keeps_its_dtype():
    model = MODELS["three_gaussians"]
    params, _, x = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.float64 else leaf,
        model.simulate(jax.random.key(0), 5),
    )
    exact = model.log_table({k: v.astype(jnp.float64) for k, v in params.items()}, x.astype(jnp.float64))
    assert_allclose(model.log_table(params, x), exact, rtol=1e-5)


@pytest.mark.parametrize(
    "site, good, bad, sentence",
    [
        (lambda u: categorical(probs=np.ones(3) / 3), 2, 3, "its 3 categories are 0, ..., 2"),
        (lambda u: categorical(probs=np.ones((2, 4)) / 4), [0, 3], [1, 4], "its 4 categories are 0, ..., 3"),
        (lambda u: categorical(logits=np.zeros(3)), 0, -1, "its 3 categories are 0, ..., 2"),
        (lambda u: poisson(u), 3, -1, "counts are 0, 1, 2, ..."),
        (lambda u: poisson(u), 3, 1.5, "counts are 0, 1, 2, ..."),
        (lambda u: von_mises(u, 1.0), 3.0, 90.0, "angles are radians from -pi to pi"),
        (lambda u: bernoulli(probs=u), 1, 2, "its values are 0 and 1"),
    ],
)
def test_values_that_the_family_does_not_have_are_refused_and_it_says_which_it_has(site, good, bad, sentence):
    @gen
    def prior():
        return {"u": uniform(np.full(2, 0.2), 0.8) @ "u"}

    @gen
    def observation(params):
        z = categorical(probs=np.full(2, 0.5)) @ "z"
        return site(params["u"][z]) @ "x"

    model = Mixture(name="m", num_components=2, exchangeable=True, prior=prior, observation=observation)
    assert np.array_equal(model.check([good]), [good])
    with pytest.raises(ValueError) as error:
        model.check([good, bad])
    assert str(error.value).startswith("x row 1 is") and str(error.value).endswith(f"support of m: {sentence}")


@pytest.mark.parametrize(
    "covariates, sentence",
    [
        ([0.0, np.nan], "row 1 is NaN or infinite"),
        ([[0.0], [1.0]], r"should have shape \(N\) for line"),
        ([0.0, 1.0, 2.0], "should have one length N"),
        (["a", "b"], "should be numbers"),
        ({"t": [0.0, 1.0]}, "should be built like those"),
    ],
)
def test_bad_covariates_are_refused_in_a_sentence(covariates, sentence):
    @gen
    def prior():
        return {"slope": normal(np.zeros(2), 1.0) @ "slope"}

    @gen
    def observation(params, t):
        z = categorical(probs=np.full(2, 0.5)) @ "z"
        return normal(params["slope"][z] * t, 1.0) @ "x"

    data = Dataset(name="line", x={"x": np.zeros(2), "covariates": np.arange(2.0)})
    line = Mixture(name="line", num_components=2, exchangeable=True, prior=prior, observation=observation, data=data)
    frame = pd.DataFrame({"covariates": [0, 1], "x": [2.0, 3.0]})
    assert line.check(frame)["covariates"].tolist() == [0, 1] and line.check(frame)["x"].tolist() == [2, 3]
    assert line.data_shapes == {"x": (), "covariates": ()}
    with pytest.raises(ValueError, match=sentence):
        line.check({"x": np.zeros(2), "covariates": covariates})


def test_components_of_different_kinds_are_simulated_as_plain_arrays():
    @gen
    def prior():
        return {"mean": normal(np.array(1000.0), 1.0) @ "mean"}

    @gen
    def observation(params):
        z = categorical(probs=np.full(2, 0.5)) @ "z"
        return switch(normal, uniform)(z, (params["mean"], np.array(1.0)), (np.array(0.0), np.array(1.0))) @ "x"

    model = Mixture(name="kinds", num_components=2, exchangeable=False, prior=prior, observation=observation)
    params, z, x = model.simulate(jax.random.key(0), 30)
    assert x.shape == (30,) and len(set(np.asarray(z).tolist())) == 2
    assert np.array_equal(np.asarray(x) > 500, np.asarray(z) == 0)
    outside = np.asarray(model.log_table(params, x))[np.arange(30), 1 - np.asarray(z)]
    assert np.all(outside < -1e4), "neither kind could have made what the other did"
