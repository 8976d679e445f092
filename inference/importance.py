"""Importance sampling from the prior: the log evidence and weighted draws, honest about collapsed weights.

Particles come from the prior through GenJAX; particle i uses fold_in(key, i), so the block size changes no draw.
log p(x) = log E_prior[p(x | params)], estimated by the mean of the weights (Robert & Casella 2004, Monte Carlo
Statistical Methods, section 3.3). A posterior much narrower than the prior leaves few particles with any weight:
`weight_ess` and `pareto_k` say so, and the warnings repeat it.
"""

import functools
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from genjax import ChoiceMap
from scipy.special import logsumexp

from inference import labels, loop
from inference.results import INTERRUPTED, Cost, Draws
from zoo.mixture import num_observations

CELLS = 2**20  # table cells in one block: 8 MiB in float64, and some ten arrays of that size
MAX_BLOCK = 2**15  # particles in one block
MAX_ENTRIES = 5e7  # assignments are kept when particles times observations are at most this
MAX_KNOWN = 10_000  # particles when nothing but the assignments is unknown: all weights are equal
PARTICLES, MOST_TIMES = 1_000_000, 4  # by default: how many, and how many times as many where the evidence needs them
MAX_NUMBERS = 2**27  # by default: particles times unknown numbers, 1 GiB in float64
ENOUGH = 0.02  # standard error of a log evidence: with more it says too little
FEW_ESS = 10  # below: the weights have collapsed, and there is no estimate of the evidence
MIN_ESS, MAX_K = 100, 0.7  # usable: weight ESS at least, Pareto k at most (Vehtari et al. 2024, section 3)


def refuses(model, x) -> str | None:
    """None: every mixture of the declared form has a prior to draw from and a density to weigh by."""
    return None


def importance(
    model, x, key, *, num_particles: int | None = None, num_resampled=0, block: int | None = None, progress=None
) -> Draws:
    """Weighted draws of the parameters, assignments summed out: from the prior, with log weights log p(x | params).

    `params` leaves (1, S, ...), `log_weights` (1, S), `log_evidence` with its standard error by the delta method;
    assignments are None. Unless `num_particles` says how many, a million are drawn, and up to four million where the
    first are usable and promise a standard error of .02 by so many, as far as 2^27 numbers go; that their own error
    chooses the number biases the estimate by a fraction of that error only. `num_resampled` > 0 adds `resampled`, that
    many equal-weight draws by systematic resampling, each with an exact draw of its assignments. `block` particles are
    worked on at a time (default: bounded memory).
    A model without unknown parameters has equal weights and exact evidence: at most 10,000 particles are drawn, each
    with exact assignments. After each block `progress(done, total)`; the total may grow once.
    """
    size = sum(int(np.prod(leaf.shape)) for leaf in model.param_shapes.values())
    held = max(2, MAX_NUMBERS // max(size, 1))
    asked = used = min(PARTICLES, held) if num_particles is None else num_particles
    if not model.param_shapes:
        used = min(asked, max(2, min(MAX_KNOWN, int(MAX_ENTRIES // num_observations(x)))))
    most = min(MOST_TIMES * used, held) if num_particles is None else used
    draws = weighted_draws(model, _summed_out(model), x, key, used, num_resampled, block, progress, most)
    if used < asked:
        said = f"no unknown parameter: {used} particles of equal weight serve for {asked}"
        draws = draws._replace(warnings=(*draws.warnings, said))
    return draws


def importance_joint(
    model, x, key, *, num_particles=1000, num_resampled=0, block: int | None = None, progress=None
) -> Draws:
    """Weighted draws of parameters and assignments, all proposed from the prior: GenJAX's `generate` on the joint.

    log weights log p(x | assignments, params). As proposals for N assignments hit the posterior with a probability of
    order K^-N, this collapses for all but the smallest data: it is here to be seen. Fields as in `importance`, with
    assignments (1, S, N) where S N is at most 5e7.
    """
    program = _proposed(model, num_observations(x), num_particles * num_observations(x) <= MAX_ENTRIES)
    return weighted_draws(model, program, x, key, num_particles, num_resampled, block, progress)


# -- what the weights are worth ------------------------------------------------------------------------------


def weight_ess(log_weights) -> float:
    """(sum w)^2 / sum w^2 over all entries: effective draws (Kong 1992); 0 where no weight is positive."""
    log_weights = clean(log_weights)
    if not np.isfinite(log_weights.max()):
        return 0.0
    return float(np.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights)))


def pareto_k(log_weights) -> float | None:
    """Shape of the generalised Pareto distribution fitted to the largest weights (Vehtari et al. 2024), by ArviZ.

    Above .7 estimates from the weights cannot be trusted. None where all weights are equal (there is no tail);
    infinite where too few are positive for a fit.
    """
    log_weights = clean(log_weights)
    if not np.isfinite(log_weights.max()):
        return float("inf")
    if log_weights.min() == log_weights.max():
        return None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # ArviZ announces its own refactoring at every import
        import arviz as az

        k = float(az.psislw(log_weights)[1])
    return k if np.isfinite(k) else float("inf")


def no_evidence(weight_ess: float, pareto_k: float) -> bool:
    """Whether weights give no estimate of the log evidence: so few effective draws that its standard error means
    nothing either, or enough of them with a Pareto k that disproves it (between, it is shown as one of few draws)."""
    return weight_ess < FEW_ESS or (weight_ess >= MIN_ESS and pareto_k > MAX_K)


def log_evidence(log_weights) -> tuple[float | None, float | None]:
    """log of the mean weight, and its standard error sd(w) / (sqrt(S) mean(w)); None where no weight is positive.

    A collapsed sample does not know its own error: with ESS near 1 the standard error is near 1 however far off it is.
    """
    log_weights = clean(log_weights)
    S, largest = len(log_weights), log_weights.max()
    if not np.isfinite(largest):
        return None, None
    w = np.exp(log_weights - largest)
    if np.ptp(w) == 0:
        return float(largest), 0.0
    return float(largest + np.log(w.mean())), float(w.std(ddof=1) / (np.sqrt(S) * w.mean()))


def clean(log_weights):
    """Float64, flat; what is not a number, or infinite, weighs nothing."""
    flat = np.array(log_weights, np.float64).ravel()
    flat[~np.isfinite(flat)] = -np.inf
    return flat


def judge(log_weights):
    """The sentences about these weights that a reader needs; none when they are usable."""
    said = []
    bad = int(np.sum(np.isnan(log_weights) | (log_weights == np.inf)))
    if bad:
        said.append(f"{bad} of {log_weights.size} log weights were not finite numbers and count as weight zero")
    ess, k = weight_ess(log_weights), pareto_k(log_weights)
    if ess == 0:
        return (*said, "no particle has a positive weight: there is no estimate; not usable")
    if collapsed(log_weights) or (ess < MIN_ESS and k is not None):
        what = "the weights have collapsed" if collapsed(log_weights) else "few effective draws"
        said.append(f"{what}: the {log_weights.size} weights are worth {ess:.3g} draws; not usable")
    if k is not None and k > MAX_K:
        shown = f"{k:.2f}" if np.isfinite(k) else "infinite"
        said.append(f"the largest weights dominate: Pareto k is {shown}, above {MAX_K}; not usable")
    return tuple(said)


def collapsed(log_weights) -> bool:
    """Whether hardly any of the weights count: fewer than FEW_ESS effective ones, and fewer than half of them."""
    ess = weight_ess(log_weights)
    return 0 < ess < min(FEW_ESS, log_weights.size / 2)


# -- running -------------------------------------------------------------------------------------------------


def weighted_draws(model, program, x, key, num_particles, num_resampled, block, progress, most=0) -> Draws:
    if num_particles < 2 or (block is not None and block < 1):  # one weight says nothing of its own error
        raise ValueError(f"num_particles should be at least 2 and block at least 1, got {num_particles} and {block}")
    x = jax.tree.map(jnp.asarray, x)
    key_particles, key_resample = jax.random.split(key)
    out, done, cost = in_blocks(model, program, (key_particles, x), None, num_particles, block, progress)
    if done == 0:
        raise KeyboardInterrupt("interrupted before the first block of particles")
    wanted = wanted_particles(out["log_weights"], most) if done == num_particles else done
    if wanted > num_particles:
        start, num_particles = num_particles, wanted
        rest, done, spent = in_blocks(model, program, (key_particles, x), None, wanted, block, progress, start)
        cost += spent
        if done > start:
            out = jax.tree.map(lambda *leaves: np.concatenate(leaves), out, rest)
    said = judge(out["log_weights"])
    if done < num_particles:
        said += (INTERRUPTED,)
    log_weights = clean(out["log_weights"])
    value, error = log_evidence(log_weights)
    ess = weight_ess(log_weights)  # below: its standard error means nothing either
    if collapsed(log_weights) or (ess >= MIN_ESS and no_evidence(ess, pareto_k(log_weights) or 0.0)):
        value = error = None
        said += ("no estimate of the evidence from such weights",)
    draws = Draws(
        params={name: leaf[None] for name, leaf in out["params"].items()},
        assignments=out["assignments"][None] if "assignments" in out else None,
        cost=cost._replace(table_evaluations=done),
        log_weights=log_weights[None],
        log_evidence=value,
        log_evidence_se=error,
        num_done=done,
        interrupted=done < num_particles,
        warnings=said,
    )
    if num_resampled and np.isfinite(log_weights).any():
        resampled, spent = resample(model, x, key_resample, draws, num_resampled, block)
        draws = draws._replace(resampled=resampled, cost=draws.cost + spent)
    return draws


def wanted_particles(log_weights, most) -> int:
    """How many particles give the log evidence a standard error of ENOUGH, by these weights, with a tenth to spare.

    No more than there are where the weights are not usable, or where even `most` would not do.
    """
    S, (_, error) = log_weights.size, log_evidence(log_weights)
    if S >= most or error is None or error <= ENOUGH or judge(log_weights):
        return S
    wanted = int(np.ceil(1.1 * S * (error / ENOUGH) ** 2))
    return wanted if wanted <= most else S


def in_blocks(model, program, shared, rows, total, block, progress, start=0):
    """`program(indices, rows, *shared)` for indices start..total-1, `block` at a time by one compiled program.

    Outputs as NumPy arrays with leading axis `done - start`, `done` (less than `total` after Ctrl-C), and the cost.
    """
    if block is None:
        block = int(np.clip(CELLS // (num_observations(shared[-1]) * model.num_components), 1, MAX_BLOCK))
    block = min(block, total - start)

    def arguments(first):
        here = first + np.arange(block)
        taken = np.minimum(here, total - 1)  # the last block is filled up with copies of the last row
        return (jnp.asarray(here, jnp.int32), jax.tree.map(lambda leaf: jnp.asarray(leaf[taken]), rows), *shared)

    ready, seconds, size = loop.compiled(program, *arguments(0))
    outs, done, started = [], start, time.perf_counter()
    try:
        while done < total:
            kept = min(block, total - done)
            outs.append(jax.tree.map(lambda leaf: np.asarray(leaf)[:kept], ready(*arguments(done))))  # noqa: B023
            done += kept
            if progress is not None:
                progress(done, total)
    except KeyboardInterrupt:
        pass  # the finished blocks are kept
    cost = Cost(seconds, time.perf_counter() - started, 0, 0, size)
    return (jax.tree.map(lambda *leaves: np.concatenate(leaves), *outs) if outs else None), done, cost


def resample(model, x, key, draws, num, block):
    """Equal-weight draws (1, num, ...) by systematic resampling (Kitagawa 1996), assignments included; and the cost."""
    key_pick, key_assign = jax.random.split(key)
    w = np.exp(draws.log_weights[0] - draws.log_weights[0].max())
    places = (float(jax.random.uniform(key_pick)) + np.arange(num)) / num
    chosen = np.minimum(np.searchsorted(np.cumsum(w) / w.sum(), places, side="right"), np.flatnonzero(w)[-1])
    params = {name: leaf[0, chosen] for name, leaf in draws.params.items()}
    assignments, cost = None, Cost()
    if draws.assignments is not None:
        assignments = draws.assignments[:, chosen]
    elif num * num_observations(x) <= MAX_ENTRIES:
        out, done, cost = in_blocks(model, _assign(model), (key_assign, x), params, num, block, None)
        if done < num:
            raise KeyboardInterrupt
        assignments, cost = out[None], cost._replace(table_evaluations=num)
    leaves = {name: leaf[None] for name, leaf in params.items()}
    return Draws(params=leaves, assignments=assignments, cost=cost, num_done=num), cost


@functools.cache
def _summed_out(model):
    def block(keys, rows, x):
        key_params, key_assign = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        # one draw at a time: measured as fast as vmap, and the gamma samplers compile four times faster
        params = jax.lax.map(model.prior_draw, key_params)
        if params:
            return {"params": params, "log_weights": jax.vmap(lambda p: model.log_likelihood(p, x))(params)}
        table = model.log_table({}, x)
        log_weights = jnp.broadcast_to(jax.nn.logsumexp(table, axis=1).sum(), keys.shape)
        assignments = jax.vmap(lambda key: labels.draw_assignments(key, table))(key_assign)
        return {"params": {}, "log_weights": log_weights, "assignments": assignments}

    return program_of(block)


@functools.cache
def _proposed(model, n, keep_assignments):
    def particle(key, x):
        observed = dict(x) if isinstance(x, dict) else {"x": x}
        joint = model.joint(n, observed.pop("covariates", None))
        constraints = ChoiceMap.d({("obs", *name.split(".")): leaf for name, leaf in observed.items()})
        trace, log_weight = joint.generate(key, constraints, ())
        choices = trace.get_choices()
        params = model.inside({name: choices[tuple(name.split("."))] for name in model.param_shapes})
        out = {"params": params, "log_weights": log_weight}
        if keep_assignments:
            out["assignments"] = choices["obs", "z"].astype(jnp.int32)
        return out

    return program_of(lambda keys, rows, x: jax.lax.map(lambda key: particle(key, x), keys))


@functools.cache
def _assign(model):
    def one(key, params, x):
        return labels.draw_assignments(key, model.log_table(params, x))

    return program_of(lambda keys, rows, x: jax.vmap(one, in_axes=(0, 0, None))(keys, rows, x))


def program_of(block):
    """jit of `block(keys, rows, x)`, given the indices whose keys they are."""

    def program(indices, rows, key, x):
        return block(jax.vmap(lambda i: jax.random.fold_in(key, i))(indices), rows, x)

    return jax.jit(program)
