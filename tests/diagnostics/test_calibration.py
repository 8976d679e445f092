"""Joint tests of every kernel, and planted mistakes that they catch."""

import functools

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

from diagnostics import calibration
from inference import conjugacy, gibbs, labels, metropolis, nuts
from zoo import MODELS
from zoo.models.bento import bento, bento_full
from zoo.models.coffee import coffee, coffee_full
from zoo.models.three_gaussians import three_gaussians

# constants at which 8 observations and the prior weigh alike; NUTS runs with a frozen step and identity mass
WIDE = {
    "bento": (functools.partial(bento, scale=40.0), 15.0),
    "bento[weights]": (functools.partial(bento, scale=40.0, weights=(0.7, 0.3)), 15.0),
    "coffee": (functools.partial(coffee, scale=20.0), 10.0),
    "three_gaussians": (three_gaussians, 0.5),
    "bento_full": (functools.partial(bento_full, variance_scale=3000.0), 0.3),
    "coffee_full": (functools.partial(coffee_full, variance_scale=800.0), 0.3),
}
FULL = dict(num_replicates=20_000, num_steps=5)
FROZEN = dict(num_replicates=20_000, num_steps=3)


def kernel(name, backend):
    build, step_size = WIDE[name]
    model = build()
    if backend == "gibbs":
        return model, gibbs.build(model, 0), FULL
    module = {"metropolis": metropolis, "nuts": nuts}[backend]
    return model, module.build(model, 0, step_size=step_size), FULL if backend == "metropolis" else FROZEN


def cells():
    for name in WIDE:
        for backend in ("gibbs", "metropolis", "nuts"):
            quick = name in ("bento", "coffee", "three_gaussians")
            yield pytest.param(name, backend, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("name, backend", list(cells()))
def test_kernel_leaves_the_joint_law_invariant(name, backend):
    model, sampler, settings = kernel(name, backend)
    result = calibration.joint_test(model, sampler, jax.random.key(1), **settings, level=0.01 / len(list(cells())))
    assert result.passed, result


@pytest.mark.parametrize("name", MODELS)
def test_conjugate_conditionals_have_the_ratios_of_the_joint(name):
    errors = calibration.ratio_test(MODELS[name], jax.random.key(0))
    assert all(error < 1e-12 for error in errors.values()), errors


def rule_with(monkeypatch, site, change):
    """Every rule of `site` gets its conditional changed; samplers must then be built with __wrapped__."""
    real = conjugacy.rules

    def changed(model):
        def conditional(rule, params, r, x):
            return change(rule.conditional(params, r, x))

        return tuple(
            rule._replace(conditional=functools.partial(conditional, rule)) if rule.site == site else rule
            for rule in real(model)
        )

    monkeypatch.setattr(conjugacy, "rules", changed)


@pytest.mark.parametrize(
    "name, site, change",
    [
        ("bento", "means", lambda q: dist.Normal(q.loc, 1.1 * q.scale)),
        ("bento", "means", lambda q: dist.Normal(q.loc + 0.1 * q.scale, q.scale)),
        ("bento_full", "variances", lambda q: dist.InverseGamma(q.concentration + 0.5, q.rate)),
        ("bento_full", "weights", lambda q: dist.Dirichlet(q.concentration + 0.5)),
    ],
)
def test_joint_and_ratio_tests_catch_a_wrong_gibbs_conditional(monkeypatch, name, site, change):
    model = WIDE[name][0]()
    rule_with(monkeypatch, site, change)
    result = calibration.joint_test(model, gibbs.build.__wrapped__(model, 0), jax.random.key(2), **FULL)
    assert not result.passed, result
    assert calibration.ratio_test(model, jax.random.key(0))[site] > 1e-4


def test_a_wrong_conditional_is_noticed_in_warmup_and_its_draws_corrected(monkeypatch):
    model = bento(scale=39.0)
    rule_with(monkeypatch, "means", lambda q: dist.Normal(q.loc, 1.5 * q.scale))
    draws = gibbs.gibbs(model, model.data.x, jax.random.key(0), num_chains=2, num_warmup=50, num_draws=100)
    assert "Metropolis-Hastings" in draws.warnings[0]
    corrected = gibbs.build.__wrapped__(WIDE["bento"][0](), 0, accept=True)
    result = calibration.joint_test(WIDE["bento"][0](), corrected, jax.random.key(3), **FULL)
    assert result.passed, result


def test_a_wrong_conditional_is_noticed_without_warmup_too(monkeypatch):
    rule_with(monkeypatch, "means", lambda q: dist.Normal(q.loc, 1.5 * q.scale))
    model = bento(scale=38.5)
    draws = gibbs.gibbs(model, model.data.x, jax.random.key(0), num_chains=2, num_warmup=0, num_draws=20)
    assert "Metropolis-Hastings" in draws.warnings[0] and draws.stats["conjugacy_error"].min() > 1e-3


def uniform_redraw(model, key, current, log_density):
    return jax.random.permutation(key, model.num_components).astype(jnp.int32)


@pytest.mark.parametrize("backend", ["gibbs", "metropolis", "nuts"])
def test_joint_test_catches_a_permutation_without_its_ratio(monkeypatch, backend):
    monkeypatch.setattr(labels, "redraw", uniform_redraw)
    build, step_size = WIDE["coffee"]
    model = build()
    if backend == "gibbs":
        sampler, settings = gibbs.build.__wrapped__(model, 0), FULL
    elif backend == "metropolis":
        sampler, settings = metropolis.build.__wrapped__(model, 0, step_size=step_size), FULL
    else:
        sampler, settings = nuts.build.__wrapped__(model, 0, step_size=step_size), FROZEN
    result = calibration.joint_test(model, sampler, jax.random.key(4), **settings)
    assert not result.passed, result


def test_joint_test_catches_a_stale_nuts_gradient(monkeypatch):
    monkeypatch.setattr(nuts, "refresh", lambda kernel, potential, x, s: kernel)
    model = coffee(scale=40.0, prior_sd=30.0)  # permuted often, each time to another potential
    sampler = nuts.build.__wrapped__(model, 0, step_size=20.0)
    result = calibration.joint_test(model, sampler, jax.random.key(5), num_replicates=20_000, num_steps=6)
    assert not result.passed, result


def test_joint_test_catches_assignments_left_behind_by_the_permutation(monkeypatch):
    model = WIDE["coffee"][0]()
    sampler = gibbs.build.__wrapped__(model, 0)

    def step(key, i, state, x):
        before = state.assignments
        state, out = sampler.step(key, i, state, x)
        return state._replace(assignments=before), out | {"assignments": before}

    result = calibration.joint_test(model, sampler._replace(step=step), jax.random.key(6), **FULL)
    assert not result.passed, result


def test_joint_test_catches_an_off_by_one_assignment(monkeypatch):
    real = labels.draw_and_sum

    def shifted(key, table):
        z, log_likelihoods = real(key, table)
        return jnp.where(z == 0, 1, z), log_likelihoods

    monkeypatch.setattr(labels, "draw_and_sum", shifted)
    model = WIDE["bento"][0]()
    result = calibration.joint_test(model, gibbs.build.__wrapped__(model, 0), jax.random.key(7), **FULL)
    assert not result.passed, result
