"""Gibbs sampling of parameters and assignments: exact conditionals where the declaration has them, else slices."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from inference import conjugacy, labels, loop, space
from inference.conditionals import draw
from inference.results import Draws
from inference.slice import slice_coordinates

# a conjugate draw whose log ratio is further from 0, relative to 1 + |log joint|, is no exact draw; by precision
TOLERANCE = {"float64": 1e-6, "float32": 1e-3}


class State(NamedTuple):
    """What the next sweep needs, in the declared labels."""

    params: Any
    assignments: Any  # (N,) int32


def refuses(model, x) -> str | None:
    """None: every mixture of the declared form has a table; unknown parameters also need a conditional or a twin."""
    whole = [name for name in _others(model) if name in space.discrete(model)]
    if whole:
        return f"{', '.join(whole)} is discrete, and of these only a Categorical of one value is drawn exactly"
    if _others(model) and model.lacks_twin:
        return f"{', '.join(_others(model))} is not conjugate, and a slice step needs the support: {model.lacks_twin}"
    return None


def _others(model):
    drawn = {rule.site for rule in conjugacy.rules(model) if rule.conditional is not None}
    return tuple(name for name in model.param_shapes if name not in drawn)


def gibbs(
    model, x, key, *, num_chains=4, num_warmup=500, num_draws=1000, thin=5, permute=True, progress=None, resume=None
) -> Draws:
    """Draws from p(params, assignments | x) by systematic-scan Gibbs sampling; one draw is kept every `thin` sweeps.

    A sweep draws every parameter given the assignments (conjugate conditionals of `inference.conjugacy`, univariate
    slice sampling in unconstrained space for the rest, Neal 2003), then all assignments at once from the table
    (Diebolt & Robert 1994). Before a draw is kept its labelling is redrawn (`inference.labels`; `permute=False`
    switches it off).

    Every step of warmup begins with a jump: one observation changes component and all conjugate parameters are redrawn
    with it, by Metropolis-Hastings. A sweep holds the assignments while it draws the parameters and the other way
    round, so a chain that starts with an observation between two components in the wrong one never leaves (on such
    traps Celeux, Hurn & Robert 2000, JASA 95). The jump has the parameters (nearly) integrated out, as in collapsed
    Gibbs sampling (Liu 1994, JASA 89), and meets no barrier; annealing must cross it, and leaves a few chains in
    a hundred behind. It leaves the posterior invariant, so chains stay honest about modes that they do not share.
    The draws after warmup do without it: one observation of many is little for its cost.

    Conjugate draws are checked during warmup: log joint(after) - log joint(before) + log q(before) - log q(after) must
    be 0. `stats["conjugacy_error"]` holds the largest |ratio| / (1 + |log joint|); above TOLERANCE the run restarts
    with those draws as Metropolis-Hastings proposals and says so.
    """

    how = dict(num_chains=num_chains, num_warmup=num_warmup, num_draws=num_draws, progress=progress, resume=resume)
    fits = lambda draws: float(np.max(draws.stats["conjugacy_error"])) <= TOLERANCE[jnp.result_type(float).name]
    if resume is None or fits(resume):
        draws = loop.sample(model, build(model, num_warmup, permute, thin), key, x, **how)
        if fits(draws):
            return draws
        if draws.interrupted:
            raise KeyboardInterrupt("interrupted in a run with a conjugate conditional that does not fit: nothing kept")
    found = (draws if resume is None else resume).stats["conjugacy_error"][:, :1]
    draws = loop.sample(model, build(model, num_warmup, permute, thin, accept=True), key, x, **how)
    said = (
        f"a conjugate conditional does not fit the joint density (relative error {np.max(found):.1e}): "
        "its draws were used as Metropolis-Hastings proposals"
    )
    stats = draws.stats | {"conjugacy_error": np.broadcast_to(found, draws.stats["lp"].shape)}
    return draws._replace(stats=stats, warnings=(said, *draws.warnings))


@functools.cache
def build(model, num_warmup: int, permute: bool = True, thin: int = 1, accept: bool = False) -> loop.Sampler:
    """The sampler; `accept` turns every conjugate draw into a Metropolis-Hastings proposal."""
    rules = tuple(rule for rule in conjugacy.rules(model) if rule.conditional is not None)
    others = _others(model)
    moves = labels.moves(model, permute)
    K = model.num_components
    jumps = bool(rules) and K > 1
    num_checked = max(num_warmup, 1)  # a run without warmup checks its conjugate draws once

    def init(key, params, x):
        return State(params, labels.draw_assignments(key, model.log_table(params, x)))

    def step(key, i, state, x):
        key_sweeps, key_labels, key_jump = jax.random.split(key, 3)
        if moves:  # once a draw that is kept, and before its sweeps, which leave its density behind
            state = State(*labels.relabel(model, key_labels, *state, x))
        evaluations = 0
        if jumps and num_warmup > 0:
            state = jax.lax.cond(i < num_warmup, lambda: jump(key_jump, state, x), lambda: state)
            evaluations = jnp.where(i < num_warmup, 2, 0)
        keys = jax.random.split(key_sweeps, thin)
        state, outs = jax.lax.scan(lambda state, key: sweep(key, i, state, x), state, keys)
        return state, {
            "params": state.params,
            "assignments": state.assignments,
            "lp": outs["lp"][-1],
            "conjugacy_error": outs["conjugacy_error"].max(),
            "num_evaluations": evaluations + outs["num_evaluations"].sum(),
        }

    def sweep(key, i, state, x):
        key_params, key_slice, key_assign = jax.random.split(key, 3)
        params, z = state
        params, error = draw_conjugate(key_params, i, params, z, x)
        evaluations = jnp.int32(1) + jnp.where(i < num_checked, len(rules) + 1, 0)
        if others:
            params, used = draw_others(key_slice, params, z, x)
            evaluations += used
        z, log_likelihoods = labels.draw_and_sum(key_assign, model.log_table(params, x))
        lp = model.log_prior(params) + log_likelihoods.sum()
        return State(params, z), {"lp": lp, "conjugacy_error": error, "num_evaluations": evaluations}

    def draw_conjugate(key, i, params, z, x):
        """Every conjugate site in turn, and the largest relative error of their log ratios (0 after warmup)."""
        r = jax.nn.one_hot(z, K, dtype=jnp.result_type(float))
        visited, log_ratios = [params], []  # log q(before) - log q(after) of each draw
        for j, rule in enumerate(rules):
            key_draw, key_accept = jax.random.split(jax.random.fold_in(key, j))
            q = rule.conditional(params, r, x)
            drawn = {**params, rule.site: draw(q, key_draw).astype(params[rule.site].dtype)}
            log_ratio = q.log_prob(params[rule.site]).sum() - q.log_prob(drawn[rule.site]).sum()
            if accept:
                log_accept = model.log_joint(drawn, z, x) - model.log_joint(params, z, x) + log_ratio
                taken = jnp.log(jax.random.uniform(key_accept)) < log_accept
                drawn = {name: jnp.where(taken, drawn[name], params[name]) for name in params}
            params = drawn
            visited.append(params)
            log_ratios.append(log_ratio)
        if accept or not rules:
            return params, jnp.zeros(())

        def largest_error():
            every = jax.tree.map(lambda *leaves: jnp.stack(leaves), *visited)
            log_joint = jax.vmap(lambda p: model.log_joint(p, z, x))(every)
            errors = jnp.abs(jnp.diff(log_joint) + jnp.stack(log_ratios)) / (1 + jnp.abs(log_joint[1:]))
            return jnp.where(jnp.isnan(errors), jnp.inf, errors).max()

        return params, jax.lax.cond(i < num_checked, largest_error, lambda: jnp.zeros(()))

    def jump(key, state, x):
        """One observation, picked uniformly, in another component, with the conjugate sites redrawn in turn given the
        new assignments: accepted with probability min(1, p(there) q(back) / (p(here) q(forth))).

        Where the rules give p(params | assignments, x) at once, the ratio is p(z', x) / p(z, x) with all parameters
        integrated out, whatever the draw (Besag 1989, Biometrika 76, the candidate's formula).
        """
        params, z = state
        key_which, key_other, key_params, key_accept = jax.random.split(key, 4)
        n = jax.random.randint(key_which, (), 0, len(z))
        changed = z.at[n].set((z[n] + jax.random.randint(key_other, (), 1, K, z.dtype)) % K)
        drawn, log_forth = redraw(params, changed, x, key_params)
        _, log_back = redraw(drawn, z, x, to=params)
        log_accept = model.log_joint(drawn, changed, x) - model.log_joint(params, z, x) + log_back - log_forth
        taken = jnp.log(jax.random.uniform(key_accept)) < log_accept
        return jax.tree.map(lambda there, here: jnp.where(taken, there, here), State(drawn, changed), state)

    def redraw(params, z, x, key=None, to=None):
        """Every conjugate site in turn drawn given z, or taken from `to`; and the log density of these draws."""
        r = jax.nn.one_hot(z, K, dtype=jnp.result_type(float))
        log_density = jnp.zeros(())
        for j, rule in enumerate(rules):
            q = rule.conditional(params, r, x)
            site = draw(q, jax.random.fold_in(key, j)).astype(params[rule.site].dtype) if to is None else to[rule.site]
            log_density += q.log_prob(site).sum()
            params = {**params, rule.site: site}
        return params, log_density

    def draw_others(key, params, z, x):
        of = space.space_of(model)
        coordinates = np.concatenate([np.arange(of.size)[of.slices[name]] for name in others])
        log_target = lambda u: model.log_joint({**params, **of.constrain(u)}, z, x) + of.log_det(u)
        u, used = slice_coordinates(key, log_target, of.unconstrain(params), coordinates)
        return {**params, **{name: of.constrain(u)[name] for name in others}}, used

    return loop.Sampler(init, step)
