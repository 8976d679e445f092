"""Expectation-maximisation from many starts: the posterior mode (MAP) or maximum likelihood, and whether to believe it.

The climb itself is `inference.em_step`; what an optimum is worth, `inference.optimum`. Densities are those of the
declared parameters: no Jacobian.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from inference import loop, space
from inference.em_step import Settings, Start, build, first_state
from inference.optimum import curvature, flat, rising
from inference.proper import unbounded_along_a_line
from inference.results import Cost, PointMass
from zoo.mixture import num_observations
from zoo.probe import NUM_DRAWS

STATIONARY = 1e-6  # admissible: largest gradient entry per observation, unconstrained space
FLOOR = 0.02  # of the data's standard deviation: an optimum with a smaller scale is spurious
BORDERING = 1e-6  # a share so near to 0 or 1 is on the border, which EM may reach or only come near to
EMPTY = 1e-3  # observations: a component expected to hold fewer has run into the border of the simplex
NARROW, BROAD = 0.02, 0.8  # share of each point that a start at centres spreads evenly: scales of clusters, or of all x
PRIOR_STARTS = 4  # every fourth restart begins at a prior draw: distance in x can be the wrong idea of a cluster
LANES = 4  # restarts that run at once, until the slowest of them is done: measured best of 1 to 32 from N = 20 to 1,000
CELLS = 2**22  # table cells of the restarts that run at once: 32 MiB in float64, and some ten arrays of that size
CHUNK = 100  # steps between two reports of progress
SAME = 1e-9  # relative difference of log densities of one optimum and its relabellings
# how a restart can end, and what a warning says of those that ended so
ENDED = {
    "converged": "",
    "below the floor": "ended with a scale below {floor:g} of the data's standard deviation and are spurious",
    "empty component": "ended with an empty component, on the border of the parameter space",
    "stopped at a singularity": "stopped before a point without a finite log density",
    "not converged": "had not converged after {max_steps} steps",
    "not stationary": "stopped at a point that is not stationary",
    "saddle point": "ended at a saddle point, from which the log density still rises",
}


def refuses(model, x) -> str | None:
    """The sentence why EM cannot serve the model, or None."""
    if not model.param_shapes:
        return "no unknown parameter"
    if space.discrete(model):
        return f"{', '.join(space.discrete(model))} is discrete; EM climbs over continuous parameters"
    return model.lacks_twin


def em(
    model,
    x,
    key,
    *,
    prior=True,
    num_restarts=32,
    max_steps=2000,
    tolerance=1e-8,
    floor=FLOOR,
    accelerate=True,
    annealing=1.0,
    progress=None,
) -> PointMass:
    """Where EM ends on log p(params, x) (`prior=False`: on log p(x | params)), best admissible restart first.

    Of four restarts three begin at k-means++ centres (Arthur & Vassilvitskii 2007), one of these with components almost
    as wide as the data, from where fewer run into spikes; the fourth begins at a prior draw. A restart has converged
    when the largest entry of the gradient of the log density, per observation and in unconstrained space, is below
    `tolerance`. *Admissible* are restarts that converged, with that gradient below 1e-6, no empty component, every
    unknown scale of a Normal, log-normal or Student-t component above `floor` of the data's standard deviation (with
    unequal scales the likelihood is unbounded, and optima below the floor are spurious; of a covariance matrix the
    scales of each coordinate given the others are meant), and no direction in which the log density curves upwards. (In
    float32 both
    bounds on the gradient are what its rounding allows, 1.2e-4 and 1.2e-3.) Admissible restarts come first, then the
    others, each by descending log density; a restart that ran into a singularity is given at its last finite log
    density. Where a share other than a weight ends at 0 or 1, on the border of its simplex, the gradient is taken just
    inside (`space.Space.inside`), and standard errors are of the other parameters, NaN there. `ended` says how each
    one ended, `warnings` count those that are not admissible, and say where no finite maximum exists, the log density
    fell, or the best optimum has no standard errors.

    `accelerate`: SQUAREM over the same steps, which never lowers the log density either (`inference.em_step.build`): a
    third of the evaluations on three_gaussians, as many where EM is fast.
    `annealing`: the inverse temperature at the start, which rises to 1 in the first 100 steps; 1 is plain EM.
    """
    _check(model, x, prior, max_steps)
    started = time.perf_counter()
    x = jax.tree.map(jnp.asarray, x)
    key_draws, key_centres = jax.random.split(key)
    batches = jax.random.split(key_draws, -(-num_restarts // NUM_DRAWS))
    draws = [model.prior_draws(k, NUM_DRAWS) for k in batches]
    params = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:num_restarts], *draws)
    built = build(model, bool(prior), accelerate, annealing < 1)
    setup = Cost(time.perf_counter() - started)  # tracing and compiling, all but a little

    started = time.perf_counter()
    from_data = np.arange(num_restarts) % PRIOR_STARTS != PRIOR_STARTS - 1
    if isinstance(x, dict) and "covariates" in x:
        from_data[:] = False  # what tells components apart is how x follows the covariates
    labels = nearest_centres(key_centres, x, model.num_components, from_data | (annealing < 1))
    starting = Cost(0.0, time.perf_counter() - started)

    eps = float(jnp.finfo(jnp.result_type(float)).eps)
    stationary = max(STATIONARY, 1e4 * eps)
    settings = Settings(*jnp.asarray([max(tolerance, 1e3 * eps), annealing], jnp.result_type(float)))
    evenly = np.where(np.arange(num_restarts) % PRIOR_STARTS == 1, BROAD, NARROW)
    start = Start(params, labels, from_data, evenly)
    state, climbing, interrupted = _climb(model, built, accelerate, start, x, max_steps, settings, progress)
    ended, errors, looking = _judged(model, bool(prior), state, x, stationary, floor)
    order = np.lexsort((-state.log_density, ended != "converged"))
    result, ended = jax.tree.map(lambda leaf: leaf[order], state), ended[order]
    best = jax.tree.map(lambda leaf: leaf[0], result.at)
    errors, bordering = _off_border(model, best, errors)
    unbounded, trying = rising(model, bool(prior), best, x)
    if unbounded is None and prior and unbounded_along_a_line(model, x):
        unbounded = "the density grows without bound as a correlation goes to 1 or -1 along rows on one line"
    evaluations = int(np.sum(state.step + state.stopped))
    counted = Cost(
        table_evaluations=evaluations * (1 + built.tables),
        gradient_evaluations=evaluations * built.gradients + int(np.sum(state.gradients)),
    )
    said = (f"interrupted: only {len(ended)} of {num_restarts} restarts had ended",) if interrupted else ()
    return PointMass(
        params=result.at,
        log_density=result.log_density,
        num_steps=result.num_steps,
        converged=result.converged,
        admissible=ended == "converged",
        gradient_norm=result.gradient_norm,
        cost=setup + starting + climbing + looking + trying + counted,
        prior=bool(prior),
        floor=floor,
        warnings=said + _warnings(result, ended, unbounded, errors, floor, max_steps) + bordering,
        ended=ended,
        standard_errors=errors,
        bounded=unbounded is None,
        interrupted=interrupted,
    )


def complete(model, x, key, num_restarts) -> PointMass:
    """`em` for a back end that begins at its optima: an interrupt ends that one too."""
    found = em(model, x, key, num_restarts=num_restarts)
    if found.interrupted:
        raise KeyboardInterrupt
    return found


def climb_from(model, x, params, max_steps=2000, prior=True):
    """Where EM ends on log p(params, x) from `params`, leaves (R, ...): log densities (R,), and which are modes (R,).

    The mode whose basin a start lies in, as EM draws basins: converged, with no component empty or below the floor.
    `prior=False`: on log p(x | params). Runs the program that `em` runs at its default settings, compiled or not.
    Raises KeyboardInterrupt when interrupted.
    """
    x = jax.tree.map(jnp.asarray, x)
    R, N = len(next(iter(params.values()))), num_observations(x)
    eps = float(jnp.finfo(jnp.result_type(float)).eps)
    settings = Settings(*jnp.asarray([max(1e-8, 1e3 * eps), 1.0], jnp.result_type(float)))
    start = Start(params, np.zeros((R, N), np.int32), np.zeros(R, bool), np.zeros(R))
    state, _, interrupted = _climb(
        model, build(model, bool(prior), True, False), True, start, x, max_steps, settings, None
    )
    if interrupted:
        raise KeyboardInterrupt("interrupted while EM climbed from the starts of the chains")
    return state.log_density, state.converged & (state.fewest >= EMPTY) & (state.smallest >= FLOOR)


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


def nearest_centres(key, x, num_components, from_data):
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


def _climb(model, built, accelerate, start, x, max_steps, settings, progress):
    """Every restart until it has converged, stopped or taken `max_steps`; LANES at once where memory allows.

    After Ctrl-C those of the groups that have ended, and True; KeyboardInterrupt where none has.
    """
    R = len(start.from_data)
    size = int(np.clip(CELLS // (num_observations(x) * built.num_components), 1, min(R, LANES)))
    cost, states, total, interrupted = Cost(), [], -(-R // size) * max_steps, False
    try:
        for group, first in enumerate(range(0, R, size)):
            chosen = np.minimum(first + np.arange(size), R - 1)  # the last group is filled up with copies
            some = jax.tree.map(lambda leaf: jnp.asarray(leaf[chosen]), start)  # noqa: B023
            state = first_state(model, some.params, accelerate)
            for stop in range(CHUNK, max_steps + CHUNK, CHUNK):
                last = jnp.int32(min(stop, max_steps))
                args = (state, some, x, last, settings)
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
    except KeyboardInterrupt:
        interrupted = True
        if not states:
            raise KeyboardInterrupt(
                f"interrupted before the first {size} restarts had ended: nothing is kept"
            ) from None
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *states), cost, interrupted


def _judged(model, prior, state, x, stationary, floor):
    """How every restart ended, (R,) of the keys of `ENDED`; the standard errors at the best optimum, and the cost."""
    empty = state.fewest < EMPTY  # whatever scale the empty component was left with
    ended = np.select(
        [empty, state.smallest < floor, state.stopped, ~state.converged, ~(state.gradient_norm < stationary)],
        ["empty component", "below the floor", "stopped at a singularity", "not converged", "not stationary"],
        "converged",
    )
    cost, errors, known = Cost(), None, {}
    for r in sorted(np.flatnonzero(ended == "converged"), key=lambda r: -state.log_density[r]):
        value = state.log_density[r]
        # restarts of one log density have found one optimum, up to its labels
        same = next((v for v in known if abs(v - value) <= max(SAME, 100 * _eps(value)) * (1 + abs(v))), None)
        if same is None:
            same, first = value, not any(known.values())
            found, spent = curvature(model, prior, jax.tree.map(lambda leaf: leaf[r], state.at), x)  # noqa: B023
            cost += spent
            known[same] = found.highest <= flat(value.dtype)
            errors = found.standard_errors if first and known[same] else errors
        if not known[same]:
            ended[r] = "saddle point"
    return ended, errors, cost


def _off_border(model, best, errors):
    """Standard errors, NaN for shares that are 0 or 1, and the sentence that says so."""
    near = lambda share: (share < BORDERING) | (share > 1 - BORDERING)
    border = {name: near(np.asarray(best[name])) for name in space.space_of(model).shares}
    count = sum(int(found.sum()) for found in border.values())
    if errors is None or count == 0:
        return errors, ()
    errors = {name: np.where(border.get(name, False), np.nan, error) for name, error in errors.items()}
    said = f"shares that are 0 or 1 at the best admissible optimum, on the border ({count}), have no standard errors"
    return errors, (said,)


def _eps(value):
    return np.finfo(value.dtype).eps


def _warnings(result, ended, unbounded, errors, floor, max_steps):
    R, said = len(ended), []
    if not np.any(ended == "converged"):
        said.append("no restart reached an admissible optimum: nothing here is an estimate")
    if unbounded:
        said.append(f"{unbounded}: no global maximum exists, and the best admissible interior one found is reported")
    for name, sentence in ENDED.items():
        if sentence and np.any(ended == name):
            best = result.log_density[ended == name].max()
            what = sentence.format(floor=floor, max_steps=max_steps)
            said.append(f"{np.sum(ended == name)} of {R} restarts {what} (highest log density among them: {best:.6f})")
    if errors is None and np.any(ended == "converged"):
        said.append(
            "the log density is flat in some direction at the best admissible optimum: the parameters are not "
            "determined there, and there are no standard errors"
        )
    if result.fallen.max() > 0:
        said.append(
            f"the log density fell by up to {result.fallen.max():.3g} in a step, which a right M-step cannot do: "
            "do not trust this result"
        )
    return tuple(said)
