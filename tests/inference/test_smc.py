"""Tempered sequential Monte Carlo: evidence and means against quadrature, and what is said of too few moves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diagnostics import calibration, compare
from diagnostics.summaries import runs_mean
from inference import fit, labels, loop, smc
from zoo import MODELS
from zoo.models.bento import bento
from zoo.models.coffee import coffee


@pytest.mark.parametrize("name, known", [("bento", -65.31374998981), ("coffee", -118.54832326148525)])
def test_evidence_is_that_of_quadrature(name, known):
    result = fit(MODELS[name], "smc", seed=1)
    assert result.log_evidence_se <= 0.1
    assert abs(result.log_evidence - known) <= 4 * result.log_evidence_se


def test_without_a_second_look_there_is_no_estimate():
    result = fit(MODELS["bento"], "smc", seed=1, num_particles=32, num_moves=1, max_moves=1)
    assert result.log_evidence is None and "unstable under more moves" in result.warnings[0]


def test_next_temperature_keeps_the_stated_share_of_the_particles():
    log_lik = jnp.asarray(np.random.default_rng(0).normal(0, 30, 200))
    dt = smc.next_step(log_lik, jnp.asarray(0.0))
    w = np.exp(float(dt) * (np.asarray(log_lik) - float(log_lik.max())))
    np.testing.assert_allclose(w.sum() ** 2 / np.square(w).sum(), smc.KEEP * 200, rtol=1e-6)


def test_systematic_resampling_keeps_every_count_within_one_of_its_share():
    w = np.random.default_rng(1).dirichlet(np.ones(50))
    counts = np.bincount(smc.systematic(jax.random.key(0), jnp.log(w)), minlength=50)
    assert np.all(np.abs(counts - 50 * w) < 1)


def test_copies_within_a_run_do_not_shrink_the_error():
    f = np.random.default_rng(2).normal(size=(8, 10))
    error = runs_mean(np.full((8, 10), 1 / 80))(f)[1]
    copied = runs_mean(np.full((8, 1000), 1 / 8000))(np.repeat(f, 100, axis=1))[1]
    np.testing.assert_allclose([error, copied], f.mean(axis=1).std(ddof=1) / np.sqrt(8))


@pytest.mark.parametrize("t", [0.3, 1.0])
def test_moves_leave_the_tempered_law_alone(t):
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
    move = smc.kernel(model, True)

    def chain(key, u):
        step = lambda u, key: (move(key, u, t, 0.5, jnp.ones(2), x)[0], None)
        return jax.lax.scan(step, u, jax.random.split(key, 50))[0]

    u = points[np.random.default_rng(3).choice(len(points), num, p=np.asarray(w))]
    u = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(3), num), u)
    for f_grid, f in [(on_grid, jax.vmap(log_lik)(u)), (points[:, 0], u[:, 0]), (points[:, 0] ** 2, u[:, 0] ** 2)]:
        z = (f.mean() - (w * f_grid).sum()) / (f.std() / np.sqrt(num))
        assert abs(z) < 4


@pytest.mark.parametrize("build, scale", [(lambda: bento(scale=40.0), 0.3), (lambda: coffee(scale=20.0), 0.3)])
def test_the_move_leaves_the_joint_law_invariant(build, scale):
    model = build()
    of, move = smc.space.space_of(model), smc.kernel(model, True)
    sd = 10.0 * jnp.ones(of.size)

    class State(NamedTuple):
        u: jax.Array

    def step(key, i, state, x):
        key_move, key_assign = jax.random.split(key)
        u = move(key_move, state.u, 1.0, scale, sd, x)[0]
        params = of.constrain(u)
        assignments = labels.draw_assignments(key_assign, model.log_table(params, x))
        return State(u), {"params": params, "assignments": assignments}

    sampler = loop.Sampler(lambda key, params, x: State(of.unconstrain(params)), step)
    result = calibration.joint_test(model, sampler, jax.random.key(1), num_replicates=20_000, num_steps=3)
    assert result.passed, result


def test_too_few_runs_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="num_runs should be at least 8"):
        fit(MODELS["bento"], "smc", num_runs=4)


def test_a_comparison_judges_runs_by_their_spread():
    found = compare(MODELS["bento"], backends=["quadrature", "smc"], seed=1)
    entry = found.backends["smc"]
    assert entry["usable"] and entry["verdict"].startswith("8 independent runs; agrees with quadrature")
    rows = [row for row in found.rows if row["backend"] == "smc" and row["mcse"] is not None]
    assert rows and all(row["ess_bulk"] is None and row["rhat"] is None for row in rows)
