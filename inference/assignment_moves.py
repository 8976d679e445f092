"""Metropolis-Hastings moves of the assignments given an (N, K) table of log p(z_n = k, x_n | params).

Each takes (key, table, z) and gives the new z and the share of its proposals that were accepted. Given the parameters
observations are independent, so sites that move at once are as good as one after another.
"""

import jax
import jax.numpy as jnp

from inference import labels

BLOCK = 3  # observations that a block proposal reassigns together


def single(key, table, z, num_sites=None):
    """`num_sites` observations picked at random without repetition (None: all), each proposed a uniform other
    component: a symmetric proposal, so the ratio is the table's."""
    key_sites, key_other, key_accept = jax.random.split(key, 3)
    N, K = table.shape
    sites = jnp.arange(N)
    if num_sites is not None and num_sites < N:
        sites = jax.random.choice(key_sites, N, (num_sites,), replace=False)
    here = z[sites]
    other = (here + jax.random.randint(key_other, here.shape, 1, max(K, 2), jnp.int32)) % K
    ratio = _at(table[sites], other) - _at(table[sites], here)
    accept = jnp.log(jax.random.uniform(key_accept, here.shape)) < ratio
    return z.at[sites].set(jnp.where(accept, other, here)), accept.mean()


def gibbs(key, table, z):
    """Metropolised Gibbs (Liu 1996, Biometrika 83, section 2): every observation is proposed another component with
    probability proportional to its row of the table without the present one, and takes it with probability
    min(1, (1 - p(z)) / (1 - p(new)))."""
    key_other, key_accept = jax.random.split(key)
    other = labels.draw_assignments(key_other, _without(z, table))
    accept = jnp.log(jax.random.uniform(key_accept, z.shape)) < gibbs_ratio(table, z, other)
    return jnp.where(accept, other, z), accept.mean()


def gibbs_ratio(table, z, other):
    """log [p(other) q(z | other)] / [p(z) q(other | z)], (N,): the row's mass without z over its mass without other."""
    mass = lambda k: jax.nn.logsumexp(_without(k, table), axis=1)
    return mass(z) - mass(other)


def block(key, table, z):
    """BLOCK observations at random are proposed uniform components (the present ones too) together: symmetric."""
    key_sites, key_new, key_accept = jax.random.split(key, 3)
    N, K = table.shape
    size = min(BLOCK, N)
    sites = jax.random.choice(key_sites, N, (size,), replace=False)
    proposal = z.at[sites].set(jax.random.randint(key_new, (size,), 0, K, jnp.int32))
    ratio = jnp.sum(_at(table, proposal)[sites] - _at(table, z)[sites])
    accept = jnp.log(jax.random.uniform(key_accept)) < ratio
    return jnp.where(accept, proposal, z), accept.astype(table.dtype)


def _without(z, table):
    return jnp.where(jax.nn.one_hot(z, table.shape[1], dtype=bool), -jnp.inf, table)


def _at(table, z):
    return jnp.take_along_axis(table, z[:, None], axis=1)[:, 0]
