"""Enumeration against stored exact values, against GenJAX's own joint integrated numerically, and against itself."""

import ast
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import ChoiceMap, categorical, gen, inverse_gamma, normal
from jax.experimental import disable_x64
from numpy.testing import assert_allclose
from scipy import stats
from scipy.optimize import brentq
from scipy.special import logsumexp

import inference
from diagnostics.truth import stored, tolerance
from inference import closed_forms
from inference import enumeration as exact
from inference.declared import declared
from inference.enumeration import enumeration, log_joint_of_assignments, refuses
from zoo.dataset import Dataset
from zoo.mixture import Mixture
from zoo.models.bento import bento, bento_425, bento_full, bento_known
from zoo.models.coffee import coffee, coffee_full
from zoo.models.three_gaussians import three_gaussians

BENTO, BENTO_425 = stored("bento"), stored("bento425")
KEY = jax.random.key(1)


@functools.cache
def fitted(model, num_draws=1000):
    return enumeration(model, model.data.x, KEY, num_draws=num_draws)


@functools.cache
def log_posterior(model):
    """log p(z | x) of every assignment, (K**N,)."""
    log_joint = log_joint_of_assignments(model, model.data.x)
    return log_joint - logsumexp(log_joint)


def assignments(model):
    N, K = len(model.data.x), model.num_components
    return exact.digits(np.arange(K**N), K, N)


def expectation(result, value):
    """E[value] over the nodes, each of (M,)."""
    return np.exp(result.log_weights) @ value


def mean_and_sd(result, value):
    mean = expectation(result, value)
    return [mean, np.sqrt(expectation(result, (value - mean) ** 2))]


def assert_record(found, record):
    assert_allclose(found, record["value"], **tolerance(record))


# -- every stored value of bento ------------------------------------------------------------------------------


def test_every_record_of_bento_is_used_here():
    source = pathlib.Path(__file__).read_text()
    assert all(f'"{name}"' in source for name in [*BENTO, *BENTO_425])


def test_the_evidence_of_bento_is_the_stored_one():
    assert_record(fitted(bento()).log_evidence, BENTO["bento.log_evidence"])
    assert fitted(bento()).log_evidence_se == 0


def test_the_label_symmetric_moments_of_bento_are_the_stored_ones():
    result, record = fitted(bento()), BENTO["bento.label_symmetric_posterior"]
    means = result.nodes["means"]
    found = dict(zip(("mu0_mean", "mu0_sd"), mean_and_sd(result, means[:, 0]), strict=True))
    found |= dict(zip(("mu1_mean", "mu1_sd"), mean_and_sd(result, means[:, 1]), strict=True))
    centred = means - [found["mu0_mean"], found["mu1_mean"]]
    found["mu0_mu1_cov"] = expectation(result, centred.prod(1))
    assert_allclose([found[k] for k in record["value"]], list(record["value"].values()), **tolerance(record))


def test_the_sorted_means_of_bento_are_the_stored_ones():
    result, record = fitted(bento()), BENTO["bento.ordered_posterior"]
    low, high = np.sort(result.nodes["means"], axis=1).T
    assert_allclose(
        [*mean_and_sd(result, low), *mean_and_sd(result, high)], list(record["value"].values()), **tolerance(record)
    )


def test_assignment_probabilities_and_co_clustering_of_bento_are_the_stored_ones():
    result = fitted(bento())
    assert_record(result.assignment_probabilities[:, 1], BENTO["bento.p_z1"])
    assert_record(result.co_clustering, BENTO["bento.cocluster"])
    assert_allclose(result.assignment_probabilities.sum(1), 1, rtol=1e-12)


def test_co_clustering_is_right_in_logs_where_it_rounds_to_0_or_1():
    logs, z = log_posterior(bento()), assignments(bento())
    same, different = BENTO["bento.log_p_same_as_first"], BENTO["bento.log_p_different_from_first"]
    assert_record([logsumexp(logs[z[:, i] == z[:, 0]]) for i in range(20)], same)
    found = [logsumexp(logs[z[:, i] != z[:, 0]]) if i else -np.inf for i in range(20)]
    assert_allclose(found, [float(v) for v in different["value"]], **tolerance(different))


def test_the_four_best_assignments_of_bento_are_the_stored_ones():
    record = BENTO["bento.top_assignments_log_joint"]
    log_joint = log_joint_of_assignments(bento(), bento().data.x)
    best = np.argsort(log_joint)[::-1][:4]
    assert_allclose(log_joint[best], record["value"]["log_p_x_z"], **tolerance(record))
    found = ["".join(map(str, z)) for z in exact.digits(best, 2, 20)]
    for pair in (slice(0, 2), slice(2, 4)):  # mirror images tie
        assert set(found[pair]) == set(record["value"]["z"][pair])


def test_the_modes_of_bento_and_the_densities_there_are_the_stored_ones():
    record, model = BENTO["bento.modes"], bento()
    heavy = model.data.x > 425
    posterior = [
        closed_forms.normal_posterior(
            *closed_forms.sufficient(model.data.x[own])[:2], prior_mean=400.0, prior_sd=50.0, variance=4.0
        )
        for own in (~heavy, heavy)
    ]
    (light_mean, light_sd), (heavy_mean, heavy_sd) = posterior
    found = np.array([[light_mean, heavy_mean], [heavy_mean, light_mean]])
    assert_allclose(found, record["value"]["mu"], **tolerance(record))
    assert_allclose([light_sd, heavy_sd], record["value"]["closed_form_sds"], **tolerance(record))
    density = jax.jit(lambda means: model.log_density({"means": means}, model.data.x))
    joint = jax.jit(lambda means, z: model.log_joint({"means": means}, z, model.data.x))
    z = heavy.astype(np.int32)
    assert_allclose([density(m) for m in found], record["value"]["log_p_x_mu"], **tolerance(record))
    both = [joint(found[0], z), joint(found[1], 1 - z)]
    assert_allclose(both, record["value"]["log_p_x_z_mu"], **tolerance(record))


def test_the_chance_of_a_good_prior_particle_is_the_stored_one():
    record = BENTO["bento.seed_importance_sampling_is_hopeless"]
    modes = BENTO["bento.modes"]["value"]
    mass = [
        np.diff(stats.norm.cdf([m - 3 * s, m + 3 * s], 400, 50))[0]
        for m, s in zip(modes["mu"][0], modes["closed_form_sds"], strict=True)
    ]
    # two labellings: 2 * 2**-20 for the assignments given either, and the means of one of them
    found = {
        "log_p_all_assignments_right": np.log(2 * 2.0**-20),
        "log_prior_mass_of_mu_within_3_posterior_sd": np.log(2 * np.prod(mass)),
    }
    assert_allclose(list(found.values()), [record["value"][k] for k in found], **tolerance(record))


def sorted_moments(model, scale):
    """Moments of the smaller and larger of two means, assignments enumerated: Clark (1961), Operations Research 9."""
    x, z = model.data.x, assignments(model)
    p = np.exp(log_posterior(model))
    count = np.stack([(z == k).sum(1) for k in (0, 1)])
    mean = np.stack([(z == k) @ x for k in (0, 1)]) / np.maximum(count, 1)
    (a, b), (s, t) = closed_forms.normal_posterior(count, mean, prior_mean=400.0, prior_sd=50.0, variance=scale**2)
    spread = np.hypot(s, t)
    alpha = (a - b) / spread
    larger = lambda a, s, b, t: (
        (a * stats.norm.cdf(alpha) + b * stats.norm.cdf(-alpha) + spread * stats.norm.pdf(alpha)),
        (a**2 + s**2) * stats.norm.cdf(alpha)
        + (b**2 + t**2) * stats.norm.cdf(-alpha)
        + (a + b) * spread * stats.norm.pdf(alpha),
    )
    high, high_square = (p @ m for m in larger(a, s, b, t))
    total, total_square = p @ (a + b), p @ (a**2 + s**2 + b**2 + t**2)
    low, low_square = total - high, total_square - high_square
    mu0 = p @ a
    return {
        "mu0_mean": mu0,
        "mu0_sd": np.sqrt(p @ (a**2 + s**2) - mu0**2),
        "mu0_mu1_cov": p @ (a * b) - mu0 * (p @ b),
        "lo_mean": low,
        "lo_sd": np.sqrt(low_square - low**2),
        "hi_mean": high,
        "hi_sd": np.sqrt(high_square - high**2),
    }


def test_overlapping_bentos_have_the_stored_evidence_moments_and_cluster_sizes():
    record, model = BENTO["bento.sigma40"], bento(scale=40.0)
    result, value = fitted(model), record["value"]
    moments = sorted_moments(model, 40.0)
    assert_allclose([moments[k] for k in moments], [value[k] for k in moments], **tolerance(record))
    assert_allclose(result.log_evidence, value["log_evidence"], **tolerance(record))
    assert_allclose(result.co_clustering, value["cocluster"], **tolerance(record))
    sizes = np.bincount(assignments(model).sum(1), weights=np.exp(log_posterior(model)))
    assert_allclose(sizes, value["p_n1"], rtol=1e-9)  # down to 2.6e-14
    assert result.nodes is None  # far more than 64 assignments matter


def test_a_425_gram_bento_goes_to_the_light_ones_with_the_stored_log_odds():
    logs, z = log_posterior(bento_425()), assignments(bento_425())
    heavy = logsumexp(logs[z[:, 20] == z[:, 0]])  # observation 0 weighs 498 g
    light = logsumexp(logs[z[:, 20] == z[:, 1]])
    assert_record(heavy, BENTO_425["bento425.log_p_heavy"])
    assert_record(light - heavy, BENTO_425["bento425.log_odds_light_over_heavy"])


def test_the_evidence_and_sorted_means_with_a_425_gram_bento_are_the_stored_ones():
    result, record = fitted(bento_425()), BENTO_425["bento425.evidence_and_ordered_means"]
    low, high = np.sort(result.nodes["means"], axis=1).T
    found = [result.log_evidence, *mean_and_sd(result, low), *mean_and_sd(result, high)]
    assert_allclose(found, list(record["value"].values()), **tolerance(record))


def test_the_weight_of_even_odds_is_the_root_of_the_exact_log_odds():
    x, z = bento_425().data.x, assignments(bento_425())
    with_light = z[:, 20] == z[:, 1]

    def log_odds(grams):
        logs = log_joint_of_assignments(bento_425(), np.append(x[:20], grams))
        return logsumexp(logs[with_light]) - logsumexp(logs[~with_light])

    assert_record(brentq(log_odds, 425.5, 426.0, xtol=1e-9), BENTO_425["bento425.even_odds_weight"])


def test_with_known_means_a_425_gram_bento_goes_by_the_weights():
    x = np.array([425.0])
    record = BENTO_425["bento425.known_parameters"]
    assert_record(enumeration(bento_known(), x, KEY).assignment_probabilities[0, 0], record)


def test_overlapping_bentos_with_one_of_425_grams_have_the_stored_values():
    record, model = BENTO_425["bento425.sigma40"], bento_425(scale=40.0)
    result, value = fitted(model), record["value"]
    moments = sorted_moments(model, 40.0)
    row = result.co_clustering[20]
    found = [result.log_evidence, row[0], row[1], moments["lo_mean"], moments["hi_mean"]]
    names = ("log_evidence", "p_same_as_bento0", "p_same_as_bento1", "lo_mean", "hi_mean")
    assert_allclose(found, [value[k] for k in names], **tolerance(record))
    assert_allclose(row, value["cocluster_row"], **tolerance(record))


# -- subsets --------------------------------------------------------------------------------------------------


def test_statistics_of_subsets_do_not_cancel_far_from_zero():
    x = 1e6 + np.array([0.125, 0.25, 7.0, 1e5, 1e5 + 0.5, -3.0])
    count, mean, squares = exact._subsets(x)
    for subset in range(1, 64):
        own = x[[bool(subset >> n & 1) for n in range(6)]]
        n, m, s = closed_forms.sufficient(own)
        assert count[subset] == n
        assert_allclose([mean[subset], squares[subset]], [m, s], rtol=1e-10, atol=1e-10)


def test_rounding_of_statistics_moves_no_evidence():
    model = bento_full()
    x = model.data.x[:9] + np.sqrt(2) * np.arange(9)
    table, _ = exact.subset_table(declared(model), x)
    shuffled = np.array([3, 1, 4, 0, 5, 8, 2, 6, 7])
    again, _ = exact.subset_table(declared(model), x[shuffled])
    moved = sum(((np.arange(512) >> i) & 1) << n for i, n in enumerate(shuffled))  # bit i of one is bit n of the other
    assert_allclose(again, table[:, moved], rtol=1e-11, atol=1e-11)


# -- against GenJAX's own joint ------------------------------------------------------------------------------


def integrated(model, x, params, log_volume):
    """log integral of GenJAX's joint over a grid of params (leaves (G, ...)), for every assignment: (K**N,).

    `log_volume` (G,) are the logs of the quadrature weights. Also the posterior weight of each grid point, (G,).
    """
    N, K = len(x), model.num_components
    joint = model.joint(N)

    @jax.jit
    def all_assignments(every):
        def one(z):
            choices = ChoiceMap.d({"obs": {"z": z, "x": jnp.asarray(x)}})
            score = lambda p: joint.assess(choices | ChoiceMap.d(p), ())[0]
            return jax.lax.map(score, params, batch_size=2**14) + log_volume

        def step(total, z):
            logs = one(z)
            return jnp.logaddexp(total, logs), jax.scipy.special.logsumexp(logs)

        return jax.lax.scan(step, jnp.full(log_volume.shape, -jnp.inf), every)

    total, logs = all_assignments(exact.digits(np.arange(K**N), K, N))
    return np.asarray(logs), np.exp(total - logsumexp(total))


def test_three_bentos_equal_the_joint_integrated_over_a_grid():
    model, x = bento(scale=20.0, weights=(0.7, 0.3), prior_mean=420.0), np.array([498.0, 352.0, 470.0])
    axis = np.arange(60.0, 780.0, 5.0)
    means = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    logs, _ = integrated(model, x, {"means": means}, np.full(len(means), 2 * np.log(5.0)))
    assert_allclose(log_joint_of_assignments(model, x), logs, rtol=1e-9)


def test_four_cups_of_three_blends_equal_the_joint_integrated_over_a_grid():
    model, x = coffee(scale=15.0), np.array([82.0, 118.0, 155.0, 120.0])
    axis = np.arange(-40.0, 280.0, 7.0)
    means = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    logs, _ = integrated(model, x, {"means": means}, np.full(len(means), 3 * np.log(7.0)))
    assert_allclose(log_joint_of_assignments(model, x), logs, rtol=1e-7)


FULL = dict(concentration=(2.0, 1.0), prior_sd=5.0, variance_shape=3.0, variance_scale=200.0)
THREE = np.array([395.0, 402.0, 410.0])


@functools.cache
def full_on_a_grid():
    """bento_full on three observations: all five unknowns on a grid. Gauss-Legendre is exact for the weights."""
    node, weight = np.polynomial.legendre.leggauss(3)
    axes = [0.5 * (1 + node), *[np.arange(368.0, 433.0, 2.0)] * 2, *[np.arange(1.4, 10.6, 0.4)] * 2]
    first, m0, m1, u0, u1 = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
    u = np.stack([u0, u1], 1)
    params = {"weights": np.stack([first, 1 - first], 1), "means": np.stack([m0, m1], 1), "variances": np.exp(u)}
    log_volume = np.repeat(np.log(0.5 * weight), len(first) // 3) + u.sum(1) + 2 * np.log(2.0) + 2 * np.log(0.4)
    logs, posterior = integrated(bento_full(**FULL), THREE, params, log_volume)
    return logs, posterior, params


def test_three_bentos_with_everything_unknown_equal_the_joint_integrated_over_a_grid():
    logs, *_ = full_on_a_grid()
    assert_allclose(log_joint_of_assignments(bento_full(**FULL), THREE), logs, atol=1e-6)


def test_draws_with_everything_unknown_have_the_moments_of_the_grid():
    _, posterior, params = full_on_a_grid()
    result = enumeration(bento_full(**FULL), THREE, KEY, num_draws=40_000)
    drawn = {name: leaf.reshape(-1, 2) for name, leaf in result.draws.params.items()}
    for name, value in (
        ("weights", lambda p: p[:, 0]),
        ("weights", lambda p: p[:, 0] ** 2),
        ("means", lambda p: p[:, 0]),
        ("means", lambda p: p[:, 1]),
        ("means", lambda p: (p[:, 0] - 400) ** 2),
        ("variances", lambda p: np.log(p[:, 0])),
        ("variances", lambda p: np.log(p[:, 1]) ** 2),
        ("variances", lambda p: np.sqrt(p[:, 1])),
    ):
        assert_mean(value(drawn[name]), posterior @ value(params[name]))


def assert_mean(draws, truth):
    """Independent draws: the mean within 4.4 of its standard errors."""
    assert abs(draws.mean() - truth) < 4.4 * draws.std() / np.sqrt(len(draws))


def assert_probability(hits, p):
    """Independent draws of an event: as `assert_mean`, or never (always) seen with a chance of at least .001."""
    n, share = len(hits), hits.mean()
    if share in (0, 1):
        assert (1 - p if share == 0 else p) ** n >= 0.001
    else:
        assert abs(share - p) < 4.4 * np.sqrt(p * (1 - p) / n)


# -- draws, nodes, sums ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [bento(scale=40.0), bento(scale=25.0, weights=(0.7, 0.3))], ids=lambda m: m.name)
def test_draws_of_means_and_assignments_have_the_exact_moments(model):
    result = fitted(model, 20_000)
    means, z = result.draws.params["means"].reshape(-1, 2), result.draws.assignments.reshape(-1, 20)
    moments = sorted_moments(model, declared(model).components[0].variance ** 0.5)
    assert_mean(means[:, 0], moments["mu0_mean"])
    assert_mean((means[:, 0] - moments["mu0_mean"]) ** 2, moments["mu0_sd"] ** 2)
    assert_mean(means.min(1), moments["lo_mean"])
    assert_mean((means.max(1) - moments["hi_mean"]) ** 2, moments["hi_sd"] ** 2)
    for i, j in ((0, 1), (1, 13), (0, 4), (12, 19)):
        assert_probability(z[:, i] == z[:, j], result.co_clustering[i, j])
        assert_probability(z[:, i] == 1, result.assignment_probabilities[i, 1])


def test_draws_of_coffee_full_have_the_exact_assignment_probabilities_and_weights():
    model, x = coffee_full(concentration=(1.0, 2.0, 0.5)), coffee_full().data.x[[0, 1, 2, 4, 20, 25]]
    result = enumeration(model, x, KEY, num_draws=20_000)
    assert result.log_evidence_se < 1e-9
    z = result.draws.assignments.reshape(-1, 6)
    for n, k in ((0, 0), (1, 1), (4, 2), (5, 1)):
        assert_probability(z[:, n] == k, result.assignment_probabilities[n, k])
    expected = (np.array([1.0, 2.0, 0.5]) + result.assignment_probabilities.sum(0)) / 9.5
    for k in range(3):
        assert_mean(result.draws.params["weights"][..., k].ravel(), expected[k])


def test_draws_are_shaped_by_chain_and_the_same_for_the_same_key():
    model, x = bento_full(), bento_full().data.x[:8]
    a, b = (enumeration(model, x, KEY, num_draws=400, num_chains=2).draws for _ in range(2))
    assert a.assignments.shape == (2, 200, 8) and a.assignments.dtype == np.int32
    assert {name: leaf.shape for name, leaf in a.params.items()} == dict.fromkeys(a.params, (2, 200, 2))
    assert sorted(a.params) == sorted(model.param_shapes)
    for name in a.params:
        np.testing.assert_array_equal(a.params[name], b.params[name])
    other = enumeration(model, x, jax.random.key(2), num_draws=400, num_chains=2).draws
    assert not np.array_equal(other.assignments, a.assignments)
    assert len({*a.params["means"][..., 0].ravel()}) == 400  # no draw twice, the two chains not the same
    assert enumeration(model, x, KEY, num_draws=1).draws.assignments.shape == (4, 1, 8)


def test_nodes_have_the_moments_of_the_closed_forms():
    model = coffee()
    x = model.data.x[:12]
    result = enumeration(model, x, KEY)
    z = exact.digits(np.arange(3**12), 3, 12)
    log_joint = log_joint_of_assignments(model, x)
    p = np.exp(log_joint - logsumexp(log_joint))
    for k, centre in enumerate((80.0, 120.0, 160.0)):
        own = z == k
        count = own.sum(1)
        mean, sd = closed_forms.normal_posterior(
            count, own @ x / np.maximum(count, 1), prior_mean=centre, prior_sd=20.0, variance=25.0
        )
        node = result.nodes["means"][:, k]
        assert_allclose(expectation(result, node), p @ mean, rtol=1e-9)
        assert_allclose(expectation(result, node**2), p @ (mean**2 + sd**2), rtol=1e-9)
    assert_allclose(np.exp(result.log_weights).sum(), 1, rtol=1e-12)


def test_pair_moments_are_sums_over_all_assignments():
    p = np.random.default_rng(0).dirichlet(np.ones(3**5))
    z = exact.digits(np.arange(3**5), 3, 5)
    assert z[5].tolist() == [2, 1, 0, 0, 0]  # 5 = 2 + 1 * 3: the first observation is the fastest digit
    single, pairs = exact.pair_moments(p, 3, 5)
    assert_allclose(single, [[p[z[:, n] == k].sum() for k in range(3)] for n in range(5)], rtol=1e-12)
    assert_allclose(pairs, [[p[z[:, i] == z[:, j]].sum() for j in range(5)] for i in range(5)], rtol=1e-12)


def test_with_known_parameters_assignments_follow_bayes_rule():
    model = bento_known(means=(500.0, 480.0), scales=(20.0, 10.0))
    x = model.data.x[:9]
    result = enumeration(model, x, KEY)
    r = np.asarray(model.responsibilities({}, x))
    assert_allclose(result.log_evidence, model.log_likelihood({}, x), rtol=1e-13)
    assert_allclose(result.assignment_probabilities, r, rtol=1e-10)
    expected = r @ r.T
    np.fill_diagonal(expected, 1.0)
    assert_allclose(result.co_clustering, expected, rtol=1e-10)
    assert result.nodes is None and result.draws.params == {}


def single():
    @gen
    def prior():
        return {"means": normal(np.full(1, 3.0), 2.0) @ "means"}

    @gen
    def observation(params):
        z = categorical(probs=np.ones(1)) @ "z"
        return normal(params["means"][z], 1.5) @ "x"

    return Mixture(name="single", num_components=1, exchangeable=True, prior=prior, observation=observation)


def test_one_component_has_the_closed_form_at_any_number_of_observations():
    x = np.random.default_rng(4).normal(2.0, 1.5, 1000)
    result = enumeration(single(), x, KEY, num_draws=4000)
    closed = closed_forms.normal_log_marginal(*closed_forms.sufficient(x), prior_mean=3.0, prior_sd=2.0, variance=2.25)
    assert_allclose(result.log_evidence, closed, rtol=1e-13)
    mean, sd = closed_forms.normal_posterior(1000, x.mean(), prior_mean=3.0, prior_sd=2.0, variance=2.25)
    assert_mean(result.draws.params["means"].ravel(), mean)
    assert_allclose(mean_and_sd(result, result.nodes["means"][:, 0]), [mean, sd], rtol=1e-9)


def test_the_answer_is_in_double_precision_whatever_the_callers():
    with disable_x64():
        result = enumeration(bento(prior_sd=49.0, scale=25.0), bento().data.x, jax.random.key(0), num_draws=8)
        assert jnp.ones(()).dtype == jnp.float32  # and the caller's precision is left alone
    assert_allclose(result.log_evidence, fitted(bento(prior_sd=49.0, scale=25.0)).log_evidence, rtol=1e-13)


def test_progress_counts_to_its_total():
    seen = []
    enumeration(bento(), bento().data.x, KEY, num_draws=4, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 1 and seen[-1][0] == seen[-1][1] and [d for d, _ in seen] == sorted({d for d, _ in seen})


# -- what it refuses ------------------------------------------------------------------------------------------


def variant(prior, location, scale=lambda p, z: 2.0, components=2):
    prior_gen = gen(prior)

    @gen
    def observation(params):
        z = categorical(probs=np.full(components, 1 / components)) @ "z"
        return normal(location(params, z), scale(params, z)) @ "x"

    data = Dataset(name="few", x=np.array([400.0, 420.0, 470.0]))
    return Mixture(
        name="variant",
        num_components=components,
        exchangeable=True,
        prior=prior_gen,
        observation=observation,
        data=data,
    )


def two_means():
    means = normal(np.full(2, 400.0), 50.0) @ "means"
    return {"means": means}


def test_too_many_assignments_are_refused_with_their_number_before_anything_compiles():
    assert refuses(coffee(), coffee().data.x) == (
        "3**30 = 205,891,132,094,649 assignments; enumeration goes through at most 2**22 = 4,194,304"
    )
    assert "3**1000 = about 10^477 assignments" in refuses(three_gaussians(), three_gaussians().data.x)
    assert refuses(bento(), np.resize(bento().data.x, 22)) is None
    assert "2**23 = 8,388,608" in refuses(bento(), np.resize(bento().data.x, 23))


def test_scales_that_are_not_inverse_gamma_variances_are_refused():
    assert "variances[k] ~ InverseGamma" in refuses(three_gaussians(), three_gaussians().data.x[:6])


def test_a_variance_shared_by_the_components_is_refused():
    def prior():
        variance = inverse_gamma(np.float64(3.0), 8.0) @ "variance"
        return {"means": normal(np.full(2, 400.0), 50.0) @ "means", "variance": variance}

    model = variant(prior, lambda p, z: p["means"][z], lambda p, z: jnp.sqrt(p["variance"]))
    assert "InverseGamma" in refuses(model, model.data.x)


def test_a_mean_whose_prior_depends_on_another_parameter_is_refused():
    def prior():
        centre = normal(np.float64(400.0), 50.0) @ "centre"
        return {"means": normal(jnp.full(2, centre), 5.0) @ "means"}

    model = variant(prior, lambda p, z: p["means"][z])
    assert refuses(model, model.data.x) == (
        "enumeration needs a known mean per component, or means[k] ~ Normal, independent of the other parameters"
    )


def test_a_parameter_without_a_closed_form_is_refused_by_name():
    def prior():
        extra = normal(np.float64(0.0), 1.0) @ "extra"
        return {"means": normal(np.full(2, 400.0), 50.0) @ "means", "extra": extra}

    model = variant(prior, lambda p, z: p["means"][z])
    assert refuses(model, model.data.x) == "enumeration has no closed form for extra"


def test_a_location_that_only_looks_like_the_parameter_is_refused():
    # the identity below 100, where nothing is: right at the points first looked at, wrong at forward draws
    model = variant(two_means, lambda p, z: jnp.where(p["means"] < 100.0, p["means"], 2 * p["means"] - 100.0)[z])
    assert "its joint density is another" in refuses(model, model.data.x)
    with pytest.raises(ValueError, match="its joint density is another"):
        enumeration(model, model.data.x, KEY)


def test_a_declaration_that_works_in_single_precision_only_is_refused():
    with disable_x64():
        model = variant(two_means, lambda p, z: p["means"][z], lambda p, z: np.float32(2.0))
        assert "does not run in float64" in refuses(model, model.data.x)


def test_covariates_are_refused():
    assert "without covariates" in refuses(bento(), {"x": bento().data.x, "covariates": bento().data.x})


def test_the_exact_back_ends_import_nothing_of_conjugacy():
    folder = pathlib.Path(inference.__file__).parent
    for name in ("enumeration", "quadrature", "closed_forms", "declared", "loop", "results"):
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                modules = {imported.rpartition(".")[2] for imported in names}
                assert not modules & {"conjugacy", "conditionals", "marginal"}, name
