"""Slice sampling against a law known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from inference.slice import slice_coordinates


def test_slice_sampling_leaves_a_correlated_and_a_skewed_law_invariant():
    # (a, b): a ~ Normal(0, 1), b | a ~ log of Gamma(2, exp(a)); started in the law, 3 updates must keep it
    def log_target(u):
        a, b = u
        return -0.5 * a**2 + 2 * (a + b) - jnp.exp(a + b)

    def one(key):
        key_a, key_b, key_move = jax.random.split(key, 3)
        a = jax.random.normal(key_a)
        u = jnp.stack([a, jnp.log(jax.random.gamma(key_b, 2.0)) - a])
        for i in range(3):
            u, used = slice_coordinates(jax.random.fold_in(key_move, i), log_target, u, np.arange(2))
        return u, used

    u, used = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 20_000))
    assert stats.kstest(np.asarray(u[:, 0]), "norm").pvalue > 1e-4
    assert stats.kstest(np.exp(np.asarray(u.sum(axis=1))), "gamma", args=(2,)).pvalue > 1e-4
    assert abs(np.corrcoef(u[:, 0], u.sum(axis=1))[0, 1]) < 4.4 / np.sqrt(len(u))
    assert used.min() >= 2 * 3  # level, two edges and a draw at the least


def test_a_draw_moves():
    u, _ = slice_coordinates(jax.random.key(1), lambda u: -0.5 * jnp.sum(u**2), jnp.zeros(3), np.array([0, 2]))
    assert u[0] != 0 and u[1] == 0 and u[2] != 0


def test_a_float32_density_that_is_flat_to_rounding_ends_where_it_was():
    u = jnp.array([3.0], jnp.float32)  # at 1e9 a float32 has no room for the slice's level below the density
    flat = lambda u: jnp.float32(1e9) + 0 * u.sum()
    after, used = jax.jit(lambda key: slice_coordinates(key, flat, u, np.array([0])))(jax.random.key(0))
    assert after.dtype == jnp.float32 and abs(float(after[0]) - 3.0) < 1e-5 and int(used) < 1000
