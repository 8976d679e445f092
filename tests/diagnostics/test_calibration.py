"""Joint tests of every kernel; `test_mutations` plants the mistakes that they must catch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from genjax import exponential, gen, normal

from diagnostics import calibration, mutations
from inference import BACKENDS, TABLE, gibbs, loop
from zoo import MODELS, Mixture
from zoo.distributions import categorical
from zoo.models.bento import bento

FULL = dict(num_replicates=20_000, num_steps=5)
MODELS_TESTED = {name: functools.partial(calibration.wide, name) for name in calibration.NAMED} | {
    "bento[weights]": functools.partial(calibration.wide, "bento", weights=(0.7, 0.3))
}
QUICK = [("bento", "gibbs"), ("bento_known", "gibbs")]
RATIO_QUICK = ("bento", "bento_425", "coffee", "three_gaussians")
KERNELS = [name for name, (_, kind, _) in TABLE.items() if kind == "mcmc"] + ["smc"]


def cells():
    for name in MODELS_TESTED:
        for backend in KERNELS:  # the further moves of calibration.MOVES: docs/calibration.md
            yield pytest.param(name, backend, marks=() if (name, backend) in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("name, backend", list(cells()))
def test_kernel_leaves_the_joint_law_invariant(name, backend):
    model = MODELS_TESTED[name]()
    sampler = calibration.kernels(model, [backend]).get(backend)
    if sampler is None:
        assert BACKENDS[backend].refuses(model, calibration.example(model, 8))
        return
    replicates, steps = calibration.SIZES.get(backend, (20_000, 5))
    how = dict(num_replicates=replicates, num_steps=steps, level=0.01 / len(list(cells())))
    result = calibration.joint_test(model, sampler, jax.random.key(1), **how)
    assert result.passed, result


@pytest.mark.parametrize("backend", ["gibbs", "metropolis", "nuts", "smc"])
def test_kernels_over_positive_parameters_count_the_jacobian(backend):
    """Scales without a conjugate prior: slices in gibbs, unconstrained coordinates everywhere."""

    @gen
    def prior():
        return {"scales": exponential(np.array([1.0, 0.5])) @ "scales"}

    @gen
    def observation(params):
        z = categorical(probs=np.array([0.6, 0.4])) @ "z"
        return normal(0.0, params["scales"][z]) @ "x"

    model = Mixture(name="scales", num_components=2, exchangeable=False, prior=prior, observation=observation)
    replicates, steps = calibration.SIZES.get(backend, (20_000, 5))
    kernel = calibration.kernels(model, [backend])[backend]
    how = dict(num_replicates=min(replicates, 5_000), num_steps=steps)
    result = calibration.joint_test(model, kernel, jax.random.key(1), **how)
    assert result.passed, result


def test_a_kernel_that_never_moves_fails():
    model = calibration.wide("bento")
    sampler = gibbs.build(model, 0)

    def step(key, i, state, x):
        return state, {"params": state.params, "assignments": state.assignments}

    def init(key, params, x):
        return sampler.init(key, params, x)

    still = loop.Sampler(init, step)
    result = calibration.joint_test(model, still, jax.random.key(0), num_replicates=500, num_steps=2)
    assert not result.z.any() and result.stuck == ("means", "partition") and not result.passed
    assert "hardly ever moved: means, partition" in str(result)


@pytest.mark.parametrize("lost", [jnp.nan, jnp.inf])
def test_a_kernel_that_now_and_then_returns_no_number_fails(lost):
    model = calibration.wide("bento")
    sampler = gibbs.build(model, 0)

    def step(key, i, state, x):
        state, out = sampler.step(key, i, state, x)
        means = jnp.where(jax.random.uniform(key) < 0.02, lost, state.params["means"])
        return state, out | {"params": {"means": means}}

    result = calibration.joint_test(
        model, sampler._replace(step=step), jax.random.key(0), num_replicates=500, num_steps=2
    )
    assert not result.passed and abs(result.worst[1]) == np.inf


def test_a_kernel_that_only_relabels_fails():
    model = calibration.wide("bento")
    sampler = gibbs.build(model, 0)

    def step(key, i, state, x):
        s = jax.random.permutation(key, 2).astype(jnp.int32)
        state = state._replace(params=model.permute(state.params, s), assignments=s[state.assignments])
        return state, {"params": state.params, "assignments": state.assignments}

    result = calibration.joint_test(
        model, sampler._replace(step=step), jax.random.key(0), num_replicates=500, num_steps=2
    )
    assert result.stuck == ("means", "partition")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in RATIO_QUICK else pytest.mark.slow) for name in MODELS]
)
def test_conjugate_conditionals_have_the_ratios_of_the_joint(name):
    errors = calibration.ratio_test(MODELS[name], jax.random.key(0))
    assert all(error < 1e-12 for error in errors.values()), errors


def wrong():
    """The sd of every mean 1.5 times too large."""
    return mutations.wrong_rule(calibration.wide("bento"), "means", lambda q: dist.Normal(q.loc, 1.5 * q.scale))


@pytest.mark.slow
def test_a_wrong_conditional_is_noticed_in_warmup_and_its_draws_corrected():
    model = bento(scale=39.0)
    with wrong():
        draws = gibbs.gibbs(model, model.data.x, jax.random.key(0), num_chains=2, num_warmup=50, num_draws=100)
        assert "Metropolis-Hastings" in draws.warnings[0]
        corrected = gibbs.build.__wrapped__(calibration.wide("bento"), 0, accept=True)
        result = calibration.joint_test(calibration.wide("bento"), corrected, jax.random.key(3), **FULL)
    assert result.passed, result


def test_a_wrong_conditional_is_noticed_without_warmup_too():
    model = bento(scale=38.5)
    with wrong():
        draws = gibbs.gibbs(model, model.data.x, jax.random.key(0), num_chains=2, num_warmup=0, num_draws=20)
    assert "Metropolis-Hastings" in draws.warnings[0] and draws.stats["conjugacy_error"].min() > 1e-3
