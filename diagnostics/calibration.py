"""Does a kernel leave the posterior invariant? Joint tests (after Geweke 2004, JASA 99, section 3), and ratio tests.

A forward draw (params, assignments, x) is an exact draw from the posterior given its own x. Any number of steps of a
right kernel leaves its law as it was, so functionals before and after differ by something of mean 0. Replicates are
independent: no autocorrelation enters.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from inference import conjugacy, space
from zoo import probe

BLOCK = 5_000  # replicates per compiled call


class JointTest(NamedTuple):
    """z per functional: mean paired difference over its standard error."""

    names: tuple[str, ...]
    z: np.ndarray
    num_replicates: int
    level: float  # familywise

    @property
    def threshold(self) -> float:
        """Bonferroni quantile of |z| at the familywise level."""
        return float(stats.norm.isf(self.level / 2 / len(self.z)))

    @property
    def passed(self) -> bool:
        return bool(np.all(np.abs(self.z) < self.threshold))

    def __str__(self):
        worst = int(np.argmax(np.abs(self.z)))
        verdict = "passed" if self.passed else "FAILED"
        return f"{verdict}: largest |z| {abs(self.z[worst]):.2f} ({self.names[worst]}), allowed {self.threshold:.2f}"


def joint_test(model, sampler, key, *, n=8, num_replicates=20_000, num_steps=5, level=0.01) -> JointTest:
    """Tests that `sampler` (an `inference.loop.Sampler` with adaptation off) leaves p(params, z | x) invariant.

    `num_replicates` forward draws of `n` observations, `num_steps` steps given x on each, and the paired differences
    of the functionals of `_features`. Choose the model's constants so that prior and likelihood weigh alike.
    """
    block = min(BLOCK, num_replicates)
    program, centre = _program(model, sampler, n, num_steps), _centre(model)
    differences = []
    for key_block in jax.random.split(key, -(-num_replicates // block)):
        key_params, key_rest = jax.random.split(key_block)
        params = model.prior_draws(key_params, block)
        differences.append(np.asarray(program(jax.random.split(key_rest, block), params, centre)))
    differences = np.concatenate(differences)[:num_replicates]
    spread = differences.std(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = differences.mean(axis=0) / (spread / np.sqrt(len(differences)))
    z = np.where(np.isnan(z), np.where(np.isfinite(differences).all(axis=0), 0.0, np.inf), z)
    return JointTest(_feature_names(model), z, num_replicates, level)


@functools.cache
def _program(model, sampler, n, num_steps):
    def one(key, params, centre):
        key_draw, key_init, key_steps = jax.random.split(key, 3)
        assignments, x = probe.draw_observations(model, params, key_draw, n)
        state = sampler.init(key_init, params, x)
        if "assignments" in state._fields:
            state = state._replace(assignments=assignments)

        def advance(state, i):
            return sampler.step(jax.random.fold_in(key_steps, i), i, state, x)

        _, outs = jax.lax.scan(advance, state, jnp.arange(num_steps, dtype=jnp.int32))
        last = jax.tree.map(lambda leaf: leaf[-1], outs)
        after = _features(model, last["params"], last["assignments"], x, centre)
        return after - _features(model, params, assignments, x, centre)

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None)))


def _centre(model):
    """The prior mean of the unconstrained parameters, roughly: squares about it see the spread."""
    draws = model.prior_draws(jax.random.key(0), probe.NUM_DRAWS)
    return jax.jit(jax.vmap(space.space_of(model).unconstrain))(draws).mean(axis=0)


def _features(model, params, assignments, x, centre):
    """Every unconstrained parameter and its square, component sizes, 1{z_0 = z_1}, log prior, joint and density."""
    u = space.space_of(model).unconstrain(params)
    counts = jax.nn.one_hot(assignments, model.num_components, dtype=u.dtype).sum(0)
    together = (assignments[0] == assignments[1]).astype(u.dtype)
    scalars = [together, model.log_prior(params), model.log_joint(params, assignments, x), model.log_density(params, x)]
    return jnp.concatenate([u, (u - centre) ** 2, counts, jnp.stack(scalars)])


def _feature_names(model):
    size = space.space_of(model).size
    names = [f"u[{i}]" for i in range(size)] + [f"(u[{i}] - centre)^2" for i in range(size)]
    names += [f"size of component {k}" for k in range(model.num_components)]
    return (*names, "1{z_0 = z_1}", "log prior", "log joint", "log density")


def ratio_test(model, key, *, n=8, num_points=50) -> dict[str, float]:
    """Each conjugate conditional against the joint: site -> largest |log p(a'|b)/p(a|b) - log p(a',b)/p(a,b)|.

    `a` and `a'` are two prior draws of the site, the assignments uniform; relative to 1 + |log joint|. Zero to
    rounding for a right rule.
    """

    def error(key, params, other, rule):
        key_z, key_x = jax.random.split(key)
        z = jax.random.randint(key_z, (n,), 0, model.num_components, jnp.int32)
        _, x = probe.draw_observations(model, params, key_x, n)
        moved = {**params, rule.site: other[rule.site]}
        q = rule.conditional(params, jax.nn.one_hot(z, model.num_components), x)
        conditional = q.log_prob(moved[rule.site]).sum() - q.log_prob(params[rule.site]).sum()
        here, there = model.log_joint(params, z, x), model.log_joint(moved, z, x)
        return jnp.abs(there - here - conditional) / (1 + jnp.abs(here) + jnp.abs(there))

    key_draws, key_rest = jax.random.split(key)
    draws = model.prior_draws(key_draws, probe.NUM_DRAWS)
    params = {name: leaf[:num_points] for name, leaf in draws.items()}
    other = {name: leaf[num_points : 2 * num_points] for name, leaf in draws.items()}
    keys = jax.random.split(key_rest, num_points)
    rules = [rule for rule in conjugacy.rules(model) if rule.conditional is not None]
    each = {rule.site: jax.jit(jax.vmap(functools.partial(error, rule=rule))) for rule in rules}
    return {site: float(errors(keys, params, other).max()) for site, errors in each.items()}
