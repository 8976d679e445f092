"""Predictions for new observations, averaged over a posterior (`saved.Posterior`), each with its Monte Carlo error.

C chains, S draws, N new observations, K components, D features. `seen` marks the entries of x that are observed, with
the structure of the observed arrays (`missing`); None where all are. Errors are standard errors of the draws alone.
Given y, the data, and x_n, a new observation, p(x_n | y) = E p(x_n | params), and whatever else is asked about x_n is a
ratio of two such averages: P(z_n = k | x_n, y) = E p(z_n = k, x_n | params) / E p(x_n | params), E over the draws.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from diagnostics import missing
from diagnostics.functionals import in_blocks
from diagnostics.saved import Posterior
from diagnostics.summaries import FEW
from zoo import introspect, support

CELLS = 2**23  # numbers that are held at once, 64 MiB
NUM_REPLICATES = 4000  # observations from the posterior predictive, for tail probabilities
NUM_SCORED = 4000  # draws that these are scored by
NUM_GRID = 200
TIE = 1e-9  # relative; equal observations may have densities that differ by rounding


class Average(NamedTuple):
    """An average over draws for each of N observations."""

    value: np.ndarray  # (N, ...)
    error: np.ndarray  # standard error; NaN where fewer than four draws of a chain, or one run, give none
    few: np.ndarray  # (N,) bool: fewer than 20 draws make up the error, so it is not to be trusted


class Conditional(NamedTuple):
    """Missing entries given observed ones, for the rows (n,) that have any."""

    rows: np.ndarray  # (n,) their indices
    mean: np.ndarray  # (n, D); observed entries have themselves; NaN without a closed mean
    covariance: np.ndarray  # (n, D, D), 0 for observed entries
    error: np.ndarray  # (n, D) of the mean


# -- densities ------------------------------------------------------------------------------------------------------


def log_predictive(posterior: Posterior, x, seen=None) -> Average:
    """log p(x_n | data) = log E p(x_n | params) with its error (delta method), each (N,)."""
    found = []
    for table in tables(posterior, x, seen):
        log_p = logsumexp(table, axis=-1)
        top = log_p.max(axis=(0, 1))
        p = np.exp(log_p - np.where(np.isfinite(top), top, 0.0))
        found += [_log_of(t, posterior.estimate(p[..., n])) for n, t in enumerate(top)]
    return average(found)


def grid(posterior: Posterior, low=None, high=None, num: int = NUM_GRID) -> tuple[np.ndarray, Average]:
    """Points (N,) and log p(. | data) there, for models of one number without covariates.

    By default from a quarter of the data's range below them to a quarter above; counts take whole numbers; points that
    no component can produce are left out. ValueError with one sentence for a model of something else.
    """
    model = posterior.model
    if isinstance(posterior.x, dict) or np.ndim(posterior.x) != 1:
        raise ValueError(f"a grid is for models of one number without covariates, and {model.name} is not one")
    data = np.asarray(posterior.x)
    margin = np.ptp(data) / 4 or 1.0
    low, high = (data.min() - margin if low is None else low), (data.max() + margin if high is None else high)
    points = np.linspace(low, high, num)
    if support.outside(model, np.array([0.5])).size and not support.outside(model, np.array([0.0, 1.0])).size:
        points = np.arange(np.ceil(low), np.floor(high) + 1)  # counts
    points = np.delete(points, support.outside(model, points))
    if not len(points):
        raise ValueError(f"no point from {low:g} to {high:g} is in the support of {model.name}")
    return points, log_predictive(posterior, points)


def tail(posterior: Posterior, x, seen=None, seed: int = 0, density: Average | None = None) -> Average:
    """P(log p(X | data) <= log p(x_n | data)), X from the posterior predictive: small for an anomaly. (N,)

    X comes from the model itself, at the covariates of x_n where it has some, without the entries that x_n lacks. The
    error has two parts: of the share of the X, at least one over their number, which is what a probability never seen
    has; and of the density that scores them, which near a mode moves many X at once: half the difference of the shares
    at log p(x_n) plus and minus its own error. `density`: `log_predictive`, where it is known.
    """
    scored = posterior if posterior.share.size <= NUM_SCORED else spread(posterior, NUM_SCORED)
    density = log_predictive(posterior, x, seen) if density is None else density
    off = density.error
    if scored is not posterior:  # a draw for every so many
        off = np.hypot(off, log_predictive(scored, x, seen).error)
    covariates = isinstance(x, dict) and "covariates" in x
    N = num_rows(x)
    most = int(np.clip(2_000_000 // N, 500, NUM_REPLICATES)) if covariates else NUM_REPLICATES
    reps = thinned(posterior, most)
    each = N if covariates else -(-most // int(np.prod(reps.shape)))
    new = simulate(reps, each, seed, x)[1]
    if covariates:
        rows = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (*reps.shape, *np.shape(leaf))), x["covariates"])
        new = {**(new if isinstance(new, dict) else {"x": new}), "covariates": rows}
    new = jax.tree.map(lambda leaf: np.reshape(leaf, (-1, *np.shape(leaf)[3:])).astype(float), new)
    own = _score(scored, x, seen)
    found: list = [None] * N
    for pattern, rows in _patterns(seen, N):
        many = None
        if pattern is not None:
            many = {name: np.broadcast_to(leaf, (num_rows(new), *np.shape(leaf))) for name, leaf in pattern.items()}
        scores = _score(scored, new, many).reshape(*reps.shape, each)
        for n in rows:
            below = scores[..., n : n + 1] if covariates else scores
            at = lambda shift, n=n, below=below: (below <= own[n] + shift + TIE * (1 + abs(own[n]))).mean(axis=-1)
            share, error, carriers = reps.estimate(at(0.0))
            moved = float((reps.share * (at(off[n]) - at(-off[n]))).sum()) / 2 if off[n] > 0 else off[n]
            found[n] = min(share, 1.0), np.hypot(max(error, 1 / below.size), moved), carriers
    return average(found)


# -- new observations and missing entries ---------------------------------------------------------------------------


def simulate(posterior: Posterior, num: int, seed: int = 0, x=None) -> tuple[np.ndarray, Any]:
    """`num` new observations from every draw: assignments (C, S, num) and x, leaves (C, S, num, ...).

    For a model with covariates they are those of `x`, whose length is `num`. Labels are each draw's own.
    """
    like = x if isinstance(x, dict) and "covariates" in x else np.zeros(num)
    drawn = in_blocks(
        _simulate_program(posterior.model, num),
        posterior.params,
        posterior.shape,
        posterior.model,
        like,
        jnp.asarray(seed),
    )
    assignments = drawn.pop("z").astype(np.int32)
    return assignments, drawn["x"] if set(drawn) == {"x"} else drawn


def replicates(posterior: Posterior, num: int, seed: int = 0, x=None, labels=None) -> tuple[Any, Any]:
    """`num` draws from the posterior predictive: assignments (num,) and x, leaves (num, ...).

    Each comes from a draw of its own, spread evenly over the posterior; for a model with covariates, at each of the N
    rows of `x`: (num, N) and (num, N, ...). `labels`: those of `classification.Labelling`; None: no assignments.
    """
    draws = spread(posterior, num)
    if num > draws.share.size:
        raise ValueError(f"{num} replicates are more than the {draws.share.size} draws of the run; ask for fewer")
    covariates = isinstance(x, dict) and "covariates" in x
    assignments, new = simulate(draws, num_rows(x) if covariates else 1, seed, x)
    first = lambda leaf: leaf[0] if covariates else leaf[0, :, 0]
    if labels is not None:
        assignments = np.take_along_axis(np.asarray(labels(draws)), assignments, axis=2)
    return None if labels is None else first(assignments), jax.tree.map(first, new)


def conditional(posterior: Posterior, x, seen) -> Conditional:
    """Mean and covariance of the missing entries of x_n given the observed ones and the data.

    Over draws, weighted by p(observed part of x_n | params) as Bayes' rule has it: means by their average, covariances
    by total variance.
    """
    model = posterior.model
    lacks = ~np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in seen.values()], axis=1)
    rows = np.flatnonzero(lacks.any(axis=1))
    D = lacks.shape[1]
    size = max(int(CELLS // (int(np.prod(posterior.shape)) * D * D)), 1)
    means, covariances, errors = [], [], []
    for start in range(0, len(rows), size):
        chosen = rows[np.minimum(np.arange(start, start + min(size, len(rows))), len(rows) - 1)]
        some = take(x, chosen)
        log_p, mean, covariance = in_blocks(
            _moments_program(model), posterior.params, posterior.shape, model, some, take(seen, chosen), cost=D * D
        )
        for n in range(min(size, len(rows) - start)):
            p = np.exp(log_p[..., n] - log_p[..., n].max())
            w = posterior.share * p
            w /= w.sum()
            centre = np.tensordot(w, mean[:, :, n], axes=2)
            apart = mean[:, :, n] - centre
            within = np.tensordot(w, covariance[:, :, n], axes=2)
            own = lacks[rows[start + n]]
            means.append(centre)
            covariances.append((within + np.einsum("cs,csd,cse->de", w, apart, apart)) * np.outer(own, own))
            errors.append([ratio(posterior, p * mean[:, :, n, d], p)[1] if own[d] else 0.0 for d in range(D)])
    return Conditional(
        rows, np.reshape(means, (-1, D)), np.reshape(covariances, (-1, D, D)), np.reshape(errors, (-1, D))
    )


# -- draws ----------------------------------------------------------------------------------------------------------


def spread(posterior: Posterior, num: int) -> Posterior:
    """At most `num` equally weighted draws, (1, num): systematic resampling, which thins equal draws evenly."""
    size = posterior.share.size
    if posterior.kind in ("chains", "independent"):
        num = min(num, size)
    mass = np.cumsum(posterior.share.ravel())
    index = np.minimum(np.searchsorted(mass / mass[-1], (np.arange(num) + 0.5) / num), size - 1)
    params = {k: np.reshape(v, (size, *np.shape(v)[2:]))[index][None] for k, v in posterior.params.items()}
    error = num * float(np.square(posterior.share).sum()) if posterior.kind in ("weighted", "runs") else 0.0
    return posterior._replace(params=params, share=np.full((1, num), 1 / num), kind="independent", error=error)


def thinned(posterior: Posterior, num: int) -> Posterior:
    """About `num` draws whose averages keep an honest error: every so many of each chain or run, else resampled."""
    if posterior.kind in ("nodes", "point") or (posterior.kind == "weighted" and posterior.share.size > num):
        return spread(posterior, num)
    step = max(posterior.share.size // num, 1)
    share = posterior.share[:, ::step]
    return posterior._replace(
        params={k: np.asarray(v)[:, ::step] for k, v in posterior.params.items()}, share=share / share.sum()
    )


def tables(posterior, x, seen=None):
    """log p(z_n = k, observed part of x_n | params), (C, S, n, K), chunk after chunk of the rows of x."""
    model, N = posterior.model, num_rows(x)
    size = int(np.clip(CELLS // (posterior.share.size * model.num_components), 1, N))
    program = _table_program(model)
    for start in range(0, N, size):
        chosen = np.minimum(np.arange(start, start + size), N - 1)  # one shape: the last chunk is filled up
        some = None if seen is None else take(seen, chosen)
        table = in_blocks(program, posterior.params, _shape(posterior), model, take(x, chosen), some)
        table = np.broadcast_to(table, (*posterior.shape, *table.shape[2:]))
        if np.isnan(table).any():
            raise ValueError(
                f"{model.name} has a density that is not a number at row {start} of the new data or after it"
            )
        yield table[:, :, : N - start]


def _score(posterior, x, seen=None) -> np.ndarray:
    """log of the average density over the draws, (N,)."""
    model, N = posterior.model, num_rows(x)
    size = int(np.clip(CELLS // posterior.share.size, 1, N))
    found = []
    for start in range(0, N, size):
        chosen = np.minimum(np.arange(start, start + size), N - 1)
        some = None if seen is None else take(seen, chosen)
        log_p = in_blocks(_score_program(model), posterior.params, _shape(posterior), model, take(x, chosen), some)
        share = posterior.share if posterior.params else np.ones((1, 1))
        if np.isnan(log_p).any():
            raise ValueError(f"{model.name} has a density that is not a number at an observation drawn from it")
        found.append(logsumexp(log_p, axis=(0, 1), b=share[..., None])[: N - start])
    return np.concatenate(found)


def _shape(posterior):
    """Of the draws that differ: one where nothing is unknown."""
    return posterior.shape if posterior.params else (1, 1)


def _log_of(top, found):
    mean, error, carriers = found
    if not mean > 0:
        return -np.inf, 0.0, np.inf
    return top + np.log(mean), error / mean, carriers


def ratio(posterior, numerator, denominator):
    """E numerator / E denominator over the draws, each (C, S); its error by the delta method, and carriers."""
    below = float((posterior.share * denominator).sum())
    if not below > 0:
        return np.nan, np.nan, 0.0
    ratio = float((posterior.share * numerator).sum()) / below
    return ratio, *posterior.estimate((numerator - ratio * denominator) / below)[1:]


def average(found) -> Average:
    """From (value, error, carriers), one for each row or rows of them."""
    array = np.asarray(found, float)
    carriers = array[..., 2] if array.ndim == 2 else array[..., 2].min(axis=tuple(range(1, array.ndim - 1)))
    return Average(array[..., 0], array[..., 1], carriers < FEW)


def _patterns(seen, num_rows):
    """Each pattern of what is observed, and the rows that have it; (None, all rows) where all is."""
    if seen is None:
        return [(None, np.arange(num_rows))]
    flat = np.concatenate([np.reshape(leaf, (num_rows, -1)) for leaf in seen.values()], axis=1)
    different, which = np.unique(flat, axis=0, return_inverse=True)
    groups = [np.flatnonzero(np.ravel(which) == i) for i in range(len(different))]
    return [({name: leaf[rows[0]] for name, leaf in seen.items()}, rows) for rows in groups]


def num_rows(x) -> int:
    return len(jax.tree.leaves(x)[0])


def take(tree, rows):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)


# -- programs -------------------------------------------------------------------------------------------------------


def _table(model, params, x, seen):
    return model.log_table(params, x) if seen is None else missing.log_table(model, params, x, seen)


@functools.cache
def _table_program(model):
    return jax.jit(jax.vmap(lambda _, params, x, seen: _table(model, params, x, seen), in_axes=(0, 0, None, None)))


@functools.cache
def _score_program(model):
    one = lambda _, params, x, seen: jax.scipy.special.logsumexp(_table(model, params, x, seen), axis=1)
    return jax.jit(jax.vmap(one, in_axes=(0, 0, None, None)))


@functools.cache
def _moments_program(model):
    one = lambda _, params, x, seen: missing.moments(model, params, x, seen)
    return jax.jit(jax.vmap(one, in_axes=(0, 0, None, None)))


@functools.cache
def _simulate_program(model, num):
    def one(index, params, x, seed):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), index), num)
        returned = model.prior_return(params)
        if isinstance(x, dict):
            draw = lambda key, row: introspect.sample(model.observation, (returned, row), key)[0]
            return jax.vmap(draw)(keys, x["covariates"])
        return jax.vmap(lambda key: introspect.sample(model.observation, (returned,), key)[0])(keys)

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None, None)))
