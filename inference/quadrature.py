"""The exact posterior of up to three unknown locations by the trapezoid rule: a ruler for the others.

The integrand p(params, x), assignments summed out, is analytic and vanishes in all directions, so the trapezoid rule
converges geometrically (Trefethen & Weideman 2014, SIAM Review 56, section 5). Per coordinate the grid is one lattice,
cut to the union of intervals around every optimum found and its K! relabellings, so that no point counts twice.
What the boxes can have missed is estimated by importance draws outside them. float64 whatever JAX's precision.
"""

import functools
import itertools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import enable_x64
from jax.flatten_util import ravel_pytree
from scipy.special import logsumexp

from inference import loop
from inference.declared import constant, look_at
from inference.results import Cost, Exact
from zoo.mixture import permutations

MAX_DIMENSION = 3
MAX_NODES = 2**25
NUM_STARTS, MAX_ASCENT = 64, 200
WIDTH = 8.0  # half width of the first intervals, in standard deviations of an optimum
STEP = {1: 0.2, 2: 0.4, 3: 0.8}  # first step by dimension, in the smallest sd; functionals with kinks gain from less
NEGLIGIBLE = 1e-13  # mass of an optimum, relative to the best, below which it gets no box
PRUNE = np.log(1e-18)


class Centre(NamedTuple):
    """Where the density is high: a point, its standard deviations, its log mass by Laplace's approximation."""

    point: Any  # (d,)
    sd: Any  # (d,)
    log_mass: float


class Grid(NamedTuple):
    """Log evidence, and the nodes that matter with their log densities."""

    log_evidence: float
    nodes: Any  # (M, d)
    log_density: Any  # (M,)
    size: int


def refuses(model, x) -> str | None:
    """The sentence why quadrature cannot serve `model`, or None."""
    if not model.param_shapes:
        return "no unknown parameter"
    size = sum(int(np.prod(leaf.shape)) for leaf in model.param_shapes.values())
    if size > MAX_DIMENSION and model.lacks_twin is None:
        size = model.num_free_parameters
    if size > MAX_DIMENSION:
        return f"{size} unknown numbers; quadrature goes up to {MAX_DIMENSION}"
    if isinstance(x, dict):
        return "quadrature serves one observed value per observation, without covariates"
    reason = _not_locations(model)
    if reason is None and model.num_components > 1 and not model.relabels:
        return "the model has no relabelling, so quadrature could not look at every labelling"
    return reason


@functools.cache
def _not_locations(model) -> str | None:
    """The sentence when the parameters are anything but one location per component, weights and scales known."""
    sentence = "quadrature serves unknown component locations with known weights and scales"
    if set(model.observation_shapes) != {"z", "x"} or len(model.param_shapes) != 1:
        return sentence
    seen = look_at(model)
    if isinstance(seen, str):
        return seen
    (name, (family, arguments)), *_ = seen.prior.items()
    if family not in ("Normal", "StudentT"):  # analytic on the whole line
        return f"{sentence}, Normal or StudentT a priori: {name} is {family or 'of an unknown distribution'}"
    others = [value for key, value in seen.component[1].items() if key != "loc"]
    location = seen.component[1].get("loc")
    known = all(constant(value) for value in [seen.log_weights, *others, *arguments.values()])
    if location is None or not known or location.size != seen.params[name].size:
        return sentence
    return None if np.allclose(location.ravel(), seen.params[name].ravel(), rtol=1e-9, atol=0) else sentence


def quadrature(model, x, key, *, tolerance=1e-9, num_checks=100_000, progress=None) -> Exact:
    """The posterior as weighted nodes, over all labellings.

    Halving the step and widening the boxes by half move log evidence by less than `tolerance`. `nodes` within 1e-18 of
    the highest weight are kept. Expectations of smooth functionals are about as accurate as the evidence; functionals
    with kinks (sorted means) carry an error of step^2/12 times the density on the kink. `missed_mass` bounds (mean + 3
    standard errors) the posterior mass outside the boxes, from `num_checks` importance draws: half from the prior, half
    from wide normals around the optima. `progress(done, total)` counts stages.
    Raises RuntimeError with one sentence when refinement does not converge or mass was missed.
    """
    reason = refuses(model, x)
    if reason:
        raise ValueError(reason)
    if not tolerance > 0:
        raise ValueError(f"tolerance should be positive, got {tolerance}")
    report = progress or (lambda done, total: None)
    with enable_x64():  # for this call only: the ruler is double whatever the caller's precision
        work = _Work(model, np.asarray(x, np.float64))
        key_starts, key_checks = jax.random.split(key)
        centres = _centres(work, key_starts)
        report(1, 4)
        grid, boxes, change = _refined(work, centres, tolerance)
        report(2, 4)
        missed = _missed_mass(work, centres, boxes, grid.log_evidence, key_checks, num_checks)
        if not missed <= 100 * tolerance:  # the estimate is noisy; a missed mode shows as orders of magnitude
            raise RuntimeError(f"quadrature can have missed posterior mass {missed:.1e} outside its grid")
        report(3, 4)
        log_weights = grid.log_density - logsumexp(grid.log_density)
        assignment_probabilities, co_clustering = _assignments(work, grid.nodes, log_weights)
        nodes = {name: np.asarray(leaf) for name, leaf in jax.vmap(work.unravel)(grid.nodes).items()}
        report(4, 4)
    return Exact(
        log_evidence=grid.log_evidence,
        log_evidence_se=change + missed,
        cost=work.cost(),
        nodes=nodes,
        log_weights=log_weights,
        assignment_probabilities=assignment_probabilities,
        co_clustering=co_clustering,
        missed_mass=missed,
    )


# -- programs -----------------------------------------------------------------------------------------------


class _Work:
    """The programs of one model on one data set, run in blocks of fixed size, and what they cost."""

    def __init__(self, model, x):
        self.model, self.x, self.started = model, x, time.perf_counter()
        empty = {name: np.zeros(leaf.shape) for name, leaf in model.param_shapes.items()}
        flat, self.unravel = ravel_pytree(empty)
        self.dimension = len(flat)
        self.block = int(np.clip(2**20 // (len(x) * model.num_components), 64, 2**14))
        self.compile_seconds, self.bytes, self.tables, self.gradients = 0.0, 0, 0, 0

    def run(self, program, *args):
        ready, seconds, size = loop.compiled(program, *args)
        self.compile_seconds, self.bytes = self.compile_seconds + seconds, max(self.bytes, size)
        return jax.tree.map(np.asarray, ready(*args))

    def log_density(self, points):
        """log p(params, x), (M, d) -> (M,)."""
        self.tables += len(points)
        program = _log_density_program(self.model)
        blocks = [self.run(program, block, self.x)[:kept] for block, kept in _blocks(points, self.block)]
        return np.concatenate(blocks) if blocks else np.zeros(0)

    def ascend(self, starts):
        """Optima reached from starts (M, d): points, log densities, minus Hessians, whether the ascent arrived."""
        program = _ascend_program(self.model)
        runs = [(self.run(program, block, self.x), kept) for block, kept in _blocks(starts, NUM_STARTS)]
        *found, steps = (np.concatenate([out[i][:kept] for out, kept in runs]) for i in range(5))
        num, d = starts.shape  # a Hessian of d columns is d gradients; one at each step, one at the end
        self.gradients += int(steps.sum()) * (1 + d) + num * d
        self.tables += int(steps.sum()) + num
        return found

    def cost(self):
        return Cost(
            compile_seconds=self.compile_seconds,
            run_seconds=time.perf_counter() - self.started - self.compile_seconds,
            table_evaluations=self.tables,
            gradient_evaluations=self.gradients,
            program_bytes=self.bytes,
        )


def _blocks(rows, size):
    """Blocks of exactly `size` rows, the last filled up by repetition, each with the number to keep."""
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        yield np.resize(block, (size, *block.shape[1:])), len(block)


def _flat(model):
    _, unravel = ravel_pytree({name: np.zeros(leaf.shape) for name, leaf in model.param_shapes.items()})
    return lambda point, x: model.log_density(unravel(point), x)


@functools.cache
def _log_density_program(model):
    return jax.jit(jax.vmap(_flat(model), (0, None)))


@functools.cache
def _ascend_program(model):
    """Newton's method up the log density with every curvature taken positive, damped until the step goes up."""
    log_density = _flat(model)

    def ascend(start, x):
        value_at = lambda point: log_density(point, x)

        def step(state):
            i, point, value, damping, _ = state
            slope, curvature = jax.grad(value_at)(point), -jax.hessian(value_at)(point)
            size, axes = jnp.linalg.eigh(curvature)
            size = jnp.abs(size)
            along = axes.T @ slope
            arrived = (along**2 / size).sum() < 1e-16  # squared distance to the optimum in standard deviations
            ahead = point + axes @ (along / (size + damping * size.max()))
            value_ahead = value_at(ahead)
            better = (value_ahead >= value) & ~arrived
            point, value = jnp.where(better, ahead, point), jnp.where(better, value_ahead, value)
            damping = jnp.clip(jnp.where(better, damping / 4, damping * 4), 1e-12, 1e6)
            return i + 1, point, value, damping, arrived

        first = (0, start, value_at(start), jnp.array(1e-3), False)
        i, point, value, _, arrived = jax.lax.while_loop(lambda s: (s[0] < MAX_ASCENT) & ~s[4], step, first)
        return point, value, -jax.hessian(value_at)(point), arrived, i

    return jax.jit(jax.vmap(ascend, (0, None)))


@functools.cache
def _prior_program(model, num):
    """Draws from the prior, flat (num, d)."""

    def one(key):
        return ravel_pytree(model.prior_draw(key))[0]

    return jax.jit(lambda key: jax.vmap(one)(jax.random.split(key, num)))


@functools.cache
def _log_prior_program(model):
    _, unravel = ravel_pytree({name: np.zeros(leaf.shape) for name, leaf in model.param_shapes.items()})
    return jax.jit(jax.vmap(lambda point: model.log_prior(unravel(point))))


@functools.cache
def _permute_program(model):
    _, unravel = ravel_pytree({name: np.zeros(leaf.shape) for name, leaf in model.param_shapes.items()})
    return jax.jit(jax.vmap(lambda point, s: ravel_pytree(model.permute(unravel(point), s))[0]))


@functools.cache
def _assignments_program(model):
    """sum_m w_m r_nk, (N, K), and sum_m w_m sum_k r_nk r_jk, (N, N), over a block of nodes."""
    _, unravel = ravel_pytree({name: np.zeros(leaf.shape) for name, leaf in model.param_shapes.items()})

    def block(points, weights, x):
        r = jax.vmap(lambda point: model.responsibilities(unravel(point), x))(points)  # (B, N, K)
        rows = jnp.moveaxis(r, 2, 1).reshape(-1, r.shape[1])
        return jnp.einsum("b,bnk->nk", weights, r), (rows * jnp.repeat(weights, r.shape[2])[:, None]).T @ rows

    return jax.jit(block)


# -- where the mass is --------------------------------------------------------------------------------------


def _centres(work, key) -> list[Centre]:
    """Every optimum found and its relabellings, those of negligible mass left out.

    Starts are prior draws and random observations taken for locations; then every relabelling of every optimum, since
    where components have priors of their own each labelling has an optimum of its own nearby.
    """
    key_prior, key_data = jax.random.split(key)
    starts = [work.run(_prior_program(work.model, NUM_STARTS), key_prior)]
    shape = (work.model.num_components, *work.x.shape[1:])
    if np.prod(shape) == work.dimension:
        rows = jax.random.randint(key_data, (NUM_STARTS, shape[0]), 0, len(work.x))
        starts.append(work.x[np.asarray(rows)].reshape(NUM_STARTS, -1))
    optima = _optima(work, np.concatenate(starts))
    if not optima:
        raise RuntimeError("quadrature found no optimum of the density to put its grid around")
    optima = _distinct(optima + _optima(work, _relabelled(work, [c.point for c in optima])))
    points, sds = (_relabelled(work, [getattr(c, name) for c in optima]) for name in ("point", "sd"))
    volumes = [c.log_mass for c in optima] - work.log_density(np.stack([c.point for c in optima]))
    masses = work.log_density(points) + np.repeat(volumes, len(points) // len(optima))
    copies = [Centre(*row) for row in zip(points, sds, masses, strict=True)]
    best = max(c.log_mass for c in optima)
    return _distinct([c for c in optima + copies if c.log_mass > best + np.log(NEGLIGIBLE)])


def _optima(work, starts) -> list[Centre]:
    """The distinct optima the starts lead to, highest first."""
    points, values, curvatures, arrived = work.ascend(starts)
    found = []
    for i in np.flatnonzero(arrived & np.isfinite(values)):
        size = np.linalg.eigvalsh(curvatures[i])
        if np.all(size > 0):
            mass = values[i] + 0.5 * work.dimension * np.log(2 * np.pi) - 0.5 * np.log(size).sum()
            found.append(Centre(points[i], np.sqrt(np.diag(np.linalg.inv(curvatures[i]))), mass))
    return _distinct(found)


def _distinct(centres):
    """Centres that are not within a tenth of a standard deviation of a better one."""
    kept: list[Centre] = []
    for centre in sorted(centres, key=lambda c: -c.log_mass):
        if not any(np.all(np.abs(centre.point - c.point) < 0.1 * np.minimum(c.sd, centre.sd)) for c in kept):
            kept.append(centre)
    return kept


def _relabelled(work, points):
    """All K! relabellings of flat points, (M, d) -> (M K!, d), those of one point together."""
    every = permutations(work.model.num_components)
    pairs = list(itertools.product(points, every))
    if len(every) == 1:
        return np.stack(points)
    out = []
    for (block, kept), (labels, _) in zip(
        _blocks(np.stack([p for p, _ in pairs]), 256), _blocks(np.stack([s for _, s in pairs]), 256), strict=True
    ):
        out.append(work.run(_permute_program(work.model), block, labels)[:kept])
    return np.concatenate(out)


# -- the grid -----------------------------------------------------------------------------------------------


def _refined(work, centres, tolerance):
    """The grid that halving the step and widening by half leave alone; its boxes; the larger of the two changes."""
    smallest = np.min([c.sd for c in centres], axis=0)
    width, step = WIDTH, STEP[work.dimension] * smallest
    grid = _grid(work, centres, step, width)
    while True:
        wide = _grid(work, centres, step, 1.5 * width)
        widening = abs(wide.log_evidence - grid.log_evidence)
        if widening > tolerance:
            width, grid = 1.5 * width, wide
            continue
        fine = _grid(work, centres, step / 2, width)
        halving = abs(fine.log_evidence - grid.log_evidence)
        if halving <= tolerance:
            return fine, _intervals(centres, width), max(widening, halving)
        step, grid = step / 2, fine


def _intervals(centres, width):
    """Per coordinate the union of centre +- width sd, as disjoint sorted intervals [(low, high), ...]."""
    unions = []
    for j in range(len(centres[0].point)):
        ends: list[list[float]] = []
        for low, high in sorted((c.point[j] - width * c.sd[j], c.point[j] + width * c.sd[j]) for c in centres):
            if ends and low <= ends[-1][1]:
                ends[-1][1] = max(ends[-1][1], high)
            else:
                ends.append([low, high])
        unions.append(ends)
    return unions


def _axes(centres, step, width):
    """Per coordinate the points of one lattice, through the best centre, inside the intervals."""
    axes = []
    for j, ends in enumerate(_intervals(centres, width)):
        origin = centres[0].point[j]
        scaled = (np.array(ends) - origin) / step[j]
        steps = [np.arange(np.ceil(low), np.floor(high) + 1) for low, high in scaled]
        axes.append(origin + step[j] * np.concatenate(steps))
    return axes


def _grid(work, centres, step, width) -> Grid:
    """The trapezoid rule on the tensor grid, block by block; keeps the nodes within 1e-18 of the highest."""
    axes = _axes(centres, step, width)
    shape = tuple(len(axis) for axis in axes)
    size = int(np.prod(shape, dtype=float))
    if size > MAX_NODES:
        raise RuntimeError(f"quadrature has not converged with {MAX_NODES:,} nodes; the next grid would have {size:,}")
    top, nodes, logs = -np.inf, [], []
    for start in range(0, size, 64 * work.block):
        index = np.unravel_index(np.arange(start, min(start + 64 * work.block, size)), shape)
        points = np.stack([axis[i] for axis, i in zip(axes, index, strict=True)], axis=1)
        values = work.log_density(points)
        top = max(top, values.max())
        kept = values > top + PRUNE
        nodes.append(points[kept])
        logs.append(values[kept])
    points, values = np.concatenate(nodes), np.concatenate(logs)
    kept = values > top + PRUNE
    return Grid(float(logsumexp(values[kept]) + np.log(step).sum()), points[kept], values[kept], size)


def _missed_mass(work, centres, boxes, log_evidence, key, num_checks):
    """Upper end (mean + 3 standard errors) of the posterior mass outside the boxes, by importance sampling.

    Proposals: half prior, half normals around the centres whose sd is half the width of a first interval.
    """
    key_prior, key_centre, key_normal = jax.random.split(key, 3)
    half = max(1, num_checks // 2)
    prior = work.run(_prior_program(work.model, half), key_prior)
    point, sd = np.stack([c.point for c in centres]), 0.5 * WIDTH * np.stack([c.sd for c in centres])
    pick = np.asarray(jax.random.randint(key_centre, (half,), 0, len(centres)))
    wide = point[pick] + sd[pick] * np.asarray(jax.random.normal(key_normal, (half, work.dimension)))
    points = np.concatenate([prior, wide])
    within = lambda p, ends: np.any([(low <= p) & (p <= high) for low, high in ends], axis=0)
    inside = np.all([within(p, ends) for p, ends in zip(points.T, boxes, strict=True)], axis=0)
    outside = points[~inside]
    if not len(outside):
        return 0.0
    blocks = [work.run(_log_prior_program(work.model), block)[:n] for block, n in _blocks(outside, work.block)]
    log_prior = np.concatenate(blocks)
    log_wide = np.full(len(outside), -np.inf)
    for m, s in zip(point, sd, strict=True):
        log_normal = -0.5 * np.sum(((outside - m) / s) ** 2 + np.log(2 * np.pi * s**2), axis=1)
        log_wide = np.logaddexp(log_wide, log_normal - np.log(len(centres)))
    log_proposal = np.logaddexp(log_prior, log_wide) - np.log(2)
    ratio = np.zeros(len(points))
    ratio[: len(outside)] = np.exp(work.log_density(outside) - log_proposal - log_evidence)
    return float(ratio.mean() + 3 * ratio.std() / np.sqrt(len(ratio)))


def _assignments(work, nodes, log_weights):
    """P(z_n = k | x), (N, K), and P(z_i = z_j | x), (N, N)."""
    N, K = len(work.x), work.model.num_components
    probabilities, pairs = np.zeros((N, K)), np.zeros((N, N))
    work.tables += len(nodes)
    for (block, kept), (weights, _) in zip(
        _blocks(nodes, work.block), _blocks(np.exp(log_weights), work.block), strict=True
    ):
        weights[kept:] = 0.0
        some, some_pairs = work.run(_assignments_program(work.model), block, weights, work.x)
        probabilities, pairs = probabilities + some, pairs + some_pairs
    np.fill_diagonal(pairs, 1.0)
    return probabilities, pairs
