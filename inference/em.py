"""Expectation-maximisation from many starts: the posterior mode (MAP) or maximum likelihood, and whether to believe it.

One step takes the responsibilities at the current parameters, then maximises

    Q(params) = sum_nk r_nk log p(z_n = k, x_n | params)  [+ log p(params) for MAP]

one site after another: in closed form where `inference.conjugacy` has the mode, by a damped Newton step in
unconstrained space elsewhere. Neither can lower Q, so the log density cannot fall (Dempster, Laird & Rubin 1977;
Meng & Rubin 1993 for one site at a time; Lange 1995 for one Newton step); the loop checks that it does not. Densities
are those of the declared parameters: no Jacobian.
"""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from inference import conjugacy, loop, space
from inference.results import Cost, Params, PointMass
from zoo.mixture import twin_supports
from zoo.probe import NUM_DRAWS

STATIONARY = 1e-6  # admissible: largest gradient entry per observation, unconstrained space
EMPTY = 1e-3  # observations: a component expected to hold fewer has run into the border of the simplex
COLLAPSED = 1e-8  # of the data's standard deviation: on its way to zero, stopped before it overflows
SMOOTHING = 0.02  # share of each point that a start spreads evenly, so that no cluster begins with scale zero
PRIOR_STARTS = 4  # every fourth restart begins at a prior draw: distance in x can be the wrong idea of a cluster
CLOSED_STARTS, NEWTON_STARTS = 2, 10  # M-steps at a start's own responsibilities: two if all closed, else more
STEPS = tuple(4.0**-i for i in range(9))  # fractions of a Newton step that are tried, the largest first; and none
LANES = 4  # restarts that run at once, until the slowest of them is done: measured best of 1 to 32 from N = 20 to 1,000
CELLS = 2**22  # table cells of the restarts that run at once: 32 MiB in float64, and some ten arrays of that size
CHUNK = 100  # steps between two reports of progress


class State(NamedTuple):
    """One restart: the parameters evaluated next, and the last ones that have a finite log density."""

    params: Params
    at: Params
    log_density: Any  # of `at`
    gradient_norm: Any  # of `at`
    smallest: Any  # least scale just met, constants left out, in units of the data's standard deviation
    fewest: Any  # observations that the lightest component just met expects, N times its weight
    step: Any  # M-steps that led to `params`
    num_steps: Any  # M-steps that led to `at`
    converged: Any
    stopped: Any  # no finite log density, a weight of 0 or a scale of 0 lies ahead
    fallen: Any  # largest decrease of the log density beyond rounding


def refuses(model, x) -> str | None:
    """The sentence why EM cannot serve the model, or None."""
    if not model.param_shapes:
        return "no unknown parameter"
    discrete = [name for name, leaf in model.param_shapes.items() if not jnp.issubdtype(leaf.dtype, jnp.floating)]
    if discrete:
        return f"{', '.join(discrete)} is discrete; EM climbs over continuous parameters"
    return model.lacks_twin


def em(
    model, x, key, *, prior=True, num_restarts=32, max_steps=2000, tolerance=1e-8, floor=0.02, progress=None
) -> PointMass:
    """Where EM ends on log p(params, x) (`prior=False`: on log p(x | params)), best admissible restart first.

    Restarts begin at k-means++ centres (Arthur & Vassilvitskii 2007), every fourth at a prior draw. A restart has
    converged when the largest entry of the gradient of the log density, per observation and in unconstrained space,
    is below `tolerance`. *Admissible* are restarts that converged, with that gradient below 1e-6, no empty component,
    and every unknown scale of a Normal component above `floor` of the data's standard deviation: with unequal scales
    the likelihood is unbounded, and optima below the floor are spurious. Curvature is not looked at. (In float32 both
    bounds on the gradient are what its rounding allows, 1.2e-4 and 1.2e-3.) Admissible restarts come first, then the
    others, each by descending log density; a restart that ran into a singularity is given at its last finite log
    density. `warnings` count the others, and say where no finite maximum exists or the log density fell.
    """
    _check(model, x, prior, max_steps)
    started = time.perf_counter()
    x = jax.tree.map(jnp.asarray, x)
    key_draws, key_centres = jax.random.split(key)
    batches = jax.random.split(key_draws, -(-num_restarts // NUM_DRAWS))
    draws = [model.prior_draws(k, NUM_DRAWS) for k in batches]
    params = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:num_restarts], *draws)
    built = build(model, bool(prior))
    setup = Cost(time.perf_counter() - started)  # tracing and compiling, all but a little

    started = time.perf_counter()
    from_data = np.arange(num_restarts) % PRIOR_STARTS != PRIOR_STARTS - 1
    if isinstance(x, dict) and "covariates" in x:
        from_data[:] = False  # what tells components apart is how x follows the covariates
    labels = _nearest_centres(key_centres, x, model.num_components, from_data)
    starting = Cost(0.0, time.perf_counter() - started)

    eps = float(jnp.finfo(jnp.result_type(float)).eps)
    tolerance, stationary = max(tolerance, 1e3 * eps), max(STATIONARY, 1e4 * eps)
    state, cost = _climb(built, params, labels, from_data, x, max_steps, tolerance, progress)
    order, found = _sorted(state, stationary, floor)
    result = jax.tree.map(lambda leaf: leaf[order], state)
    rising, spent = _rising(model, bool(prior), jax.tree.map(lambda leaf: leaf[:1], result.at), x)
    evaluations = int(np.sum(result.step + (result.converged | result.stopped)))
    return PointMass(
        params=result.at,
        log_density=result.log_density,
        num_steps=result.num_steps,
        converged=result.converged,
        admissible=found["admissible"],
        gradient_norm=result.gradient_norm,
        cost=(setup + starting + cost + spent)._replace(
            table_evaluations=evaluations * built.tables, gradient_evaluations=evaluations * built.gradients
        ),
        prior=bool(prior),
        floor=floor,
        warnings=_warnings(result, found, rising, floor, max_steps),
    )


# -- one step --------------------------------------------------------------------------------------------------


class Built(NamedTuple):
    """The program of one model, and what one step of it costs."""

    program: Any
    num_components: int
    tables: int
    gradients: int


@functools.cache
def build(model, prior: bool) -> Built:
    """The jitted program that advances every restart, and the passes over the data that one step takes."""
    of = space.space_of(model)
    # a rule without a conditional knows the likelihood alone
    closed = tuple(rule for rule in conjugacy.rules(model) if rule.mode and (rule.conditional is not None or not prior))
    others = tuple(name for name in model.param_shapes if name not in {rule.site for rule in closed})
    coordinates = np.concatenate([np.arange(of.size)[of.slices[name]] for name in others] or [np.arange(0)])
    num_starts = NEWTON_STARTS if others else CLOSED_STARTS
    eps = float(jnp.finfo(jnp.result_type(float)).eps)

    def rounding(size, x):
        """Error unit of a log density whose terms add up to `size`: inside them are terms of the size of x that cancel,
        such as x log(rate), or x - mean."""
        return eps * (1 + size + sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(x)))

    def expected(params, r, x):
        """Q at responsibilities r; cells with r = 0 count nothing, whatever their log density."""
        table = jnp.where(r > 0, model.log_table(params, x), 0.0)
        return (r * table).sum() + (model.log_prior(params) if prior else 0.0)

    def m_step(params, r, x):
        for rule in closed:
            value = rule.mode(params, r, x, prior)
            params = {**params, rule.site: value.astype(params[rule.site].dtype)}
        return newton(params, r, x) if others else params

    def newton(params, r, x):
        """The best of a few fractions of one Newton step for the sites without a closed form, none included."""
        u = of.unconstrain(params)

        def moved(part):
            everything = of.constrain(u.at[coordinates].set(part))
            return {**params, **{name: everything[name] for name in others}}

        q = lambda part: expected(moved(part), r, x)
        here = u[coordinates]
        along = jax.vmap(lambda e: jax.jvp(jax.grad(q), (here,), (e,)), out_axes=(None, 0))
        gradient, hessian = along(jnp.eye(len(coordinates), dtype=here.dtype))
        finite = jnp.isfinite(hessian).all() & jnp.isfinite(gradient).all()
        values, vectors = jnp.linalg.eigh(jnp.where(finite, -hessian, jnp.eye(len(coordinates), dtype=here.dtype)))
        values = jnp.maximum(jnp.abs(values), 1e-8 * jnp.abs(values).max() + jnp.finfo(here.dtype).tiny)
        direction = vectors @ ((vectors.T @ jnp.where(finite, gradient, 0.0)) / values)  # uphill: values > 0
        longest = 10 * (1 + jnp.abs(here).max())  # of a flat direction the fractions below must reach the useful part
        direction = direction * jnp.minimum(1, longest / jnp.maximum(jnp.abs(direction).max(), longest))
        tried = here + jnp.array([*STEPS, 0.0], here.dtype)[:, None] * direction
        scores = jax.vmap(q)(tried)
        scores = jnp.where(jnp.isfinite(scores), scores, -jnp.inf)
        # scores that only rounding tells apart are equal, and then the largest step wins: Newton ends the climb
        return moved(tried[jnp.argmax(scores >= scores.max() - 10 * rounding(jnp.abs(scores.max()), x))])

    def evaluate(params, x):
        """At `params`: log density, the size of its terms, largest gradient entry per observation, responsibilities."""

        def log_density(u):
            declared = of.constrain(u)
            table = model.log_table(declared, x)
            each = jax.nn.logsumexp(table, axis=1)
            log_prior = model.log_prior(declared) if prior else jnp.zeros(())
            return each.sum() + log_prior, (table, jnp.abs(each).sum() + jnp.abs(log_prior))

        u = of.unconstrain(params)
        (value, (table, size)), gradient = jax.value_and_grad(log_density, has_aux=True)(u)
        r = jax.nn.softmax(table, axis=1)
        finite = jnp.isfinite(value) & jnp.isfinite(u).all() & jnp.isfinite(gradient).all() & jnp.isfinite(r).all()
        norm = jnp.abs(gradient).max() / r.shape[0]
        return value, size, norm, jnp.where(jnp.isfinite(r), r, 1 / model.num_components), finite

    def fewest_expected(params, x):
        if isinstance(x, dict) and "covariates" in x:
            return jnp.asarray(jnp.inf)  # weights may differ between observations
        return model.weights(params, x).min() * _num_observations(x)

    def smallest_scale(params, first, x):
        """Least scale of a Normal component over the data's, scales that never moved from the start left out."""
        scale, before = _scales(model, params, x), _scales(model, first, x)
        if scale is None:
            return jnp.asarray(jnp.inf)
        sd = jnp.std(x, axis=0).reshape(1, -1)
        return jnp.where(scale == before, jnp.inf, scale / jnp.where(sd > 0, sd, 1.0)).min()

    def restart(state, first, labels, from_data, x, stop, tolerance):
        start = (1 - SMOOTHING) * jax.nn.one_hot(labels, model.num_components) + SMOOTHING / model.num_components

        def step(s):
            value, size, norm, r, finite = evaluate(s.params, x)
            smallest, fewest = smallest_scale(s.params, first, x), fewest_expected(s.params, x)
            starting = from_data & (s.step < num_starts)
            stopped = (smallest < COLLAPSED) | (~starting & (~finite | (fewest == 0)))
            keep = finite & ~stopped
            # a start's first values are no climb; from the first E-step on the log density must not fall
            climbs = finite & (s.step > num_starts)
            fall = jnp.where(climbs, s.log_density - value - 100 * rounding(size, x), 0.0)
            converged = keep & ~starting & (norm < tolerance)
            moved = m_step(s.params, jnp.where(starting, start, r), x)
            pick = lambda yes, no: jax.tree.map(lambda a, b: jnp.where(keep, a, b), yes, no)
            done = converged | stopped
            return State(
                params=jax.tree.map(lambda a, b: jnp.where(done, a, b), s.params, moved),
                at=pick(s.params, s.at),
                log_density=pick(value, s.log_density),
                gradient_norm=pick(norm, s.gradient_norm),
                smallest=jnp.nan_to_num(smallest, nan=0.0, posinf=jnp.inf),
                fewest=jnp.nan_to_num(fewest, nan=0.0, posinf=jnp.inf),
                step=s.step + ~done,
                num_steps=pick(s.step, s.num_steps),
                converged=converged,
                stopped=stopped,
                fallen=jnp.maximum(s.fallen, fall),
            )

        # `stop` M-steps are evaluated too, hence <=
        return jax.lax.while_loop(lambda s: ~s.converged & ~s.stopped & (s.step <= stop), step, state)

    program = jax.jit(jax.vmap(restart, in_axes=(0, 0, 0, 0, None, None, None)))
    newton_tables, newton_gradients = (len(STEPS) + 1, 1 + len(coordinates)) if others else (0, 0)
    return Built(program, model.num_components, newton_tables, 1 + newton_gradients)


def _scales(model, params, x):
    """Scales of the components, (K, 1 or D), where x given z is Normal; None for every other family."""
    if isinstance(x, dict) or model.observation_shapes["x"].family != "Normal":
        return None
    return conjugacy.component_arguments(model, params, x)["scale"].reshape(model.num_components, -1)


# -- around the loop ---------------------------------------------------------------------------------------------


def _check(model, x, prior, max_steps):
    if max_steps < 1:
        raise ValueError(f"max_steps should be at least 1, got {max_steps}")
    rows = _rows(x)
    distinct = len(np.unique(rows, axis=0))
    if not prior and distinct < model.num_components:
        raise ValueError(
            f"x has {distinct} distinct points for {model.num_components} components, and maximum likelihood needs at "
            "least one for each: give fewer components, or prior=True for the posterior mode"
        )


def _rows(x):
    """Every observed leaf beside the others, (N, F), each column in units of its standard deviation."""
    leaves = [leaf for name, leaf in x.items() if name != "covariates"] if isinstance(x, dict) else [x]
    rows = np.concatenate([np.asarray(leaf, float).reshape(len(leaf), -1) for leaf in leaves], axis=1)
    sd = rows.std(axis=0)
    return rows / np.where(sd > 0, sd, 1.0)


def _nearest_centres(key, x, num_components, from_data):
    """For every restart the index of the nearest of K centres, (R, N) int32; centres by D^2 sampling among the rows."""
    rows = _rows(x)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    labels = np.zeros((len(from_data), len(rows)), np.int32)
    for r in np.flatnonzero(from_data):
        nearest = np.full(len(rows), np.inf)
        for k in range(num_components):
            chances = nearest if 0 < nearest.sum() < np.inf else np.ones(len(rows))  # first, or nothing left to cover
            centre = rows[rng.choice(len(rows), p=chances / chances.sum())]
            distance = ((rows - centre) ** 2).sum(axis=1)
            labels[r, distance < nearest] = k
            nearest = np.minimum(nearest, distance)
    return labels


def _climb(built, params, labels, from_data, x, max_steps, tolerance, progress):
    """Every restart until it has converged, stopped or taken `max_steps`; LANES at once where memory allows."""
    R = len(from_data)
    size = int(np.clip(CELLS // (_num_observations(x) * built.num_components), 1, min(R, LANES)))
    cost, states, total = Cost(), [], -(-R // size) * max_steps
    for group, first in enumerate(range(0, R, size)):
        chosen = np.minimum(first + np.arange(size), R - 1)  # the last group is filled up with copies
        start = jax.tree.map(lambda leaf: leaf[chosen], params)  # noqa: B023
        state = _first_state(start, size)
        for stop in range(CHUNK, max_steps + CHUNK, CHUNK):
            last = jnp.int32(min(stop, max_steps))
            args = (state, start, jnp.asarray(labels[chosen]), jnp.asarray(from_data[chosen]), x, last)
            args += (jnp.asarray(tolerance, jnp.result_type(float)),)
            program, seconds, bytes_ = loop.compiled(built.program, *args)
            started = time.perf_counter()
            state = jax.block_until_ready(program(*args))
            cost += Cost(seconds, time.perf_counter() - started, 0, 0, bytes_)
            if progress is not None:
                progress(group * max_steps + int(last), total)
            if np.all(state.converged | state.stopped):
                break
        states.append(jax.tree.map(lambda leaf: np.asarray(leaf)[: R - first], state))  # noqa: B023
    if progress is not None:
        progress(total, total)  # restarts that converged early took fewer
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *states), cost


def _first_state(params, size):
    worst, none, no = jnp.full(size, jnp.inf), jnp.zeros(size, jnp.int32), jnp.zeros(size, bool)
    return State(params, params, -worst, worst, worst, worst, none, none, no, no, jnp.zeros(size))


def _sorted(state, stationary, floor):
    """The order of the restarts, admissible first, and what disqualified the others (in that order)."""
    empty = state.fewest < EMPTY  # whatever scale the empty component was left with
    spurious = ~empty & (state.smallest < floor)
    halted = ~spurious & ~empty & ~(state.converged & (state.gradient_norm < stationary))
    admissible = ~spurious & ~empty & ~halted & np.isfinite(state.log_density)
    order = np.lexsort((-state.log_density, ~admissible))
    found = {"admissible": admissible, "spurious": spurious, "empty": empty, "halted": halted}
    return order, {name: mask[order] for name, mask in found.items()}


def _warnings(result, found, rising, floor, max_steps):
    R, said = len(result.log_density), []

    def count(name, sentence):
        if found[name].any():
            best = result.log_density[found[name]].max()
            said.append(f"{found[name].sum()} of {R} restarts {sentence} (highest log density among them: {best:.6f})")

    if not found["admissible"].any():
        said.append("no restart reached an admissible optimum: nothing here is an estimate")
    if rising:
        said.append(f"{rising}: no global maximum exists, and the best admissible interior one found is reported")
    count("spurious", f"ended with a scale below {floor:g} of the data's standard deviation and are spurious")
    count("empty", "ended with an empty component, on the border of the parameter space")
    count("halted", f"stopped at a point that is not stationary, or had not converged after {max_steps} steps")
    if result.fallen.max() > 0:
        said.append(
            f"the log density fell by up to {result.fallen.max():.3g} in a step, which a right M-step cannot do: "
            "do not trust this result"
        )
    return tuple(said)


def _rising(model, prior, params, x):
    """Why the log density has no finite maximum, as the start of a sentence, or None; and the cost of finding out.

    From the best restart every unconstrained coordinate of a site with a border is moved far out, both ways. Where
    that shrinks the scale of some components but not of all, one of them can sit on a single point, which gains
    -log(scale) without end unless the prior falls as fast.
    """
    if not len(_bordered(model)):
        return None, Cost()
    program, seconds, size = loop.compiled(_far_out(model, prior), params, x)
    started = time.perf_counter()
    gain, shrinks = jax.tree.map(np.asarray, program(params, x))
    cost = Cost(seconds, time.perf_counter() - started, 0, 0, size)
    if np.any((gain > 0.1) & shrinks):
        return f"the {'density' if prior else 'likelihood'} grows without bound as a scale shrinks onto one point", cost
    if np.any(gain > 0.1):
        return "the prior density grows without bound towards the border of the parameter space", cost
    return None, cost


@functools.cache
def _far_out(model, prior):
    of = space.space_of(model)

    def program(params, x):
        params = jax.tree.map(lambda leaf: leaf[0], params)
        u = of.unconstrain(params)
        here = _scales(model, params, x)

        def at(shift):
            moved = of.constrain(u + shift)
            value = model.log_prior(moved) if prior else jnp.zeros(())
            if here is None:
                return value, jnp.bool_(False)
            ratio = (_scales(model, moved, x) / here).min(axis=1)
            shrinks = (ratio.min() < 0.5) & (ratio.max() > 0.5)
            return value - jnp.where(shrinks, jnp.log(ratio.min()), 0.0), shrinks

        directions = jnp.concatenate([jnp.eye(of.size)[_bordered(model)], -jnp.eye(of.size)[_bordered(model)]])
        near, far = (jax.vmap(lambda d: at(distance * d))(directions) for distance in (20.0, 30.0))  # noqa: B023
        return jnp.nan_to_num(far[0] - near[0], nan=-jnp.inf), far[1]

    return jax.jit(program)


@functools.cache
def _bordered(model):
    """Coordinates of the sites that have a border: on the whole line a proper prior falls at both ends."""
    of, supports = space.space_of(model), twin_supports(model)
    found = [np.arange(0)]
    for name, (support, _) in supports.items():
        if getattr(support, "base_constraint", support) is not constraints.real:
            found.append(np.arange(of.size)[of.slices[name]])
    return np.concatenate(found)


def _num_observations(x):
    return len(next(iter(x.values())) if isinstance(x, dict) else x)
