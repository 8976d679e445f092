"""NUTS on the NumPyro twin, assignments summed out; they come back as exact draws from the table."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.hmc import hmc
from numpyro.infer.util import log_density

from inference import Refused, em, labels, loop, space
from inference.results import Cost, Draws
from zoo.mixture import num_observations

RESTARTS = 4  # of EM per chain, when chains start from them


class State(NamedTuple):
    """NumPyro's state in the un-permuted frame, and the labelling: params = permute(constrain(z), permutation)."""

    kernel: Any
    permutation: Any  # (K,) int32; the identity under an exchangeable model, whose kernel never sees another


def refuses(model, x) -> str | None:
    """The sentence why NUTS cannot serve the model, or None."""
    if not model.param_shapes:
        return "no unknown parameter"
    if space.discrete(model):
        return f"{', '.join(space.discrete(model))} is discrete, and NUTS follows gradients"
    return model.lacks_twin


def nuts(
    model,
    x,
    key,
    *,
    num_chains=4,
    num_warmup=500,
    num_draws=1000,
    permute=True,
    dense_mass=True,
    target_accept=0.8,
    max_tree_depth=10,
    ordered=False,
    starts: Literal["prior", "em"] = "prior",
    progress=None,
    resume=None,
) -> Draws:
    """Draws from p(params | x) by the No-U-Turn sampler (Hoffman & Gelman 2014), then assignments from the table.

    Step size and mass matrix adapt during warmup, in a frame where labels stay put. Labels: an exchangeable model's
    stored draws are each permuted uniformly, which is exact; otherwise the labelling is a state of its own, redrawn
    from its full conditional after every transition, with potential and gradient computed afresh. `permute=False`
    switches this off.

    `ordered=True` numbers the components of every stored draw so that `order_by` ascends (`labels.order_by`). The
    kernel is the same: the result is the model folded onto one of its K! equal regions, the prior there K! times as
    dense, its evidence that of the model; `stats["lp"]` stays the density before folding. For exchangeable models.

    `starts="prior"`: chains start from prior draws (`space.starts`). `starts="em"`: from admissible EM
    restarts in random order, one of each optimum before any comes twice, so never all from the best where there are
    others; chains for which no restart is left start from prior draws, and the warnings say so.

    `stats` have the step size, tree depth, divergences and energy of every draw. What warmup arrived at is in `state`,
    one per chain: kernel.adapt_state.step_size (C,) and inverse_mass_matrix (C, D, D), or (C, D) with
    `dense_mass=False`, over the unconstrained parameters by name. Raises Refused for a model that cannot be
    ordered, or that EM cannot serve where chains start from it.
    """
    _check(model, x, ordered, starts)
    sampler = build(model, num_warmup, permute, dense_mass, target_accept, max_tree_depth, ordered=ordered)
    how = dict(num_chains=num_chains, num_warmup=num_warmup, num_draws=num_draws, progress=progress, resume=resume)
    began = None
    if starts == "em" and resume is None:
        began = em_starts(model, jax.random.split(key)[0], x, num_chains)
        how["starts"] = began.params
    draws = loop.sample(model, sampler, key, x, **how)
    if began is not None:
        draws = draws._replace(cost=draws.cost + began.cost, warnings=draws.warnings + began.warnings)
    divergent = int(draws.stats["diverging"].sum())
    size = draws.stats["diverging"].size
    warnings: tuple[str, ...] = (f"{divergent} of {size} draws diverged",) if divergent else ()
    full = int((draws.stats["n_steps"] >= 2**max_tree_depth - 1).sum())
    if full:
        warnings += (f"{full} of {size} draws used the whole tree of depth {max_tree_depth}: raise max_tree_depth",)
    return draws._replace(warnings=draws.warnings + warnings)


def _check(model, x, ordered, starts):
    if ordered and labels.why_not_ordered(model):
        raise Refused(f"nuts: ordered=True is not for {model.name}: {labels.why_not_ordered(model)}")
    if starts == "em" and em.refuses(model, x):
        raise Refused(f"nuts: starts='em' is not for {model.name}: {em.refuses(model, x)}")


class Starts(NamedTuple):
    """Where chains begin, and what finding that took."""

    params: Any  # leaves (C, ...)
    cost: Cost
    warnings: tuple[str, ...]


def em_starts(model, key, x, num_chains) -> Starts:
    """Different admissible EM restarts in random order, one of each optimum first; else prior draws. Shares that EM
    leaves on the border begin some `space.AWAY` inside."""
    key_em, key_pick, key_prior = jax.random.split(key, 3)
    found = em.complete(model, x, key_em, RESTARTS * num_chains)
    good = np.asarray(jax.random.permutation(key_pick, np.flatnonzero(found.admissible)))
    optimum = np.round(np.asarray(found.log_density)[good], 3)
    repeats = np.array([np.sum(optimum[:i] == optimum[i]) for i in range(len(good))], int)
    picked = good[np.argsort(repeats, kind="stable")][:num_chains]
    of = space.space_of(model)
    chosen = {name: jnp.asarray(leaf)[picked] for name, leaf in found.params.items()}
    params = jax.vmap(lambda p: of.constrain(of.inside(p, space.AWAY)))(chosen)
    missing = num_chains - len(picked)
    if missing == 0:
        return Starts(params, found.cost, ())
    rest = space.starts(model, key_prior, x, missing)
    joined = {name: jnp.concatenate([leaf, rest[name]]) for name, leaf in params.items()}
    said = f"only {len(picked)} of {RESTARTS * num_chains} EM restarts are admissible: the other chains start elsewhere"
    return Starts(joined, found.cost, (said,))


def refresh(kernel, potential, x, s):
    """NumPyro's state with potential and gradient of the labelling s: those it holds are of the one before."""
    value, gradient = jax.value_and_grad(potential)(kernel.z, x, s)
    return kernel._replace(potential_energy=value, z_grad=gradient)


@functools.cache
def build(
    model, num_warmup, permute=True, dense_mass=True, target_accept=0.8, max_tree_depth=10, step_size=1.0, ordered=False
) -> loop.Sampler:
    """The sampler; with `num_warmup=0` nothing adapts, and `step_size` and an identity mass matrix stay."""
    of = space.space_of(model)
    moves = labels.moves(model, permute)
    relabels = moves and not model.exchangeable
    identity = jnp.arange(model.num_components, dtype=jnp.int32)

    def twin_density(params, x):
        return log_density(model.numpyro_model, (x,), {}, params)[0]

    def labelled(u, s):
        return model.permute(of.constrain(u), s) if relabels else of.constrain(u)

    def potential(u, x, s):
        return -(twin_density(labelled(u, s), x) + of.log_det(u))

    init_kernel, sample_kernel = hmc(potential_fn_gen=lambda x, s: functools.partial(potential, x=x, s=s), algo="NUTS")

    def start(key, u, x):
        return init_kernel(
            u,
            num_warmup,
            step_size=step_size,
            dense_mass=dense_mass,
            target_accept_prob=target_accept,
            max_tree_depth=max_tree_depth,
            trajectory_length=None,
            model_args=(x, identity),
            rng_key=key,
        )

    # NumPyro's sample_kernel reads settings that init_kernel leaves behind: leave them before any step is traced
    some_x = jax.eval_shape(lambda k: model.simulate(k, 2)[2], jax.random.key(0))
    jax.eval_shape(start, jax.random.key(0), jnp.zeros(of.size), some_x)

    def init(key, params, x):
        return State(start(key, of.unconstrain(params), x), identity)

    def step(key, i, state, x):
        key_kernel, key_labels, key_assign = jax.random.split(key, 3)
        kernel, s = state
        kernel = sample_kernel(kernel._replace(rng_key=key_kernel), (x, s), {})
        if relabels:
            s = labels.redraw(model, key_labels, s, lambda s: twin_density(labelled(kernel.z, s), x))
            kernel = refresh(kernel, potential, x, s)
            params = labelled(kernel.z, s)
        elif moves:
            params = model.permute(of.constrain(kernel.z), labels.redraw(model, key_labels, s, None))
        else:
            params = of.constrain(kernel.z)
        if ordered:
            params = model.permute(params, labels.ascending(model, params))

        def drawn():
            return labels.draw_assignments(key_assign, model.log_table(params, x))

        keep = i >= num_warmup  # the same for all chains: draws of warmup are dropped, and go without assignments
        z = jax.lax.cond(keep, drawn, lambda: jnp.zeros(num_observations(x), jnp.int32))
        out = {
            "params": params,
            "assignments": z,
            "lp": -kernel.potential_energy - of.log_det(kernel.z),  # the twin's density
            "acceptance_rate": kernel.accept_prob,
            "diverging": kernel.diverging,
            "energy": kernel.energy,
            "n_steps": kernel.num_steps,
            "tree_depth": jnp.log2(kernel.num_steps).astype(jnp.int32) + 1,
            "step_size": kernel.adapt_state.step_size,
            "num_evaluations": keep + jnp.int32(labels.num_evaluations(model.num_components) if relabels else 0),
            "num_gradients": kernel.num_steps + (1 if relabels else 0),
        }
        return State(kernel, s), out

    return loop.Sampler(init, step)
