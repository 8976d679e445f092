"""Importance sampling: the evidence within its own error, and plain words where the weights have collapsed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import disable_x64
from numpy.testing import assert_allclose, assert_array_equal

from diagnostics.truth import stored
from inference import fit
from inference import importance as module
from inference.enumeration import enumeration
from inference.importance import importance, importance_joint, log_evidence, pareto_k, weight_ess
from zoo.models.bento import bento, bento_full, bento_known
from zoo.models.coffee import coffee

BENTO = stored("bento")
KEY = jax.random.key(1)
WIDE = bento(scale=40.0)  # components that overlap: the prior covers the posterior


@functools.cache
def wide():
    return importance(WIDE, WIDE.data.x, KEY, num_particles=50_000, num_resampled=4000)


@functools.cache
def seeds_version():
    """What the tutorial does: assignments proposed, a thousand particles."""
    return importance_joint(bento(), bento().data.x, KEY)


def z_score(draws, truth):
    return (draws.log_evidence - truth) / draws.log_evidence_se


# -- the evidence --------------------------------------------------------------------------------------------


def test_the_evidence_of_overlapping_bentos_is_right_within_its_own_error():
    truth = BENTO["bento.sigma40"]["value"]["log_evidence"]
    assert wide().log_evidence_se < 0.04
    assert abs(z_score(wide(), truth)) < 4
    assert wide().warnings == ()


@pytest.mark.parametrize(("backend", "name"), [("importance", "bento_full"), ("importance_joint", "bento")])
def test_few_particles_whose_weights_have_collapsed_give_no_evidence(backend, name):
    draws = fit({"bento": bento, "bento_full": bento_full}[name](), backend, num_particles=50)
    assert draws.log_evidence is None and draws.log_evidence_se is None
    assert any("collapsed" in said for said in draws.warnings)


def test_many_effective_draws_that_a_heavy_tail_disproves_give_no_evidence():
    weights = -0.8 * np.log(np.random.default_rng(0).uniform(size=100_000))  # Pareto of shape .8
    assert module.weight_ess(weights) > 100 and module.pareto_k(weights) > 0.7
    draws = module.weighted_draws(bento(), _heavy(weights), bento().data.x, KEY, len(weights), 0, 1000, None)
    assert draws.log_evidence is None and draws.log_evidence_se is None
    assert any("no estimate" in said for said in draws.warnings)


def _heavy(weights):
    at = lambda index, rows, key, x: {"log_weights": jnp.asarray(weights)[index], "params": {"means": index[:, None]}}
    return jax.jit(at)


def test_a_few_equal_weights_have_not_collapsed():
    assert not module.collapsed(np.zeros(4)) and module.collapsed(np.array([0.0, -50.0, -50.0, -50.0]))


def test_a_million_particles_on_bento_give_few_effective_draws_the_right_evidence_and_say_so():
    draws = importance(bento(), bento().data.x, KEY)
    assert draws.params["means"].shape == (1, 1_000_000, 2) and draws.assignments is None
    assert 20 < weight_ess(draws.log_weights) < 100
    assert draws.log_evidence_se < 0.25
    assert abs(z_score(draws, BENTO["bento.log_evidence"]["value"])) < 4
    assert any("few effective draws" in said and "not usable" in said for said in draws.warnings)
    assert draws.cost.table_evaluations == draws.num_done == 1_000_000
    assert draws.cost.program_bytes < 2**30


def test_the_tutorial_version_collapses_to_one_draw_and_is_not_usable():
    assert weight_ess(seeds_version().log_weights) == pytest.approx(1, abs=0.01)
    assert any("collapsed" in said and "not usable" in said for said in seeds_version().warnings)
    assert seeds_version().assignments.shape == (1, 1000, 20) and seeds_version().assignments.dtype == np.int32


def test_proposed_assignments_give_the_enumerated_evidence_of_three_observations():
    x = WIDE.data.x[:3]
    draws = importance_joint(WIDE, x, KEY, num_particles=20_000)
    assert weight_ess(draws.log_weights) > 400
    assert abs(z_score(draws, enumeration(WIDE, x, KEY, num_draws=1).log_evidence)) < 4


def test_the_stated_error_is_the_spread_over_independent_runs():
    runs = [importance(WIDE, WIDE.data.x, jax.random.key(seed), num_particles=4000) for seed in range(60)]
    z = np.array([z_score(draws, BENTO["bento.sigma40"]["value"]["log_evidence"]) for draws in runs])
    # 60 standard normals: the mean is within 4 / sqrt(60) of 0, the standard deviation within 4 / sqrt(120) of 1
    assert abs(z.mean()) < 0.52 and abs(z.std() - 1) < 0.37


def test_as_many_more_particles_are_drawn_as_the_evidence_needs_and_its_error_stays_the_spread(monkeypatch):
    monkeypatch.setattr(module, "PARTICLES", 8000)
    monkeypatch.setattr(module, "ENOUGH", 0.05)
    runs = [importance(WIDE, WIDE.data.x, jax.random.key(seed), block=4000) for seed in range(60)]  # one program
    assert all(draws.log_weights.shape == (1, draws.num_done) for draws in runs)
    assert sum(8000 < draws.num_done <= 32_000 and draws.log_evidence_se < 0.06 for draws in runs) > 50
    z = np.array([z_score(draws, BENTO["bento.sigma40"]["value"]["log_evidence"]) for draws in runs])
    assert abs(z.mean()) < 0.52 and abs(z.std() - 1) < 0.37  # as above
    same = importance(WIDE, WIDE.data.x, jax.random.key(0), num_particles=runs[0].num_done)
    assert_array_equal(runs[0].params["means"], same.params["means"])  # no particle twice, none left out
    assert_allclose(runs[0].log_weights, same.log_weights, rtol=1e-12)


def test_no_more_particles_are_drawn_by_default_than_fit_into_the_memory_that_is_meant_for_them(monkeypatch):
    monkeypatch.setattr(module, "PARTICLES", 8000)
    monkeypatch.setattr(module, "MAX_NUMBERS", 2 * 5000)  # of two unknown means
    assert importance(WIDE, WIDE.data.x, KEY).num_done == 5000
    assert importance(WIDE, WIDE.data.x, KEY, num_particles=8100).num_done == 8100


def test_no_more_particles_where_they_would_not_do_or_were_not_asked_for():
    weights = np.log(np.random.default_rng(0).gamma(0.02, size=(1, 20_000)))  # se about sqrt(50 / 20,000) = .05
    error = log_evidence(weights)[1]
    assert 0.04 < error < 0.06 and not module.judge(weights)
    assert module.wanted_particles(weights, 4 * 20_000) == 20_000  # some 7 times as many would be needed
    assert module.wanted_particles(weights, 200_000) == int(np.ceil(1.1 * 20_000 * (error / 0.02) ** 2))
    assert importance(WIDE, WIDE.data.x, KEY, num_particles=4000).num_done == 4000


def test_a_log_weight_is_the_log_likelihood_of_its_particle():
    params = jax.tree.map(lambda leaf: leaf[0, :20], wide().params)
    expected = jax.vmap(lambda p: WIDE.log_likelihood(p, jnp.asarray(WIDE.data.x)))(params)
    assert_allclose(wide().log_weights[0, :20], expected, rtol=1e-12)


def test_a_joint_log_weight_is_the_log_density_of_the_data_given_everything_proposed():
    params = jax.tree.map(lambda leaf: leaf[0, :20], seeds_version().params)
    z, x, model = seeds_version().assignments[0, :20], jnp.asarray(bento().data.x), bento()
    table = jax.vmap(lambda p: model.log_components(p, x))(params)
    expected = np.take_along_axis(np.asarray(table), z[..., None], axis=2).sum((1, 2))
    assert_allclose(seeds_version().log_weights[0, :20], expected, rtol=1e-12)


def test_weighted_averages_of_the_sorted_means_are_the_exact_ones():
    truth = BENTO["bento.sigma40"]["value"]
    w = np.exp(wide().log_weights[0] - wide().log_weights[0].max())
    w /= w.sum()
    means = np.sort(wide().params["means"][0], axis=1)
    estimate = w @ means
    se = np.sqrt(w**2 @ (means - estimate) ** 2)  # of a self-normalised average, by the delta method
    assert se.max() < 1
    assert np.all(np.abs(estimate - [truth["lo_mean"], truth["hi_mean"]]) < 4 * se)


# -- resampling ----------------------------------------------------------------------------------------------


def test_systematic_resampling_takes_each_particle_in_proportion_to_its_weight():
    w = np.exp(wide().log_weights[0] - wide().log_weights[0].max())
    expected = 4000 * w / w.sum()
    first, drawn = wide().params["means"][0, :, 0], wide().resampled.params["means"][0, :, 0]
    taken = np.searchsorted(np.sort(first), drawn)
    counts = np.bincount(taken, minlength=len(first))[np.argsort(np.argsort(first))]
    assert wide().resampled.params["means"].shape == (1, 4000, 2) and wide().resampled.log_weights is None
    assert np.all(np.abs(counts - expected) < 1 + 1e-9)


def test_resampled_draws_carry_assignments_drawn_from_the_table():
    z = wide().resampled.assignments
    assert z.shape == (1, 4000, 20) and z.dtype == np.int32
    params = jax.tree.map(lambda leaf: leaf[0], wide().resampled.params)
    r = np.asarray(jax.vmap(lambda p: WIDE.responsibilities(p, jnp.asarray(WIDE.data.x)))(params))[..., 1]
    se = np.sqrt((r * (1 - r)).sum(0)) / len(r)
    assert np.all(np.abs((z[0] - r).mean(0)) < 4.4 * se + 1e-12)


# -- nothing unknown -----------------------------------------------------------------------------------------


def test_with_known_parameters_the_evidence_is_exact_and_assignments_are_exact_draws():
    model = bento_known(means=(430.0, 400.0), scales=(60.0, 60.0))
    x = jnp.asarray(model.data.x)
    draws = importance(model, model.data.x, KEY, num_resampled=10)
    assert draws.params == {} and draws.log_evidence_se == 0
    assert draws.warnings == ("no unknown parameter: 10000 particles of equal weight serve for 1000000",)
    assert draws.log_evidence == pytest.approx(float(model.log_likelihood({}, x)), abs=1e-11)
    assert weight_ess(draws.log_weights) == pytest.approx(draws.num_done) and pareto_k(draws.log_weights) is None
    r = np.asarray(model.responsibilities({}, x))[:, 1]
    se = np.sqrt(r * (1 - r) / draws.num_done)
    assert np.all(np.abs(draws.assignments[0].mean(0) - r) < 4.4 * se)
    assert draws.resampled.assignments.shape == (1, 10, 20)


# -- judging weights -----------------------------------------------------------------------------------------


def test_pareto_k_speaks_at_heavy_tails_and_is_silent_at_light_ones():
    u = np.random.default_rng(0).uniform(size=20_000)
    assert pareto_k(-0.9 * np.log(u)) > 0.7  # w = u^-0.9 has Pareto k = .9
    assert pareto_k(-0.3 * np.log(u)) < 0.5
    assert pareto_k(np.zeros(100)) is None


def test_the_effective_size_of_equal_weights_is_their_number_and_of_one_weight_is_one():
    assert weight_ess(np.full(50, -3.0)) == pytest.approx(50)
    assert weight_ess([0.0, -np.inf, -np.inf]) == 1
    assert weight_ess(np.log([3.0, 1.0])) == pytest.approx(16 / 10)


def test_log_evidence_is_the_log_mean_weight_with_its_delta_method_error():
    w = np.array([1.0, 2.0, 6.0])
    value, se = log_evidence(np.log(w) - 1000)
    assert value == pytest.approx(np.log(3) - 1000)
    assert se == pytest.approx(w.std(ddof=1) / np.sqrt(3) / 3)


@pytest.mark.parametrize("run", [importance, importance_joint])
def test_when_every_weight_is_zero_there_is_no_estimate_and_no_nan(run):
    with np.errstate(all="raise"):
        draws = run(bento(), np.full(20, 1e200), KEY, num_particles=50, num_resampled=5)
    assert draws.log_evidence is None and draws.log_evidence_se is None and draws.resampled is None
    assert np.all(draws.log_weights == -np.inf)
    assert any("no particle has a positive weight" in said for said in draws.warnings)


def test_log_weights_that_are_no_numbers_count_nothing_and_are_reported():
    with_nan = np.array([[0.0, np.nan, -1.0, np.inf]])
    value, se = log_evidence(with_nan)
    assert value == pytest.approx(np.log((1 + np.exp(-1)) / 4)) and np.isfinite(se)
    assert any(said.startswith("2 of 4 log weights") for said in module.judge(with_nan))


# -- running -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [importance, importance_joint])
def test_the_block_size_changes_no_draw_and_the_seed_changes_all(run):
    whole, parts, other = (
        run(coffee(), coffee().data.x, key, num_particles=500, block=block)
        for key, block in ((KEY, 500), (KEY, 77), (jax.random.key(2), 77))
    )
    assert_array_equal(whole.params["means"], parts.params["means"])
    assert_allclose(whole.log_weights, parts.log_weights, rtol=1e-12)
    assert not np.any(whole.params["means"] == other.params["means"])


def test_progress_counts_particles_and_ctrl_c_keeps_the_finished_blocks():
    seen = []

    def stop(done, total):
        seen.append((done, total))
        if done == 200:
            raise KeyboardInterrupt

    draws = importance(coffee(), coffee().data.x, KEY, num_particles=500, block=100, progress=stop)
    assert seen == [(100, 500), (200, 500)]
    assert draws.interrupted and draws.num_done == 200 and draws.log_weights.shape == (1, 200)
    assert any("interrupted" in said for said in draws.warnings)


def test_blocks_stay_within_a_gibibyte_whatever_the_number_of_observations():
    x = np.tile(WIDE.data.x, 20_000)
    draws = importance(WIDE, x, KEY, num_particles=3)
    assert draws.num_done == 3 and draws.cost.program_bytes < 2**30


def test_float32_gives_the_same_evidence_within_its_error():
    model = bento(scale=41.0)  # a model of its own: shapes and dtypes are remembered with the model
    with disable_x64():
        single = importance(model, model.data.x.astype(np.float32), KEY, num_particles=20_000)
    double = importance(bento(scale=41.0, prior_sd=50.000001), model.data.x, KEY, num_particles=20_000)
    assert single.params["means"].dtype == np.float32
    combined = np.hypot(single.log_evidence_se, double.log_evidence_se)
    assert abs(single.log_evidence - double.log_evidence) < 4 * combined


def test_every_site_of_the_prior_is_proposed_also_the_gamma_ones():
    draws = importance(bento_full(), bento_full().data.x, KEY, num_particles=4000)
    params = {name: leaf[0] for name, leaf in draws.params.items()}
    assert set(params) == {"weights", "means", "variances"}
    # InverseGamma(3, 8) has mean 4 and sd 4; a weight under Dirichlet(1, 1) has mean 1/2 and sd 1/sqrt(12)
    assert np.all(np.abs(params["variances"].mean(0) - 4) < 4.4 * 4 / np.sqrt(4000))
    assert abs(params["weights"][:, 0].mean() - 0.5) < 4.4 / np.sqrt(12 * 4000)


@pytest.mark.parametrize(
    "settings, said", [({"num_particles": 0}, "num_particles"), ({"block": 0}, "block"), ({"particles": 3}, "setting")]
)
def test_bad_settings_are_refused_in_one_sentence(settings, said):
    with pytest.raises(ValueError, match=said):
        fit(WIDE, "importance", **settings)
