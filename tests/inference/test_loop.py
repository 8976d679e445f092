"""The sampling loop: chunks, starts and interruptions change no bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import categorical, gamma, gen, mv_normal, normal, poisson, uniform
from threadpoolctl import threadpool_info, threadpool_limits

from inference import BACKENDS, fit, loop, space
from zoo import Mixture
from zoo.models.bento import bento


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


@gen
def prior():
    return {"low": normal(np.zeros(2), 1.0) @ "low"}


@gen
def observation(params):
    z = categorical(probs=np.array([0.5, 0.5])) @ "z"
    return uniform(params["low"][z], params["low"][z] + 1.0) @ "x"


# a component covers an interval of length 1
NARROW = Mixture(name="narrow", num_components=2, exchangeable=True, prior=prior, observation=observation)


def test_data_that_no_prior_draw_can_produce_are_refused_with_the_parameters_and_the_row():
    # each row alone has prior draws that cover it, but two intervals cannot cover all three
    with pytest.raises(ValueError, match=r"chain 0 has no start.*'low': .*row \d \(x = .*\) log density -inf.*units"):
        fit(NARROW, "metropolis", np.array([-2.0, 0.0, 2.0]))


@pytest.mark.parametrize("backend", [name for name in BACKENDS if BACKENDS[name].refuses(NARROW, np.zeros(2)) is None])
def test_a_row_without_a_density_at_any_prior_draw_is_named_before_anything_runs(backend):
    with pytest.raises(
        ValueError, match=r"narrow cannot produce row 1 \(x = 900.0\): .* -inf at every prior draw; check"
    ):
        fit(NARROW, backend, np.array([0.5, 900.0]))


@pytest.mark.parametrize(
    ("backend", "variance", "said"),
    [
        ("gibbs", 1.0, r"covariance matrix of x is not positive definite \(smallest eigenvalue -1\)"),
        ("importance", 1.0, r"covariance matrix of x is not positive definite \(smallest eigenvalue -1\)"),
        ("em", 1.0, "the log density of flat is NaN at draws from its prior: .* covariance that is not positive"),
        ("importance", np.nan, "covariance_matrix of x has an entry that is no number"),
    ],
)
def test_a_covariance_that_is_not_positive_definite_is_named(backend, variance, said):
    @gen
    def prior():
        return {"means": normal(np.zeros((2, 2)), 1.0) @ "means"}

    @gen
    def observation(params):
        z = categorical(probs=np.full(2, 0.5)) @ "z"
        return mv_normal(params["means"][z], np.array([[variance, 2.0], [2.0, 1.0]])) @ "x"

    model = Mixture(name="flat", num_components=2, exchangeable=True, prior=prior, observation=observation)
    with pytest.raises(ValueError, match=said):
        fit(model, backend, np.zeros((3, 2)))


def test_a_row_that_one_prior_draw_in_a_thousand_covers_is_let_through(monkeypatch):
    x = np.array([0.0, 4.3])  # P(3.3 < low < 4.3) = .0005 for each interval
    space.check_density(NARROW, x)
    monkeypatch.setattr(space, "NUM_BATCHES", 1)
    with pytest.raises(ValueError, match="row 1"):
        space.check_density(NARROW, x)


def test_a_parameter_whose_prior_has_no_density_at_its_own_draws_is_named():
    @gen
    def prior():
        return {"low": normal(np.zeros(2), 1.0) @ "low", "rates": gamma(np.full(2, 1e-300), 1e-300) @ "rates"}

    model = dataclasses.replace(NARROW, name="extreme", prior=prior)
    with pytest.raises(ValueError, match="the prior of extreme gives its own draws of rates no finite density"):
        space.check_density(model, np.array([0.5]))


def test_a_chain_starts_where_its_prior_has_a_density():
    """Half of the draws of Gamma(.001, .001) are 0 in float64, where the density is infinite and x = 0 certain."""

    @gen
    def prior():
        return {"rates": gamma(np.full(2, 0.001), 0.001) @ "rates"}

    @gen
    def observation(params):
        z = categorical(probs=np.full(2, 0.5)) @ "z"
        return poisson(params["rates"][z]) @ "x"

    model = Mixture(name="vague", num_components=2, exchangeable=True, prior=prior, observation=observation)
    starts = space.starts(model, jax.random.key(0), jnp.zeros(3), 20)["rates"]
    assert (model.prior_draws(jax.random.key(1), 100)["rates"] == 0).mean() > 0.2 and (starts > 0).all()


def test_the_linear_algebra_of_a_run_stays_on_one_thread_and_is_free_again_after_it():
    threads = lambda: {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}
    seen = []
    with threadpool_limits(3, "blas"):
        fit(bento(), "gibbs", num_chains=1, num_warmup=1, num_draws=4, progress=lambda *_: seen.append(threads()))
        assert threads() == {3}
        with loop.one_blas_thread(), loop.one_blas_thread():
            pass
        assert threads() == {3}
        first, second = loop.one_blas_thread(), loop.one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)  # the other is still within
        assert threads() == {1}
        second.__exit__(None, None, None)
        assert threads() == {3}
    assert seen and all(them == {1} for them in seen)
