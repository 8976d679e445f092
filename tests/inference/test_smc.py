"""Tempered sequential Monte Carlo: evidence and means against quadrature, and what is said of too few moves."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from genjax import gen, normal
from jax.experimental import disable_x64
from scipy import stats
from scipy.special import logsumexp

from diagnostics import calibration, compare, report, verdicts
from diagnostics.summaries import runs_mean
from inference import conjugacy, fit, labels, loop, smc, tempering
from inference.results import Cost
from zoo import MODELS, Dataset, Mixture
from zoo.distributions import categorical
from zoo.models.bento import bento
from zoo.models.coffee import coffee
from zoo.models.three_gaussians import three_gaussians


@pytest.mark.parametrize("move", ["hmc", pytest.param("gibbs", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name, known", [("bento", -65.31374998981), ("coffee", -118.54832326148525)])
def test_evidence_is_that_of_quadrature(name, known, move):
    result = fit(MODELS[name], "smc", seed=1, move=move)
    assert result.log_evidence_se <= 0.1 and result.warnings == ()
    assert abs(result.log_evidence - known) <= 4 * result.log_evidence_se


@pytest.mark.slow
def test_evidence_of_a_thousand_points_is_stable_and_that_of_importance_sampling():
    result, other = (fit(MODELS["three_gaussians"], name, seed=1) for name in ("smc", "importance_modes"))
    assert result.log_evidence_se <= 0.1 and other.log_evidence_se <= 0.1
    errors = np.hypot(result.log_evidence_se, other.log_evidence_se)
    assert abs(result.log_evidence - other.log_evidence) <= 4 * errors
    rounded = 0.1 / np.sqrt(12)  # the stored value has one decimal
    assert abs(result.log_evidence + 2548.0) <= 4 * np.hypot(result.log_evidence_se, rounded)


def test_the_stated_error_is_the_spread_over_independent_runs():
    model = bento(scale=40.0)
    results = [fit(model, "smc", seed=seed, num_particles=64, max_moves=2) for seed in range(40)]
    z = np.array([(r.log_evidence + 110.44657957403284) / r.log_evidence_se for r in results])
    # 40 times Student's t with 7 degrees of freedom: variance 7 / 5, kurtosis 5
    assert abs(z.mean()) < 4 * np.sqrt(7 / 5 / 40)
    assert abs(z.std(ddof=1) - np.sqrt(7 / 5)) < 3.5 * np.sqrt(7 / 5) * np.sqrt((5 - 1) / 40) / 2


def test_without_a_second_look_there_is_no_estimate():
    result = fit(MODELS["bento"], "smc", seed=1, num_particles=32, num_moves=1, max_moves=1)
    assert result.log_evidence is None and "nothing to compare it with" in result.warnings[0]


def far_apart(model, program, x, key, C, S, moves, progress):
    stats = {
        "log_evidence": np.linspace(-75.0, -65.0, C),
        "acceptance_rate": np.full(C, 0.8),
        "not_a_number": np.zeros(C),
    }
    return (np.full((C, S, 2), 400.0), stats), Cost(), False


def test_a_comparison_and_its_report_say_why_runs_are_not_usable(monkeypatch):
    monkeypatch.setattr(smc, "_runs", far_apart)
    found = compare(MODELS["bento"], backends=["smc"], settings={"num_particles": 16})
    assert found.backends["smc"]["verdict"].startswith("not usable: the runs disagree (standard error 0.75); ")
    assert "Its independent runs do not agree" in report.standing(found, "smc").sentence
    monkeypatch.setattr(smc, "_runs", lambda *args: (*far_apart(*args)[:2], True))
    found = compare(MODELS["bento"], backends=["smc"], settings={"num_particles": 16})
    assert found.backends["smc"]["verdict"].startswith(
        "not usable: 8 of 8 runs had ended, and no estimate was compared"
    )
    assert "Its independent runs do not agree" in report.standing(found, "smc").sentence


def test_runs_that_disagree_give_no_estimate(monkeypatch):
    monkeypatch.setattr(smc, "_runs", far_apart)
    result = fit(MODELS["bento"], "smc", seed=1, num_particles=16)
    assert result.log_evidence is None and result.log_evidence_se is None
    assert result.warnings[0].startswith("no estimate: the runs disagree") and "not usable" in result.warnings[0]


def test_a_run_that_never_arrived_leaves_no_estimate(monkeypatch):
    def one_lost(model, program, x, key, C, S, moves, progress):
        stats = {
            "log_evidence": np.append(np.full(C - 1, -65.0), -np.inf),
            "acceptance_rate": np.full(C, 0.8),
            "not_a_number": np.zeros(C),
        }
        return (np.full((C, S, 2), 400.0), stats), Cost(), False

    monkeypatch.setattr(smc, "_runs", one_lost)
    result = fit(MODELS["bento"], "smc", seed=1, num_particles=16)
    assert result.log_evidence is None and result.log_evidence_se is None
    assert result.warnings[0].startswith("no estimate: 1 of 8 runs did not reach the posterior")


def test_prior_draws_whose_density_is_no_number_are_counted_and_said():
    """The scale is a square root of a Normal(1, 1): no number at 16 percent of the draws of one of two components."""

    @gen
    def prior():
        return {"squares": normal(np.ones(2), 1.0) @ "squares"}

    @gen
    def observation(params):
        z = categorical(probs=np.full(2, 0.5)) @ "z"
        return normal(0.0, jnp.sqrt(params["squares"][z])) @ "x"

    def twin(x):
        squares = numpyro.sample("squares", dist.Normal(1.0, 1.0).expand([2]).to_event(1))
        parts = dist.Normal(0.0, jnp.sqrt(squares))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(jnp.full(2, 0.5)), parts), obs=x)

    model = Mixture(name="roots", num_components=2, exchangeable=True, prior=prior, observation=observation, twin=twin)
    result = fit(model, "smc", np.array([0.5, -1.0]), seed=1, num_particles=256, max_moves=2)
    share, expected = result.stats["not_a_number"].mean(), 1 - stats.norm.cdf(1) ** 2
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / (8 * 256))
    assert f"at {share:.2g} of the prior draws the density is no number" in " ".join(result.warnings)


def test_next_temperature_keeps_the_stated_share_of_the_particles():
    log_lik = jnp.asarray(np.random.default_rng(0).normal(0, 30, 200))
    dt = smc.next_step(log_lik, jnp.asarray(0.0))
    w = np.exp(float(dt) * (np.asarray(log_lik) - float(log_lik.max())))
    np.testing.assert_allclose(w.sum() ** 2 / np.square(w).sum(), smc.KEEP * 200, rtol=1e-6)


def test_systematic_resampling_keeps_every_count_within_one_of_its_share():
    w = np.random.default_rng(1).dirichlet(np.ones(50))
    counts = np.bincount(smc.systematic(jax.random.key(0), jnp.log(w), 20), minlength=50)
    assert counts.sum() == 20 and np.all(np.abs(counts - 20 * w) < 1)


def test_copies_within_a_run_do_not_shrink_the_error():
    f = np.random.default_rng(2).normal(size=(8, 10))
    error = runs_mean(np.full((8, 10), 1 / 80))(f)[1]
    copied = runs_mean(np.full((8, 1000), 1 / 8000))(np.repeat(f, 100, axis=1))[1]
    np.testing.assert_allclose([error, copied], f.mean(axis=1).std(ddof=1) / np.sqrt(8))


# -- the moves -------------------------------------------------------------------------------------------------


def kernel_of(model, move):
    if move == "hmc":
        return tempering.hmc_kernel(model, True)
    return tempering.gibbs_kernel(model, True)


@pytest.mark.slow
def test_equal_observations_are_evaluated_once_and_counted_as_often_as_they_are_there():
    model = MODELS["penguin_classes"]
    x = jax.tree.map(jnp.asarray, model.data.x)
    rows, params = tempering.distinct(x), jax.tree.map(lambda leaf: leaf[0], model.prior_draws(jax.random.key(0), 2))
    assert len(rows.counts) == len(set(zip(*(leaf.tolist() for leaf in x.values()), strict=True))) < len(x["sex"]) / 10
    assert jax.tree.map(lambda leaf: leaf[0], rows.x) == jax.tree.map(lambda leaf: leaf[0], x)
    path = tempering.path_of(model, "hmc")
    expected = 0.3 * float(model.log_likelihood(params, x))
    np.testing.assert_allclose([path(params, 0.3, rows), path(params, 0.3, x)], expected, rtol=1e-12)
    numbers = jnp.asarray([[2.0, 1.0], [jnp.nan, 0.0], [2.0, 1.0], [jnp.nan, 0.0], [1.0, 2.0], [2.0, 1.0]])
    found = tempering.distinct(numbers)
    np.testing.assert_array_equal(found.x, numbers[jnp.array([0, 1, 4])])
    np.testing.assert_array_equal(found.counts, [3, 2, 1])
    assert tempering.distinct(numbers[:5]).shape == (5, 2), "three rows of five are not worth another program"
    assert (rows.counts[0] * jnp.float32(1)).dtype == jnp.float32, "counts widen no density in single precision"


def test_particles_are_worked_on_together_however_many_they_are():
    model, x = MODELS["bento"], jnp.asarray(MODELS["bento"].data.x)
    assert [smc._lanes(n, model, x) for n in (64, 19, 38, 3)] == [16, 16, 16, 3]
    assert smc._lanes(64, model, jnp.zeros(2**17)) == 1


@pytest.mark.parametrize("t", [0.3, 1.0])
def test_hmc_leaves_the_tempered_law_alone(t):
    """From draws of p(params) p(x | params)^t on a lattice, 50 moves later: means against sums over the lattice."""
    model, num = MODELS["bento"], 4000
    x = jnp.asarray(model.data.x)
    of = smc.space.space_of(model)
    lattice = jnp.concatenate([jnp.arange(340, 360, 0.25), jnp.arange(490, 510, 0.25)])
    points = jnp.stack(jnp.meshgrid(lattice, lattice), -1).reshape(-1, 2)
    log_lik = lambda u: model.log_likelihood(of.constrain(u), x)
    log_prior = lambda u: model.log_prior(of.constrain(u)) + of.log_det(u)
    on_grid, prior_on_grid = jax.jit(lambda us: jax.lax.map(lambda u: (log_lik(u), log_prior(u)), us))(points)
    w = jax.nn.softmax(prior_on_grid + t * on_grid)
    move = kernel_of(model, "hmc")

    def chain(key, u):
        step = lambda u, key: (move(key, u, t, 0.5, jnp.ones(2), x)[0], None)
        return jax.lax.scan(step, u, jax.random.split(key, 50))[0]

    u = points[np.random.default_rng(3).choice(len(points), num, p=np.asarray(w))]
    u = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(3), num), u)
    for f_grid, f in [(on_grid, jax.vmap(log_lik)(u)), (points[:, 0], u[:, 0]), (points[:, 0] ** 2, u[:, 0] ** 2)]:
        z = (f.mean() - (w * f_grid).sum()) / (f.std() / np.sqrt(num))
        assert abs(z) < 4


SIX = np.array([352.0, 349.0, 420.0, 497.0, 503.0, 498.0])


@pytest.mark.parametrize("t", [0.1, 0.3, 1.0])
def test_gibbs_samples_the_law_with_components_alone_tempered(t):
    """All 2^6 assignments in closed form: N(x; m, s)^t is N(x; m, s / sqrt(t)) times (2 pi s^2)^((1 - t) / 2) t^(-1/2).

    From prior draws, which are far away, 30 sweeps lead to the enumerated sizes of component 0, moments of its mean,
    and the evidence of the path at t is that of prior draws weighed by it.
    """
    model, x, s, num = bento(scale=40.0, weights=(0.7, 0.3)), jnp.asarray(SIX), 40.0, 20_000
    every = np.array(list(itertools.product((0, 1), repeat=6)))
    constant = 6 * ((1 - t) / 2 * np.log(2 * np.pi * s**2) - np.log(t) / 2)

    def log_part(points):
        n = len(points)
        return stats.multivariate_normal(np.full(n, 400.0), 2500.0 + s**2 / t * np.eye(n)).logpdf(points) if n else 0.0

    log_p = [sum(log_part(SIX[z == k]) for k in (0, 1)) + np.log([0.7, 0.3])[z].sum() for z in every]
    log_z = logsumexp(log_p) + constant
    p_z = np.exp(np.array(log_p) - logsumexp(log_p))
    sizes = np.array([p_z[(every == 0).sum(axis=1) == n].sum() for n in range(7)])

    of, path, move = smc.space.space_of(model), tempering.path_of(model, "gibbs"), kernel_of(model, "gibbs")
    draws = model.prior_draws(jax.random.key(4), num)
    w = np.exp(jax.vmap(lambda p: path(p, t, x))(draws) - log_z)
    assert abs(w.mean() - 1) < 4 * w.std() / np.sqrt(num)

    def chain(key, params):
        keys = jax.random.split(key, 31)
        step = lambda u, key: (move(key, u, t, 1.0, jnp.ones(2), x)[0], None)
        u = jax.lax.scan(step, of.unconstrain(params), keys[1:])[0]
        table = tempering.tempered_table(model, of.constrain(u), t, x)
        return of.constrain(u)["means"][0], labels.draw_assignments(keys[0], table)

    mean, z = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(5), num), draws)
    found = np.bincount((np.asarray(z) == 0).sum(axis=1), minlength=7) / num
    assert np.all(np.abs(found - sizes) < 4.4 * np.sqrt(sizes * (1 - sizes) / num) + 1e-12)
    n = (every == 0).sum(axis=1)
    precision = 1 / 2500 + n * t / s**2
    centre = (400 / 2500 + (every == 0) @ SIX * t / s**2) / precision
    for f, known in [(mean, p_z @ centre), (mean**2, p_z @ (centre**2 + 1 / precision))]:
        assert abs(f.mean() - known) < 4.4 * f.std() / np.sqrt(num)


@pytest.mark.parametrize(
    "name", ["bento_full", *(pytest.param(n, marks=pytest.mark.slow) for n in ("coffee_full", "three_gaussians"))]
)
def test_conjugate_draws_are_exact_at_every_temperature(name):
    """Their acceptance probability is 1: the weights' rule at r, the others' at t r."""
    accepted = accepted_at_a_third(MODELS[name], jnp.asarray(MODELS[name].data.x)[:20])
    np.testing.assert_allclose(accepted, 1.0, rtol=1e-12)


def test_conjugate_draws_are_exact_for_slopes_that_the_first_observations_do_not_move():
    x = {"x": np.linspace(-2, 2, 20), "covariates": np.maximum(np.arange(20.0) - 9, 0)}  # ten controls, then doses

    @gen
    def prior():
        return {"slopes": normal(np.zeros((2, 1)), 2.0) @ "slopes"}

    @gen
    def observation(params, dose):
        z = categorical(probs=np.full(2, 0.5)) @ "z"
        return normal((params["slopes"][z] * dose[None]).sum(-1), 1.0) @ "x"

    model = Mixture(
        name="doses", num_components=2, exchangeable=True, prior=prior, observation=observation,
        data=Dataset(name="doses", x=x),
    )  # fmt: skip
    assert [rule.site for rule in conjugacy.rules(model)] == ["slopes"]
    np.testing.assert_allclose(accepted_at_a_third(model, jax.tree.map(jnp.asarray, x)), 1.0, rtol=1e-12)


def accepted_at_a_third(model, x):
    """Acceptance of a Gibbs move at t = 1/3 from each of 256 draws of the prior."""
    of, move = smc.space.space_of(model), kernel_of(model, "gibbs")
    us = jax.vmap(of.unconstrain)(model.prior_draws(jax.random.key(0), 256))
    at = lambda key, u: move(key, u, 1 / 3, 1.0, jnp.ones(of.size), x)[1]
    keys = jax.random.split(jax.random.key(1), 256)
    return jax.jit(lambda: jax.lax.map(lambda each: at(*each), (keys, us)))()  # gammas compile faster than by vmap


def test_a_conjugate_rule_that_fits_at_the_last_temperature_only_is_said(monkeypatch):
    real = smc._runs

    def fits_last(*args):
        (u, stats), spent, interrupted = real(*args)
        ones = np.ones_like(stats["acceptance_rate"])
        return (u, stats | {"acceptance_rate": ones, "least_acceptance_rate": 0.2 * ones}), spent, interrupted

    monkeypatch.setattr(smc, "_runs", fits_last)
    result = fit(MODELS["bento"], "smc", num_particles=16, move="gibbs", max_moves=1)
    assert any("does not fit" in said and "20%" in said for said in result.warnings)


@pytest.mark.parametrize("move", ["gibbs", "hmc"])
@pytest.mark.parametrize(
    "build, scale",
    [(lambda: bento(scale=40.0), 0.3), pytest.param(lambda: coffee(scale=20.0), 0.3, marks=pytest.mark.slow)],
)
def test_the_move_leaves_the_joint_law_invariant(build, scale, move):
    model = build()
    assert joint_test_of(model, move, scale, 10.0, 20_000).passed


@pytest.mark.parametrize("move", ["gibbs", "hmc"])
@pytest.mark.slow
def test_the_move_leaves_the_joint_law_invariant_with_scales_unknown(move):
    assert joint_test_of(three_gaussians(prior_scale=10.0), move, 0.3, 0.5, 5_000).passed


def joint_test_of(model, move, scale, sd, num):
    of, kernel = smc.space.space_of(model), kernel_of(model, move)

    class State(NamedTuple):
        u: jax.Array

    def step(key, i, state, x):
        key_move, key_assign = jax.random.split(key)
        u = kernel(key_move, state.u, 1.0, scale, sd * jnp.ones(of.size), x)[0]
        params = of.constrain(u)
        assignments = labels.draw_assignments(key_assign, model.log_table(params, x))
        return State(u), {"params": params, "assignments": assignments}

    sampler = loop.Sampler(lambda key, params, x: State(of.unconstrain(params)), step)
    result = calibration.joint_test(model, sampler, jax.random.key(1), num_replicates=num, num_steps=3)
    print(result)
    return result


def test_too_few_runs_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="num_runs should be a whole number, 8 or more"):
        fit(MODELS["bento"], "smc", num_runs=4)


def test_more_unknown_numbers_than_there_are_temperatures_for_are_refused_in_a_sentence():
    model = MODELS["digits"]
    assert smc.refuses(model, model.data.x).startswith("649 unknown numbers; from the prior it would take too many")


def test_an_unknown_move_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="smc: move should be 'gibbs' or 'hmc', got 'nuts'"):
        fit(MODELS["bento"], "smc", move="nuts")
    with pytest.raises(ValueError, match="smc: move should be 'gibbs' or 'hmc', got 1"):
        fit(MODELS["bento"], "smc", move=1)


def test_a_comparison_judges_runs_by_their_spread():
    found = compare(MODELS["bento"], backends=["quadrature", "smc"], seed=1)
    entry = found.backends["smc"]
    assert "is right within its error" in entry["verdict"]
    assert entry["usable"] and entry["verdict"].startswith("8 independent runs; agrees with quadrature")
    rows = [row for row in found.rows if row["backend"] == "smc" and row["mcse"] is not None]
    assert rows and all(row["ess_bulk"] is None and row["rhat"] is None for row in rows)
    assert verdicts.failures(rows, degrees=7) == []


@pytest.mark.slow
def test_float32_gives_the_evidence_of_quadrature():
    model = bento(scale=2.0, prior_mean=400.0, prior_sd=50.000002)  # a model of its own: dtypes are remembered with it
    with disable_x64():
        result = smc.smc(model, model.data.x.astype(np.float32), jax.random.key(1))
    assert result.params["means"].dtype == np.float32
    assert abs(result.log_evidence + 65.31374998981) <= 4 * result.log_evidence_se


@pytest.mark.parametrize(
    ("log_z", "tried"),
    [
        (lambda moves: 90.0 * APART, [1, 2]),  # as far apart at twice the moves
        (lambda moves: 90.0 * APART / moves, [1, 2, 4, 8]),  # the better half by 13, 6.6, 3.3, 1.6: soon enough
        (lambda moves: 400.0 * APART / moves, [1, 2]),  # and here by 59, 29, 15, 7.3
        (lambda moves: 9.0 * APART, [1, 2, 4, 8]),
        (lambda moves: np.where(np.arange(8) == 3, -20.0, 0.0) - 5.0 / moves, [1, 2, 4, 8]),  # one run is lost
    ],
)
def test_more_moves_are_not_tried_where_the_runs_would_differ_too_much_even_then(monkeypatch, log_z, tried):
    run, seen = smc._runs, []

    def apart(model, program, x, key, C, S, moves, progress):
        seen.append(moves)
        (u, stats), spent, interrupted = run(model, program, x, key, C, S, moves, progress)
        return (u, stats | {"log_evidence": -65.0 + log_z(moves)}), spent, interrupted

    monkeypatch.setattr(smc, "_runs", apart)
    result = fit(MODELS["bento"], "smc", seed=1, num_particles=16)
    assert seen == tried
    if len(tried) == 2:
        assert result.log_evidence is None and "more moves would not bring them together" in result.warnings[0]


APART = np.linspace(-0.5, 0.5, 8)


def stopping(calls):
    """Ctrl-C at the call of that number."""
    left = iter(range(calls, -1, -1))

    def progress(done, total):
        if next(left) <= 1:
            raise KeyboardInterrupt

    return progress


def test_ctrl_c_keeps_the_runs_that_had_begun_and_gives_no_estimate():
    how = dict(num_particles=64, seed=2)
    part, first = (
        fit(MODELS["bento"], "smc", **how, **more) for more in (dict(progress=stopping(3)), dict(max_moves=1))
    )
    runs = len(part.log_weights)
    assert part.interrupted and not first.interrupted and 3 <= runs <= 8
    np.testing.assert_array_equal(part.log_weights, first.log_weights[:runs])
    assert part.params["means"].shape == (runs, 64, 2) and part.log_evidence is part.log_evidence_se is None
    assert part.warnings[0].startswith(f"interrupted: {runs} of 8 runs had ended")


@pytest.mark.parametrize(
    "spread, says",
    [(1.0, "interrupted at 4 moves a particle: the log evidence is that of 2"), (9.0, "of fewer moves are unstable")],
)
def test_ctrl_c_keeps_an_estimate_that_two_rounds_agree_on(monkeypatch, spread, says):
    """Its standard error, .1 to .5, is what the third round was to make less."""
    run = smc._runs

    def third_is_cut(model, program, x, key, C, S, moves, progress):
        (u, stats), spent, _ = run(model, program, x, key, C, S, 1, progress)
        return (u, stats | {"log_evidence": -65.0 + spread * APART}), spent, moves == 4

    monkeypatch.setattr(smc, "_runs", third_is_cut)
    result = fit(MODELS["bento"], "smc", num_particles=16)
    assert result.interrupted and says in result.warnings[0]
    assert (result.log_evidence is None) == (spread > 1) and len(result.log_weights) == 8


def test_ctrl_c_in_the_second_round_keeps_the_first():
    how = dict(num_particles=64, seed=2)
    part, first = (
        fit(MODELS["bento"], "smc", **how, **more) for more in (dict(progress=stopping(9)), dict(max_moves=1))
    )
    assert part.interrupted and part.log_evidence is None
    np.testing.assert_array_equal(part.params["means"], first.params["means"])
