"""`@gen` models with one address per observation: the density of the mixture, its posteriors, and refusals."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import ChoiceMap, categorical, exponential, flip, gamma, gen, half_normal, normal

from diagnostics import compare
from diagnostics.functionals import sorted_by
from diagnostics.verdicts import failures
from inference import conjugacy, fit
from zoo import MODELS, Dataset, Mixture, from_unrolled
from zoo.dependent import Dependent

HALF = np.array([0.5, 0.5])
BENTO = MODELS["bento"]
GRAMS = BENTO.data.x[:6]


def tutorial(n, probs=HALF, skip=(), more=(), loc=400.0):
    """Bentos as a tutorial writes them, without the addresses in `skip`, with normal choices at those in `more`."""

    @gen
    def bentos():
        means = jnp.array([normal(loc, 50.0) @ "mu_0", normal(loc, 50.0) @ "mu_1"])
        for address in more:
            normal(0.0, 1.0) @ address
        for i in range(n):
            z = categorical(probs=probs) @ f"z_{i}" if f"z_{i}" not in skip else 0
            if f"x_{i}" not in skip:
                normal(means[z], 2.0) @ f"x_{i}"

    return bentos


@functools.cache
def bentos():
    data = Dataset(name="six bentos", x=GRAMS, units="g")
    return from_unrolled(tutorial(len(GRAMS)), name="six_bentos", data=data)


def random_points(model, n, num=20):
    """Prior draws, assignments that are not theirs, and observations near the components."""
    rng = np.random.default_rng(0)
    params = {k: np.asarray(v)[:num] for k, v in model.prior_draws(jax.random.key(1), num).items()}
    z = rng.integers(0, model.num_components, (num, n)).astype(np.int32)
    return params, z, rng.normal(400.0, 60.0, (num, n))


def each(function):
    return jax.jit(jax.vmap(function))


def test_an_unrolled_bento_has_the_log_joint_density_of_bento():
    points = random_points(BENTO, 6)
    mine, theirs = (np.asarray(each(model.log_joint)(*points)) for model in (bentos(), BENTO))
    assert np.max(np.abs(mine - theirs) / (1 + np.abs(theirs))) < 1e-10
    params, _, x = points
    assert sorted_by(bentos()) == sorted_by(BENTO) == "means"
    tables = (np.asarray(each(model.log_table)(params, x)) for model in (bentos(), BENTO))
    np.testing.assert_allclose(*tables, rtol=1e-10)


def test_an_unrolled_bento_has_the_log_joint_density_that_genjax_gives_the_function():
    at = np.array([400.0, 400.0])  # not Python numbers: with those GenJAX has single precision in double

    @gen
    def pair():
        means = jnp.array([normal(at[0], np.float64(50)) @ "mu_0", normal(at[1], np.float64(50)) @ "mu_1"])
        for i in range(3):
            normal(means[categorical(probs=HALF) @ f"z_{i}"], np.float64(2)) @ f"x_{i}"

    params, z, x = random_points(BENTO, 3)

    def genjax(params, z, x):
        choices = {f"mu_{k}": params["means"][k] for k in range(2)}
        choices |= {f"z_{i}": z[i] for i in range(3)} | {f"x_{i}": x[i] for i in range(3)}
        return pair.assess(ChoiceMap.d(choices), ())[0]

    mine, theirs = np.asarray(each(from_unrolled(pair).log_joint)(params, z, x)), each(genjax)(params, z, x)
    assert np.max(np.abs(mine - theirs) / (1 + np.abs(theirs))) < 1e-10


def test_an_unrolled_bento_is_as_exchangeable_and_as_conjugate_as_bento():
    model = bentos()
    assert isinstance(model, Mixture) and model.exchangeable and model.component_leaves == ("means",)
    assert [rule.name for rule in conjugacy.rules(model)] == [rule.name for rule in conjugacy.rules(BENTO)]
    assert not from_unrolled(tutorial(2, np.array([0.5001, 0.4999]))).exchangeable


MANY = {"importance": {"num_particles": 4_000_000}}


@functools.cache
def exact():
    found = compare(BENTO, backends=["quadrature"], x=GRAMS).reference
    assert found.kind == "exact"
    return found


@pytest.mark.parametrize("backend", ["importance", "metropolis", "gibbs", "nuts"])
@pytest.mark.slow
def test_a_back_end_on_an_unrolled_bento_agrees_with_the_exact_posterior_of_bento(backend):
    # one prior draw in 5,000 is worth one of the posterior
    found = compare(bentos(), backends=[backend], reference=exact(), seed=1, settings=MANY.get(backend))
    rows = [row for row in found.rows if row["backend"] == backend]
    assert failures(rows) == []
    assert {"sorted_means[0]", "sorted_means[1]", "log_density"} <= {
        r["functional"] for r in rows if r["z"] is not None
    }


def test_em_on_an_unrolled_bento_finds_the_maximum():
    found = fit(bentos(), "em", seed=1)
    heavy = GRAMS > 425  # responsibilities are 0 and 1 to rounding, so each mean has its conjugate normal's mode
    modes = [(GRAMS[k].sum() / 4 + 400 / 2500) / (k.sum() / 4 + 1 / 2500) for k in (~heavy, heavy)]
    assert found.admissible[0]
    np.testing.assert_allclose(np.sort(found.params["means"][0]), modes, rtol=1e-6)


def test_rows_of_a_parameter_are_in_the_order_of_the_components():
    @gen
    def swapped():
        mu_0 = normal(350.0, 50.0) @ "mu_0"
        mu_1 = normal(500.0, 50.0) @ "mu_1"
        for i in range(3):
            z = flip(0.3) @ f"z_{i}"
            normal(jnp.where(z, mu_0, mu_1), 2.0) @ f"x_{i}"

    model = from_unrolled(swapped)
    assert model.component_leaves == ("means",) and not model.exchangeable
    found = float(
        model.log_joint({"means": jnp.array([500.0, 350.0])}, jnp.array([0, 0, 1]), np.array([500, 500, 350]))
    )
    prior = 2 * -np.log(50 * np.sqrt(2 * np.pi))
    assert abs(found - (prior + 2 * np.log(0.7) + np.log(0.3) - 3 * np.log(2 * np.sqrt(2 * np.pi)))) < 1e-9


@pytest.mark.slow
def test_shared_parameters_and_hyperparameters_keep_their_own_addresses():
    @gen
    def model():
        level = normal(0.0, 10.0) @ "level"
        mu = [normal(level, 1.0) @ f"mean.{k}" for k in range(3)]
        rate = [gamma(2.0, 1.0) @ f"r{k}" for k in range(3)]
        sigma = half_normal(5.0) @ "sigma"
        ks = [categorical(probs=np.full(3, 1 / 3)) @ f"kind[{i}]" for i in range(4)]
        for i in range(4):
            normal(jnp.stack(mu)[ks[i]], sigma / jnp.stack(rate)[ks[i]]) @ f"obs{i}"

    found = from_unrolled(model, 3, "kind[{}]", "obs{}", {"mu": "mean.{}", "rate": "r{}"})
    assert list(found.param_shapes) == ["level", "mu", "rate", "sigma"]
    assert found.component_leaves == ("mu", "rate") and found.exchangeable
    params, z, x = random_points(found, 4)
    assert np.isfinite(each(found.log_joint)(params, z, x)).all()


@pytest.mark.slow
def test_counts_and_waiting_times_work_as_weights_do():
    @gen
    def queues():
        rates = jnp.array([gamma(2.0, 1.0) @ "rate_0", gamma(2.0, 1.0) @ "rate_1"])
        for i in range(3):
            exponential(rates[categorical(probs=HALF) @ f"z_{i}"]) @ f"x_{i}"

    model = from_unrolled(queues, parameters={"rates": "rate_{}"})
    assert [rule.name for rule in conjugacy.rules(model)] == ["Gamma rate, exponential"]
    assert model.lacks_twin is None


# -- refusals --------------------------------------------------------------------------------------------------


@gen
def chain():
    means = jnp.array([normal(400.0, 50.0) @ "mu_0", normal(400.0, 50.0) @ "mu_1"])
    z = 0
    for i in range(5):
        z = categorical(probs=jnp.array([[0.5, 0.5], [0.4, 0.6]])[z]) @ f"z_{i}"
        normal(means[z], 2.0) @ f"x_{i}"


@gen
def autoregressive():
    means = jnp.array([normal(400.0, 50.0) @ "mu_0", normal(400.0, 50.0) @ "mu_1"])
    x = 0.0
    for i in range(4):
        x = normal(means[categorical(probs=HALF) @ f"z_{i}"] + 0.01 * x, 2.0) @ f"x_{i}"


@gen
def unlike_rows():
    means = jnp.array([normal(400.0, 50.0) @ "mu_0", normal(400.0, 50.0) @ "mu_1"])
    for i in range(4):
        normal(means[categorical(probs=HALF) @ f"z_{i}"], 2.0 + 0.001 * (i == 2)) @ f"x_{i}"


@gen
def ordered():
    mu_0 = normal(400.0, 50.0) @ "mu_0"
    means = jnp.array([mu_0, normal(mu_0, 50.0) @ "mu_1"])
    for i in range(2):
        normal(means[categorical(probs=HALF) @ f"z_{i}"], 2.0) @ f"x_{i}"


@gen
def unlike_priors():
    means = jnp.array([normal(400.0, 50.0) @ "mu_0", gamma(400.0, 1.0) @ "mu_1"])
    for i in range(2):
        normal(means[categorical(probs=HALF) @ f"z_{i}"], 2.0) @ f"x_{i}"


@gen
def vectors():
    means = jnp.stack([normal(np.zeros(2), 1.0) @ "mu_0", normal(np.zeros(2), 1.0) @ "mu_1"])
    for i in range(2):
        normal(means[categorical(probs=HALF) @ f"z_{i}"], 2.0) @ f"x_{i}"


@gen
def counts_for_z():
    means = jnp.array([normal(400.0, 50.0) @ "mu_0", normal(400.0, 50.0) @ "mu_1"])
    for i in range(2):
        normal(means[0] + (normal(0.0, 1.0) @ f"z_{i}"), 2.0) @ f"x_{i}"


@gen
def takes_n(n):
    return normal(0.0, 1.0) @ "mu_0"


SIX = tutorial(6)
REFUSED = [
    (lambda: from_unrolled(BENTO), "gen_fn should be a function decorated with GenJAX's @gen, got Mixture"),
    (lambda: from_unrolled(takes_n), "gen_fn takes n; it should have no arguments: close over them"),
    (lambda: from_unrolled(SIX, assignments="z"), "assignments should be an address with {} for the number.*, got 'z'"),
    (lambda: from_unrolled(SIX, observations=3), "observations should be an address with {} .* got 3"),
    (lambda: from_unrolled(SIX, parameters={"means": "mu"}), "parameters\\['means'\\] should be an address with {} "),
    (
        lambda: from_unrolled(SIX, parameters="mu_{}"),
        "parameters should be a dict like {'means': 'mu_{}'}, got 'mu_{}'",
    ),
    (
        lambda: from_unrolled(SIX, assignments="k_{}"),
        "assignments='k_{}': gen_fn has no such address, its addresses are",
    ),
    (lambda: from_unrolled(SIX, parameters={"m": "m_{}"}), "parameters\\['m'\\]='m_{}': gen_fn has no such address"),
    (lambda: from_unrolled(tutorial(6, skip=("z_3",))), "gen_fn has z_5 but no z_3; number them 0, 1, 2"),
    (lambda: from_unrolled(tutorial(6, skip=("x_0",))), "gen_fn has x_5 but no x_0"),
    (lambda: from_unrolled(tutorial(6, skip=("x_5",))), "6 assignments, z_0 to z_5, and 5 observations, x_0 to x_4"),
    (lambda: from_unrolled(SIX, 3), "z_0 has 2 categories and num_components is 3; give 2"),
    (lambda: from_unrolled(SIX, 2.0), "num_components should be a whole number, 1 or more, got 2.0"),
    (
        lambda: from_unrolled(tutorial(2, more=("mu_2",))),
        "gen_fn has mu_0, mu_1, mu_2, and num_components is 2; it should",
    ),
    (lambda: from_unrolled(tutorial(2, more=("s_0", "s_1"))), "s_0, s_1, of no pattern given; .*'s': 's_{}'"),
    (lambda: from_unrolled(tutorial(2, more=("means",))), "'means' is an address of gen_fn already"),
    (lambda: from_unrolled(SIX, parameters={"a": "mu_{}", "b": "mu_{}"}), "the address mu_0 is of two patterns"),
    (lambda: from_unrolled(tutorial(2, more=("a", "a"))), "gen_fn has the address a twice"),
    (lambda: from_unrolled(vectors), "mu_0 has shape \\(2,\\), and an address for each component should be a scalar"),
    (lambda: from_unrolled(counts_for_z), "z_0 should be one categorical or flip, a component; it is a Normal"),
    (lambda: from_unrolled(unlike_priors), "mu_1 and mu_0 have priors of two kinds"),
    (lambda: from_unrolled(SIX, data=BENTO.data), "data has 20 rows and gen_fn 6 observations"),
    (lambda: from_unrolled(SIX, data=GRAMS), "data should be a Dataset, got ndarray"),
    (
        lambda: from_unrolled(tutorial(151)),
        "151 observations, .* for 150 at most; write .*Mixture\\(prior=..., observation",
    ),
    (lambda: from_unrolled(unlike_rows), "x_2 has another distribution than x_0: .*covariates"),
    (lambda: from_unrolled(ordered), "the log prior density of mu_0, mu_1 is not that of independent draws"),
    (
        lambda: from_unrolled(tutorial(2, loc=np.nan)),
        "the log density of the parameters is NaN at draws from the prior",
    ),
]


@pytest.mark.parametrize("call, sentence", REFUSED)
def test_what_is_no_unrolled_mixture_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        call()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("function, first", [(chain, "z_1"), (autoregressive, "x_1")])
def test_pairs_that_depend_on_each_other_are_no_mixture(function, first):
    says = f"{first} depends on other assignments or observations given the parameters, so unrolled is no mixture"
    with pytest.warns(UserWarning, match=says):
        assert isinstance(from_unrolled(function), Dependent)


@pytest.mark.slow
def test_more_than_60_observations_have_a_warning_that_names_the_vectorised_form():
    with pytest.warns(UserWarning, match="61 observations .* take long to trace and compile; write .*Mixture"):
        model = from_unrolled(tutorial(61))
    points = random_points(BENTO, 61)
    np.testing.assert_allclose(each(model.log_joint)(*points), each(BENTO.log_joint)(*points), rtol=1e-10)


def test_a_few_observations_have_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_unrolled(tutorial(2))
