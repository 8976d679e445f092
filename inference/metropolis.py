"""Metropolis-Hastings over assignments, alternating with Metropolis-Hastings over the parameters."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from inference import assignment_moves, labels, loop, space, split_merge
from inference.results import Draws
from zoo import nearest

MOVES = ("single", "gibbs", "block", "split_merge", "joint")
DEFAULT = "gibbs,split_merge,joint"
TARGET = 0.44  # acceptance of a univariate random walk (Gelman, Roberts & Gilks 1996, Bayesian Statistics 5)
TARGET_JOINT = 0.234  # of one in many dimensions (the same)
MOST = 256  # unknown numbers: the walk passes over the data once for each of them, and a run is 15,000 walks


class State(NamedTuple):
    """In the un-permuted frame: params = permute(constrain(u), permutation), z = permutation[assignments]."""

    u: Any  # (D,) unconstrained parameters
    assignments: Any  # (N,) int32
    permutation: Any  # (K,) int32
    log_steps: Any  # (D,) log random-walk step sizes
    log_scale: Any  # log of the factor of `root` in joint proposals
    mean: Any  # (D,) of u, and ...
    covariance: Any  # (D, D) ... its covariance, as estimated in warmup
    root: Any  # (D, D) its Cholesky factor


def refuses(model, x) -> str | None:
    """The sentence why Metropolis-Hastings cannot serve the model, or None."""
    if not model.param_shapes:
        return "no unknown parameter"
    if space.discrete(model):
        return f"{', '.join(space.discrete(model))} is discrete; its random walk is over continuous parameters"
    if model.lacks_twin is None and space.space_of(model).size > MOST:
        size = space.space_of(model).size
        return f"{size} unknown numbers; its random walk moves them one at a time, and goes up to {MOST}"
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
    moves=DEFAULT,
    num_sites=None,
    permute=True,
    progress=None,
    resume=None,
) -> Draws:
    """Draws from p(params, assignments | x) by Metropolis-Hastings; one draw is kept every `thin` sweeps.

    A sweep makes each of `moves` (names with commas between), in this order:

    single       `num_sites` random observations (default: all), each to a uniform other component
    gibbs        every observation, to another component drawn from its row of the table (`assignment_moves.gibbs`)
    block        3 random observations together, to uniform components
    split_merge  two components drawn apart or pulled together, their observations reallocated (`split_merge`)
    joint        all parameters by a random walk with adapted covariance (Haario, Saksman & Tamminen 2001, Bernoulli 7;
                 algorithm 4 of Andrieu & Thoms 2008, Statistics and Computing 18), all assignments from the table

    then walks every unconstrained parameter at random given the assignments, and redraws the labelling
    (`inference.labels`; `permute=False` switches it off). Jacobians are in the target. Steps adapt during warmup
    only, towards acceptance .44, of joint proposals .234 (Robbins & Monro), in the frame where labels stay put.
    Acceptance by move is in `stats`, acceptance_single and so on. Raises ValueError for a move that does not exist,
    or for `num_sites` without the move single.
    """
    check_settings({"moves": moves, "num_sites": num_sites})
    chosen = chosen_moves(moves)
    sampler = build(model, num_warmup, permute, thin, moves=chosen, num_sites=num_sites)
    how = dict(num_chains=num_chains, num_warmup=num_warmup, num_draws=num_draws, progress=progress, resume=resume)
    return loop.sample(model, sampler, key, x, **how)


def check_settings(settings: dict) -> None:
    """ValueError for moves that do not exist, and for num_sites without the move that it is for."""
    chosen = chosen_moves(settings.get("moves", DEFAULT))
    if settings.get("num_sites") is not None and "single" not in chosen:
        raise ValueError(
            f"num_sites is for the move single, which is not among moves={settings.get('moves', DEFAULT)!r}"
        )


def chosen_moves(moves: str) -> tuple[str, ...]:
    """The names in `moves`, in the order of MOVES. Raises ValueError for an unknown or missing one."""
    names = [name.strip() for name in moves.split(",")]
    for name in names:
        if name not in MOVES:
            raise ValueError(f"metropolis: moves has no {name!r}: {nearest(name, MOVES)}")
    return tuple(name for name in MOVES if name in names)


@functools.cache
def build(
    model, num_warmup: int, permute=True, thin=1, step_size=0.1, moves=("gibbs", "split_merge", "joint"), num_sites=None
) -> loop.Sampler:
    """The sampler; with `num_warmup=0` the steps stay at `step_size`."""
    of = space.space_of(model)
    redraws = labels.moves(model, permute)
    K, D = model.num_components, of.size
    moves = tuple(name for name in moves if K > 1 or name == "joint")
    identity = jnp.arange(K, dtype=jnp.int32)
    on_assignments = {
        "single": functools.partial(assignment_moves.single, num_sites=num_sites),
        "gibbs": assignment_moves.gibbs,
        "block": assignment_moves.block,
    }
    passes = bool(moves) + ("split_merge" in moves) + ("joint" in moves) + 1 + D

    def labelled(u, s):
        return model.permute(of.constrain(u), s) if redraws else of.constrain(u)

    def log_prior(u, s):
        return model.log_prior(labelled(u, s)) + of.log_det(u)

    def table_at(u, s, x):
        return model.log_table(labelled(u, s), x)[:, s]  # column k: component k of the un-permuted frame

    def init(key, params, x):
        z = labels.draw_assignments(key, model.log_table(params, x))
        u = of.unconstrain(params)
        root = step_size * jnp.eye(D, dtype=u.dtype)
        log_steps = jnp.full(D, jnp.log(step_size), u.dtype)
        return State(u, z, identity, log_steps, jnp.zeros((), u.dtype), u, root**2, root)

    def step(key, i, state, x):
        keys = jax.random.split(key, thin)
        state, accepted = jax.lax.scan(lambda state, key: sweep(key, i, state, x), state, keys)
        if num_warmup and "joint" in moves:
            state = jax.lax.cond(i < num_warmup, learn_covariance, lambda i, state: state, i, state)
        params = labelled(state.u, state.permutation)
        z = state.permutation[state.assignments]
        out = {f"acceptance_{name}": rate.mean() for name, rate in accepted.items()}
        out |= {"params": params, "assignments": z, "lp": model.log_density(params, x)}
        return state, out | {"num_evaluations": jnp.int32(thin * passes + 1)}

    def learn_covariance(i, state):
        gain = (2.0 / (i + 2.0)).astype(state.u.dtype)  # draw j weighs about j: the way from the start is forgotten
        away = state.u - state.mean
        covariance = state.covariance + gain * (jnp.outer(away, away) - state.covariance)
        small = 1e-6 * jnp.diag(jnp.diag(covariance)) + 1e-10 * jnp.eye(D, dtype=state.u.dtype)
        root = jnp.linalg.cholesky(covariance + small)
        root = jnp.where(jnp.isfinite(root).all(), root, state.root)
        return state._replace(mean=state.mean + gain * away, covariance=covariance, root=root)

    def sweep(key, i, state, x):
        keys = dict(zip((*MOVES, "walk", "labels"), jax.random.split(key, len(MOVES) + 2), strict=True))
        u, z, s = state[:3]
        rates = {}
        table = table_at(u, s, x)
        for name in moves:
            if name in on_assignments:
                z, rates[name] = on_assignments[name](keys[name], table, z)
        if "split_merge" in moves:
            u, z, table, rates["split_merge"] = split_or_merge(keys["split_merge"], u, z, s, table, x)
        state = state._replace(u=u, assignments=z)
        if "joint" in moves:
            state, rates["joint"] = all_at_once(keys["joint"], i, state, table, x)
        u, log_steps, rates["walk"] = walk(keys["walk"], i, state, x)
        if redraws:
            # relative to the labelling now: the new one acts on declared labels
            log_density = labels.log_labelling(model, labelled(u, s), s[state.assignments], x)
            s = labels.redraw(model, keys["labels"], identity, log_density)[s]
        return state._replace(u=u, permutation=s, log_steps=log_steps), rates

    def split_or_merge(key, u, z, s, table, x):
        key_pair, key_propose, key_sites, key_accept = jax.random.split(key, 4)
        a, b = jax.random.choice(key_pair, K, (2,), replace=False).astype(jnp.int32)
        there, log_ratio = split_merge.propose(model, key_propose, u, a, b)
        table_there = table_at(there, s, x)
        log_ratio += log_prior(there, s) - log_prior(u, s)
        log_ratio += split_merge.log_restricted(table_there, z, a, b) - split_merge.log_restricted(table, z, a, b)
        z_there = split_merge.reallocate(key_sites, table_there, z, a, b)
        accept = jnp.log(jax.random.uniform(key_accept)) < log_ratio
        u, z, table = jax.tree.map(
            lambda new, old: jnp.where(accept, new, old), (there, z_there, table_there), (u, z, table)
        )
        return u, z, table, accept.astype(u.dtype)

    def all_at_once(key, i, state, table, x):
        key_walk, key_sites, key_accept = jax.random.split(key, 3)
        u, z, s = state[:3]
        there = u + jnp.exp(state.log_scale) * state.root @ jax.random.normal(key_walk, (D,), u.dtype)
        table_there = table_at(there, s, x)
        # the assignments come from the table before and after, so they cancel: what is left is their sum
        log_ratio = log_prior(there, s) - log_prior(u, s)
        log_ratio += jax.nn.logsumexp(table_there, axis=1).sum() - jax.nn.logsumexp(table, axis=1).sum()
        accept = jnp.log(jax.random.uniform(key_accept)) < log_ratio
        z = jnp.where(accept, labels.draw_assignments(key_sites, table_there), z)
        log_scale = adapted(i, state.log_scale, log_ratio, TARGET_JOINT)
        return state._replace(u=jnp.where(accept, there, u), assignments=z, log_scale=log_scale), accept.astype(u.dtype)

    def walk(key, i, state, x):
        s = state.permutation
        assignments = s[state.assignments]

        def log_target(u):
            return model.log_joint(labelled(u, s), assignments, x) + of.log_det(u)

        def one(carry, at):
            u, here, log_steps = carry
            key, d = at
            key_move, key_accept = jax.random.split(key)
            there_u = u.at[d].add(jnp.exp(log_steps[d]) * jax.random.normal(key_move, dtype=u.dtype))
            there = log_target(there_u)
            accept = jnp.log(jax.random.uniform(key_accept)) < there - here
            log_steps = log_steps.at[d].set(adapted(i, log_steps[d], there - here, TARGET))
            return (jnp.where(accept, there_u, u), jnp.where(accept, there, here), log_steps), accept

        start = (state.u, log_target(state.u), state.log_steps)
        at = (jax.random.split(key, D), jnp.arange(D))
        (u, _, log_steps), accepted = jax.lax.scan(one, start, at)
        return u, log_steps, accepted.mean()

    def adapted(i, log_step, log_ratio, target):
        gain = jnp.where(i < num_warmup, (i + 1.0) ** -0.6, 0.0)
        rate = jnp.nan_to_num(jnp.exp(jnp.minimum(log_ratio, 0.0)))
        return log_step + (gain * (rate - target)).astype(log_step.dtype)

    return loop.Sampler(init, step)
