"""Predictions against closed forms, quadrature and enumeration; posteriors here are made up, no sampler runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import trapezoid
from scipy.special import logsumexp

import zoo
from diagnostics import classification, missing, prediction, relabel
from diagnostics.saved import Posterior
from inference.space import starts
from zoo.models.overfitted import galaxy_dirichlet_process

Z = 4.4  # standard errors, for at most 100 comparisons


def posterior(model, params, kind="chains", share=None, **more):
    shape = np.shape(next(iter(params.values())))[:2] if params else (1, 1)
    share = np.full(shape, 1 / np.prod(shape)) if share is None else share
    return Posterior(model, model.check(model.data.x), params, share, kind, **more)


def known(**constants):
    return posterior(zoo.MODELS.builder("bento_known")(**constants), {}, "point")


def bentos(num=60, apart=150.0, seed=0):
    """Draws of `bento_full` (2, num) around two kinds `apart`, labels as they are."""
    rng = np.random.default_rng(seed)
    share = rng.beta(12, 8, (2, num))
    return {
        "weights": np.stack([share, 1 - share], axis=-1),
        "means": rng.normal((350.0, 350.0 + apart), 0.7, (2, num, 2)),
        "variances": rng.gamma(20.0, 0.2, (2, num, 2)),
    }


def density(params, x):
    """p(x | params) of every draw, (C, S, N), by SciPy."""
    scales = np.sqrt(params["variances"])[..., None, :]
    each = stats.norm.pdf(np.asarray(x)[:, None], params["means"][..., None, :], scales)
    return (params["weights"][..., None, :] * each).sum(axis=-1)


def test_with_known_parameters_density_and_classes_are_bayes_rule():
    new = np.array([500.0, 351.0, 425.0, 428.0])
    joint = np.array([0.7, 0.3]) * stats.norm.pdf(new[:, None], (500, 350), 2)
    found = prediction.log_predictive(known(), new)
    np.testing.assert_allclose(found.value, np.log(joint.sum(axis=1)), rtol=1e-12)
    assert not found.error.any()
    classes = classification.classify(known(), new)
    np.testing.assert_allclose(classes.probabilities.value, joint / joint.sum(axis=1, keepdims=True), atol=1e-12)
    assert "as the model declares" in classes.rule


def test_identical_components_get_a_sentence_and_not_one_half():
    same = known(weights=(0.5, 0.5), means=(3.0, 3.0))
    found = classification.classify(same, np.array([3.0]))
    assert found.probabilities is None and found.rule.startswith("no classification")


def test_log_predictive_is_the_log_of_the_average_over_draws():
    params, new = bentos(), np.array([349.0, 425.0, 503.0])
    found = prediction.log_predictive(posterior(zoo.MODELS["bento_full"], params), new)
    np.testing.assert_allclose(found.value, np.log(density(params, new).mean(axis=(0, 1))), rtol=1e-10)
    # draws are independent here, so the error is about sd / sqrt(M) of p, relative to its mean
    p = density(params, new)[..., [0, 2]]
    expected = p.std(axis=(0, 1)) / np.sqrt(120) / p.mean(axis=(0, 1))
    assert (np.abs(np.log(found.error[[0, 2]] / expected)) < np.log(2)).all()


def test_weighted_draws_and_nodes_count_by_their_weights():
    params, new = bentos(), np.array([351.0, 498.0])
    flat = {name: leaf.reshape(1, 120, 2) for name, leaf in params.items()}
    share = np.random.default_rng(1).dirichlet(np.ones(120))[None]
    truth = np.log((share[..., None] * density(flat, new)).sum(axis=(0, 1)))
    for kind in ("weighted", "nodes"):
        found = prediction.log_predictive(posterior(zoo.MODELS["bento_full"], flat, kind, share), new)
        np.testing.assert_allclose(found.value, truth, rtol=1e-10)
    few = prediction.spread(posterior(zoo.MODELS["bento_full"], flat, "weighted", share), 100_000)
    counts = np.unique(few.params["means"][0, :, 0], return_counts=True)[1] / 1e5
    np.testing.assert_allclose(np.sort(counts), np.sort(share[0])[-len(counts) :], atol=2e-5)


def test_the_density_on_a_grid_integrates_to_one():
    points, found = prediction.grid(posterior(zoo.MODELS["bento_full"], bentos(), "independent"), 300.0, 550.0, 5001)
    assert abs(trapezoid(np.exp(found.value), points) - 1) < 1e-9


def test_the_grid_of_counts_is_whole_numbers_and_sums_to_one():
    model = zoo.MODELS["london_deaths"]
    params = {"weights": np.full((1, 4, 2), 0.5), "rates": np.tile([1.0, 3.0], (1, 4, 1))}
    points, found = prediction.grid(posterior(model, params, "independent"), 0, 60)
    assert (points == np.arange(61)).all() and abs(np.exp(found.value).sum() - 1) < 1e-12


def test_simulated_observations_without_a_density_are_an_error(monkeypatch):
    nothing = lambda model: lambda index, params, x, seen: jnp.full((1, 1, len(x)), jnp.nan)
    monkeypatch.setattr(prediction, "_score_program", nothing)
    with pytest.raises(ValueError, match="bento_known has a density that is not a number at an observation drawn"):
        prediction.tail(known(), np.array([500.0]))


@pytest.mark.parametrize("draws", [False, True])
def test_tail_probabilities_are_those_of_quadrature(draws):
    grid = np.linspace(250, 600, 400_001)
    if draws:
        params = bentos(apart=9.0)
        run, p = posterior(zoo.MODELS["bento_full"], params), np.zeros(len(grid))
        for c, s in np.ndindex(2, 60):
            one = {name: leaf[c : c + 1, s : s + 1] for name, leaf in params.items()}
            p += density(one, grid)[0, 0] / 120
        new = np.array([350.0, 354.5, 359.0, 345.0, 400.0])
    else:
        run = known(means=(400.0, 430.0), scales=(4.0, 9.0))
        p = 0.7 * stats.norm.pdf(grid, 400, 4) + 0.3 * stats.norm.pdf(grid, 430, 9)
        new = np.array([400.0, 413.0, 430.0, 446.0, 520.0])
    at = np.interp(new, grid, p)
    truth = np.array([trapezoid(np.where(p <= one, p, 0), grid) for one in at])
    found = prediction.tail(run, new)
    assert (np.abs(found.value - truth) <= Z * found.error).all(), (found, truth)
    assert (found.error[:4] < (0.06 if draws else 0.03)).all() and found.value[4] == 0  # 120 draws: the score errs too


def test_equal_counts_are_no_less_probable_than_each_other():
    model = zoo.MODELS["london_deaths"]
    params = {"weights": np.full((1, 1, 2), 0.5), "rates": np.array([[[1.0, 3.0]]])}
    counts = np.arange(40)
    p = 0.5 * (stats.poisson.pmf(counts, 1) + stats.poisson.pmf(counts, 3))
    truth = np.array([p[p <= p[n] * (1 + 1e-12)].sum() for n in (0, 1, 2, 7)])
    found = prediction.tail(posterior(model, params, "point"), np.array([0.0, 1.0, 2.0, 7.0]))
    assert (np.abs(found.value - truth) <= Z * found.error + 1e-12).all(), (found, truth)


def lines(num=25):
    """Draws of `tone` around its two lines."""
    rng = np.random.default_rng(4)
    share = rng.beta(20, 12, (1, num))
    return {
        "weights": np.stack([share, 1 - share], axis=-1),
        "coefficients": rng.normal([[1.93, 0.05], [1.95, 1.0]], 0.02, (1, num, 2, 2)),
        "variances": rng.gamma(20.0, 0.0006, (1, num, 2)),
    }


def test_with_covariates_a_row_is_compared_with_others_at_its_own_covariates():
    params, new = lines(), {"x": np.array([2.0, 2.9, 2.45]), "covariates": np.array([2.9, 2.9, 1.6])}
    run = posterior(zoo.MODELS["tone"], params, "independent")
    tail, log_p = prediction.tail(run, new), prediction.log_predictive(run, new).value
    grid = np.linspace(0, 5, 20_001)
    for n, c in enumerate(new["covariates"]):
        centres = params["coefficients"] @ np.array([1.0, c - 2.0])
        at = lambda y, centres=centres: (
            (
                params["weights"] * stats.norm.pdf(np.reshape(y, (-1, 1, 1, 1)), centres, np.sqrt(params["variances"]))
            ).sum(axis=(1, 2, 3))
            / 25
        )
        p, own = at(grid), at(new["x"][n])[0]
        assert abs(log_p[n] - np.log(own)) < 1e-9 * (1 + abs(log_p[n]))
        truth = trapezoid(np.where(p <= own, p, 0), grid)
        assert abs(tail.value[n] - truth) <= Z * tail.error[n], (n, tail, truth)


def test_a_missing_response_is_predicted_from_its_covariates():
    params = lines(1)
    run = posterior(zoo.MODELS["tone"], params, "point")
    new = {"x": np.zeros(1), "covariates": np.array([2.9])}
    found = prediction.conditional(run, new, {"x": np.zeros(1, bool)})
    w, m = params["weights"][0, 0], params["coefficients"][0, 0] @ np.array([1.0, 0.9])
    np.testing.assert_allclose(found.mean, [[w @ m]], rtol=1e-9)
    np.testing.assert_allclose(found.covariance, [[[w @ (params["variances"][0, 0] + (m - w @ m) ** 2)]]], rtol=1e-9)


# -- components -----------------------------------------------------------------------------------------------------


def test_classes_do_not_change_when_the_labels_of_every_draw_are_permuted():
    model, params, new = zoo.MODELS["bento_full"], bentos(), np.array([350.0, 422.0, 440.0, 503.0])
    params["variances"] *= 100
    flip = np.random.default_rng(3).random((2, 60, 1)) < 0.5
    switched = {name: np.where(flip, leaf[..., ::-1], leaf) for name, leaf in params.items()}
    one, two = (classification.classify(posterior(model, p), new) for p in (params, switched))
    np.testing.assert_allclose(one.probabilities.value, two.probabilities.value, atol=1e-10)
    np.testing.assert_allclose(one.probabilities.error, two.probabilities.error, rtol=1e-6)
    assert one.rule == two.rule and "after relabelling" in one.rule
    scales = np.sqrt(params["variances"])[..., None, :]
    joint = params["weights"][..., None, :] * stats.norm.pdf(new[:, None], params["means"][..., None, :], scales)
    joint = joint.mean(axis=(0, 1))
    np.testing.assert_allclose(one.probabilities.value, joint / joint.sum(axis=1, keepdims=True), rtol=1e-9)
    assert one.clusters[0]["means"] < one.clusters[1]["means"]
    averaged = [np.mean(leaf) for leaf in (switched["means"][..., 0], switched["means"][..., 1])]
    assert abs(averaged[0] - averaged[1]) < 50, "the labels were not mixed"


@pytest.mark.slow
def test_the_mean_direction_of_draws_on_both_sides_of_the_cut_is_theirs():
    rng = np.random.default_rng(1)
    about = np.array([3.1, -0.5]) + 0.1 * rng.standard_normal((2, 60, 2))
    wrapped = (about + np.pi) % (2 * np.pi) - np.pi
    assert (wrapped[..., 0] < 0).sum() > 20 and abs(wrapped[..., 0].mean() - 3.1) > 1
    params = {"weights": np.full((2, 60, 2), 0.5), "means": wrapped, "concentrations": rng.gamma(50.0, 0.1, (2, 60, 2))}
    found = classification.classify(posterior(zoo.MODELS["directions"], params), np.array([3.0, -0.4]))
    means = sorted(cluster["means"] for cluster in found.clusters)
    assert means[0] == pytest.approx(about[..., 1].mean(), abs=1e-3)
    assert means[1] == pytest.approx(about[..., 0].mean(), abs=1e-3)


def test_draws_that_cannot_be_matched_get_a_sentence():
    new = np.array([425.0, 500.0])
    alike = bentos() | {"means": np.random.default_rng(5).normal(425.0, 1.0, (2, 60, 2))}
    alike["variances"] = np.full((2, 60, 2), 5600.0)
    elsewhere = bentos(apart=9.0)  # components that the data cannot tell apart
    for params in (alike, elsewhere):
        found = classification.classify(posterior(zoo.MODELS["bento_full"], params), new)
        assert found.probabilities is None and "cannot be matched" in found.rule


def test_a_point_is_classified_by_its_own_components_in_order():
    params = {"weights": [0.4, 0.6], "means": [500.0, 350.0], "variances": [4.0, 9.0]}
    one = posterior(zoo.MODELS["bento_full"], {k: np.array(v)[None, None] for k, v in params.items()}, "point")
    found = classification.classify(one, np.array([351.0, 499.0]))
    np.testing.assert_allclose(found.probabilities.value, np.eye(2), atol=1e-12)
    assert found.clusters[0]["means"] == 350.0 and "point estimate" in found.rule


def test_known_permutations_of_four_components_are_found():
    rng = np.random.default_rng(101)
    M, x = (
        300,
        rng.normal(np.repeat([-3.0, 0.0, 2.0, 6.0], (12, 18, 6, 24)), np.repeat([0.5, 0.4, 0.3, 1], (12, 18, 6, 24))),
    )
    means = rng.normal((-3.0, 0.0, 2.0, 6.0), 0.15, (M, 4))
    scales = np.exp(rng.normal(np.log((0.5, 0.4, 0.3, 1.0)), 0.08, (M, 4)))
    weights = rng.dirichlet(np.array((80.0, 120.0, 40.0, 160.0)), M)
    labels = np.array([rng.permutation(4) for _ in range(M)])  # of the component that is stored as k
    params = {n: np.take_along_axis(v, labels, 1) for n, v in (("mu", means), ("sd", scales), ("pi", weights))}
    table = np.log(params["pi"])[:, None] + stats.norm.logpdf(x[:, None], params["mu"][:, None], params["sd"][:, None])
    r = np.exp(table - logsumexp(table, axis=2, keepdims=True))
    found = relabel.fit(r, [params["mu"], params["sd"]], params["mu"])
    assert found.reason is None and found.warning is None and found.moved > 0.9
    assert (relabel.matched(r, found.pivot) == labels).all(axis=1).mean() >= 0.99


# -- simulation and missing entries ---------------------------------------------------------------------------------


def test_simulated_observations_have_the_models_law():
    assignments, x = prediction.simulate(known(), 20_000, seed=1)
    assert assignments.shape == x.shape == (1, 1, 20_000) and assignments.dtype == np.int32
    assert abs((assignments == 0).mean() - 0.7) < Z * np.sqrt(0.21 / 20_000)
    assert stats.kstest(x[assignments == 0], stats.norm(500, 2).cdf).pvalue > 1e-4
    assert stats.kstest(x[assignments == 1], stats.norm(350, 2).cdf).pvalue > 1e-4


def test_replicates_come_from_every_draw_and_carry_its_label():
    params = bentos(200)
    flip = np.random.default_rng(3).random((2, 200, 1)) < 0.5
    run = posterior(zoo.MODELS["bento_full"], {k: np.where(flip, v[..., ::-1], v) for k, v in params.items()})
    how = classification.labelling(run)
    assignments, x = prediction.replicates(run, 400, 3, labels=how.labels)
    assert assignments.shape == x.shape == (400,)
    assert (assignments == (x > 425)).all(), "labels are not those after relabelling"
    assert abs((assignments == 0).mean() - params["weights"][..., 0].mean()) < Z * np.sqrt(0.24 / 400)
    assert prediction.replicates(run, 10)[0] is None
    with pytest.raises(ValueError, match="more than the 400 draws"):
        prediction.replicates(run, 401)


def eruptions(num=3):
    """Draws of `faithful`, one chain, that differ a lot."""
    rng = np.random.default_rng(2)
    roots = rng.normal(0, 0.3, (1, num, 2, 2, 2)) + np.array([[0.4, 0.0], [1.5, 5.0]])
    covariances = roots @ np.swapaxes(roots, -1, -2) + np.diag([0.02, 4.0])
    share = rng.beta(5, 5, (1, num))
    return {
        "weights": np.stack([share, 1 - share], axis=-1),
        "means": rng.normal([[2.0, 55.0], [4.3, 80.0]], [0.3, 3.0], (1, num, 2, 2)),
        "precisions": np.linalg.inv(covariances),
    }


@pytest.mark.parametrize("num", [1, 3])
def test_missing_features_given_observed_ones_are_those_of_quadrature(num):
    params, grid = eruptions(num), np.linspace(-60, 240, 60_001)
    run = posterior(zoo.MODELS["faithful"], params, "independent" if num > 1 else "point")
    x, seen = np.array([[3.1, 0.0], [4.6, 71.0]]), {"x": np.array([[True, False], [True, True]])}
    found = prediction.conditional(run, x, seen)
    pairs = np.stack([np.full_like(grid, 3.1), grid], axis=1)
    p = np.zeros(len(grid))
    for s, k in np.ndindex(num, 2):
        law = stats.multivariate_normal(params["means"][0, s, k], np.linalg.inv(params["precisions"][0, s, k]))
        p += params["weights"][0, s, k] * law.pdf(pairs) / num
    mass = trapezoid(p, grid)
    mean = trapezoid(p * grid, grid) / mass
    variance = trapezoid(p * (grid - mean) ** 2, grid) / mass
    assert found.rows.tolist() == [0]
    np.testing.assert_allclose(found.mean[0], [3.1, mean], rtol=1e-8)
    np.testing.assert_allclose(found.covariance[0], [[0, 0], [0, variance]], rtol=1e-7)
    np.testing.assert_allclose(prediction.log_predictive(run, x, seen).value[0], np.log(mass), rtol=1e-9)


def test_one_component_by_hand_is_the_textbook_conditional():
    params = {"weights": np.array([1.0, 0.0]), "means": np.array([[1.0, 2.0], [0.0, 0.0]])}
    params["precisions"] = np.linalg.inv(np.array([[[4.0, 3.0], [3.0, 9.0]], [[1.0, 0.0], [0.0, 1.0]]]))
    run = posterior(zoo.MODELS["faithful"], {k: v[None, None] for k, v in params.items()}, "point")
    found = prediction.conditional(run, np.array([[5.0, 0.0]]), {"x": np.array([[True, False]])})
    np.testing.assert_allclose(found.mean, [[5.0, 2 + 3 / 4 * (5 - 1)]], rtol=1e-12)
    np.testing.assert_allclose(found.covariance[0, 1, 1], 9 - 9 / 4, rtol=1e-12)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("faithful", "scotch", "penguin_classes", "ais")]


@pytest.mark.parametrize("name", ["wine", "tone", *SLOW])
def test_with_nothing_missing_the_masked_table_is_the_models(name):
    model = zoo.MODELS[name]
    x = jax.tree.map(lambda leaf: np.asarray(leaf)[:3], model.check(model.data.x))
    observed = {k: v for k, v in x.items() if k != "covariates"} if isinstance(x, dict) else {"x": x}
    seen = {k: np.ones(np.shape(v), bool) for k, v in observed.items()}
    assert missing.why_not(model, {k: ~v for k, v in seen.items()}) is None
    params = {k: v[1] for k, v in model.prior_draws(jax.random.key(0), 4).items()}
    np.testing.assert_allclose(
        missing.log_table(model, params, x, seen), model.log_table(params, x), rtol=1e-9, atol=1e-9
    )


@pytest.mark.slow
def test_a_missing_category_is_summed_over_and_a_missing_bit_too():
    model = zoo.MODELS["penguin_classes"]
    params = {k: v[0] for k, v in model.prior_draws(jax.random.key(1), 2).items()}
    x = {k: np.asarray(v, float)[:2] for k, v in model.data.x.items()}
    seen = {k: np.ones(2, bool) for k in x} | {"sex": np.zeros(2, bool)}
    each = [model.log_table(params, {**x, "sex": np.full(2, float(v))}) for v in (0, 1)]
    np.testing.assert_allclose(missing.log_table(model, params, x, seen), jnp.logaddexp(*each), rtol=1e-10)
    model = zoo.MODELS["scotch"]
    params = {k: v[0] for k, v in model.prior_draws(jax.random.key(1), 2).items()}
    x = np.asarray(model.data.x, float)[:2]
    seen = np.ones(x.shape, bool)
    seen[:, 3] = False
    each = []
    for value in (0.0, 1.0):
        changed = x.copy()
        changed[:, 3] = value
        each.append(model.log_table(params, changed))
    np.testing.assert_allclose(missing.log_table(model, params, x, {"x": seen}), jnp.logaddexp(*each), rtol=1e-10)


def test_declared_labels_that_draws_do_not_keep_are_matched_and_never_averaged_over():
    """Stick-breaking: the prior tells components apart, the draws hold them in any order."""
    model = galaxy_dirichlet_process(num_components=3)
    rng = np.random.default_rng(4)
    order = np.argsort(rng.random((2, 200, 3)), axis=-1)
    means = rng.normal((9.7, 21.0, 33.0), 0.2, (2, 200, 3))
    weights = np.broadcast_to([0.2, 0.5, 0.3], means.shape)
    means, weights = (np.take_along_axis(leaf, order, axis=-1) for leaf in (means, weights))
    left = 1 - np.cumsum(weights, axis=-1) + weights
    params = {"sticks": (weights / left)[..., :2], "means": means, "variances": np.full(means.shape, 4.0)}
    found = classification.classify(posterior(model, params), np.array([9.7, 21.0, 33.0]))
    assert "after relabelling" in found.rule
    assert (found.probabilities.value.argmax(axis=1) == [0, 1, 2]).all()
    assert (found.probabilities.value.max(axis=1) > 0.95).all()


def test_a_missing_angle_has_no_mean():
    model = zoo.MODELS["directions"]
    params = {
        "weights": np.full((2, 4, 2), 0.5),
        "means": np.tile([3.1, -3.1], (2, 4, 1)),
        "concentrations": np.full((2, 4, 2), 20.0),
    }
    found = prediction.conditional(posterior(model, params), np.zeros(1), {"x": np.zeros(1, bool)})
    assert np.isnan(found.mean).all() and np.isnan(found.covariance).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.MODELS)
def test_every_model_predicts(name):
    """Six draws of the prior, picked by likelihood, in place of a posterior."""
    model = zoo.MODELS[name]
    x = model.check(model.data.x)
    params = jax.tree.map(lambda leaf: leaf.reshape(2, 3, *leaf.shape[1:]), starts(model, jax.random.key(0), x, 6))
    run = posterior(model, {k: np.asarray(v) for k, v in params.items()}, "chains" if params else "point")
    new = jax.tree.map(lambda leaf: np.asarray(leaf)[:2], x)
    found = prediction.log_predictive(run, new)
    flat = [{k: v.reshape(-1, *v.shape[2:])[i] for k, v in run.params.items()} for i in range(6 if params else 1)]
    each = [np.asarray(model.pointwise_log_likelihood(p, new)) for p in flat]
    np.testing.assert_allclose(found.value, logsumexp(each, axis=0) - np.log(len(each)), rtol=1e-9)
    tails = prediction.tail(run, new)
    assert ((tails.value >= 0) & (tails.value <= 1)).all()
    classes = classification.classify(run, new)
    assert classes.rule and (classes.probabilities is None or np.allclose(classes.probabilities.value.sum(-1), 1))
    z, drawn = prediction.simulate(run, 2, x=new)
    assert ((z >= 0) & (z < model.num_components)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(drawn))
