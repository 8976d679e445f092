"""Scan Gibbs and importance sampling for functions whose rows depend on each other (`zoo.dependent.Dependent`).

Both ask for the joint density alone, so any dependence is served: one scan costs N K joint densities of N sites each.
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


def gibbs(model, x, key, *, num_chains=4, num_warmup=500, num_draws=1000, thin=1, progress=None) -> Draws:
    """Draws from p(params, assignments | x) by systematic-scan Gibbs sampling; one is kept every `thin` sweeps.

    A sweep draws z_1, ..., z_N in turn from their K joint densities given all else (Geman & Geman 1984, IEEE PAMI 6),
    then every coordinate of the parameters by univariate slice sampling in unconstrained space (Neal 2003).
    `stats["log_joint"]` is log p(params, assignments, x). There is no label permutation move: whether relabelling
    leaves such a function as it is, is not known, so chains may stay in one labelling, which their R-hat shows.
    """
    key_start, key_run = jax.random.split(key)
    starts = _starts(model)(jax.random.split(key_start, num_chains), jnp.asarray(x))
    if not np.isfinite(starts.pop("log_weight")).all():
        raise ValueError(
            f"no start: none of {NUM_CANDIDATES} prior draws gives all data a finite density; check the units of x, or "
            f"the prior of {model.name}"
        )
    how = dict(num_chains=num_chains, num_warmup=num_warmup, num_draws=num_draws, progress=progress)
    return loop.sample(model, _sampler(model, thin), key_run, x, starts=starts["params"], **how)


def importance(model, x, key, *, num_particles=100_000, num_resampled=0, progress=None) -> Draws:
    """Weighted draws of parameters and assignments, proposed in the function's order with every x_n at its value.

    log weights sum_n log p(x_n | what comes before it); log evidence and its standard error, and what the weights are
    worth, as of `inference.importance`.
    """
    return sampling._run(model, _proposed(model), x, key, num_particles, num_resampled, None, progress)


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
        params, _, log_weight = jax.lax.map(draw, jax.random.split(key_draw, NUM_CANDIDATES))
        chosen = jax.random.categorical(key_pick, jnp.nan_to_num(log_weight, nan=-jnp.inf))
        return {"params": jax.tree.map(lambda leaf: leaf[chosen], params), "log_weight": log_weight[chosen]}

    return jax.jit(jax.vmap(one, in_axes=(0, None)))


@functools.cache
def _sampler(model, thin) -> loop.Sampler:
    K = model.num_components
    of = space.space_of(model.prior) if model.param_shapes else None

    def init(key, params, x):
        return State(params, model.propose(key, x, params)[1])

    def step(key, i, state, x):
        state, outs = jax.lax.scan(lambda state, key: sweep(key, state, x), state, jax.random.split(key, thin))
        last = {"log_joint": outs["log_joint"][-1], "num_evaluations": outs["num_evaluations"].sum()}
        return state, {"params": state.params, "assignments": state.assignments, **last}

    def sweep(key, state, x):
        key_assign, key_slice = jax.random.split(key)
        params, z = state

        def redraw(n, z):
            tries = jax.vmap(lambda k: model.log_joint(params, z.at[n].set(k), x))(jnp.arange(K, dtype=z.dtype))
            tries = jnp.where(jnp.isnan(tries), -jnp.inf, tries)
            return z.at[n].set(jax.random.categorical(jax.random.fold_in(key_assign, n), tries).astype(z.dtype))

        z = jax.lax.fori_loop(0, len(z), redraw, z)
        used = jnp.int32(K * len(z) + 1)
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
