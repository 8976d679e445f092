"""Split-merge between two components at fixed K, whatever the family: parameters and assignments in one proposal.

Two components a, b are drawn apart or pulled together about their common mean, and all observations of the two are
reallocated from the table restricted to them. With S the observations in a or b (the same before and after), the
complete-data joint and the probabilities of both reallocations combine to the joint with the assignments in S summed
over {a, b}:

    log target(params) = log p(params) + sum_{n in S} log(p_na + p_nb) + sum_{n not in S} log p_{n, z_n}

with p_nk = p(z_n = k, x_n | params). It is the aim of Jain & Neal 2007 (Bayesian Analysis 2, section 3) with a
proposal of its own, which needs no conjugate family.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints

from inference import space
from zoo.mixture import twin_supports

SMALLEST = 0.01  # standard deviation of a proposal's log factor, from this ...
LARGEST = 1.0  # ... to this, log-uniform: neither depends on the state


class Leaves(NamedTuple):
    """What the move changes: coordinates of u."""

    rows: tuple  # per parameter with one row per component: indices (K, size of a row) into u
    weights: slice | None  # the mixing weights, when they are unknown
    stick: object  # their map from u to the simplex


@functools.cache
def leaves_of(model) -> Leaves:
    """Rows of the component parameters and the mixing weights, among the coordinates of `space.space_of(model)`."""
    of, K, supports = space.space_of(model), model.num_components, twin_supports(model)
    rows, weights, stick = [], None, None
    for name in model.component_leaves:
        support, shape = supports[name]
        index = np.arange(of.size)[of.slices[name]]
        if support is constraints.simplex and shape == (K,):
            weights, stick = of.slices[name], biject_to(support)
        elif biject_to(support).inverse_shape(shape)[:1] == (K,):
            rows.append(index.reshape(K, -1))
    return Leaves(tuple(rows), weights, stick)


def propose(model, key, u, a, b):
    """A new u (D,) for components a and b, and the log of its Hastings ratio (the measure in u is du).

    With share f of a in the weight of the two (1/2 where weights are known), every parameter's rows keep
    f row_a + (1 - f) row_b while row_a - row_b is multiplied by exp(s); the odds of f by exp(e). s (one per parameter)
    and e are Normal(0, sd), so the way back is as probable; the volume changes by exp(s) per number in a row, and by
    f'(1 - f') / (f (1 - f)) for the share.
    """
    leaves = leaves_of(model)
    key_size, key_factors = jax.random.split(key)
    spread = jnp.log(SMALLEST) + (jnp.log(LARGEST) - jnp.log(SMALLEST)) * jax.random.uniform(key_size, dtype=u.dtype)
    factors = jnp.exp(spread) * jax.random.normal(key_factors, (len(leaves.rows) + 1,), u.dtype)
    share = new_share = jnp.asarray(0.5, u.dtype)
    new, log_ratio = u, jnp.zeros((), u.dtype)
    if leaves.weights is not None:
        stick = leaves.stick
        w = stick(u[leaves.weights])
        both = w[a] + w[b]
        odds = jnp.log(w[a]) - jnp.log(w[b])
        share, new_share = jax.nn.sigmoid(odds), jax.nn.sigmoid(odds + factors[-1])
        new_w = w.at[a].set(both * new_share).at[b].set(both * jax.nn.sigmoid(-odds - factors[-1]))
        moved = stick.inv(new_w)
        volume = lambda odds: jax.nn.log_sigmoid(odds) + jax.nn.log_sigmoid(-odds)  # log f (1 - f)
        log_ratio += volume(odds + factors[-1]) - volume(odds)  # in the weights themselves, so without their Jacobian:
        log_ratio += stick.log_abs_det_jacobian(u[leaves.weights], w) - stick.log_abs_det_jacobian(moved, new_w)
        new = new.at[leaves.weights].set(moved)
    for index, s in zip(leaves.rows, factors[:-1], strict=True):
        index = jnp.asarray(index)
        row_a, row_b = u[index[a]], u[index[b]]
        middle, apart = share * row_a + (1 - share) * row_b, jnp.exp(s) * (row_a - row_b)
        new = new.at[index[a]].set(middle + (1 - new_share) * apart).at[index[b]].set(middle - new_share * apart)
        log_ratio += s * index.shape[1]
    return new, log_ratio


def log_restricted(table, z, a, b):
    """sum_{n in S} log(p_na + p_nb) + sum_{n not in S} log p_{n, z_n} from the (N, K) table."""
    own = jnp.take_along_axis(table, z[:, None], axis=1)[:, 0]
    return jnp.where((z == a) | (z == b), jnp.logaddexp(table[:, a], table[:, b]), own).sum()


def reallocate(key, table, z, a, b):
    """The assignments in S drawn from the table restricted to a and b, one uniform each; the others stay."""
    to_a = jax.random.uniform(key, z.shape, table.dtype) < jax.nn.sigmoid(table[:, a] - table[:, b])
    return jnp.where((z == a) | (z == b), jnp.where(to_a, a, b), z).astype(z.dtype)
