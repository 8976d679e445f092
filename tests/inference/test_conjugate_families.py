"""Every family of rules: found, right against the joint, as M-step, and with the parameters integrated out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import (
    beta,
    binomial,
    categorical,
    dirichlet,
    exponential,
    flip,
    gamma,
    gen,
    inverse_gamma,
    mv_normal,
    mv_normal_diag,
    normal,
    poisson,
    tfp_distribution,
)
from scipy import stats
from tensorflow_probability.substrates.jax import distributions as tfd

from diagnostics import calibration
from diagnostics.truth import stored
from inference import collapsed, conjugacy, gibbs, marginal
from zoo import Mixture

wishart = tfp_distribution(lambda df, scale_tril: tfd.WishartTriL(df, scale_tril))
HALF = np.array([0.5, 0.5])
COVARIANCES = np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.6, -0.2], [-0.2, 1.2]]])


def mixture(name, prior, component, weights=HALF):
    @gen
    def observation(params):
        z = categorical(probs=weights) @ "z"
        return component(params, z) @ "x"

    return Mixture(
        name=name, num_components=len(weights), exchangeable=False, prior=gen(prior), observation=observation
    )


def with_weights(name, prior, component):
    """The same with unknown weights."""

    @gen
    def whole():
        return {"weights": dirichlet(np.array([1.0, 2.0])) @ "weights", **prior.inline()}

    prior = gen(prior)

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"
        return component(params, z) @ "x"

    return Mixture(name=name, num_components=2, exchangeable=False, prior=whole, observation=observation)


def beta_vectors():
    return {"theta": beta(np.full((2, 3), 2.0), np.array([[1.0, 2.0, 3.0], [2.0, 1.0, 0.5]])) @ "theta"}


def items():
    return {"theta": dirichlet(np.array([[[2.0, 1.0, 1.5]] * 2, [[1.0, 3.0, 1.0]] * 2])) @ "theta"}


def rates(shape):
    return lambda: {"rates": gamma(np.full(shape, 2.0), 0.7) @ "rates"}


def vector_means():
    return {"means": normal(np.array([[0.0, 0.5], [0.5, -0.5]]), np.array([0.5, 0.4])) @ "means"}


def diagonal():
    return {
        "means": normal(np.zeros((2, 2)), 1.5) @ "means",
        "variances": inverse_gamma(np.full((2, 2), 3.0), 2.0) @ "variances",
    }


def joint_spread(precision):
    def prior():
        if precision:
            spread = gamma(np.full(2, 3.0), 2.0) @ "spread"
            sd = spread**-0.5
        else:
            spread = inverse_gamma(np.full(2, 3.0), 2.0) @ "spread"
            sd = jnp.sqrt(spread)
        return {"spread": spread, "sd": sd, "means": normal(1.0, sd / np.sqrt(np.array([0.5, 0.8]))) @ "means"}

    return prior


def matrices():
    return {
        "means": mv_normal(np.zeros((2, 2)), np.array([[2.0, 0.5], [0.5, 1.0]])) @ "means",
        "precisions": wishart(5.0, np.linalg.cholesky(COVARIANCES / 5)) @ "precisions",
    }


def joint_matrices():
    precisions = wishart(5.0, np.linalg.cholesky(COVARIANCES / 5)) @ "precisions"
    spread = jnp.linalg.inv(precisions) / np.array([0.5, 0.8])[:, None, None]
    return {"precisions": precisions, "means": mv_normal(np.zeros(2), spread) @ "means"}


def common_variance():
    return {**vector_means(), "variance": inverse_gamma(np.full(2, 3.0), 2.0) @ "variance"}


def common_scalar():
    means = normal(np.array([0.0, 0.5]), 0.7) @ "means"
    return {"means": means, "precision": gamma(np.array(3.0), 2.0) @ "precision"}


def common_precision():
    return {**vector_means(), "precision": wishart(5.0, np.linalg.cholesky(COVARIANCES[0] / 5)) @ "precision"}


def matrix_means():
    return {"means": mv_normal(np.zeros((2, 2)), np.array([[2.0, 0.5], [0.5, 1.0]])) @ "means"}


def variances():
    return {"variances": inverse_gamma(np.array([3.0, 4.0]), 2.0) @ "variances"}


def three_addresses():
    return {
        "means": normal(np.array([0.0, 0.5]), 0.7) @ "means",
        "theta": dirichlet(np.array([[2.0, 1.0, 1.5], [1.0, 3.0, 1.0]])) @ "theta",
        **rates((2,))(),
    }


def row_of_three(params):
    z = categorical(probs=params["weights"]) @ "z"
    length = normal(params["means"][z], 0.8) @ "length"
    count = poisson(params["rates"][z]) @ "count"
    return {"length": length, "count": count, "kind": categorical(probs=params["theta"][z]) @ "kind"}


def lines():
    return {"lines": normal(np.array([[0.0, 1.0], [0.5, -1.0]]), np.array([0.5, 0.4])) @ "lines"}


def row_on_a_line(params):
    z = categorical(probs=HALF) @ "z"
    first = normal(0.5 * z, 1.0) @ "first"
    second = normal(params["lines"][z] @ jnp.stack([1.0, first]), 0.5 + 0.5 * jnp.abs(first)) @ "second"
    return {"first": first, "second": second}


def normal_of(params, z):
    return normal(params["means"][z], params["sd"][z])


def multivariate_of(params, z):
    return mv_normal(params["means"][z], jnp.linalg.inv(params["precisions"][z]))


# name -> model, the rules that should be found, whether all parameters can be integrated out
FAMILIES = {
    "Bernoulli items": (
        with_weights("Bernoulli items", beta_vectors, lambda p, z: flip(p["theta"][z])),
        {"weights": "Dirichlet weights", "theta": "Beta probability, Bernoulli"},
        True,
    ),
    "binomial items": (
        mixture("binomial items", beta_vectors, lambda p, z: binomial(np.array([4.0, 2.0, 6.0]), probs=p["theta"][z])),
        {"theta": "Beta probability, Binomial"},
        True,
    ),
    "categorical items": (
        with_weights("categorical items", items, lambda p, z: categorical(probs=p["theta"][z])),
        {"weights": "Dirichlet weights", "theta": "Dirichlet items"},
        True,
    ),
    "Poisson counts": (
        with_weights("Poisson counts", rates((2, 3)), lambda p, z: poisson(p["rates"][z])),
        {"weights": "Dirichlet weights", "rates": "Gamma rate, Poisson"},
        True,
    ),
    "exponential vectors": (
        mixture("exponential vectors", rates((2, 2)), lambda p, z: exponential(p["rates"][z])),
        {"rates": "Gamma rate, exponential"},
        True,
    ),
    "normal vectors": (
        mixture("normal vectors", vector_means, lambda p, z: normal(p["means"][z], np.array([1.0, 0.5]))),
        {"means": "Normal mean"},
        True,
    ),
    "diagonal": (
        mixture("diagonal", diagonal, lambda p, z: mv_normal_diag(p["means"][z], jnp.sqrt(p["variances"][z]))),
        {"means": "Normal mean", "variances": "InverseGamma variance"},
        False,
    ),
    "Normal-InverseGamma": (
        with_weights("Normal-InverseGamma", joint_spread(False), normal_of),
        {
            "weights": "Dirichlet weights",
            "spread": "InverseGamma variance, joint with means",
            "means": "Normal mean",
        },
        True,
    ),
    "Normal-Gamma": (
        mixture("Normal-Gamma", joint_spread(True), normal_of),
        {"spread": "Gamma precision, joint with means", "means": "Normal mean"},
        True,
    ),
    "multivariate mean": (
        mixture("multivariate mean", matrix_means, lambda p, z: mv_normal(p["means"][z], jnp.asarray(COVARIANCES)[z])),
        {"means": "multivariate Normal mean"},
        True,
    ),
    "independent normal means of a multivariate": (
        mixture("independent", vector_means, lambda p, z: mv_normal(p["means"][z], jnp.asarray(COVARIANCES)[z])),
        {"means": "multivariate Normal mean"},
        True,
    ),
    "Wishart": (
        mixture("Wishart", matrices, multivariate_of),
        {"means": "multivariate Normal mean", "precisions": "Wishart precision"},
        False,
    ),
    "Normal-Wishart": (
        with_weights("Normal-Wishart", joint_matrices, multivariate_of),
        {
            "weights": "Dirichlet weights",
            "precisions": "Wishart precision, joint with means",
            "means": "multivariate Normal mean",
        },
        True,
    ),
}
FAMILIES |= {
    "variances about known means": (
        mixture("known means", variances, lambda p, z: normal(jnp.array([-0.3, 0.6])[z], jnp.sqrt(p["variances"][z]))),
        {"variances": "InverseGamma variance"},
        True,
    ),
    "a row of three addresses": (
        Mixture(
            name="three addresses",
            num_components=2,
            exchangeable=False,
            prior=gen(
                lambda: {
                    "weights": dirichlet(np.array([1.0, 2.0])) @ "weights",
                    **gen(three_addresses).inline(),
                }
            ),
            observation=gen(row_of_three),
        ),
        {
            "weights": "Dirichlet weights",
            "means": "Normal mean",
            "theta": "Dirichlet items",
            "rates": "Gamma rate, Poisson",
        },
        True,
    ),
    "an address on a line of another": (
        Mixture(name="line", num_components=2, exchangeable=False, prior=gen(lines), observation=gen(row_on_a_line)),
        {"lines": "Normal coefficients"},
        True,
    ),
}
SHARED = {
    "common variance": (
        mixture("common variance", common_variance, lambda p, z: normal(p["means"][z], jnp.sqrt(p["variance"]))),
        {"means": "Normal mean", "variance": "InverseGamma variance, shared"},
        False,
    ),
    "common scalar precision": (
        mixture("common scalar precision", common_scalar, lambda p, z: normal(p["means"][z], p["precision"] ** -0.5)),
        {"means": "Normal mean", "precision": "Gamma precision, shared"},
        False,
    ),
    "common precision": (
        mixture(
            "common precision",
            common_precision,
            lambda p, z: mv_normal(p["means"][z], jnp.linalg.inv(p["precision"])),
        ),
        {"means": "multivariate Normal mean", "precision": "Wishart precision, shared"},
        False,
    ),
}
FAMILIES |= SHARED
COLLAPSED = [name for name, (_, _, whole) in FAMILIES.items() if whole]


LONG = ("Wishart", "Normal-Wishart", "Poisson counts", "binomial items", "categorical items", "common precision")
LONG += ("a row of three addresses", "Normal-InverseGamma", "Bernoulli items", "diagonal", "common variance")
EACH = [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in FAMILIES]


@pytest.mark.parametrize("name", EACH)
def test_the_rules_are_found_and_have_the_ratios_of_the_joint(name):
    model, expected, _ = FAMILIES[name]
    assert {rule.site: rule.name for rule in conjugacy.rules(model)} == expected
    errors = calibration.ratio_test(model, jax.random.key(0))
    assert set(errors) == set(expected) and max(errors.values()) < 1e-11, errors


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_gibbs_leaves_the_joint_law_invariant(name):
    model = FAMILIES[name][0]
    result = calibration.joint_test(model, gibbs.build(model, 0), jax.random.key(1), level=0.01 / len(FAMILIES))
    assert result.passed, result


@pytest.mark.slow
@pytest.mark.parametrize("name", COLLAPSED)
def test_collapsed_gibbs_leaves_the_joint_law_invariant(name):
    model = FAMILIES[name][0]
    result = calibration.joint_test(model, collapsed.build(model), jax.random.key(2), level=0.01 / len(COLLAPSED))
    assert result.passed, result


@pytest.mark.parametrize("name", ["Bernoulli items", "categorical items"])
def test_the_change_of_a_posterior_by_one_observation_is_that_of_its_densities(name):
    model = FAMILIES[name][0]
    params, x = conjugacy.somewhere(model), conjugacy.few_drawn(model)[1]
    (collapsed,) = (rule.collapsed for rule in conjugacy.rules(model) if rule.collapsed.change is not None)
    (value,) = (params[rule.site] for rule in conjugacy.rules(model) if rule.collapsed is collapsed)
    each = collapsed.statistics(params, x)
    first, rest = [leaf[0] for leaf in each], [leaf[1:].sum(axis=0) for leaf in each]
    before, after = (collapsed.posterior(params, sums) for sums in (rest, jax.tree.map(jnp.add, rest, first)))
    derived = before.log_prob(value) - after.log_prob(value)
    np.testing.assert_allclose(collapsed.change(before, first, value), derived, rtol=1e-10, atol=1e-10)
    none = jax.tree.map(jnp.zeros_like, first)
    np.testing.assert_array_equal(collapsed.change(before, none, jnp.round(value)), 0.0)


@pytest.mark.parametrize("name", EACH)
def test_all_parameters_are_integrated_out_only_where_that_is_one_law(name):
    model, _, whole = FAMILIES[name]
    reason = marginal.collapsible(model)
    expected = "shared by all components" if name in SHARED else "one given the others"
    assert reason is None if whole else expected in reason


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("name", EACH)
def test_every_m_step_is_stationary_and_beats_its_neighbours(name, prior):
    model = FAMILIES[name][0]
    params, z, x = model.simulate(jax.random.key(3), 40)
    r = jax.random.dirichlet(jax.random.key(4), jnp.full(2, 3.0), (40,))

    def expected(params):
        return (r * model.log_table(params, x)).sum() + (model.log_prior(params) if prior else 0.0)

    @jax.jit
    def gains(best, neighbours):
        return jax.vmap(expected)(neighbours) - expected(best)

    for rule in conjugacy.rules(model):
        best = {**params, rule.site: rule.mode(params, r, x, prior)}
        mixed = lambda other, share: (1 - share) * best[rule.site] + share * other  # noqa: B023
        draws = model.prior_draws(jax.random.key(5), 256)[rule.site][:40]
        sites = jnp.concatenate([mixed(draws, 0.01), mixed(draws, 0.1)])  # convex supports: every mixture is inside
        neighbours = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (80, *leaf.shape)), best) | {rule.site: sites}
        assert gains(best, neighbours).max() < 1e-9, rule.name


def one_component(prior, component):
    return mixture("one", prior, component, weights=np.array([1.0]))


def of_normal(i):
    prior = lambda: {"m": normal(np.full(1, float(i["m0"])), float(i["s0"])) @ "m"}
    return one_component(prior, lambda p, z: normal(p["m"][z], float(i["sigma"])))


def of_nig(i):
    def prior():
        v = inverse_gamma(np.full(1, float(i["a0"])), float(i["b0"])) @ "v"
        return {"v": v, "m": normal(float(i["m0"]), jnp.sqrt(v / i["k0"])) @ "m"}

    return one_component(prior, lambda p, z: normal(p["m"][z], jnp.sqrt(p["v"][z])))


def of_niw(i):
    root = np.linalg.cholesky(np.linalg.inv(np.array(i["S0"])))

    def prior():
        precision = wishart(float(i["nu0"]), root[None]) @ "P"
        return {"P": precision, "m": mv_normal(np.array(i["m0"], float), jnp.linalg.inv(precision) / i["k0"]) @ "m"}

    return one_component(prior, lambda p, z: mv_normal(p["m"][z], jnp.linalg.inv(p["P"][z])))


def of_gamma_poisson(i):
    prior = lambda: {"rate": gamma(np.full(1, float(i["shape"])), float(i["rate"])) @ "rate"}
    return one_component(prior, lambda p, z: poisson(p["rate"][z]))


def of_beta_bernoulli(i):
    prior = lambda: {"theta": beta(np.full(1, float(i["a"])), float(i["b"])) @ "theta"}
    return one_component(prior, lambda p, z: flip(p["theta"][z]))


def of_dirichlet(i):
    """The weights' own: components known, so far apart that they say nothing beside their one density each."""
    alpha = np.array(i["alpha"])

    @gen
    def prior():
        return {"weights": dirichlet(alpha) @ "weights"}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"
        return normal(0.0 * z, 1.0) @ "x"

    return Mixture(name="weights", num_components=len(alpha), exchangeable=False, prior=prior, observation=observation)


MAKERS = {
    "normal_known": of_normal,
    "nig": of_nig,
    "niw": of_niw,
    "gamma_poisson": of_gamma_poisson,
    "beta_bernoulli": of_beta_bernoulli,
    "dirichlet_multinomial": of_dirichlet,
}


def kind(name):
    return name.removeprefix("conj.").rsplit("_", 1)[0]


CONJUGATE = {name: record for name, record in stored("conjugate").items() if kind(name) in MAKERS}


@functools.cache
def built(name):
    record = CONJUGATE[name]
    inputs = record["inputs"]
    model = MAKERS[kind(name)](inputs)
    if "counts" in inputs:
        z = np.repeat(np.arange(len(inputs["counts"])), inputs["counts"])
        return model, z, np.zeros(len(z))
    if "successes" in inputs:
        x = np.r_[np.ones(inputs["successes"]), np.zeros(inputs["failures"])]
    else:
        x = np.array(inputs.get("x", inputs.get("X")), float)
    return model, np.zeros(len(x), int), x


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if "niw" in n else ()) for n in CONJUGATE])
def test_marginal_likelihoods_by_the_rules_are_the_stored_ones(name):
    model, z, x = built(name)
    value = float(marginal.log_marginal(model, z, jnp.asarray(x)))
    if "counts" in CONJUGATE[name]["inputs"]:
        value -= -0.5 * np.log(2 * np.pi) * len(x)
    value_of = CONJUGATE[name]["value"]
    expected = value_of.get("log_marginal", value_of.get("log_p_sequence"))
    assert abs(value - expected) < CONJUGATE[name]["tolerance"]["abs"]


@pytest.mark.parametrize("name", CONJUGATE)
def test_posteriors_by_the_rules_are_the_stored_ones(name):
    model, z, x = built(name)
    expected, tolerance = CONJUGATE[name]["value"], CONJUGATE[name]["tolerance"]["abs"]
    sums = marginal.totals_of(model, jnp.asarray(x), jax.nn.one_hot(z, model.num_components))
    params = marginal.point(model, sums)
    q = {rule.site: rule.collapsed.posterior(params, sums[rule.site]) for rule in marginal.integrable(model)}
    found = {
        "normal_known": lambda: {"post_mean": q["m"].loc[0], "post_sd": q["m"].scale[0]},
        "nig": lambda: {
            "m": q["m"].loc[0],
            "k": params["v"][0] / q["m"].scale[0] ** 2,
            "a": q["v"].concentration[0],
            "b": q["v"].rate[0],
        },
        "niw": lambda: {
            "m": q["m"].loc[0],
            "k": q["m"].precision_matrix[0, 0, 0] / params["P"][0, 0, 0],
            "nu": q["P"].concentration[0],
            "S": np.linalg.inv(q["P"].scale_matrix[0]),
        },
        "gamma_poisson": lambda: {"post_shape": q["rate"].concentration[0], "post_rate": q["rate"].rate[0]},
        "beta_bernoulli": lambda: {"post_mean": q["theta"].mean[0]},
        "dirichlet_multinomial": lambda: {"post_mean": q["weights"].mean},
    }[kind(name)]()
    expected = expected.get("post", expected)
    for what, value in found.items():
        np.testing.assert_allclose(value, expected[what], rtol=0, atol=tolerance)
    assert "post" not in CONJUGATE[name]["value"] or set(found) == set(expected)


@pytest.mark.parametrize("name", [name for name in CONJUGATE if "pred" in CONJUGATE[name]["value"]])
def test_the_predictive_density_as_a_ratio_of_marginal_likelihoods_is_the_stored_one(name):
    model, _, x = built(name)
    expected = stats.t(**CONJUGATE[name]["value"]["pred"])
    marginal_of = lambda x: float(marginal.log_marginal(model, np.zeros(len(x), int), jnp.asarray(x)))
    for new in expected.ppf([0.01, 0.3, 0.9]):
        found = marginal_of(np.append(x, new)) - marginal_of(x)
        assert abs(found - expected.logpdf(new)) < CONJUGATE[name]["tolerance"]["abs"]


def test_a_marginal_that_the_rules_do_not_give_is_refused_in_a_sentence():
    model = FAMILIES["diagonal"][0]
    with pytest.raises(ValueError, match="means, variances are conjugate one given the others, not together"):
        marginal.log_marginal(model, np.zeros(3, int), jnp.zeros((3, 2)))
