"""Every back end on every model it serves: shapes, same seed same draws, agreement with the exact posterior."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diagnostics.calibration import NAMED
from diagnostics.compare import full_settings
from inference import BACKENDS, Refused, check_settings, fit, loop, space
from inference.results import Draws, Exact, PointMass
from zoo import MODELS

ADAPTED = ("gibbs", "metropolis", "nuts")  # samplers that warmup changes
CHAINS = ("collapsed", *ADAPTED)
SHORT = {
    "gibbs": dict(num_chains=2, num_warmup=20, num_draws=30),
    "collapsed": dict(num_chains=2, num_warmup=20, num_draws=30),
    "metropolis": dict(num_chains=2, num_warmup=20, num_draws=30),
    "nuts": dict(num_chains=2, num_warmup=20, num_draws=30),
    "em": dict(num_restarts=4, max_steps=50),
    "importance": dict(num_particles=2_000),
    "importance_joint": dict(num_particles=200),
    "importance_modes": dict(num_particles=2_000, num_restarts=4),
    "smc": dict(num_particles=32, num_moves=1, max_moves=2),
    "cavi": dict(num_chains=2, num_draws=30, num_restarts=2),
    "advi": dict(num_chains=2, num_draws=30, num_restarts=1, num_steps=50, num_particles=2),
    "enumeration": dict(num_chains=2, num_draws=60),
    "quadrature": dict(num_checks=1_000),
}
QUICK = ("bento", "bento_known", "coffee")  # the rest run in test-all
ROTATION = ("gibbs", "nuts", "em", "metropolis", "smc", "importance")  # models that are not named have one each


def marks(model, backend):
    quick = QUICK[:1] if backend == "advi" else QUICK  # advi compiles for seconds
    return () if model in quick else pytest.mark.slow


def cells():
    others = [model for model in MODELS if model not in NAMED]
    for model in MODELS:
        for backend in BACKENDS:
            if model in NAMED or backend == ROTATION[others.index(model) % len(ROTATION)]:
                yield pytest.param(model, backend, marks=marks(model, backend))


CELLS = list(cells())


@functools.cache
def run(model, backend, seed=3):
    return fit(MODELS[model], backend, seed=seed, **SHORT[backend])


@pytest.mark.parametrize("model, backend", CELLS)
def test_backend_returns_the_promised_shapes_and_the_same_twice_or_refuses_in_a_sentence(model, backend):
    """One test a cell: the second run needs the programs of the first, and they take most of the time."""
    mixture = MODELS[model]
    reason = BACKENDS[backend].refuses(mixture, mixture.data.x)
    if reason is not None:
        assert len(reason) > 10
        serve = next(name for name in BACKENDS if BACKENDS[name].refuses(mixture, mixture.data.x) is None)
        with pytest.raises(Refused, match=f"refuses .*; .*{serve}.* serves? it"):
            fit(mixture, backend)
        return
    result = run(model, backend)
    check_shapes(mixture, backend, result)
    check_same(result, fit(mixture, backend, seed=3, **SHORT[backend]))


def check_shapes(mixture, backend, result):
    n, k = mixture.data.num_observations, mixture.num_components
    assert result.cost.run_seconds >= 0 and result.cost.compile_seconds >= 0
    if isinstance(result, PointMass):
        restarts = SHORT["em"]["num_restarts"]
        assert all(result.params[name].shape == (restarts, *s.shape) for name, s in mixture.param_shapes.items())
        assert result.log_density.shape == result.converged.shape == result.admissible.shape == (restarts,)
        return
    if isinstance(result, Exact):
        assert np.isfinite(result.log_evidence)
        np.testing.assert_allclose(result.assignment_probabilities.sum(axis=1), np.ones(n), rtol=1e-9)
        assert result.assignment_probabilities.shape == (n, k)
        np.testing.assert_allclose(np.diag(result.co_clustering), np.ones(n), rtol=1e-9)
        return
    assert isinstance(result, Draws)
    lead = jax.tree.leaves(result.params)[0].shape[:2] if result.params else None
    for name, shape in mixture.param_shapes.items():
        assert result.params[name].shape == (*lead, *shape.shape)
        assert np.isfinite(result.params[name]).all()
    if backend in CHAINS:
        assert result.assignments.shape == (2, 30, n)
        assert result.assignments.min() >= 0 and result.assignments.max() < k
        assert result.stats["lp"].shape == (2, 30)
        assert result.num_done == 50 and not result.interrupted
        assert result.cost.table_evaluations > 0
    elif BACKENDS[backend].kind == "approximate":
        assert result.assignments.shape == (2, 30, n)
        assert result.assignments.min() >= 0 and result.assignments.max() < k
        assert all(stat.shape == (2, 30) for stat in result.stats.values())
        assert result.log_evidence is None and np.isfinite(result.stats["elbo"]).all()
        assert result.cost.table_evaluations + result.cost.gradient_evaluations > 0
    else:
        assert result.log_weights.shape == (lead or result.log_weights.shape)


def check_same(first, again):
    aside = {"cost", "draws", "state"}  # seconds differ; a sampler's state has keys, which are no numbers
    answer = lambda result: {k: v for k, v in result._asdict().items() if k not in aside}
    for one, two in zip(jax.tree.leaves(answer(first)), jax.tree.leaves(answer(again)), strict=True):
        np.testing.assert_array_equal(one, two)
    if isinstance(first, Exact) and first.draws is not None:
        for one, two in zip(jax.tree.leaves(first.draws.params), jax.tree.leaves(again.draws.params), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("backend", CHAINS)
@pytest.mark.parametrize("model", ["bento", "coffee"])
def test_another_seed_gives_other_draws(model, backend):
    first, other = run(model, backend), run(model, backend, seed=4)
    for name, leaf in first.params.items():
        assert not np.array_equal(leaf, other.params[name])


@pytest.mark.parametrize("backend", CHAINS)
def test_stats_hold_the_log_density_of_the_draws(backend):
    model = MODELS["coffee"]
    draws = run("coffee", backend)
    lp = jax.jit(jax.vmap(jax.vmap(lambda p: model.log_density(p, model.data.x))))(draws.params)
    np.testing.assert_allclose(draws.stats["lp"], lp, rtol=1e-10)


@pytest.mark.parametrize("backend", ["gibbs", *(pytest.param(n, marks=pytest.mark.slow) for n in ADAPTED[1:])])
@pytest.mark.parametrize("model", ["bento", pytest.param("coffee_full", marks=pytest.mark.slow)])
def test_steps_in_the_loop_are_the_steps_one_by_one(model, backend):
    # compilers have been wrong about this loop (see diagnostics.cli.prepare): the program must not change the steps
    mixture = MODELS[model]
    sampler = importlib.import_module(f"inference.{backend}").build(mixture, 20)
    x = jnp.asarray(mixture.data.x)
    keys = jax.random.split(jax.random.key(0), 4)
    params = space.starts(mixture, jax.random.key(5), x, 4)
    inside = loop.run(sampler, keys, 5, x, params=params).out

    @jax.jit
    def step(state, i):
        return jax.vmap(lambda key, s: sampler.step(jax.random.fold_in(key, i), i, s, x))(keys, state)

    start_keys = jax.vmap(lambda key: jax.random.fold_in(key, 2**31 - 1))(keys)
    state = jax.jit(jax.vmap(sampler.init, in_axes=(0, 0, None)))(start_keys, params, x)
    for i in range(5):
        state, out = step(state, jnp.int32(i))
        np.testing.assert_allclose(inside["lp"][:, i], out["lp"], rtol=1e-6)


@pytest.mark.parametrize(
    "backend, settings, sentence",
    [
        ("gibbs", {"thin": 0}, "thin should be a whole number, 1 or more, got 0"),
        ("gibbs", {"permute": "false"}, "permute should be true or false"),
        ("gibbs", {"num_chains": 2.0}, "num_chains should be a whole number"),
        ("gibbs", {"num_drows": 2}, "did you mean 'num_draws'"),
        ("nuts", {"target_accept": 2}, "between 0 and 1"),
        ("em", {"prior": 0}, "prior should be true or false"),
        ("em", {"floor": -1.0}, "floor should be a number, 0 or more"),
        ("em", {"max_steps": 0}, "max_steps should be a whole number"),
        ("quadrature", {"tolerance": 0.0}, "tolerance should be a number between 0 and 1"),
        ("importance", {"block": 0}, "block should be a whole number"),
        ("importance", {"num_particles": 2**31}, "num_particles should be a whole number, 2147483647 at most"),
        ("em", {"num_restarts": 10**400}, "num_restarts .* got a number of more than 30 digits"),
        ("em", {"annealing": 10**400}, "annealing .* got a number of more than 30 digits"),
        ("importance", {"num_particles": 1}, "num_particles should be at least 2"),
        ("importance_joint", {"num_particles": 1}, "num_particles should be at least 2"),
        ("importance_modes", {"num_particles": 1}, "num_particles should be at least 2"),
        ("quadrature", {"num_checks": 10}, "num_checks should be a whole number, 1000 or more"),
        ("quadrature", {"tolerance": 1}, "tolerance should be a number between 0 and 1"),
        ("nuts", {"max_tree_depth": 64}, "max_tree_depth should be a whole number, 20 at most, got 64"),
        ("advi", {"guide": ["full_rank"]}, "guide should be 'full_rank' or 'mean_field'"),
        ("smc", {"num_moves": 4, "max_moves": 2}, "max_moves should be at least num_moves"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence_before_anything_runs(backend, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(MODELS["bento"], backend, **settings)


WRONG = {
    bool: [0, "false", None],
    str: [3, None, ["gibbs"]],
    float: [0, -1.0, float("nan"), float("inf"), "1", True, 10**400, None, [1.0]],
    int: [-1, 2.0, True, "3", float("nan"), 10**40, 2**31, [1]],
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_setting_of_a_wrong_type_or_out_of_range_is_refused_by_name(backend):
    for name, default in full_settings(backend, {}).items():
        for value in WRONG[int if default is None else type(default)]:
            if (name, value) == ("floor", 0):
                continue
            with pytest.raises(ValueError, match=f"^{backend}: {name} should be "):
                check_settings(backend, {name: value})


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: fit("bento"), "model should be a Mixture, such as .*, got 'bento'"),
        (lambda: fit(MODELS["bento"], None), "backend should be a name, such as 'gibbs', got None"),
        (lambda: fit(MODELS["bento"], progress=3), "progress should be a function"),
        (
            lambda: fit(MODELS["bento"], resume="run.nc"),
            "resume should be the Draws that an earlier fit returned, got str",
        ),
    ],
)
def test_what_is_no_model_back_end_or_earlier_run_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def stopping(calls):
    """Ctrl-C at the call of that number."""
    left = iter(range(calls, -1, -1))

    def progress(done, total):
        if next(left) <= 1:
            raise KeyboardInterrupt

    return progress


KEEPING = ("importance", "importance_joint", "importance_modes", "smc", "em", "cavi", "advi")  # finished parts


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=() if name in ("gibbs", "enumeration") else pytest.mark.slow)
        for name in BACKENDS
        if name not in KEEPING
    ],
)
def test_ctrl_c_before_there_is_anything_to_keep_says_so(backend):
    if BACKENDS[backend].refuses(MODELS["bento"], MODELS["bento"].data.x):
        pytest.skip("refused")
    settings = SHORT[backend] | ({"num_warmup": 500} if backend in CHAINS else {})
    with pytest.raises(KeyboardInterrupt, match="nothing"):
        fit(MODELS["bento"], backend, progress=stopping(1), **settings)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True])
def test_a_bad_seed_is_refused_in_a_sentence(seed):
    with pytest.raises(ValueError, match="seed should be a whole number"):
        fit(MODELS["bento"], "gibbs", seed=seed)
