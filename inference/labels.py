"""The label permutation move, and exact draws of assignments from the table.

A permutation s sends old component k to component s[k]: params become permute(params, s), assignments s[assignments].
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from zoo.mixture import permutations, twin_supports

MAX_EXACT = 5  # up to 5! = 120 permutations their full conditional is enumerated
NUM_TRANSPOSITIONS = 10


def moves(model, permute: bool) -> bool:
    """Whether the permutation move applies: asked for, more than one component, and a relabelling exists that keeps
    every parameter in its support.

    Where it does not, samplers that keep a permutation beside parameters in the frame of one labelling would count
    a point once for every labelling that is possible there. Raises ValueError for a model declared exchangeable whose
    density changes with the labels: the move would take all labellings for equally probable.
    """
    if not (permute and model.num_components > 1 and model.relabels):
        return False
    kept = same_supports(model)
    if not model.exchangeable:
        return kept
    if not (kept and model.exchanges):
        raise ValueError(
            f"{model.name} is declared exchangeable, but relabelling its components changes its density; "
            "declare exchangeable=False"
        )
    return True


@functools.cache
def same_supports(model) -> bool:
    """Whether a component parameter has one support for every component: none has bounds of its own, or an order.

    True where no twin says what the supports are: then nothing is held in the frame of one labelling.
    """
    if model.lacks_twin is not None:
        return True
    supports = twin_supports(model)
    return all(_alike(*supports[name]) for name in model.component_leaves if name in supports)


def _alike(support, shape) -> bool:
    bounds = [np.asarray(bound) for bound in jax.tree.leaves(support)]
    if any(b.ndim == len(shape) and b.shape[0] > 1 and not np.array_equal(b, np.roll(b, 1, axis=0)) for b in bounds):
        return False
    base = getattr(support, "base_constraint", support)
    return base.event_dim < len(shape) or base in (constraints.simplex, constraints.real_vector)


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


def relabel(model, key, params, z, x):
    """The move on params and assignments (N,): an exact redraw of the labelling given both."""
    identity = jnp.arange(model.num_components, dtype=jnp.int32)
    s = redraw(model, key, identity, log_labelling(model, params, z, x))
    return model.permute(params, s), s[z]


def log_labelling(model, params, z, x):
    """s -> log p(permute(params, s), s[z]) up to a constant: the labelling's density given params, assignments and x.

    The rows' densities given their components are the same under every labelling, for that is what
    `model.relabels` says: what is left are the prior and the rows' weights.
    """
    member = z[:, None] == jnp.arange(model.num_components)

    def log_density(s):
        moved = model.permute(params, s)
        return model.log_prior(moved) + jnp.where(member, model.log_weights_table(moved, x)[:, s], 0.0).sum()

    return log_density


def order_by(model) -> str | None:
    """The (K,) array that sorts the components: the model's `order_by`, else its first component parameter of that
    shape that is not a simplex (the mixing weights); None without one."""
    K = model.num_components
    if model.order_by is not None:
        shapes = {**jax.eval_shape(model.derived, model.param_shapes), **model.param_shapes}
        return model.order_by if model.order_by in shapes and shapes[model.order_by].shape == (K,) else None
    supports = twin_supports(model)
    rows = (n for n in model.param_shapes if n in model.component_leaves and supports[n][1] == (K,))
    return next((name for name in rows if supports[name][0] is not constraints.simplex), None)


def why_not_ordered(model) -> str | None:
    """The sentence why the components cannot be numbered in ascending order after sampling, or None."""
    if not model.exchangeable:
        return (
            "its labels mean something (the prior or the weights tell them apart), so with its components in order it "
            "would be another model with another posterior; an ordering is for exchangeable models"
        )
    if not moves(model, True):
        return "it has one component, or no way to relabel them: give Mixture(permute=...)"
    if order_by(model) is None:
        return "it has no component parameter with one number per component; give Mixture(order_by=...)"
    return None


def ascending(model, params):
    """The permutation after which `order_by` ascends: old component k becomes the one of its rank."""
    values = {**model.derived(params), **params}[order_by(model)]
    return jnp.argsort(jnp.argsort(values)).astype(jnp.int32)


def num_evaluations(num_components: int) -> int:
    """Densities that `redraw` evaluates for a model that is not exchangeable."""
    return len(permutations(num_components)) if num_components <= MAX_EXACT else NUM_TRANSPOSITIONS + 1


def draw_assignments(key, log_table):
    """One exact draw of every assignment from an (N, K) table of log p(z_n = k, x_n | params)."""
    return draw_and_sum(key, log_table)[0]


def draw_and_sum(key, log_table):
    """`draw_assignments`, and the logarithms of the rows' sums, log p(x_n | params) (N,), from the same exponentials.

    Inverse CDF with one uniform u_n per observation: z_n is the number of k with u_n >= P(z_n <= k). The entries are
    divided by the first, which saves a third of the exponentials of three columns, unless another is larger by
    more than the root of the largest number: next to that one the first is nothing. The sums run over
    the K columns one by one, since XLA's cumulative sum is slower for so few.
    """
    first, room = log_table[:, 0], float(np.log(np.finfo(log_table.dtype).max) / 2)
    top = log_table.max(axis=1)
    lowest = jnp.where(jnp.isfinite(top), top, 0.0) - room
    by = jnp.maximum(first, lowest)
    columns = [(first >= lowest).astype(log_table.dtype), *jnp.exp(log_table[:, 1:] - by[:, None]).T]
    cumulative = list(itertools.accumulate(columns))
    total = cumulative[-1]
    at = uniforms(key, len(log_table), total.dtype) * total
    assignments = sum((at >= c for c in cumulative[:-1]), jnp.zeros(len(log_table), jnp.int32))
    return assignments, by + jnp.log(total)


def uniforms(key, size: int, dtype):
    """`size` uniforms on [0, 1): in float64 the midpoints of 2^32 equal intervals, two of each word of 64 bits.

    An interval's probability is off by at most 2^-32 = 2.3e-10, in float32 by the rounding of the number, and half as
    many words are hashed as by `jax.random.uniform`.
    """
    if dtype == jnp.float64:
        words = jax.random.bits(key, (-(-size // 2),), jnp.uint64)
        bits = jax.lax.bitcast_convert_type(words, jnp.uint32).reshape(-1)[:size]
        return (bits.astype(dtype) + 0.5) * 2.0**-32
    return jax.random.uniform(key, (size,), dtype)
