"""Sequential Monte Carlo from the prior to the posterior (Del Moral, Doucet & Jasra 2006, JRSS B 68, section 3.3.2).

Particles target p(params) p(x | params)^t, assignments summed out, with t from 0 to 1. Each chain is a run of its own:
the spread of the runs is the only honest error, since resampled copies are no independent draws.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from inference import labels, loop, space
from inference.results import Cost, Draws

NUM_LEAPS = 5
STABLE = 0.5  # change of the log evidence under twice the moves that is still agreement
KEEP = 0.9  # conditional ESS of a step in temperature, as a share of the particles
MAX_TEMPERATURES = 300
BISECTIONS = 40
TARGET_ACCEPT = 0.8


def refuses(model, x) -> str | None:
    """None where parameters are unknown and the twin says what their supports are."""
    if not model.param_shapes:
        return "no unknown parameter, so there is nothing to temper; enumeration is exact"
    return model.lacks_twin


def smc(
    model, x, key, *, num_runs=8, num_particles=256, num_moves=4, max_moves=32, permute=True, progress=None
) -> Draws:
    """C = `num_runs` independent runs of S = `num_particles`, each from the prior to the posterior.

    The next temperature keeps the conditional ESS at KEEP S (bisection); resampling is systematic; then `num_moves`
    Hamiltonian moves of all particles, followed by the labelling (`inference.labels`). Everything is repeated with
    twice the moves until log evidence changes by at most STABLE; past `max_moves` there is no estimate of it.
    `params` (C, S, ...), `log_weights` (C, S) the log evidence of each run: the mean weight is the evidence, and its
    standard error comes from the spread of the runs. Assignments are exact draws from the table.
    """
    if num_runs < 8:
        raise ValueError(f"num_runs should be at least 8, since errors come from the spread of runs; got {num_runs}")
    x = jax.tree.map(jnp.asarray, x)
    previous, moves, cost = None, num_moves, Cost()
    while True:
        particles, log_z, stats, spent = _run(
            model, x, jax.random.fold_in(key, moves), num_runs, num_particles, moves, permute, progress
        )
        cost = cost + spent
        value = float(logsumexp(log_z) - np.log(num_runs))
        stable = previous is not None and abs(value - previous) <= STABLE
        if stable or not np.isfinite(value) or 2 * moves > max_moves:
            break
        previous, moves = value, 2 * moves
    said: tuple[str, ...] = ()
    error = None
    if stable:
        w = np.exp(log_z - log_z.max())
        error = float(w.std(ddof=1) / (np.sqrt(num_runs) * w.mean()))
    else:
        said = (f"no estimate: unstable under more moves (up to {moves} a temperature); not usable",)
    finish = _finish(model)
    arguments = (jax.random.fold_in(key, 0), particles, x)
    ready, seconds, size = loop.compiled(finish, *arguments)
    started = time.perf_counter()
    params, assignments = jax.tree.map(np.asarray, ready(*arguments))
    cost = cost + Cost(seconds, time.perf_counter() - started, num_runs * num_particles, 0, size)
    return Draws(
        params=params,
        assignments=assignments,
        cost=cost,
        log_weights=np.repeat(log_z[:, None], num_particles, axis=1),
        log_evidence=value if stable else None,
        log_evidence_se=error,
        stats={name: np.repeat(leaf[:, None], num_particles, axis=1) for name, leaf in stats.items()},
        num_done=num_particles,
        warnings=said,
    )


def _run(model, x, key, C, S, moves, permute, progress):
    """Particles u (C, S, D), log evidence of every run (C,), stats, cost."""
    draws = model.prior_draws(jax.random.fold_in(key, 0), C * S)
    start = _start(model)
    flat = start(draws, x)
    u, log_lik = (leaf.reshape(C, S, *leaf.shape[1:]) for leaf in flat)
    t, scale = jnp.zeros(C), jnp.full(C, 0.2)
    program = _step(model, permute)
    log_z, used, accepted = np.zeros(C), 0, np.zeros(C)
    arguments = (key, u, log_lik, t, scale, moves, x)
    ready, seconds, size = loop.compiled(program, *arguments)
    began = time.perf_counter()
    while float(t.min()) < 1 and used < MAX_TEMPERATURES:
        used += 1
        u, log_lik, t, scale, increment, accept = ready(jax.random.fold_in(key, used), u, log_lik, t, scale, moves, x)
        log_z, accepted = log_z + np.asarray(increment), np.asarray(accept)
        if progress is not None:
            progress(int(1000 * float(t.min())), 1000)
    if float(t.min()) < 1:
        log_z = np.full(C, -np.inf)
    evaluations = C * S * used * moves * (NUM_LEAPS + 1)
    cost = Cost(seconds, time.perf_counter() - began, C * S, evaluations, size)
    return u, log_z, {"acceptance_rate": accepted, "num_temperatures": np.full(C, float(used))}, cost


@functools.cache
def _start(model):
    of = space.space_of(model)
    return jax.jit(
        lambda draws, x: jax.lax.map(lambda p: (of.unconstrain(p), _finite(model.log_likelihood(p, x))), draws)
    )


@functools.cache
def _step(model, permute):
    """One temperature of every run: reweight, resample, move. `moves` is an argument, so one program serves all."""
    of = space.space_of(model)
    move = kernel(model, permute)

    def run(args, moves, x):
        key, u, log_lik, t, scale = args
        S, D = u.shape
        key_resample, key_moves = jax.random.split(key)
        dt = next_step(log_lik, t)
        log_w = dt * log_lik
        log_w = jnp.where(dt > 0, log_w, 0.0)
        increment = jax.nn.logsumexp(log_w) - jnp.log(S)
        chosen = systematic(key_resample, log_w)
        u, t = u[chosen], jnp.where(dt >= 1 - t, 1.0, t + dt)
        sd = jnp.maximum(jnp.std(u, axis=0), 1e-6)

        def body(i, carry):
            u, scale, _ = carry
            keys = jax.random.split(jax.random.fold_in(key_moves, i), S)
            u, accept = jax.vmap(lambda key, u: move(key, u, t, scale, sd, x))(keys, u)
            accept = accept.mean()
            return u, scale * jnp.exp(accept - TARGET_ACCEPT), accept

        u, scale, accept = jax.lax.fori_loop(0, moves, body, (u, scale, jnp.zeros(())))
        log_lik = jax.vmap(lambda u: _finite(model.log_likelihood(of.constrain(u), x)))(u)
        return u, log_lik, t, scale, increment, accept

    def step(key, u, log_lik, t, scale, moves, x):
        keys = jax.random.split(key, len(t))
        return jax.lax.map(lambda args: run(args, moves, x), (keys, u, log_lik, t, scale))

    return jax.jit(step)


def kernel(model, permute):
    """The move (key, u, t, scale, sd, x) -> u, acceptance probability, which leaves the law at temperature t alone."""
    of = space.space_of(model)
    relabel = labels.moves(model, permute)

    def move(key, u, t, scale, sd, x):
        """One Hamiltonian move (Neal 2011) with the cloud's scales for mass, then the labelling."""
        key_momentum, key_jitter, key_accept, key_labels = jax.random.split(key, 4)
        potential = lambda u: log_tempered(of.constrain(u), t, x) + of.log_det(u)
        value_and_slope = jax.value_and_grad(potential)
        eps = scale * sd * jax.random.uniform(key_jitter, (), minval=0.5, maxval=1.5)
        p = jax.random.normal(key_momentum, u.shape)
        value, slope = value_and_slope(u)

        def leap(carry, _):
            u, p, _, slope = carry
            p = p + 0.5 * eps * slope
            u = u + eps * p
            value, slope = value_and_slope(u)
            return (u, p + 0.5 * eps * slope, value, slope), None

        (there, p_there, value_there, _), _ = jax.lax.scan(leap, (u, p, value, slope), None, length=NUM_LEAPS)
        log_accept = value_there - value + 0.5 * (p @ p - p_there @ p_there)
        log_accept = jnp.where(jnp.isnan(log_accept), -jnp.inf, log_accept)
        u = jnp.where(jnp.log(jax.random.uniform(key_accept)) < log_accept, there, u)
        if relabel:
            params = of.constrain(u)
            identity = jnp.arange(model.num_components, dtype=jnp.int32)
            log_density = lambda s: log_tempered(model.permute(params, s), t, x)
            u = of.unconstrain(model.permute(params, labels.redraw(model, key_labels, identity, log_density)))
        return u, jnp.exp(jnp.minimum(log_accept, 0.0))

    def log_tempered(params, t, x):
        return model.log_prior(params) + t * model.log_likelihood(params, x)

    return move


def next_step(log_lik, t):
    """The largest dt <= 1 - t for which weights exp(dt log_lik) keep an ESS of KEEP times the particles."""

    def ess(dt):
        log_w = jnp.where(dt > 0, dt * log_lik, 0.0)
        return jnp.exp(2 * jax.nn.logsumexp(log_w) - jax.nn.logsumexp(2 * log_w))

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        enough = ess(middle) >= KEEP * len(log_lik)
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    rest = 1 - t
    low, _ = jax.lax.fori_loop(0, BISECTIONS, halve, (jnp.zeros_like(rest), rest))
    return jnp.where(ess(rest) >= KEEP * len(log_lik), rest, low)


def systematic(key, log_w):
    """Ancestors by systematic resampling, one uniform for all (Kitagawa 1996)."""
    S = len(log_w)
    cumulative = jnp.cumsum(jax.nn.softmax(log_w))
    places = (jax.random.uniform(key) + jnp.arange(S)) / S * cumulative[-1]
    return jnp.minimum(jnp.searchsorted(cumulative, places, side="right"), S - 1)


@functools.cache
def _finish(model):
    """Constrained parameters and exact assignments of all particles."""
    of = space.space_of(model)

    def one(key, u, x):
        params = of.constrain(u)
        return params, labels.draw_assignments(key, model.log_table(params, x))

    def finish(key, u, x):
        keys = jax.random.split(key, u.shape[:2])
        return jax.vmap(jax.vmap(one, (0, 0, None)), (0, 0, None))(keys, u, x)

    return jax.jit(finish)


def _finite(log_lik):
    return jnp.where(jnp.isnan(log_lik), -jnp.inf, log_lik)
