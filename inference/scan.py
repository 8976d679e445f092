"""Scan Gibbs and importance sampling for functions whose rows depend on each other (`zoo.dependent.Dependent`).

Both ask for the joint density alone: one scan costs N K joint densities of N sites each. Gibbs moves one assignment at
a time, so where some paths of assignments are impossible it may not reach all others, which a warning says.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from inference import importance as sampling
from inference import loop, space
from inference.gibbs import State
from inference.results import Backend, Draws
from inference.slice import slice_coordinates

NUM_CANDIDATES = 256  # proposals among which a chain picks its start
NUM_SETTLING = 20  # scans of the assignments alone from there, which leave impossible sites for possible ones
IMPOSSIBLE = -1e6  # log density of an impossible site while settling
NUM_LOOKS = 16  # forward draws whose neighbours are looked at


def gibbs(model, x, key, *, num_chains=4, num_warmup=500, num_draws=1000, thin=1, progress=None) -> Draws:
    """Draws from p(params, assignments | x) by systematic-scan Gibbs sampling; one is kept every `thin` sweeps.

    A sweep draws z_1, ..., z_N in turn from their K joint densities given all else (Geman & Geman 1984, IEEE PAMI 6),
    then every coordinate of the parameters by univariate slice sampling in unconstrained space (Neal 2003).
    `stats["log_joint"]` is log p(params, assignments, x). There is no label permutation move: whether relabelling
    leaves such a function as it is, is not known, so chains may stay in one labelling, which their R-hat shows.
    """
    key_start, key_run, key_look = jax.random.split(key, 3)
    starts = _starts(model)(jax.random.split(key_start, num_chains), jnp.asarray(x))
    if not np.isfinite(starts.pop("log_joint")).all():
        raise ValueError(
            f"no start: from the best of {NUM_CANDIDATES} prior draws, moving one assignment at a time, no assignments "
            f"were found at which {model.name} gives x a finite density; check the units of x, or ask importance"
        )
    how = dict(num_chains=num_chains, num_warmup=num_warmup, num_draws=num_draws, progress=progress)
    draws = loop.sample(model, _sampler(model, thin), key_run, x, starts=starts, **how)
    said: tuple[str, ...] = ()
    if bool(_has_impossible_neighbours(model)(jax.random.split(key_look, NUM_LOOKS))):
        said = (
            "some paths of assignments are impossible, and these draws move one assignment at a time: they may not "
            "reach every path, whatever R-hat says; hold them against importance",
        )
    return draws._replace(starts=draws.starts["params"], warnings=(*said, *draws.warnings))


def importance(model, x, key, *, num_particles=100_000, num_resampled=0, progress=None) -> Draws:
    """Weighted draws of parameters and assignments, proposed in the function's order with every x_n at its value.

    log weights sum_n log p(x_n | what comes before it); log evidence and its standard error, and what the weights are
    worth, as of `inference.importance`.
    """
    return sampling.weighted_draws(model, _proposed(model), x, key, num_particles, num_resampled, None, progress)


def _refuses_gibbs(model, x) -> str | None:
    whole = space.discrete(model)
    if whole:
        return f"{', '.join(whole)} is discrete, and a slice step is for real numbers"
    return f"a slice step needs the supports of the parameters: {model.prior.lacks_twin}" if _lacks(model) else None


def _lacks(model) -> bool:
    return bool(model.param_shapes) and model.prior.lacks_twin is not None


BACKENDS = {
    "gibbs": Backend(run=gibbs, refuses=_refuses_gibbs, kind="mcmc"),
    "importance": Backend(run=importance, refuses=lambda model, x: None, kind="weighted"),
}


@functools.cache
def _starts(model):
    def one(key, x):
        key_draw, key_pick = jax.random.split(key)
        draw = lambda key: model.propose(key, x)
        params, assignments, log_weight = jax.lax.map(draw, jax.random.split(key_draw, NUM_CANDIDATES))
        chosen = jax.random.categorical(key_pick, jnp.where(jnp.isfinite(log_weight), log_weight, -1e30))
        params = jax.tree.map(lambda leaf: leaf[chosen], params)
        settle = lambda z, key: (scan(model, key, params, z, x, IMPOSSIBLE), None)
        z, _ = jax.lax.scan(settle, assignments[chosen], jax.random.split(key_pick, NUM_SETTLING))
        return {"params": params, "assignments": z, "log_joint": model.log_joint(params, z, x)}

    return jax.jit(jax.vmap(one, in_axes=(0, None)))


def scan(model, key, params, z, x, floor=None):
    """z_1, ..., z_N in turn, each from its K joint densities given all else; stays where none is possible."""

    def redraw(n, z):
        joint = lambda k: model.log_joint(params, z.at[n].set(k), x, floor)
        tries = jax.vmap(joint)(jnp.arange(model.num_components, dtype=z.dtype))
        tries = jnp.where(jnp.isnan(tries), -jnp.inf, tries)
        drawn = jax.random.categorical(jax.random.fold_in(key, n), tries).astype(z.dtype)
        return z.at[n].set(jnp.where(jnp.isfinite(tries).any(), drawn, z[n]))

    return jax.lax.fori_loop(0, len(z), redraw, z)


@functools.cache
def _has_impossible_neighbours(model):
    """Of forward draws: whether another value of one assignment makes the assignments impossible, whatever x."""
    K = model.num_components

    def one(key):
        params, z, x = model.simulate(key)
        at = lambda n, k: model.parts.scores(params, z.at[n].set(k), x)[1].sum()
        n, k = jnp.divmod(jnp.arange(len(z) * K, dtype=z.dtype), K)
        return ~jnp.isfinite(jax.lax.map(lambda pair: at(*pair), (n, k))).all()

    return jax.jit(lambda keys: jax.lax.map(one, keys).any())


@functools.cache
def _sampler(model, thin) -> loop.Sampler:
    of = space.space_of(model.prior) if model.param_shapes else None

    def init(key, start, x):
        return State(start["params"], start["assignments"])

    def step(key, i, state, x):
        state, outs = jax.lax.scan(lambda state, key: sweep(key, state, x), state, jax.random.split(key, thin))
        last = {"log_joint": outs["log_joint"][-1], "num_evaluations": outs["num_evaluations"].sum()}
        return state, {"params": state.params, "assignments": state.assignments, **last}

    def sweep(key, state, x):
        key_assign, key_slice = jax.random.split(key)
        params, z = state
        z = scan(model, key_assign, params, z, x)
        used = jnp.int32(model.num_components * len(z) + 1)
        if of is not None:
            log_target = lambda u: model.log_joint(of.constrain(u), z, x) + of.log_det(u)
            u, more = slice_coordinates(key_slice, log_target, of.unconstrain(params), np.arange(of.size))
            params, used = of.constrain(u), used + more
        return State(params, z), {"log_joint": model.log_joint(params, z, x), "num_evaluations": used}

    return loop.Sampler(init, step)


@functools.cache
def _proposed(model):
    def particle(key, x):
        params, assignments, log_weight = model.propose(key, x)
        return {"params": params, "assignments": assignments, "log_weights": log_weight}

    return sampling.program_of(lambda keys, rows, x: jax.lax.map(lambda key: particle(key, x), keys))
