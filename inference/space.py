"""Constrained <-> unconstrained parameters, where chains start, and whether there is a density to start from.

Supports are read off the twin's sites; NumPyro's `biject_to` gives the maps, so there is no second list.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to, constraints

from inference.conditionals import arrays, row_arguments
from zoo.mixture import twin_supports
from zoo.probe import NUM_DRAWS

NUM_CANDIDATES = NUM_DRAWS  # prior draws among which a chain picks its start
POSITIVE = ("scale", "scale_diag", "rate", "concentration", "concentration0", "concentration1", "df")
SHARES = (constraints.simplex, constraints.unit_interval)
BORDER = 0.8  # `least` of `Space.inside` is eps^BORDER at first: 1 - share is told from 1
AWAY = 1e-3  # `least` where a sampler begins at an optimum on the border: draws are not that near
NUM_BATCHES = 64  # of NUM_DRAWS prior draws that are asked for a row before it counts as impossible


class Space(NamedTuple):
    """params = constrain(u) for u in R^D; those that are discrete are left out."""

    size: int
    constrain: Callable  # u (D,) -> params
    unconstrain: Callable  # params -> u (D,); not finite where a share is 0
    inside: Callable  # params, least -> u (D,), every share some `least` away from 0 and 1 or farther
    log_det: Callable  # u -> log |d params / d u|
    slices: dict  # name -> slice of u
    shares: tuple[str, ...]  # parameters on a simplex or between 0 and 1


def discrete(model) -> tuple[str, ...]:
    """Parameters that are whole numbers, which have no place in R^D."""
    return tuple(name for name, leaf in model.param_shapes.items() if not jnp.issubdtype(leaf.dtype, jnp.floating))


@functools.cache
def space_of(model) -> Space:
    """The model's parameters in R^D. Raises ValueError when it has no twin or the twin's sites differ."""
    supports = twin_supports(model)
    shapes = {name: tuple(leaf.shape) for name, leaf in model.param_shapes.items()}
    if {k: shape for k, (_, shape) in supports.items()} != shapes:
        found = {k: shape for k, (_, shape) in supports.items()}
        raise ValueError(f"the twin of {model.name} has the sites {found}, its prior {shapes}; they should be the same")
    names = sorted(set(shapes) - set(discrete(model)))
    with jax.ensure_compile_time_eval():  # bounds are compared, perhaps first inside a program that is being traced
        shares = tuple(n for n in names if getattr(supports[n][0], "base_constraint", supports[n][0]) in SHARES)
    maps = {name: biject_to(supports[name][0]) for name in names}
    template = {name: jnp.zeros(maps[name].inverse_shape(shapes[name])) for name in names}
    flat, unravel = ravel_pytree(template)
    slices, start = {}, 0
    for name in names:
        stop = start + int(np.prod(template[name].shape, dtype=int))
        slices[name], start = slice(start, stop), stop

    def constrain(u):
        return {name: maps[name](part) for name, part in unravel(u).items()}

    def unconstrain(params):
        return ravel_pytree({name: maps[name].inv(params[name]) for name in names})[0]

    def inside(params, least=None):
        def part(name):
            u = maps[name].inv(params[name])
            far = -np.log(least or jnp.finfo(u.dtype).eps ** BORDER)
            return jnp.clip(u, -far, far) if name in shares else u

        return ravel_pytree({name: part(name) for name in names})[0]

    def log_det(u):
        parts = unravel(u)
        each = [jnp.sum(maps[n].log_abs_det_jacobian(part, maps[n](part))) for n, part in parts.items()]
        return sum(each, jnp.zeros(()))

    return Space(flat.size, constrain, unconstrain, inside, log_det, slices, shares)


def check_density(model, x):
    """ValueError in one sentence where a prior draw has no finite density itself (which parameter), or where no prior
    draw gives a row of x one (which row).

    Asked before a back end compiles anything large. One prior draw that covers every row ends it; a row counts as
    impossible after NUM_BATCHES * NUM_DRAWS draws. Rows are asked one by one: all of them together may still be
    impossible, which `starts` says.
    """
    x, pointwise, key = jax.tree.map(jnp.asarray, x), None, jax.random.key(5)
    for batch in range(NUM_BATCHES if model.param_shapes else 1):
        draws = model.prior_draws(jax.random.fold_in(key, batch), NUM_DRAWS) if model.param_shapes else {}
        scores, found = jax.tree.map(np.asarray, _first_finite(model)(draws, x))
        for name, score in scores.items():
            if not np.isfinite(score).any():
                value = np.asarray(draws[name])[0].round(4).tolist()
                raise ValueError(
                    f"the prior of {model.name} gives its own draws of {name} no finite density (log density "
                    f"{score[0]} at {value}); its constants are too extreme"
                )
        pointwise = found if pointwise is None else np.where(np.isfinite(pointwise), pointwise, found)
        bad = np.flatnonzero(~np.isfinite(pointwise))
        if not len(bad):
            return
    wrong = wrong_argument(model, jax.tree.map(lambda leaf: leaf[0], draws), x)
    if wrong:
        raise ValueError(f"{model.name} has no density: {wrong}")
    raise ValueError(
        f"{model.name} cannot produce {_row(x, bad[0])}: its log density is {pointwise[bad[0]]} at every prior draw; "
        "check the units of x, remove the row, or use a prior that covers it"
    )


def wrong_argument(model, params, x) -> str | None:
    """The first argument of a distribution that is negative, or not positive definite, at `params`; None for none."""
    given = {name: arrays(site) for name, site in model.prior_sites(params).items()}
    given |= {name: row_arguments(model, params, x, name) for name in model.observation_shapes}
    for site, arguments in given.items():
        for argument, value in arguments.items():
            value = np.asarray(value)
            if np.isnan(value).any():
                return f"{argument} of {site} has an entry that is no number"
            if argument == "covariance_matrix":
                least = np.linalg.eigvalsh(value).min()
                if not least > 0:
                    return (
                        f"the covariance matrix of {site} is not positive definite (smallest eigenvalue {least:.4g}); "
                        "build it from a Wishart or LKJ prior, or as root @ root.T"
                    )
            elif argument in POSITIVE and not (value >= 0).all():
                return f"{argument} of {site} is {value[~(value >= 0)][0]:.4g}; it should be positive"
    return None


@functools.cache
def _first_finite(model):
    """(draws, x) -> log prior density of every site at every draw; log p(x_n | params) at the first draw where it is
    finite, else at the last one."""

    def program(draws, x):
        at = lambda i: {name: leaf[i] for name, leaf in draws.items()}
        num = NUM_DRAWS if draws else 1
        scores = jax.lax.map(lambda p: {k: s.score for k, s in model.prior_sites(p).items()}, draws) if draws else {}

        def more(state):
            i, pointwise = state
            return (i < num) & ~jnp.isfinite(pointwise).all()

        def look(state):
            i, pointwise = state
            return i + 1, jnp.where(jnp.isfinite(pointwise), pointwise, model.pointwise_log_likelihood(at(i), x))

        unknown = jnp.full(len(jax.tree.leaves(x)[0]), jnp.nan)
        return scores, jax.lax.while_loop(more, look, (jnp.int32(0), unknown))[1]

    return jax.jit(program)


def _row(x, n):
    return f"row {n} (x = {jax.tree.map(lambda leaf: np.asarray(leaf)[n], x)})"


def starts(model, key, x, num_chains):
    """Where chains begin, leaves (C, ...): each picks one of its own NUM_CANDIDATES prior draws, with probability
    proportional to the likelihood.

    Starts differ between chains and are closer to the data than a single prior draw, which for well separated
    components fits nothing. Raises ValueError where not one has a finite density.
    """
    if not model.param_shapes:
        return {}
    chosen = []
    for chain, chain_key in enumerate(jax.random.split(key, num_chains)):
        key_prior, key_pick = jax.random.split(chain_key)
        candidates = model.prior_draws(key_prior, NUM_CANDIDATES)
        pick, log_prior, pointwise = _pick(model)(key_pick, candidates, jax.tree.map(jnp.asarray, x))
        chosen.append(jax.tree.map(lambda leaf: leaf[pick], candidates))  # noqa: B023
        _check_start(chain, chosen[-1], float(log_prior), np.asarray(pointwise), x)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *chosen)


@functools.cache
def _pick(model):
    def pick(key, candidates, x):
        pointwise = jax.vmap(lambda params: model.pointwise_log_likelihood(params, x))(candidates)
        log_prior = jax.vmap(model.log_prior)(candidates)
        log_likelihood = jnp.nan_to_num(pointwise.sum(axis=1), nan=-jnp.inf)
        chosen = jax.random.categorical(key, jnp.where(jnp.isfinite(log_prior), log_likelihood, -jnp.inf))
        return chosen, log_prior[chosen], pointwise[chosen]

    return jax.jit(pick)


def _check_start(chain, params, log_prior, pointwise, x):
    """ValueError where the best that a chain found has no finite density: which parameters, which observation."""
    bad = np.flatnonzero(~np.isfinite(pointwise))
    if np.isfinite(log_prior) and not len(bad):
        return
    where = {name: np.asarray(leaf).round(4).tolist() for name, leaf in params.items()}
    if not len(bad):
        raise ValueError(f"chain {chain} has no start: the prior gives its own draw {where} log density {log_prior}")
    raise ValueError(
        f"chain {chain} has no start: none of {NUM_CANDIDATES} prior draws gives itself and all data a finite density; "
        f"the best, {where}, gives {_row(x, bad[0])} log density {pointwise[bad[0]]}; check the units of x, or the "
        "prior"
    )
