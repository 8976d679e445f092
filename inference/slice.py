"""Univariate slice sampling, one coordinate after another (Neal 2003, Annals of Statistics 31, section 4)."""

import jax
import jax.numpy as jnp

WIDTH = 1.0  # first interval, in unconstrained units
MAX_STEPS = 20  # of WIDTH each way, shared at random between the two sides (Neal 2003, figure 3)


def slice_coordinates(key, log_target, u, coordinates):
    """New u with each of `coordinates` redrawn in turn from a slice of `log_target`; and the evaluations used (int32).

    Stepping out with at most MAX_STEPS steps of WIDTH, then shrinkage: leaves exp(log_target) invariant.
    """

    def one(carry, at):
        u, here, used = carry
        key, d = at
        key_level, key_place, key_split, key_shrink = jax.random.split(key, 4)
        along = lambda value: log_target(u.at[d].set(value))
        tiny = jnp.finfo(u.dtype).tiny
        level = here + jnp.log(jax.random.uniform(key_level, dtype=u.dtype, minval=tiny))
        first = u[d] - WIDTH * jax.random.uniform(key_place, dtype=u.dtype)
        left = jnp.floor(MAX_STEPS * jax.random.uniform(key_split)).astype(jnp.int32)
        steps = jnp.stack([left, MAX_STEPS - 1 - left])
        edges, used_out = _step_out(along, level, jnp.stack([first, first + WIDTH]), steps)
        value, there, used_in = _shrink(key_shrink, along, level, u[d], here, edges)
        return (u.at[d].set(value), there, used + used_out + used_in), None

    keys = jax.random.split(key, len(coordinates))
    start = (u, log_target(u), jnp.int32(1))
    (u, _, used), _ = jax.lax.scan(one, start, (keys, jnp.asarray(coordinates)))
    return u, used


def _step_out(along, level, edges, steps):
    """The (left, right) edges moved outwards while inside the slice, at most `steps` times; evaluations used."""
    outwards = jnp.array([-WIDTH, WIDTH], edges.dtype)

    def out(state):
        edges, taken, active = state
        move = active & (jax.vmap(along)(edges) > level) & (taken < steps)
        return jnp.where(move, edges + outwards, edges), taken + active, move

    start = (edges, jnp.zeros(2, jnp.int32), jnp.ones(2, bool))
    edges, taken, _ = jax.lax.while_loop(lambda state: state[2].any(), out, start)
    return edges, taken.sum(dtype=jnp.int32)


def _shrink(key, along, level, start, log_start, edges):
    """A uniform draw from the part of the interval inside the slice, shrinking towards `start`: the value, its log
    target, evaluations used."""

    nothing = max(1e-12, 4 * float(jnp.finfo(start.dtype).eps))

    def draw(state):
        low, high, _, _, i, _ = state
        value = low + (high - low) * jax.random.uniform(jax.random.fold_in(key, i), dtype=low.dtype)
        log_value = along(value)
        accepted = log_value > level
        low = jnp.where(accepted | (value >= start), low, value)
        high = jnp.where(accepted | (value < start), high, value)
        # an interval shrunk to nothing (a density of NaN all around, or flat to rounding) gives back where it was
        stuck = ~accepted & (high - low <= nothing * (1 + jnp.abs(start)))
        value, log_value = jnp.where(stuck, start, value), jnp.where(stuck, log_start, log_value)
        return low, high, value, log_value, i + 1, accepted | stuck

    state = (edges[0], edges[1], start, log_start, jnp.int32(0), jnp.bool_(False))
    _, _, value, log_value, i, _ = jax.lax.while_loop(lambda state: ~state[-1], draw, state)
    return value, log_value, i
