"""Sequential Monte Carlo from the prior to the posterior (Del Moral, Doucet & Jasra 2006, JRSS B 68, section 3.3.2).

The path, t from 0 to 1, p(params) l_t(params), by what moves the particles:

    gibbs   l_t = prod_n sum_k p(z_n = k | params) p(x_n | z_n = k, params)^t
    hmc     l_t = p(x | params)^t

The first is the law of the parameters under p(params, z) prod_n p(x_n | z_n, params)^t, whose conditionals are Gibbs
draws at any t: assignments given parameters from the table with `log_components` alone tempered, parameters given
assignments from the conjugate conditional at responsibilities t r (rules about the weights: at r), slices for the rest.
Tempering the whole table instead would leave K^N at t = 0. From t to s, params weighs l_s / l_t with the assignments
summed out: that is the mean of prod_n p(x_n | z_n, params)^(s - t) over the assignments given params at t, so the
expectation is the same and the variance less than of particles with assignments, where it grows with N.

Particles are waste-free (Dau & Chopin 2022, JRSS B 84, algorithm 2): a few ancestors are resampled, all states of the
chains that start there are the next particles. A run is unbiased for the evidence as far as temperatures and scales
are given; both adapt, an error of the order of 1/particles. Each chain of the result is a run of its own: the spread
of the runs is the only honest error, since particles within a run share ancestors.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from inference import conjugacy, labels, loop, space
from inference.results import Cost, Draws
from inference.slice import slice_coordinates

MOVES = ("gibbs", "hmc")
LENGTH = 16  # states that a chain from one ancestor gives
NUM_LEAPS = 5
STABLE = 0.5  # change of the log evidence under twice the moves that is still agreement
KEEP = 0.7  # conditional ESS of a step in temperature, as a share of the particles
LEAST = 0.5  # ... after the step: below, it is halved
LARGEST_SE = 0.1  # of the log evidence: a larger one is said
MAX_TEMPERATURES = 300
BISECTIONS = 40
TARGET_ACCEPT = 0.8
CELLS = 2**13  # table cells that are worked on at once: what stays in the cache is faster
CONJUGATE = 0.99  # share of conjugate draws accepted below which a rule does not fit


def refuses(model, x) -> str | None:
    """None where parameters are unknown and the twin says what their supports are."""
    if not model.param_shapes:
        return "no unknown parameter, so there is nothing to temper; enumeration is exact"
    if model.twin is None:
        return "tempering needs the supports of a NumPyro twin; the model has none"
    return None


def smc(
    model,
    x,
    key,
    *,
    num_runs=8,
    num_particles=512,
    num_moves=1,
    max_moves=16,
    move="hmc",
    permute=True,
    progress=None,
) -> Draws:
    """C = `num_runs` independent runs of S = `num_particles`, each from the prior to the posterior.

    The next temperature keeps about KEEP S effective particles; systematic resampling takes S / LENGTH ancestors, and
    `num_moves` moves lie between one particle of a chain and the next. `move`: "gibbs" or "hmc" (above), each followed
    by the labelling (`inference.labels`). Everything is repeated with twice the moves until log evidence changes by
    at most STABLE; past `max_moves` there is no estimate of it.
    `params` (C, S, ...), `log_weights` (C, S) the log evidence of each run: the mean weight is the evidence, and its
    standard error comes from the spread of the runs. Assignments are exact draws from the table.
    """
    if num_runs < 8:
        raise ValueError(f"num_runs should be at least 8, since errors come from the spread of runs; got {num_runs}")
    if move not in MOVES:
        raise ValueError(f"smc: move should be one of {', '.join(MOVES)}, got {move!r}")
    x = jax.tree.map(jnp.asarray, x)
    began = time.perf_counter()
    untempered = _untempered(model, x) if move == "gibbs" else ()
    program = _run(model, num_particles, move, untempered, permute)
    previous, moves, cost = None, num_moves, Cost(time.perf_counter() - began)
    while True:
        u, stats, spent = _runs(
            model, program, x, jax.random.fold_in(key, moves), num_runs, num_particles, moves, progress
        )
        cost, log_z = cost + spent, stats.pop("log_evidence")
        value = float(logsumexp(log_z) - np.log(num_runs))
        stable = previous is not None and abs(value - previous) <= STABLE
        if stable or not np.isfinite(value) or 2 * moves > max_moves:
            break
        previous, moves = value, 2 * moves
    said: tuple[str, ...] = ()
    w = np.exp(log_z - log_z.max()) if np.isfinite(value) else np.zeros(num_runs)
    error = float(w.std(ddof=1) / (np.sqrt(num_runs) * w.mean())) if stable else np.inf
    if not stable:
        said = (f"no estimate: unstable under more moves (up to {moves} a particle); not usable",)
    elif error > STABLE:
        said = (f"no estimate: the runs disagree (standard error {error:.2g}); not usable: give more particles",)
    elif error > LARGEST_SE:
        said = (f"the log evidence has a standard error of {error:.2g}, above {LARGEST_SE}: more particles lower it",)
    known = stable and error <= STABLE
    if move == "gibbs" and stats["acceptance_rate"].min() < CONJUGATE:
        rate = stats["acceptance_rate"].min()
        said += (f"a conjugate conditional does not fit: as Metropolis-Hastings proposals {rate:.0%} were accepted",)
    finish = _finish(model)
    arguments = (jax.random.fold_in(key, 0), u, x)
    ready, seconds, size = loop.compiled(finish, *arguments)
    started = time.perf_counter()
    params, assignments = jax.tree.map(np.asarray, ready(*arguments))
    cost = cost + Cost(seconds, time.perf_counter() - started, num_runs * num_particles, 0, size)
    return Draws(
        params=params,
        assignments=assignments,
        cost=cost,
        log_weights=np.repeat(log_z[:, None], num_particles, axis=1),
        log_evidence=value if known else None,
        log_evidence_se=error if known else None,
        stats={name: np.repeat(leaf[:, None], num_particles, axis=1) for name, leaf in stats.items()},
        num_done=num_particles,
        warnings=said,
    )


def _runs(model, program, x, key, C, S, moves, progress):
    """Particles u (C, S, D), stats (C,) of every run with its log evidence, cost."""
    keys = jax.random.split(key, C)
    outs, cost = [], Cost()
    for done, key_run in enumerate(keys):
        key_prior, key_run = jax.random.split(key_run)
        arguments = (key_run, model.prior_draws(key_prior, S), jnp.int32(moves), x)
        ready, seconds, size = loop.compiled(program, *arguments)
        began = time.perf_counter()
        outs.append(jax.tree.map(np.asarray, ready(*arguments)))
        cost += Cost(seconds, time.perf_counter() - began, 0, 0, size)
        if progress is not None:
            progress(done + 1, C)
    u, stats = jax.tree.map(lambda *leaves: np.stack(leaves), *outs)
    evaluations = {name: int(stats.pop(name).sum()) for name in ("num_evaluations", "num_gradients")}
    return (
        u,
        stats,
        cost._replace(
            table_evaluations=evaluations["num_evaluations"], gradient_evaluations=evaluations["num_gradients"]
        ),
    )


@functools.cache
def _run(model, S, move, untempered, permute):
    """The program of one run: (key, prior draws (S, ...), moves, x) -> u (S, D), stats."""
    of = space.space_of(model)
    path = path_of(model, move)
    kernel = gibbs_kernel(model, untempered, permute) if move == "gibbs" else hmc_kernel(model, permute)
    num_ancestors = -(-S // LENGTH)
    of_u = lambda u, t, x: _finite(path(of.constrain(u), t, x))

    def advance(key, state, moves, x):
        u, t, scale, log_z, i, _, used = state
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
        sd = jnp.maximum(_weighted_sd(u, jax.nn.softmax(log_w)), 1e-6)
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
        return us.reshape(-1, us.shape[-1])[:S], t, scale, log_z, i + 1, accepts.mean(), used + looks

    def run(key, draws, moves, x):
        u = jax.vmap(of.unconstrain)(draws)
        zero = jnp.zeros((), u.dtype)
        state = (u, zero, zero + 0.2, zero, jnp.int32(0), zero, jnp.int32(0))
        going = lambda state: (state[1] < 1) & (state[4] < MAX_TEMPERATURES)
        u, t, _, log_z, i, accept, looks = jax.lax.while_loop(going, lambda s: advance(key, s, moves, x), state)
        sweeps = i * num_ancestors * LENGTH * moves
        stats = {
            "log_evidence": jnp.where(t >= 1, log_z, -jnp.inf),
            "acceptance_rate": accept,
            "num_temperatures": i.astype(u.dtype),
            "num_evaluations": looks * S + sweeps * (move == "gibbs"),
            "num_gradients": i * S + sweeps * (NUM_LEAPS + 1) * (move == "hmc"),
        }
        return u, stats

    return jax.jit(run)


def _lanes(n, model, x):
    """How many of n particles are worked on at once: a divisor of n."""
    rows = max(len(leaf) for leaf in jax.tree.leaves(x))
    most = max(1, CELLS // (rows * model.num_components))
    return max(d for d in range(1, n + 1) if n % d == 0 and d <= most)


def _weighted_sd(u, w):
    u = jnp.where(jnp.isfinite(u) & (w > 0)[:, None], u, 0.0)
    mean = w @ u
    return jnp.sqrt(w @ (u - mean) ** 2)


def ess_of(log_w):
    """(sum w)^2 / sum w^2; 0 where no weight is positive."""
    ess = jnp.exp(2 * jax.nn.logsumexp(log_w) - jax.nn.logsumexp(2 * log_w))
    return jnp.nan_to_num(ess, nan=0.0)


# -- the path and the moves along it ---------------------------------------------------------------------------


def path_of(model, move):
    """log l_t (params, t, x), a scalar."""
    if move == "hmc":
        return lambda params, t, x: jnp.where(t > 0, t * model.log_likelihood(params, x), 0.0)
    return lambda params, t, x: jax.nn.logsumexp(tempered_table(model, params, t, x), axis=1).sum()


def tempered_table(model, params, t, x):
    """log p(z_n = k | params) + t log p(x_n | z_n = k, params), (N, K)."""
    components = model.log_components(params, x)
    return model.log_weights_table(params, x) + jnp.where(t > 0, t * components, 0.0)


def gibbs_kernel(model, untempered, permute):
    """(key, u, t, scale, sd, x) -> u, share of conjugate draws accepted: one sweep that leaves the law at t alone.

    Assignments given the parameters, every conjugate site given these, slices for the other sites, the labelling; no
    use of scale and sd. Conjugate draws are proposals whose log acceptance ratio is 0 to rounding if the rule is right.
    """
    of = space.space_of(model)
    K = model.num_components
    rules = tuple(rule for rule in conjugacy.rules(model) if rule.conditional is not None)
    others = [name for name in model.param_shapes if name not in {rule.site for rule in rules}]
    coordinates = np.concatenate([np.arange(of.size)[of.slices[name]] for name in others] or [np.arange(0)])
    relabel = labels.moves(model, permute)

    def log_complete(params, r, t, x):
        table = tempered_table(model, params, t, x)
        return model.log_prior(params) + jnp.where(r > 0, r * table, 0.0).sum()

    def kernel(key, u, t, scale, sd, x):
        key_assign, key_rules, key_slice, key_labels = jax.random.split(key, 4)
        params = of.constrain(u)
        z = labels.draw_assignments(key_assign, tempered_table(model, params, t, x))
        r = jax.nn.one_hot(z, K, dtype=u.dtype)
        accepted = jnp.zeros((), u.dtype)
        here = log_complete(params, r, t, x) if rules else 0.0
        for j, rule in enumerate(rules):
            key_draw, key_accept = jax.random.split(jax.random.fold_in(key_rules, j))
            q = rule.conditional(params, r if rule.site in untempered else t * r, x)
            drawn = {**params, rule.site: q.sample(key_draw).astype(params[rule.site].dtype)}
            there = log_complete(drawn, r, t, x)
            back = q.log_prob(params[rule.site]).sum() - q.log_prob(drawn[rule.site]).sum()
            taken = jnp.log(jax.random.uniform(key_accept)) < there - here + back
            params = {name: jnp.where(taken, drawn[name], params[name]) for name in params}
            here, accepted = jnp.where(taken, there, here), accepted + taken / len(rules)
        if len(coordinates):
            target = lambda u: log_complete(of.constrain(u), r, t, x) + of.log_det(u)
            u, _ = slice_coordinates(key_slice, target, of.unconstrain(params), coordinates)
            params = of.constrain(u)
        if relabel:
            swapped = lambda s: log_complete(model.permute(params, s), jnp.zeros_like(r).at[:, s].set(r), t, x)
            s = labels.redraw(model, key_labels, jnp.arange(K, dtype=jnp.int32), swapped)
            params = model.permute(params, s)
        return of.unconstrain(params), accepted if rules else jnp.ones((), u.dtype)

    return kernel


def hmc_kernel(model, permute):
    """(key, u, t, scale, sd, x) -> u, acceptance probability: one move that leaves the law at t alone."""
    of = space.space_of(model)
    path = path_of(model, "hmc")
    relabel = labels.moves(model, permute)
    log_tempered = lambda params, t, x: model.log_prior(params) + path(params, t, x)

    def kernel(key, u, t, scale, sd, x):
        """One Hamiltonian move (Neal 2011) with the cloud's scales for mass, then the labelling."""
        key_momentum, key_jitter, key_accept, key_labels = jax.random.split(key, 4)
        value_and_slope = jax.value_and_grad(lambda u: log_tempered(of.constrain(u), t, x) + of.log_det(u))
        eps = scale * sd * jax.random.uniform(key_jitter, (), minval=0.5, maxval=1.5)
        p = jax.random.normal(key_momentum, u.shape, u.dtype)
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

    return kernel


def _untempered(model, x) -> tuple[str, ...]:
    """The sites that p(x | z, params) does not depend on, by a look at prior draws: the weights'."""
    rows = jax.tree.map(lambda leaf: leaf[:2], x)
    draws = model.prior_draws(jax.random.key(3), 256)
    here, there = ({name: leaf[i] for name, leaf in draws.items()} for i in range(2))
    moved = {name: {**here, name: there[name]} for name in here}
    found = _components(model)(here, moved, rows)
    return tuple(name for name, same in found.items() if bool(same))


@functools.cache
def _components(model):
    def program(here, moved, x):
        before = model.log_components(here, x)
        return {name: jnp.all(model.log_components(p, x) == before) for name, p in moved.items()}

    return jax.jit(program)


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
