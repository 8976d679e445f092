"""Which parameters belong to components, found by probing the table at prior draws; and relabelling by them.

A matching shape is not enough: a leaf is the components' own only if its row k moves column k alone.
"""

import concurrent.futures
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from zoo import introspect

NUM_ROWS = 4  # observations in the probe
NUM_DRAWS = 256  # of the prior; the number that `inference.space` draws, so that one program serves both


def permute_leaves(params: dict[str, Any], s, leaves: tuple[str, ...]) -> dict[str, Any]:
    """Relabelled parameters: old component k becomes component s[k], in every leaf of `leaves`."""
    inverse = jnp.argsort(s)
    return {name: value[inverse] if name in leaves else value for name, value in params.items()}


def component_leaves(model) -> tuple[str, ...]:
    """The parameters with leading axis K whose row k enters only component k, the mixing weights included.

    Row k of a component's own leaf, replaced by that of another prior draw, moves column k of `log_components`
    and nothing else. The mixing weights leave `log_components` alone, and shifting their rows shifts the columns
    of `log_weights_table`. Compiles one small program.
    """
    K = model.num_components
    candidates = [name for name, leaf in model.param_shapes.items() if leaf.shape[:1] == (K,)]
    if not candidates or K == 1:
        return ()
    eye = np.eye(K, dtype=bool)

    @jax.jit
    def probe(draws, key):
        params, other = ({name: leaf[i] for name, leaf in draws.items()} for i in (0, 1))
        _, x = draw_observations(model, params, key)

        def moved(name, row):  # `row` is a mask over components
            mask = row.reshape((K,) + (1,) * (params[name].ndim - 1))
            return {**params, name: jnp.where(mask, other[name], params[name])}

        tries = [moved(name, row) for name in candidates for row in eye]
        tries += [{**params, name: jnp.roll(params[name], 1, axis=0)} for name in candidates]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, *tries)
        return jax.vmap(lambda p: (model.log_weights_table(p, x), model.log_components(p, x)))(stacked)

    halves = probe(model.prior_draws(jax.random.key(5), NUM_DRAWS), jax.random.key(7))
    weights, components = (np.asarray(half) for half in halves)
    L = len(candidates)
    start_weights, start_components = weights[0], components[0]
    row_components = components[1 : 1 + L * K].reshape(L, K, NUM_ROWS, K)
    row_weights = weights[1 : 1 + L * K].reshape(L, K, NUM_ROWS, K)
    rolled_weights = weights[1 + L * K :]
    leaves = []
    for i, name in enumerate(candidates):
        moves = np.any(row_components[i] != start_components, axis=1)  # (row, column)
        leaves_weights = np.all(row_weights[i] == start_weights)
        rolls_weights = np.allclose(rolled_weights[i], np.roll(start_weights, 1, axis=1), rtol=1e-4, atol=1e-4)
        own = np.array_equal(moves, eye) and leaves_weights
        if own or (not moves.any() and not leaves_weights and rolls_weights):
            leaves.append(name)
    return tuple(leaves)


def relabels(model) -> bool:
    """Whether `model.permute` relabels the components.

    That is log_components(permute(params, s))[:, s] == log_components(params), and |det d permute / d params| = 1.

    Held at eight prior draws for a cyclic shift and a transposition, of which every permutation is made; for fixed
    weights the weights' half stays, which the density ratio of the permutation move accounts for.
    """
    K = model.num_components
    if K == 1 or not model.param_shapes:
        return False
    shifts = generators(K)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def probe(params, key):
        _, x = draw_observations(model, params, key)
        moved = jax.vmap(lambda s: model.log_components(model.permute(params, s), x)[:, s])(shifts)
        stretch = jax.vmap(lambda s: log_stretch(params, s))(shifts) if model.own_permute else jnp.zeros(())
        return model.log_components(params, x)[None], moved, stretch

    def log_stretch(params, s):
        real = {name: leaf for name, leaf in params.items() if jnp.issubdtype(leaf.dtype, jnp.floating)}
        flat, unravel = ravel_pytree(real)

        def permuted(flat):
            moved = model.permute({**params, **unravel(flat)}, s)
            return ravel_pytree({name: moved[name] for name in real})[0]

        return jnp.linalg.slogdet(jax.jacfwd(permuted)(flat))[1]

    draws = jax.tree.map(lambda leaf: leaf[:8], model.prior_draws(jax.random.key(5), NUM_DRAWS))
    here, there, stretch = probe(draws, jax.random.key(11))
    return bool(np.allclose(here, there, rtol=1e-4, atol=1e-4) and np.all(np.abs(stretch) < 1e-4))


def exchanges(model) -> bool:
    """Whether a cyclic shift and a transposition of the labels leave the joint density as it is.

    Held at a prior draw for the prior and for every entry of the table, whose sum over rows could hide a difference:
    weights that are not alike cancel where two components have as many rows.
    """
    shifts = generators(model.num_components)

    @jax.jit
    def probe(draws, key):
        params = {name: leaf[0] for name, leaf in draws.items()}
        _, x = draw_observations(model, params, key)

        def at(s):
            moved = model.permute(params, s)
            return model.log_prior(moved), model.log_table(moved, x)[:, s]

        return (model.log_prior(params), model.log_table(params, x)), jax.vmap(at)(shifts)

    here, there = probe(model.prior_draws(jax.random.key(5), NUM_DRAWS), jax.random.key(13))
    close = lambda one, many: np.allclose(one, many, rtol=1e-4, atol=1e-4)
    return all(close(one, many) for one, many in zip(here, there, strict=True))


def generators(num_components: int):
    """(2, K): a cyclic shift and a transposition, of which every permutation is made."""
    labels = np.arange(num_components)
    return jnp.asarray(np.stack([np.roll(labels, 1), np.r_[1, 0, labels[2:]]]))


def draw_observations(model, params, key, n=NUM_ROWS):
    """n assignments and observations at `params`, with the data's first covariates where the model has any."""
    returned, covariates = model.prior_return(params), jax.tree.map(jnp.asarray, model.covariates(n))

    def one(key, c_n):
        args = (returned,) if covariates is None else (returned, c_n)
        return introspect.sample(model.observation, args, key)[0]

    drawn = jax.vmap(one)(jax.random.split(key, n), covariates)
    z = drawn.pop("z").astype(jnp.int32)
    x = drawn["x"] if set(drawn) == {"x"} else drawn
    if covariates is None:
        return z, x
    return z, {**(x if isinstance(x, dict) else {"x": x}), "covariates": covariates}


def outside_traces(function, *args):
    """`function(*args)` with concrete values even when first reached from inside a jitted function.

    JAX's tracing state belongs to a thread, so a fresh thread has none (`jax.ensure_compile_time_eval` also folds
    constants, which GenJAX's interpreter does not survive).
    """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()
