"""Which rules are found, which are not, and what a subset of responsibilities gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import (
    categorical,
    exact_density,
    exponential,
    gamma,
    gen,
    half_normal,
    inverse_gamma,
    mv_normal_diag,
    normal,
)

from inference import conjugacy
from zoo import MODELS, Dataset, Mixture

FOUND = {
    "bento": {"means": "Normal mean"},
    "bento_425": {"means": "Normal mean"},
    "bento_known": {},
    "bento_full": {"means": "Normal mean", "variances": "InverseGamma variance", "weights": "Dirichlet weights"},
    "coffee": {"means": "Normal mean"},
    "coffee_full": {"means": "Normal mean", "variances": "InverseGamma variance", "weights": "Dirichlet weights"},
    "three_gaussians": {
        "means": "Normal mean",
        "scales": "Normal scale, maximum likelihood only",
        "weights": "Dirichlet weights",
    },
}


@pytest.mark.parametrize("name", FOUND)
def test_rules_are_found_from_the_declaration(name):
    assert {rule.site: rule.name for rule in conjugacy.rules(MODELS[name])} == FOUND[name]


ROWS = {
    "penguin_classes": {
        "islands": "Dirichlet items",
        "sexes": "Dirichlet items",
        "weights": "Dirichlet weights",
        "years": "Dirichlet items",
    },
    "ais": {
        "heights": "Normal mean",
        "sports": "Dirichlet items",
        "variances": "InverseGamma variance",
        "weights": "Dirichlet weights",
    },
    "betablocker": {"probs": "Beta probability, Binomial", "weights": "Dirichlet weights"},
    "tone": {
        "coefficients": "Normal coefficients",
        "variances": "InverseGamma variance",
        "weights": "Dirichlet weights",
    },
    "tone_experts": {"coefficients": "Normal coefficients", "variances": "InverseGamma variance"},
}


@pytest.mark.parametrize("name", ROWS)
def test_rules_are_found_for_every_address_and_beside_covariates(name):
    assert {rule.site: rule.name for rule in conjugacy.rules(MODELS[name])} == ROWS[name]


def two_normals(prior, observation):
    return Mixture(name="user", num_components=2, exchangeable=False, prior=prior, observation=observation)


def test_nothing_is_found_where_the_mean_is_not_the_site_itself():
    @gen
    def prior():
        means = normal(np.zeros(2), 1.0) @ "means"
        return {"means": jnp.array([means[0], means[0] + jnp.exp(means[1])])}

    @gen
    def observation(params):
        z = categorical(probs=np.array([0.5, 0.5])) @ "z"
        return normal(params["means"][z], 1.0) @ "x"

    assert conjugacy.rules(two_normals(prior, observation)) == ()


def test_nothing_is_found_where_the_scale_moves_with_the_mean():
    @gen
    def prior():
        means = normal(np.zeros(2), 1.0) @ "means"
        return {"means": means}

    @gen
    def observation(params):
        z = categorical(probs=np.array([0.5, 0.5])) @ "z"
        return normal(params["means"][z], 1.0 + params["means"][z] ** 2) @ "x"

    assert conjugacy.rules(two_normals(prior, observation)) == ()


def test_nothing_is_found_where_another_prior_site_depends_on_the_mean():
    @gen
    def prior():
        means = normal(np.zeros(2), 1.0) @ "means"
        scales = half_normal(1.0 + means**2) @ "scales"
        return {"means": means, "scales": scales}

    @gen
    def observation(params):
        z = categorical(probs=np.array([0.5, 0.5])) @ "z"
        return normal(params["means"][z], params["scales"][z]) @ "x"

    rules = conjugacy.rules(two_normals(prior, observation))
    assert [rule.site for rule in rules if rule.conditional is not None] == []


@pytest.mark.parametrize("depends", [False, True])
def test_nothing_is_found_where_a_density_of_the_users_own_depends_on_the_mean(depends):
    draw = lambda key, centre: centre + jax.random.normal(key)
    beside = exact_density(draw, lambda value, centre: -0.5 * (value - centre) ** 2, name="beside")

    @gen
    def prior():
        means = normal(np.zeros(2), 1.0) @ "means"
        return {"means": means, "beside": beside(means[0] if depends else means[0] * 0) @ "beside"}

    @gen
    def observation(params):
        z = categorical(probs=np.array([0.5, 0.5])) @ "z"
        return normal(params["means"][z], 1.0) @ "x"

    assert [rule.site for rule in conjugacy.rules(two_normals(prior, observation))] == ([] if depends else ["means"])


@pytest.mark.parametrize("ones", [0, 2])
def test_a_location_that_few_rows_shift_is_not_taken_for_the_mean(ones):
    """Not even where no row of the model's own data does: other data may."""

    @gen
    def prior():
        return {"means": normal(np.zeros(2), 1.0) @ "means"}

    @gen
    def observation(params, shifted):
        z = categorical(probs=np.array([0.5, 0.5])) @ "z"
        return normal(params["means"][z] * (1 + shifted), 1.0) @ "x"

    x = {"x": np.linspace(0, 1, 40), "covariates": (np.arange(40) >= 40 - ones).astype(float)}
    model = Mixture(
        name="user", num_components=2, exchangeable=True, prior=prior, observation=observation,
        data=Dataset(name="user", x=x),
    )  # fmt: skip
    assert conjugacy.rules(model) == ()


def test_a_mean_beside_a_noise_that_differs_by_row_is_not_taken_for_one_of_equal_noise():
    @gen
    def prior():
        return {"means": normal(np.zeros(2), 1.0) @ "means"}

    @gen
    def observation(params):
        z = categorical(probs=np.array([0.5, 0.5])) @ "z"
        size = exponential(np.array(1.0)) @ "size"
        return {"size": size, "length": normal(params["means"][z], 0.1 + size) @ "length"}

    assert conjugacy.rules(two_normals(prior, observation)) == ()


@gen
def far_means():
    return {"means": normal(np.array([-1000.0, 1000.0]), 1.0) @ "means"}


@gen
def shifted_by_little(params):
    z = categorical(probs=np.array([0.5, 0.5])) @ "z"
    return normal(params["means"][z] + 3e-3, 1e-3) @ "x"


@gen
def means():
    return {"means": normal(np.zeros(2), 1.0) @ "means"}


@gen
def noisier_at_zero(params):
    z = categorical(probs=np.array([0.5, 0.5])) @ "z"
    size = normal(np.array(50.0), 1.0) @ "size"
    return {"size": size, "length": normal(params["means"][z], jnp.where(size < 0.5, 5.0, 1.0)) @ "length"}


@gen
def truncated(params):
    near = exact_density(
        lambda key, centre: centre + jax.random.uniform(key, minval=-1.0),
        lambda value, centre: jnp.where(jnp.abs(value - centre) < 1, -jnp.log(2.0), -jnp.inf),
        name="near",
    )
    z = categorical(probs=np.array([0.5, 0.5])) @ "z"
    return {"near": near(params["means"][z]) @ "near", "x": normal(params["means"][z], 1.0) @ "x"}


@gen
def means_in_space():
    return {"means": normal(np.zeros((2, 3)), 1.0) @ "means"}


@gen
def of_unit_noise(params):
    z = categorical(probs=np.array([0.5, 0.5])) @ "z"
    return mv_normal_diag(params["means"][z]) @ "x"


@gen
def rates():
    return {"rates": gamma(np.full(2, 2.0), log_rate=np.array(0.3)) @ "rates"}


@gen
def waiting(params):
    z = categorical(probs=np.array([0.5, 0.5])) @ "z"
    return exponential(params["rates"][z]) @ "x"


@pytest.mark.parametrize(
    ("prior", "observation"),
    [
        (far_means, shifted_by_little),
        (means, noisier_at_zero),
        (means, truncated),
        (means_in_space, of_unit_noise),
        (rates, waiting),
    ],
)
def test_nothing_is_found_where_a_rule_would_be_wrong_by_little_or_in_few_rows_or_lacks_an_argument(prior, observation):
    assert conjugacy.rules(two_normals(prior, observation)) == ()


@gen
def one_variance():
    means = normal(np.zeros((2, 3)), 1.0) @ "means"
    return {"means": means, "variance": inverse_gamma(np.array(2.0), np.array(1.0)) @ "variance"}


@gen
def of_one_variance(params):
    z = categorical(probs=np.array([0.5, 0.5])) @ "z"
    return normal(params["means"][z], jnp.sqrt(params["variance"])) @ "x"


@gen
def variances():
    return {
        "means": normal(np.zeros(2), np.array(1.0)) @ "means",
        "variances": inverse_gamma(np.full(2, 2.0), 1.0) @ "variances",
    }


@gen
def twice(params):
    z = categorical(probs=np.array([0.5, 0.5])) @ "z"
    sd = jnp.sqrt(params["variances"][z])
    return {"x": normal(params["means"][z], sd) @ "x", "y": normal(0.0, sd) @ "y"}


@pytest.mark.parametrize(("prior", "observation"), [(one_variance, of_one_variance), (variances, twice)])
def test_the_mean_alone_is_found_beside_a_spread_of_other_shape_or_of_two_addresses(prior, observation):
    assert [rule.site for rule in conjugacy.rules(two_normals(prior, observation))] == ["means"]


def test_m_step_of_maximum_likelihood_is_the_weighted_mean_and_variance():
    model = MODELS["bento_full"]
    params, _, x = model.simulate(jax.random.key(0), 6)
    r = jax.random.dirichlet(jax.random.key(1), jnp.ones(2), (6,))
    mode = {rule.site: rule.mode(params, r, x, False) for rule in conjugacy.rules(model)}
    np.testing.assert_allclose(mode["weights"], r.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(mode["means"], [np.average(x, weights=r[:, k]) for k in range(2)], rtol=1e-12)
    squares = (x[:, None] - params["means"]) ** 2
    np.testing.assert_allclose(mode["variances"], (r * squares).sum(0) / r.sum(0), rtol=1e-12)


@pytest.mark.parametrize(
    "name", ["coffee", *(pytest.param(n, marks=pytest.mark.slow) for n in ("bento_full", "coffee_full"))]
)
def test_m_step_of_the_posterior_maximises_each_conditional(name):
    model = MODELS[name]
    params, z, x = model.simulate(jax.random.key(2), 30)
    r = jax.nn.one_hot(z, model.num_components)
    for rule in conjugacy.rules(model):
        best = {**params, rule.site: rule.mode(params, r, x, True)}
        at_best = model.log_joint(best, z, x)
        for i in range(20):
            step = 0.05 * jax.random.normal(jax.random.key(i), best[rule.site].shape)
            other = best[rule.site] * jnp.exp(step)
            other = other / other.sum() if rule.site == "weights" else other
            assert model.log_joint({**best, rule.site: other}, z, x) < at_best
