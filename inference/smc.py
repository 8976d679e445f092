"""Sequential Monte Carlo from the prior to the posterior (Del Moral, Doucet & Jasra 2006, JRSS B 68, section 3.3.2).

The paths between the two and the moves along them are those of `inference.tempering`. Measured, HMC along its path
serves better than Gibbs draws along theirs: bento with everything unknown has runs that differ by .1 in log evidence
against 3.8, a thousand points in three components by .2 against more than 20.

Particles are waste-free (Dau & Chopin 2022, JRSS B 84, algorithm 2): a few ancestors are resampled, all states of the
chains that start there are the next particles. A run is unbiased for the evidence as far as temperatures and scales
are given; both adapt, an error of the order of 1/particles. Each chain of the result is a run of its own: the spread
of the runs is the only honest error, since particles within a run share ancestors.
"""

import concurrent.futures
import functools
import os
import time
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from inference import labels, loop, space, tempering
from inference.results import Cost, Draws

LENGTH = 16  # states that a chain from one ancestor gives
STABLE = 0.5  # change of the log evidence under twice the moves that is still agreement
KEEP = 0.6  # conditional ESS of a step in temperature, as a share of the particles
LEAST = 0.4  # ... after the step: below, it is halved
HOPELESS = 3.0  # standard deviation of the better runs' log evidence that is to be expected under the most moves
LARGEST_SE = 0.1  # of the log evidence: a larger one is said
MAX_TEMPERATURES = 300
MOST = 256  # unknown numbers D: near t the log likelihood has variance D / (2 t^2), so temperatures grow as sqrt(D)
BISECTIONS = 40
TARGET_ACCEPT = 0.8
LANES, CELLS = 16, 2**18  # particles that are worked on at once, and table cells: more is no faster
# share of sweeps whose conjugate draws were all accepted below which a rule does not fit; by precision
CONJUGATE = {"float64": 0.99, "float32": 0.9}


def refuses(model, x) -> str | None:
    """None where parameters are unknown, not too many, and the twin says what their supports are."""
    if not model.param_shapes:
        return "no unknown parameter, so there is nothing to temper; enumeration is exact"
    if space.discrete(model):
        return f"{', '.join(space.discrete(model))} is discrete; its moves are over continuous parameters"
    if model.lacks_twin is None and (size := space.space_of(model).size) > MOST:
        return f"{size} unknown numbers; from the prior it would take too many temperatures, and it goes up to {MOST}"
    return model.lacks_twin


def smc(
    model,
    x,
    key,
    *,
    num_runs=8,
    num_particles=1024,
    num_moves=1,
    max_moves=8,
    move: Literal["gibbs", "hmc"] = "hmc",
    permute=True,
    progress=None,
) -> Draws:
    """C = `num_runs` independent runs of S = `num_particles`, each from the prior to the posterior.

    The next temperature keeps about KEEP S effective particles (the first at least LEAST S); systematic resampling
    takes S / LENGTH ancestors, and `num_moves` moves lie between one particle of a chain and the next. `move`: "gibbs"
    or "hmc", each followed by the labelling (`inference.labels`). Everything is repeated with twice the moves until log
    evidence changes by at most STABLE and has a standard error of at most LARGEST_SE. Past `max_moves`, without the
    first, or with an error above STABLE, there is no estimate; nor are more moves tried where the better half of the
    runs, which make up the evidence, would still differ by more than HOPELESS after them (`_hopeless`).
    `params` (C, S, ...), `log_weights` (C, S) the log evidence of each run: the mean weight is the evidence, and its
    standard error comes from the spread of the runs. Assignments are exact draws from the table. `stats` (C, S) have
    each run's number of temperatures, the mean and the least of the acceptance rate at each ("gibbs": the share of
    sweeps whose conjugate draws were all accepted), and the share of its prior draws whose density is not a number.
    """
    if num_runs < 8:
        raise ValueError(f"num_runs should be at least 8, since errors come from the spread of runs; got {num_runs}")
    check_settings({"num_moves": num_moves, "max_moves": max_moves})
    x, spreads = jax.tree.map(jnp.asarray, x), []
    began = time.perf_counter()
    rows = x if move == "gibbs" else tempering.distinct(x)
    program = _run(model, num_particles, move, permute)
    previous, moves, cost, interrupted = None, num_moves, Cost(time.perf_counter() - began), False
    while True:
        key_moves = jax.random.fold_in(key, moves)
        done, spent, interrupted = _runs(model, program, rows, key_moves, num_runs, num_particles, moves, progress)
        cost += spent
        if interrupted and previous is not None:
            break  # with the runs of half the moves, which have all ended
        u, stats = done
        log_z = stats.pop("log_evidence")
        if interrupted:
            break
        value, error = _evidence(log_z)
        spreads.append(_spread_of_better(log_z))
        stable = previous is not None and abs(value - previous) <= STABLE
        if (stable and error <= LARGEST_SE) or not np.isfinite(value) or 2 * moves > max_moves:
            break
        if not (stable and error <= STABLE) and _hopeless(spreads, int(np.log2(max_moves / moves))):
            break
        previous, moves = value, 2 * moves
    said: tuple[str, ...] = ()
    left = "; more moves would not bring them together" if 2 * moves <= max_moves else ""
    if interrupted and len(spreads) < 2:
        stable = False
        said = (f"interrupted: {len(u)} of {num_runs} runs had ended, and no estimate was compared with another",)
    elif interrupted and stable and error <= STABLE:
        said = (f"interrupted at {moves} moves a particle: the log evidence is that of {moves // 2}",)
    elif interrupted:
        said = (f"interrupted at {moves} moves a particle: no estimate, since those of fewer moves are unstable",)
    elif not np.isfinite(value):
        said = ("no estimate: no run reached the posterior with a finite density; check the units of x, or the prior",)
    elif not np.isfinite(log_z).all():  # as zeros they would pull the mean down
        lost = int(np.sum(~np.isfinite(log_z)))
        said = (f"no estimate: {lost} of {num_runs} runs did not reach the posterior; not usable: give more particles",)
    elif previous is None:
        said = ("no estimate: nothing to compare it with; not usable: max_moves should be at least twice num_moves",)
    elif not stable:
        said = (f"no estimate: the runs are unstable under more moves (up to {moves} a particle{left}); not usable",)
    elif error > STABLE:
        said = (f"no estimate: the runs disagree (standard error {error:.2g}{left}); not usable: give more particles",)
    elif error > LARGEST_SE:
        said = (f"the log evidence has a standard error of {error:.2g}, above {LARGEST_SE}: more particles lower it",)
    known = stable and error <= STABLE and bool(np.isfinite(log_z).all())
    if lost := stats["not_a_number"].mean():
        said += (
            f"at {lost:.2g} of the prior draws the density is no number and counts as 0: this is the posterior under "
            "the rest of the prior; check the model",
        )
    if move == "gibbs" and (rate := stats["least_acceptance_rate"].min()) < CONJUGATE[jnp.result_type(float).name]:
        said += (f"a conjugate conditional does not fit: as Metropolis-Hastings proposals {rate:.0%} were accepted",)
    finish = _finish(model)
    arguments = (jax.random.fold_in(key, 0), u, x)
    ready, seconds, size = loop.compiled(finish, *arguments)
    started = time.perf_counter()
    params, assignments = jax.tree.map(np.asarray, ready(*arguments))
    cost = cost + Cost(seconds, time.perf_counter() - started, len(u) * num_particles, 0, size)
    return Draws(
        params=params,
        assignments=assignments,
        cost=cost,
        log_weights=np.repeat(log_z[:, None], num_particles, axis=1),
        log_evidence=value if known else None,
        log_evidence_se=error if known else None,
        stats={name: np.repeat(leaf[:, None], num_particles, axis=1) for name, leaf in stats.items()},
        num_done=num_particles,
        interrupted=interrupted,
        warnings=said,
    )


def check_settings(settings: dict) -> None:
    """ValueError where the most moves are fewer than those it begins with."""
    num_moves, max_moves = settings.get("num_moves", 1), settings.get("max_moves", 8)
    if max_moves < num_moves:
        raise ValueError(f"smc: max_moves should be at least num_moves, {num_moves}; got {max_moves}")


def _spread_of_better(log_z) -> float:
    """Standard deviation of the upper half of the runs' log evidence: a low run adds next to nothing to their mean."""
    better = np.sort(log_z)[len(log_z) // 2 :]
    return float(better.std(ddof=1)) if np.isfinite(better).all() else np.inf


def _hopeless(spreads, doublings) -> bool:
    """Whether runs that have had these spreads would differ by more than HOPELESS after so many doublings of the
    moves, each changing the spread as the last one did."""
    if len(spreads) < 2 or not np.isfinite(spreads[-2:]).all():
        return False
    before, now = spreads[-2:]
    shrinks = now / before if now < before else 1.0
    return now * shrinks**doublings > HOPELESS


def _evidence(log_z):
    """log of the mean of the runs' evidences, and its standard error from their spread."""
    if not np.isfinite(log_z).any():
        return -np.inf, np.inf
    w = np.exp(log_z - log_z.max())
    return float(log_z.max() + np.log(w.mean())), float(w.std(ddof=1) / (np.sqrt(len(w)) * w.mean()))


def _runs(model, program, x, key, C, S, moves, progress):
    """(particles u (C, S, D), stats (C,) of every run with its log evidence), cost, False; runs share the cores.

    After Ctrl-C the runs that had begun, and True: they end first, so that what is kept does not hang on how long a run
    takes.
    """
    arguments = []
    for key_run in jax.random.split(key, C):
        key_prior, key_run = jax.random.split(key_run)
        arguments.append((key_run, model.prior_draws(key_prior, S), jnp.int32(moves), x))
    ready, seconds, size = loop.compiled(program, *arguments[0])
    began = time.perf_counter()
    outs, interrupted = [], False
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [pool.submit(lambda a: jax.tree.map(np.asarray, ready(*a)), one) for one in arguments]
        try:
            for future in futures:
                outs.append(future.result())
                if progress is not None:
                    progress(len(outs), C)
        except BaseException as stop:
            begun = [future for future in futures if not future.cancel()]
            if not isinstance(stop, KeyboardInterrupt):
                raise
            outs, interrupted = [future.result() for future in begun], True
    u, stats = jax.tree.map(lambda *leaves: np.stack(leaves), *outs)
    evaluations = {name: int(stats.pop(name).sum()) for name in ("num_evaluations", "num_gradients")}
    spent = Cost(
        seconds, time.perf_counter() - began, evaluations["num_evaluations"], evaluations["num_gradients"], size
    )
    return (u, stats), spent, interrupted


@functools.cache
def _run(model, S, move, permute):
    """The program of one run: (key, prior draws (S, ...), moves, x) -> u (S, D), stats."""
    of = space.space_of(model)
    path = tempering.path_of(model, move)
    kernel = (tempering.gibbs_kernel if move == "gibbs" else tempering.hmc_kernel)(model, permute)
    spread = _spread(model)
    num_ancestors = -(-S // LENGTH)
    of_u = lambda u, t, x: _finite(path(of.constrain(u), t, x))

    def advance(key, state, moves, x):
        u, t, scale, log_z, i, (total, least), used = state
        key_resample, key_moves = jax.random.split(jax.random.fold_in(key, i))
        each = lambda function, us: jax.lax.map(function, us, batch_size=_lanes(len(us), model, x))
        here, slope = each(lambda u: jax.jvp(lambda t: of_u(u, t, x), (t,), (jnp.ones_like(t),)), u)
        log_w = lambda dt: jnp.where(dt > 0, each(lambda u: of_u(u, t + dt, x), u) - here, 0.0)
        dt = next_step(jnp.where(jnp.isnan(slope), -jnp.inf, slope), t)

        def halve(tried):
            dt = tried[0] / 2
            return dt, log_w(dt), tried[2] + 1

        too_far = lambda tried: (ess_of(tried[1]) < LEAST * S) & (tried[2] < BISECTIONS)
        dt, log_w, looks = jax.lax.while_loop(too_far, halve, (2 * dt, jnp.full(S, -jnp.inf), jnp.int32(0)))
        log_z = log_z + jax.nn.logsumexp(log_w) - jnp.log(S)
        sd = spread(u, jax.nn.softmax(log_w)) if move == "hmc" else jnp.ones(of.size)
        chosen = systematic(key_resample, log_w, num_ancestors)
        u, t = u[chosen], jnp.where(dt >= 1 - t, 1.0, t + dt)

        def sweep(j, carry):
            u, scale, _ = carry
            keys = jax.random.split(jax.random.fold_in(key_moves, j), num_ancestors)
            one = lambda at: kernel(at[0], at[1], t, scale, sd, x)
            u, accept = jax.lax.map(one, (keys, u), batch_size=_lanes(num_ancestors, model, x))
            return u, scale * jnp.exp(accept.mean() - TARGET_ACCEPT), accept.mean()

        def chain(carry, j):
            carry = jax.lax.fori_loop(j * moves, (j + 1) * moves, sweep, carry)
            return carry, (carry[0], carry[2])

        (_, scale, _), (us, accepts) = jax.lax.scan(chain, (u, scale, jnp.zeros_like(t)), jnp.arange(LENGTH))
        rates = total + accepts.mean(), jnp.minimum(least, accepts.mean())
        return us.reshape(-1, us.shape[-1])[:S], t, scale, log_z, i + 1, rates, used + looks

    def run(key, draws, moves, x):
        u = jax.vmap(of.unconstrain)(draws)
        lost = jax.lax.map(lambda p: jnp.isnan(path(p, 1.0, x)), draws, batch_size=_lanes(S, model, x))
        zero = jnp.zeros((), u.dtype)
        state = (u, zero, zero + 0.2, zero, jnp.int32(0), (zero, zero + 1), jnp.int32(0))
        going = lambda state: (state[1] < 1) & (state[4] < MAX_TEMPERATURES)
        u, t, _, log_z, i, (total, least), looks = jax.lax.while_loop(going, lambda s: advance(key, s, moves, x), state)
        sweeps = i * num_ancestors * LENGTH * moves
        stats = {
            "log_evidence": jnp.where(t >= 1, log_z, -jnp.inf),
            "acceptance_rate": total / i,
            "least_acceptance_rate": least,
            "num_temperatures": i.astype(u.dtype),
            "not_a_number": lost.mean(dtype=u.dtype),
            "num_evaluations": S + looks * S + sweeps * (move == "gibbs"),
            "num_gradients": i * S + sweeps * (tempering.NUM_LEAPS + 1) * (move == "hmc"),
        }
        return u, stats

    return jax.jit(run)


def _lanes(n, model, x):
    """How many of n particles are worked on at once: a divisor of n where one is large enough, else with a rest."""
    rows = max(len(leaf) for leaf in jax.tree.leaves(x))
    most = min(max(1, CELLS // (rows * model.num_components)), LANES)
    divisor = max(d for d in range(1, n + 1) if n % d == 0 and d <= most)
    return divisor if 2 * divisor > most else min(n, most)


def _spread(model):
    """(u (S, D), weights (S,)) -> standard deviations (D,) of the cloud with its components in order.

    Labels that switch, as they do, would show the distance between components in place of the width of each. Rows
    of a component parameter share their mean square, so that a scale belongs to no label.
    """
    of = space.space_of(model)
    leaves = [name for name in model.component_leaves if name in of.slices] if model.relabels else []
    shapes = model.param_shapes
    key = next((name for name in (model.order_by, *leaves) if name in leaves and shapes[name].shape), None)

    def ordered(u):
        params = of.constrain(u)
        first = params[key].reshape(model.num_components, -1)[:, 0]
        return of.unconstrain(model.permute(params, jnp.argsort(jnp.argsort(first)).astype(jnp.int32)))

    def spread(u, w):
        u = jax.vmap(ordered)(u) if key else u
        u = jnp.where(jnp.isfinite(u) & (w > 0)[:, None], u, 0.0)
        variance = w @ (u - w @ u) ** 2
        for name in leaves:
            rows = variance[of.slices[name]]
            wide = len(rows) // model.num_components if len(shapes[name].shape) > 1 else 1  # a simplex has K - 1 rows
            rows = rows.reshape(-1, wide) if key else rows
            shared = jnp.broadcast_to(rows.mean(axis=0), rows.shape).reshape(-1)
            variance = variance.at[of.slices[name]].set(shared)
        return jnp.maximum(jnp.sqrt(variance), 1e-6)

    return spread


def ess_of(log_w):
    """(sum w)^2 / sum w^2; 0 where no weight is positive."""
    ess = jnp.exp(2 * jax.nn.logsumexp(log_w) - jax.nn.logsumexp(2 * log_w))
    return jnp.nan_to_num(ess, nan=0.0)


def next_step(slope, t):
    """The largest dt <= 1 - t for which weights exp(dt slope) keep an ESS of KEEP times the particles."""

    def ess(dt):
        return ess_of(jnp.where(dt > 0, dt * slope, 0.0))

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        enough = ess(middle) >= KEEP * len(slope)
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    rest = 1 - t
    low, _ = jax.lax.fori_loop(0, BISECTIONS, halve, (jnp.zeros_like(rest), rest))
    return jnp.where(ess(rest) >= KEEP * len(slope), rest, low)


def systematic(key, log_w, num):
    """`num` ancestors by systematic resampling, one uniform for all (Kitagawa 1996)."""
    cumulative = jnp.cumsum(jax.nn.softmax(log_w))
    places = (jax.random.uniform(key, dtype=log_w.dtype) + jnp.arange(num)) / num * cumulative[-1]
    return jnp.minimum(jnp.searchsorted(cumulative, places, side="right"), len(log_w) - 1)


@functools.cache
def _finish(model):
    """Constrained parameters and exact assignments of all particles."""
    of = space.space_of(model)

    def one(at, x):
        key, u = at
        params = of.constrain(u)
        return params, labels.draw_assignments(key, model.log_table(params, x))

    def finish(key, u, x):
        keys = jax.random.split(key, u.shape[:2])
        return jax.lax.map(lambda run: jax.lax.map(lambda at: one(at, x), run), (keys, u))

    return jax.jit(finish)


def _finite(value):
    return jnp.where(jnp.isnan(value), -jnp.inf, value)
