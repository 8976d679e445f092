"""Metropolis-Hastings over assignments: every move on its own, its Hastings ratio, and ratios left out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diagnostics import calibration
from inference import assignment_moves, fit, metropolis, space, split_merge
from zoo.models.bento import bento, bento_full
from zoo.models.coffee import coffee, coffee_full
from zoo.models.three_gaussians import three_gaussians

# constants at which 8 observations and the prior weigh alike, with step sizes to go with them
WIDE = {
    "bento": (bento(scale=40.0), 15.0),
    "bento[weights]": (bento(scale=40.0, weights=(0.7, 0.3)), 15.0),
    "coffee": (coffee(scale=20.0), 10.0),
    "three_gaussians": (three_gaussians(), 0.5),
    "bento_full": (bento_full(variance_scale=3000.0), 0.3),
    "coffee_full": (coffee_full(variance_scale=800.0), 0.3),
}
FULL = dict(num_replicates=20_000, num_steps=5)
SETS = [(name,) for name in metropolis.MOVES] + [metropolis.MOVES]
CELLS = [pytest.param(name, moves, id=f"{name}-{'+'.join(moves)}") for name in WIDE for moves in SETS]


@pytest.mark.slow
@pytest.mark.parametrize("name, moves", CELLS)
def test_each_move_leaves_the_joint_law_invariant(name, moves):
    model, step_size = WIDE[name]
    sampler = metropolis.build(model, 0, step_size=step_size, moves=moves)
    steps = 30 if moves == ("block",) else 5  # alone it moves few assignments a step
    how = dict(num_replicates=20_000, num_steps=steps, level=0.01 / len(CELLS))
    result = calibration.joint_test(model, sampler, jax.random.key(1), **how)
    assert result.passed, result


@pytest.mark.slow
def test_a_few_single_sites_leave_the_joint_law_invariant():
    model, step_size = WIDE["coffee"]
    sampler = metropolis.build(model, 0, step_size=step_size, moves=("single",), num_sites=2)
    result = calibration.joint_test(model, sampler, jax.random.key(2), **FULL)
    assert result.passed, result


def test_metropolised_gibbs_is_in_detailed_balance_with_the_row():
    table = jax.random.normal(jax.random.key(0), (1, 4)) * 3
    p = np.asarray(jax.nn.softmax(table[0]))
    flow = np.zeros((4, 4))
    for z, other in itertools.permutations(range(4), 2):
        ratio = float(assignment_moves.gibbs_ratio(table, jnp.array([z]), jnp.array([other]))[0])
        flow[z, other] = p[z] * p[other] / (1 - p[z]) * min(1.0, np.exp(ratio))
    np.testing.assert_allclose(flow, flow.T, rtol=1e-12)


def test_metropolised_gibbs_proposes_another_component_by_the_row_without_the_present_one():
    row = jnp.log(jnp.array([0.5, 0.2, 0.3]))
    z = jnp.zeros(200_000, jnp.int32)
    moved, rate = assignment_moves.gibbs(jax.random.key(1), jnp.broadcast_to(row, (len(z), 3)), z)
    for k, share in ((1, 0.2 / 0.5), (2, 0.3 / 0.5)):
        expected = share * min(1.0, 0.5 / (1 - float(jnp.exp(row[k]))))
        found, error = float((moved == k).mean()), np.sqrt(expected * (1 - expected) / len(z))
        assert abs(found - expected) < 4.4 * error
    assert float(rate) == pytest.approx(float((moved != 0).mean()))


def prior_point(model, key=3):
    params = jax.tree.map(lambda leaf: leaf[0], model.prior_draws(jax.random.key(key), 2))
    return space.space_of(model).unconstrain(params)


@pytest.mark.parametrize("name", ["bento", "three_gaussians", "coffee_full"])
def test_the_hastings_ratio_of_split_merge_is_the_jacobian_of_its_map(name):
    model = WIDE[name][0]
    u, a, b = prior_point(model), jnp.int32(1), jnp.int32(0)

    @jax.jit
    def both(key):
        move = lambda u: split_merge.propose(model, key, u, a, b)[0]
        return split_merge.propose(model, key, u, a, b)[1], jnp.linalg.slogdet(jax.jacfwd(move)(u))[1]

    for key in jax.random.split(jax.random.key(4), 5):
        np.testing.assert_allclose(*both(key), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["three_gaussians", "coffee_full"])
def test_split_merge_with_opposite_factors_goes_back(name, monkeypatch):
    model = WIDE[name][0]
    u, key, a, b = prior_point(model), jax.random.key(5), jnp.int32(2), jnp.int32(0)
    there, log_ratio = split_merge.propose(model, key, u, a, b)
    normal = jax.random.normal
    monkeypatch.setattr(jax.random, "normal", lambda *args: -normal(*args))
    back, log_back = split_merge.propose(model, key, there, a, b)
    np.testing.assert_allclose(back, u, rtol=1e-9)
    np.testing.assert_allclose(log_back, -log_ratio, rtol=1e-9)
    assert np.abs(there - u).max() > 1e-3


def test_the_restricted_target_is_the_sum_over_the_assignments_of_the_two_components():
    table = np.asarray(jax.random.normal(jax.random.key(6), (5, 3)))
    z, a, b = np.array([0, 2, 1, 2, 1]), 1, 2
    total = -np.inf
    for labels in itertools.product((a, b), repeat=4):
        total = np.logaddexp(total, table[0, 0] + sum(table[n, k] for n, k in zip((1, 2, 3, 4), labels, strict=True)))
    np.testing.assert_allclose(split_merge.log_restricted(jnp.asarray(table), jnp.asarray(z), a, b), total, rtol=1e-12)
    moved = split_merge.reallocate(jax.random.key(7), jnp.asarray(table), jnp.asarray(z), a, b)
    assert moved[0] == 0 and set(np.asarray(moved[1:]).tolist()) <= {a, b}


@pytest.mark.slow
def test_joint_test_catches_metropolised_gibbs_without_its_ratio(monkeypatch):
    monkeypatch.setattr(assignment_moves, "gibbs_ratio", lambda table, z, other: jnp.zeros(len(z)))
    model, step_size = WIDE["coffee"]
    sampler = metropolis.build.__wrapped__(model, 0, step_size=step_size, moves=("gibbs",))
    result = calibration.joint_test(model, sampler, jax.random.key(8), **FULL)
    assert not result.passed, result


@pytest.mark.slow
def test_joint_test_catches_split_merge_without_its_jacobian(monkeypatch):
    real = split_merge.propose
    monkeypatch.setattr(split_merge, "propose", lambda *args: (real(*args)[0], 0.0))
    model, step_size = WIDE["bento_full"]
    sampler = metropolis.build.__wrapped__(model, 0, step_size=step_size, moves=("split_merge",))
    result = calibration.joint_test(model, sampler, jax.random.key(9), **FULL)
    assert not result.passed, result


def test_stats_hold_the_acceptance_of_every_move_that_was_asked_for():
    draws = fit(coffee(), "metropolis", num_chains=2, num_warmup=10, num_draws=20, moves="block, single", num_sites=5)
    names = {name for name in draws.stats if name.startswith("acceptance")}
    assert names == {"acceptance_single", "acceptance_block", "acceptance_walk"}
    assert all(draws.stats[name].shape == (2, 20) for name in names)
    assert all(((draws.stats[name] >= 0) & (draws.stats[name] <= 1)).all() for name in names)


def test_nothing_adapts_after_warmup():
    model = bento()
    how = dict(num_chains=2, num_warmup=30, seed=1, moves="joint")
    short, long = (fit(model, "metropolis", num_draws=n, **how) for n in (1, 15))
    for name in ("log_steps", "log_scale", "mean", "covariance", "root"):
        np.testing.assert_array_equal(getattr(short.state, name), getattr(long.state, name))


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"moves": "single,blok"}, "moves has no 'blok': did you mean 'block'"),
        ({"moves": ""}, "moves has no ''"),
        ({"moves": 3}, "moves should be text like"),
        ({"num_sites": 4}, "num_sites is for the move single"),
        ({"moves": "single", "num_sites": 0}, "num_sites should be a whole number"),
    ],
)
def test_bad_moves_are_refused_in_a_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(coffee(), "metropolis", **settings)
