"""Importance sampling from a defensive mixture around every mode of the posterior, under every labelling.

In unconstrained space u the target is f(u) = log p(params, x) + log |d params / d u|, assignments summed out, and

    q(u) = DEFENSIVE p(u) + (1 - DEFENSIVE) sum_j share_j t(u; mode_j, WIDEN^2 covariance_j),

p the prior, t Student's t with DEGREES degrees of freedom, covariance_j the inverse of -f'' at mode_j. As q is above a
share of the prior, weights stay below the largest likelihood over DEFENSIVE (Hesterberg 1995, Technometrics 37,
section 2). The modes are those of EM under all K! permutations of the components, so that a sum over j is the sum over
labellings, exchangeable or not: nothing is left to add to the evidence, no log K!.
"""

import functools
import math
import time
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from inference import em as modes
from inference import importance, labels, loop, space
from inference.results import INTERRUPTED, Cost, Draws
from zoo.mixture import num_observations, permutations
from zoo.probe import NUM_DRAWS

DEFENSIVE = 0.1  # share of the particles that come from the prior
DEGREES = 6  # of Student's t; even, so that chi-squared is a sum of logarithms of uniforms
WIDEN = 1.1  # the standard deviations at a mode are multiplied by this
EVENLY = 0.2  # share of the particles that modes share evenly; the rest goes by their Laplace masses
NEGLIGIBLE = 1e-9  # a mode whose Laplace mass is a smaller part of all is left to the prior
WIDEST = 2.0  # no direction is wider than this many standard deviations of the prior
MAX_MODES = 12  # modes of EM that are used, the highest
SAME = 1e-3  # modes closer than this, in standard deviations of the prior, are one
NEWTON_STEPS = 50
FRACTIONS = tuple(2.0**-i for i in range(12))  # of a Newton step that are tried; and none


def refuses(model, x) -> str | None:
    """The sentence why there are no modes to stand on, or None."""
    if not model.param_shapes:
        return "no unknown parameter, so there is no mode to propose around; enumeration is exact"
    if model.num_components > labels.MAX_EXACT and model.relabels:
        return (
            f"it proposes around all K! labellings of every mode, for at most {labels.MAX_EXACT} components, "
            f"and the model has {model.num_components}"
        )
    if model.num_components > 2 and not model.relabels:
        return (
            f"no relabelling of its {model.num_components} components is known, and a labelling whose mode EM does not "
            "meet would be missing; give Mixture(permute=...), or declare components by arrays of one row each"
        )
    return modes.refuses(model, x)


def importance_modes(
    model, x, key, *, num_particles=20_000, num_restarts=16, num_resampled=0, block: int | None = None, progress=None
) -> Draws:
    """Weighted draws of the parameters, assignments summed out, proposed around the modes of `num_restarts` EM runs.

    Fields as in `importance`. Evidence and its error are of the raw weights, whose mean is unbiased; `log_weights` are
    Pareto smoothed (Vehtari et al. 2024, JMLR 25, section 3.2); `stats["pareto_k"]` is of the raw ones too. Below 100
    effective draws, or with Pareto k above .7, there is no estimate of the evidence and the warnings say so.
    `num_resampled` > 0 adds `resampled`, that many equal-weight draws by systematic resampling
    (sampling-importance-resampling, Rubin 1988), assignments included. A mode that no restart met is missing, unless
    it is a relabelling of one that was met.
    """
    if num_particles < 2 or (block is not None and block < 1):  # one weight says nothing of its own error
        raise ValueError(f"num_particles should be at least 2 and block at least 1, got {num_particles} and {block}")
    x = jax.tree.map(jnp.asarray, x)
    key_modes, key_prior, key_particles, key_resample = jax.random.split(key, 4)
    proposal, said, cost = proposal_of(model, x, key_modes, key_prior, num_restarts)
    if block is None:
        cells = max(num_observations(x) * model.num_components, proposal.centres.size)
        block = int(np.clip(importance.CELLS // cells, 1, importance.MAX_BLOCK))
    shared = (key_particles, proposal, x)
    out, done, spent = importance.in_blocks(model, _particles(model), shared, None, num_particles, block, progress)
    if done == 0:
        raise KeyboardInterrupt("interrupted before the first block of particles")
    raw = importance.clean(out["log_weights"])
    collapsed = importance.judge(out["log_weights"])
    value, error = importance.log_evidence(raw)
    if any("not usable" in sentence for sentence in collapsed):
        value = error = None
        said += ("no estimate of the evidence from such weights",)
    if done < num_particles:
        said += (INTERRUPTED,)
    draws = Draws(
        params={name: leaf[None] for name, leaf in out["params"].items()},
        assignments=None,
        cost=(cost + spent)._replace(table_evaluations=cost.table_evaluations + done),
        log_weights=smoothed(raw)[None],
        log_evidence=value,
        log_evidence_se=error,
        stats={"pareto_k": np.full((1, done), importance.pareto_k(raw) or 0.0)},
        num_done=done,
        interrupted=done < num_particles,
        warnings=(*collapsed, *said),
    )
    if num_resampled and np.isfinite(raw).any():
        resampled, spent = importance.resample(model, x, key_resample, draws, num_resampled, block)
        draws = draws._replace(resampled=resampled, cost=draws.cost + spent)
    return draws


def smoothed(log_weights):
    """The largest weights replaced by quantiles of the Pareto distribution fitted to them, by ArviZ; the rest stay."""
    if len(log_weights) < 2 or log_weights.min() == log_weights.max() or not np.isfinite(log_weights).any():
        return log_weights
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # ArviZ announces its own refactoring at every import
        import arviz as az

        found = np.asarray(az.psislw(log_weights.copy())[0], np.float64)
    # ArviZ normalises: a weight outside the tail gives the constant back
    outside = np.argsort(log_weights)[np.isneginf(log_weights).sum()]
    found = found + (log_weights[outside] - found[outside])
    return found if not np.isnan(found).any() else log_weights


# -- the proposal ----------------------------------------------------------------------------------------------


class Proposal(NamedTuple):
    """sum_j share_j t(centre_j, factor_j factor_j'), J places in R^D."""

    centres: Any  # (J, D)
    factors: Any  # (J, D, D), covariance = factor factor'
    inverses: Any  # (J, D, D), of the factors
    log_dets: Any  # (J,) log |det factor|
    shares: Any  # (J,), sum 1


def proposal_of(model, x, key_modes, key_prior, num_restarts) -> tuple[Proposal, tuple[str, ...], Cost]:
    """The Student's t of every distinct mode under every labelling; sentences for the reader; what it took."""
    found = modes.complete(model, x, key_modes, num_restarts)
    cost = found.cost
    said: tuple[str, ...] = ()
    began = time.perf_counter()
    kept = np.flatnonzero(found.admissible)
    if not len(kept):
        kept = np.flatnonzero(np.isfinite(found.log_density))[:1]
        said += ("no restart of EM ended in an admissible mode: the proposal stands on the best of them",)
    if not len(kept):
        raise ValueError("EM found no point of finite density to propose around; importance needs none")
    every = permutations(model.num_components) if model.relabels else np.arange(model.num_components)[None]
    start = {name: jnp.asarray(leaf)[kept] for name, leaf in found.params.items()}
    us, scale = jax.tree.map(np.asarray, _places(model)(start, every, model.prior_draws(key_prior, NUM_DRAWS)))
    cost += Cost(time.perf_counter() - began)
    settle, seconds, size = loop.compiled(_settle(model), jnp.asarray(us[0, 0]), scale, x)
    began = time.perf_counter()
    at = lambda u: jax.tree.map(np.asarray, settle(jnp.asarray(u), scale, x))
    first: list[np.ndarray] = []  # modes that no relabelling makes another's
    for r in range(len(us)):
        if np.isfinite(us[r, 0]).all() and not any(_close(us[r, 0], there, scale).any() for there in first):
            first.append(us[r][np.isfinite(us[r]).all(axis=1)])  # a labelling may leave the support
    first = first[:MAX_MODES]
    places: list[Place] = []
    for u in (u for labellings in first for u in labellings):
        place = at(u)
        if np.isfinite(place.log_mass) and not any(_close(place.u, p.u[None], scale).any() for p in places):
            places.append(place)
    if not places:
        raise ValueError("the density is not finite at the modes of EM: there is nothing to propose around")
    log_mass = np.array([place.log_mass for place in places])
    places = [p for p in places if p.log_mass - logsumexp(log_mass) > math.log(NEGLIGIBLE)]
    flat = sum(place.least <= 0 for place in places)
    if flat:
        said += (f"at {flat} of {len(places)} modes the curvature is not definite: the prior's width stands in there",)
    mass = np.exp(np.array([p.log_mass for p in places]) - max(p.log_mass for p in places))
    shares = (1 - EVENLY) * mass / mass.sum() + EVENLY / len(places)
    factors = WIDEN * np.stack([place.factor for place in places])
    proposal = Proposal(
        np.stack([place.u for place in places]),
        factors,
        np.linalg.inv(factors),
        np.linalg.slogdet(factors)[1].astype(factors.dtype),
        shares.astype(factors.dtype),
    )
    evaluations = int(sum(place.steps for place in places))
    spent = Cost(seconds, time.perf_counter() - began, evaluations * (len(FRACTIONS) + 1), evaluations, size)
    return jax.tree.map(jnp.asarray, proposal), said, cost + spent


def _close(u, others, scale):
    return (np.abs(others - u) / scale).max(axis=-1) < SAME


@functools.cache
def _places(model):
    """u of every start under every permutation, (R, K!, D), and the prior's standard deviations (D,) by quartiles."""
    of = space.space_of(model)

    def places(start, every, draws):
        relabelled = lambda p, s: of.inside(model.permute(p, s) if model.relabels else p, space.AWAY)
        us = jax.vmap(lambda p: jax.vmap(lambda s: relabelled(p, s))(every))(start)
        low, high = jnp.quantile(jax.vmap(of.unconstrain)(draws), jnp.array([0.25, 0.75]), axis=0)
        return us, jnp.maximum((high - low) / 1.349, 1e-6)

    return jax.jit(places)


class Place(NamedTuple):
    u: Any  # (D,)
    factor: Any  # (D, D), covariance = factor factor'
    log_mass: Any  # Laplace's log of the integral of exp f about u
    least: Any  # smallest eigenvalue of -f'', in units of the prior's precision
    steps: Any


class Climb(NamedTuple):
    v: Any  # (D,)
    here: Any  # f at v
    i: Any
    last: Any  # no step gains more
    done: Any
    values: Any  # eigenvalues of -f'', and eigenvectors
    vectors: Any


@functools.cache
def _settle(model):
    """(u, scale, x) -> Place: Newton steps up f, at most NEWTON_STEPS, then the curvature; in v = u / scale."""
    of = space.space_of(model)

    def settle(u, scale, x):
        def f(v):
            params = of.constrain(v * scale)
            return model.log_density(params, x) + of.log_det(v * scale)

        def curvature(v):
            gradient, hessian = jax.grad(f)(v), jax.jacfwd(jax.grad(f))(v)
            finite = jnp.isfinite(hessian).all() & jnp.isfinite(gradient).all()
            values, vectors = jnp.linalg.eigh(jnp.where(finite, -hessian, jnp.eye(len(v), dtype=v.dtype)))
            return jnp.where(finite, gradient, 0.0), values, vectors

        def climb(state):
            """A step up; the pass after the last step is there for the curvature alone."""
            gradient, values, vectors = curvature(state.v)
            uphill = vectors @ ((vectors.T @ gradient) / jnp.maximum(jnp.abs(values), WIDEST**-2))
            tried = state.v + jnp.array([*FRACTIONS, 0.0], u.dtype)[:, None] * jnp.where(state.last, 0.0, uphill)
            scores = jax.lax.map(f, tried)
            scores = jnp.where(jnp.isfinite(scores), scores, -jnp.inf)
            best = jnp.argmax(scores)
            still = scores[best] - state.here <= 100 * jnp.finfo(u.dtype).eps * (1 + jnp.abs(state.here))
            last = still | (state.i + 1 >= NEWTON_STEPS)
            return Climb(tried[best], scores[best], state.i + 1, last, state.last, values, vectors)

        D, no = len(u), jnp.bool_(False)
        start = Climb(u / scale, jnp.asarray(-jnp.inf, u.dtype), jnp.int32(0), no, no, jnp.zeros(D), jnp.zeros((D, D)))
        start = jax.tree.map(lambda leaf: leaf.astype(u.dtype) if leaf.dtype.kind == "f" else leaf, start)
        v, here, used, _, _, values, vectors = jax.lax.while_loop(lambda s: ~s.done, climb, start)
        precisions = jnp.maximum(jnp.abs(values), WIDEST**-2)
        factor = scale[:, None] * vectors * precisions**-0.5
        log_mass = here + 0.5 * D * jnp.log(2 * jnp.pi) - 0.5 * jnp.log(precisions).sum()
        return Place(v * scale, factor, log_mass, values.min(), used)

    return jax.jit(settle)


# -- particles -------------------------------------------------------------------------------------------------


@functools.cache
def _particles(model):
    of = space.space_of(model)

    def draw(key, proposal):
        """A draw from q: params and u."""
        key_place, key_prior, key_normal, key_chi = jax.random.split(key, 4)
        real = proposal.centres.dtype
        from_prior = model.prior_draw(key_prior)
        pick = jax.random.uniform(key_place, dtype=real)
        steps = jnp.cumsum(proposal.shares)
        j = jnp.sum((pick - DEFENSIVE) / (1 - DEFENSIVE) * steps[-1] >= steps[:-1])
        normal = jax.random.normal(key_normal, (proposal.centres.shape[1],), real)
        tiny = jnp.finfo(real).tiny
        chi = -2 * jnp.log(jax.random.uniform(key_chi, (DEGREES // 2,), real, minval=tiny)).sum()
        u = proposal.centres[j] + proposal.factors[j] @ normal * jnp.sqrt(DEGREES / chi)
        u = jnp.where(pick < DEFENSIVE, of.unconstrain(from_prior), u)
        around = of.constrain(u)
        # the prior's own draws, not their images there and back
        params = {name: jnp.where(pick < DEFENSIVE, from_prior[name], around[name]) for name in around}
        return params, u

    def log_weight(params, u, proposal, x):
        """log p(x | params) - log(DEFENSIVE + (1 - DEFENSIVE) t / p): prior over q, times the likelihood."""
        log_prior = model.log_prior(params) + of.log_det(u)
        ratio = log_t(u, proposal) - log_prior
        ratio = jnp.where(jnp.isfinite(u).all(), ratio, -jnp.inf)  # a prior draw on the border: t has nothing there
        q_over_p = jnp.logaddexp(math.log(DEFENSIVE), math.log1p(-DEFENSIVE) + ratio)
        return model.log_likelihood(params, x) - q_over_p

    def block(keys, proposal, x):
        params, u = jax.lax.map(lambda key: draw(key, proposal), keys)
        weights = jax.vmap(lambda p, u: log_weight(p, u, proposal, x))(params, u)
        return {"params": params, "log_weights": weights}

    def program(indices, rows, key, proposal, x):
        return block(jax.vmap(lambda i: jax.random.fold_in(key, i))(indices), proposal, x)

    return jax.jit(program)


def log_t(u, proposal):
    """log of the mixture of Student's t at u (D,) (Kotz & Nadarajah 2004, Multivariate t Distributions, eq. 1.1)."""
    D = proposal.centres.shape[1]
    z = jnp.einsum("jde,je->jd", proposal.inverses, u - proposal.centres)
    constant = math.lgamma((DEGREES + D) / 2) - math.lgamma(DEGREES / 2) - 0.5 * D * math.log(DEGREES * math.pi)
    each = constant - proposal.log_dets - 0.5 * (DEGREES + D) * jnp.log1p(jnp.square(z).sum(1) / DEGREES)
    return jax.nn.logsumexp(each + jnp.log(proposal.shares))
