"""The label permutation move, and exact draws of assignments from the table.

A permutation s sends old component k to component s[k]: params become permute(params, s), assignments s[assignments].
"""

import jax
import jax.numpy as jnp

from zoo.mixture import permutations

MAX_EXACT = 5  # up to 5! = 120 permutations their full conditional is enumerated
NUM_TRANSPOSITIONS = 10


def moves(model, permute: bool) -> bool:
    """Whether the permutation move applies: asked for, more than one component, and a relabelling exists.

    Raises ValueError for a model declared exchangeable whose density changes with the labels: the move would take
    all labellings for equally probable.
    """
    if not (permute and model.num_components > 1 and model.relabels):
        return False
    if model.exchangeable and not model.exchanges:
        raise ValueError(
            f"{model.name} is declared exchangeable, but relabelling its components changes its density; "
            "declare exchangeable=False"
        )
    return True


def redraw(model, key, current, log_density):
    """A new permutation given everything else; `log_density(s)` is the joint density under labelling s.

    Exchangeable: uniform, since all labellings are equally probable. K <= 5: from the full conditional over all
    K! permutations. Larger K: Metropolis-Hastings on random transpositions of `current`.
    """
    K = model.num_components
    if model.exchangeable:
        return jax.random.permutation(key, K).astype(jnp.int32)
    if K <= MAX_EXACT:
        every = jnp.asarray(permutations(K))
        return every[jax.random.categorical(key, jax.vmap(log_density)(every))]

    def transpose(carry, key):
        s, here = carry
        key_pair, key_accept = jax.random.split(key)
        i, j = jax.random.choice(key_pair, K, (2,), replace=False)
        swapped = s.at[i].set(s[j]).at[j].set(s[i])
        there = log_density(swapped)
        accept = jnp.log(jax.random.uniform(key_accept)) < there - here
        return (jnp.where(accept, swapped, s), jnp.where(accept, there, here)), None

    start = (current, log_density(current))
    return jax.lax.scan(transpose, start, jax.random.split(key, NUM_TRANSPOSITIONS))[0][0]


def relabel(model, key, params, z, lp, x):
    """The move on params and assignments (N,), an exact redraw of the labelling given both: they and log_density
    afterwards (`lp` before), and the passes over the data that it took."""
    log_density = lambda s: model.log_joint(model.permute(params, s), s[z], x)
    s = redraw(model, key, jnp.arange(model.num_components, dtype=jnp.int32), log_density)
    params = model.permute(params, s)
    if model.exchangeable:
        return params, s[z], lp, 0
    return params, s[z], model.log_density(params, x), 1 + num_evaluations(model.num_components)


def num_evaluations(num_components: int) -> int:
    """Densities that `redraw` evaluates for a model that is not exchangeable."""
    return len(permutations(num_components)) if num_components <= MAX_EXACT else NUM_TRANSPOSITIONS + 1


def draw_assignments(key, log_table):
    """One exact draw of every assignment from an (N, K) table of log p(z_n = k, x_n | params).

    Inverse CDF with one uniform per observation: z_n is the number of k with u_n > P(z_n <= k).
    """
    cumulative = jnp.cumsum(jax.nn.softmax(log_table, axis=1), axis=1)
    u = jax.random.uniform(key, (log_table.shape[0], 1), cumulative.dtype)
    return jnp.sum(u * cumulative[:, -1:] >= cumulative[:, :-1], axis=1, dtype=jnp.int32)
