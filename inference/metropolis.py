"""Metropolis-Hastings over assignments, alternating with Metropolis-Hastings over the parameters."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from inference import labels, loop, space
from inference.results import Draws

BLOCK = 3  # observations that a block proposal reassigns together
TARGET = 0.44  # acceptance of a univariate random walk (Gelman, Roberts & Gilks 1996, Bayesian Statistics 5)


class State(NamedTuple):
    """In the un-permuted frame: params = permute(constrain(u), permutation), z = permutation[assignments]."""

    u: Any  # (D,) unconstrained parameters
    assignments: Any  # (N,) int32
    permutation: Any  # (K,) int32
    log_steps: Any  # (D,) log random-walk step sizes, adapted in warmup


def refuses(model, x) -> str | None:
    """The sentence why Metropolis-Hastings cannot serve the model, or None."""
    if not model.param_shapes:
        return "no unknown parameter"
    return model.lacks_twin


def metropolis(
    model,
    x,
    key,
    *,
    num_chains=4,
    num_warmup=500,
    num_draws=1000,
    thin=10,
    permute=True,
    progress=None,
    resume=None,
) -> Draws:
    """Draws from p(params, assignments | x) by Metropolis-Hastings; one draw is kept every `thin` sweeps.

    A sweep proposes a uniform other component for every observation (given the parameters they are independent, so
    all single-site moves are made at once); reassigns a random block of 3 observations jointly; walks every
    unconstrained parameter at random given the assignments, the Jacobian in the target; and redraws the labelling
    (`inference.labels`; `permute=False` switches it off). Step sizes adapt during warmup only, towards acceptance
    .44 (Robbins & Monro), in the frame where labels stay put. Acceptance rates by move are in `stats`.
    """
    sampler = build(model, num_warmup, permute, thin)
    how = dict(num_chains=num_chains, num_warmup=num_warmup, num_draws=num_draws, progress=progress, resume=resume)
    return loop.sample(model, sampler, key, x, **how)


@functools.cache
def build(model, num_warmup: int, permute: bool = True, thin: int = 1, step_size: float = 0.1) -> loop.Sampler:
    """The sampler; with `num_warmup=0` the steps stay at `step_size`."""
    of = space.space_of(model)
    moves = labels.moves(model, permute)
    relabels = moves and not model.exchangeable
    K = model.num_components
    identity = jnp.arange(K, dtype=jnp.int32)

    def labelled(u, s):
        return model.permute(of.constrain(u), s) if moves else of.constrain(u)

    def init(key, params, x):
        z = labels.draw_assignments(key, model.log_table(params, x))
        u = of.unconstrain(params)
        return State(u, z, identity, jnp.full(of.size, jnp.log(step_size), u.dtype))

    def step(key, i, state, x):
        keys = jax.random.split(key, thin)
        state, accepted = jax.lax.scan(lambda state, key: sweep(key, i, state, x), state, keys)
        params = labelled(state.u, state.permutation)
        z = state.permutation[state.assignments]
        out = {name: rate.mean() for name, rate in accepted.items()}
        passes = 2 + of.size + (labels.num_evaluations(K) if relabels else 0)
        out |= {"params": params, "assignments": z, "lp": model.log_density(params, x)}
        return state, out | {"num_evaluations": jnp.int32(thin * passes + 1)}

    def sweep(key, i, state, x):
        key_single, key_block, key_walk, key_labels = jax.random.split(key, 4)
        u, z, s, log_steps = state
        table = model.log_table(labelled(u, s), x)[:, s]  # column k: component k of the un-permuted frame
        z, single = single_site(key_single, table, z)
        z, block = block_of_sites(key_block, table, z)
        u, log_steps, walk = walk_parameters(key_walk, i, u, z, s, log_steps, x)
        if moves:
            params, assignments = labelled(u, s), s[z]

            def log_density(t):  # relative to the labelling now: t then acts on declared labels
                return model.log_joint(model.permute(params, t), t[assignments], x)

            s = labels.redraw(model, key_labels, identity, log_density)[s]
        rates = {"acceptance_single": single, "acceptance_block": block, "acceptance_walk": walk}
        return State(u, z, s, log_steps), rates

    def single_site(key, table, z):
        key_other, key_accept = jax.random.split(key)
        other = (z + jax.random.randint(key_other, z.shape, 1, max(K, 2), jnp.int32)) % K
        ratio = _at(table, other) - _at(table, z)
        accept = jnp.log(jax.random.uniform(key_accept, z.shape)) < ratio
        return jnp.where(accept, other, z), accept.mean()

    def block_of_sites(key, table, z):
        key_sites, key_new, key_accept = jax.random.split(key, 3)
        size = min(BLOCK, len(z))
        sites = jax.random.choice(key_sites, len(z), (size,), replace=False)
        shifts = jax.random.randint(key_new, (size,), 1, max(K, 2), jnp.int32)  # every site of the block changes
        proposal = z.at[sites].set((z[sites] + shifts) % K)
        ratio = jnp.sum(_at(table, proposal) - _at(table, z))
        accept = jnp.log(jax.random.uniform(key_accept)) < ratio
        return jnp.where(accept, proposal, z), accept.astype(jnp.result_type(float))

    def walk_parameters(key, i, u, z, s, log_steps, x):
        assignments = s[z]

        def log_target(u):
            return model.log_joint(labelled(u, s), assignments, x) + of.log_det(u)

        def one(carry, at):
            u, here, log_steps = carry
            key, d = at
            key_move, key_accept = jax.random.split(key)
            there_u = u.at[d].add(jnp.exp(log_steps[d]) * jax.random.normal(key_move, dtype=u.dtype))
            there = log_target(there_u)
            accept = jnp.log(jax.random.uniform(key_accept)) < there - here
            rate = jnp.exp(jnp.minimum(there - here, 0.0))
            gain = jnp.where(i < num_warmup, (i + 1.0) ** -0.6, 0.0)
            log_steps = log_steps.at[d].add((gain * (jnp.nan_to_num(rate) - TARGET)).astype(u.dtype))
            return (jnp.where(accept, there_u, u), jnp.where(accept, there, here), log_steps), accept

        start = (u, log_target(u), log_steps)
        at = (jax.random.split(key, of.size), jnp.arange(of.size))
        (u, _, log_steps), accepted = jax.lax.scan(one, start, at)
        return u, log_steps, accepted.mean()

    return loop.Sampler(init, step)


def _at(table, z):
    return jnp.take_along_axis(table, z[:, None], axis=1)[:, 0]
