"""The sampling loop: chunks, starts and interruptions change no bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import categorical, gen, normal, uniform

from inference import fit, loop
from zoo import Mixture


def walk(record=lambda i: None):
    """x' = x + data + noise: the simplest chain that shows keys, steps and data."""

    def step(key, i, state, x):
        state = state + x.sum() + jax.random.normal(key)
        return state, {"value": state, "i": i}

    return loop.Sampler(lambda key, params, x: params["start"], step)


WALK = walk()
KEYS = jax.random.split(jax.random.key(0), 3)
START = {"start": jnp.zeros(3)}
X = jnp.array([0.25, 0.5])


def test_step_i_of_a_chain_uses_its_own_key_whatever_the_chunk():
    noise = jnp.stack([jnp.stack([jax.random.normal(jax.random.fold_in(k, i)) for i in range(7)]) for k in KEYS])
    expected = jnp.cumsum(noise + X.sum(), axis=1)
    for chunk in (1, 3, 7, 250):
        run = loop.run(WALK, KEYS, 7, X, params=START, chunk=chunk)
        np.testing.assert_allclose(run.out["value"], expected, rtol=1e-12)
        np.testing.assert_array_equal(run.out["i"], np.tile(np.arange(7), (3, 1)))


def test_resuming_from_a_state_equals_one_uninterrupted_run_bit_for_bit():
    whole = loop.run(WALK, KEYS, 9, X, params=START, chunk=4)
    first = loop.run(WALK, KEYS, 5, X, params=START, chunk=4)
    rest = loop.run(WALK, KEYS, 9, X, start=5, state=first.state, chunk=4)
    joined = np.concatenate([first.out["value"], rest.out["value"]], axis=1)
    np.testing.assert_array_equal(joined, whole.out["value"])
    np.testing.assert_array_equal(rest.state, whole.state)


def test_an_interrupted_run_keeps_its_finished_chunks_and_says_so():
    def stop(done, total):
        if done >= 6:
            raise KeyboardInterrupt

    run = loop.run(WALK, KEYS, 20, X, params=START, chunk=3, on_chunk=stop)
    assert run.interrupted and run.num_done == 6
    whole = loop.run(WALK, KEYS, 20, X, params=START, chunk=3)
    np.testing.assert_array_equal(run.out["value"], whole.out["value"][:, :6])


def test_one_compilation_serves_other_data_of_the_same_shape():
    loop.run(WALK, KEYS, 5, X, params=START, chunk=5)
    again = loop.run(WALK, KEYS, 5, X + 1, params=START, chunk=5)
    assert again.cost.compile_seconds == 0 and again.cost.program_bytes > 0
    other_shape = loop.run(WALK, KEYS, 5, jnp.zeros(4), params=START, chunk=5)
    assert other_shape.cost.compile_seconds > 0


def test_progress_reports_every_chunk():
    seen = []
    loop.run(WALK, KEYS, 7, X, params=START, chunk=3, on_chunk=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_draws_before_the_end_of_warmup_are_an_interruption():
    with pytest.raises(KeyboardInterrupt):
        loop.to_draws(loop.run(WALK, KEYS, 2, X, params=START), num_warmup=5)


def test_data_that_no_prior_draw_can_produce_are_refused_with_the_parameters_and_the_row():
    @gen
    def prior():
        return {"low": normal(np.zeros(2), 1.0) @ "low"}

    @gen
    def observation(params):
        z = categorical(probs=np.array([0.5, 0.5])) @ "z"
        return uniform(params["low"][z], params["low"][z] + 1.0) @ "x"

    model = Mixture(name="narrow", num_components=2, exchangeable=True, prior=prior, observation=observation)
    with pytest.raises(ValueError, match=r"chain 0 has no start.*'low': .*row 1 \(x = 900.0\) log density -inf.*units"):
        fit(model, "metropolis", np.array([0.5, 900.0]))
