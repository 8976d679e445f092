"""What an optimum is worth: whether a finite maximum exists, how the log density curves there, standard errors; and
whether equal observations leave a proper posterior."""

import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from inference import conditionals, loop, space
from inference.em_step import by_column, columns_of, scaled, scales
from inference.results import Cost, Params
from zoo.mixture import twin_supports
from zoo.probe import NUM_DRAWS


class Curvature(NamedTuple):
    """The log density around one point."""

    highest: float  # eigenvalue of its Hessian, rows and columns divided by the roots of its absolute diagonal
    standard_errors: Params | None  # like the parameters; None where the point is no maximum, or a flat one


def curvature(model, prior, params, x) -> tuple[Curvature, Cost]:
    """The curvature at the stationary point `params`, and what that cost.

    Observed information: with H the Hessian of the log density in unconstrained space and J the Jacobian of the
    declared parameters there, standard errors are the roots of the diagonal of J (-H)^-1 J'. Where the gradient
    vanishes that is the inverse information of the declared parameters: the map adds no term of its own, and a simplex
    gets the covariance of its K - 1 free weights. Errors of order sqrt(eps) are taken for a flat direction.
    """
    function = _hessian(model, prior)
    program, seconds, size = loop.compiled(function, params, x)
    started = time.perf_counter()
    H, J = jax.tree.map(np.asarray, program(params, x))
    D = len(H)
    cost = Cost(seconds, time.perf_counter() - started, 0, D, size)
    root = np.sqrt(np.maximum(np.abs(np.diag(H)), np.finfo(H.dtype).tiny))
    scaled = H / root[:, None] / root
    if not np.isfinite(scaled).all():
        return Curvature(0.0, None), cost
    values, vectors = np.linalg.eigh(scaled)
    errors = None
    if values.max() < -flat(H.dtype):
        errors = {}
        for name, leaf in J.items():
            along = (leaf.reshape(-1, D) / root) @ vectors
            errors[name] = np.sqrt((along**2 / -values).sum(axis=1)).reshape(leaf.shape[:-1])
    return Curvature(float(values.max()), errors), cost


def flat(dtype) -> float:
    """Size below which an eigenvalue of a scaled Hessian is not told from zero."""
    return float(np.sqrt(np.finfo(dtype).eps))


@functools.cache
def _hessian(model, prior):
    of = space.space_of(model)

    def program(params, x):
        def log_density(u):
            declared = of.constrain(u)
            return model.log_likelihood(declared, x) + (model.log_prior(declared) if prior else 0.0)

        u = of.inside(params)
        row = lambda e: jax.jvp(jax.grad(log_density), (u,), (e,))[1]
        # one row at a time: as much memory as one gradient takes
        H = jax.lax.map(row, jnp.eye(of.size, dtype=u.dtype))
        return (H + H.T) / 2, jax.jacfwd(of.constrain)(u)

    return jax.jit(program)


# -- no finite maximum -------------------------------------------------------------------------------------------


def rising(model, prior, params, x):
    """Why the log density has no finite maximum, as the start of a sentence, or None; and the cost of finding out.

    From `params` every unconstrained coordinate of a site with a border is moved far out, both ways. Where
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
        u = of.inside(params)
        here = scales(model, params)

        def at(shift):
            moved = of.constrain(u + shift)
            value = model.log_prior(moved) if prior else jnp.zeros(())
            if here is None:
                return value, jnp.bool_(False)
            ratio = (scales(model, moved) / here).min(axis=1)
            shrinks = (ratio.min() < 0.5) & (ratio.max() > 0.5)
            return value - jnp.where(shrinks, jnp.log(ratio.min()), 0.0), shrinks

        directions = jnp.concatenate([jnp.eye(of.size)[_bordered(model)], -jnp.eye(of.size)[_bordered(model)]])
        near, far = (jax.vmap(lambda d: at(distance * d))(directions) for distance in (20.0, 30.0))  # noqa: B023
        return jnp.nan_to_num(far[0] - near[0], nan=-jnp.inf), far[1]

    return jax.jit(program)


# -- no proper posterior -----------------------------------------------------------------------------------------


def check_proper(model, x) -> tuple[str, ...]:
    """The warning, if any, that equal entries of x leave no proper posterior; ValueError where there is nothing else.

    A Normal, log-normal or Student-t component of unknown location that sits on m equal numbers has likelihood s^-m as
    its scale s -> 0, and s^(1 - m) once the location is integrated out, against a prior density like s^a: the integral
    over s is infinite where m >= a + 2. HalfNormal and HalfCauchy have a = 0, so two equal numbers suffice, in one
    column if that has a scale of its own (of a full covariance, that given the others); an InverseGamma variance falls
    faster than any power. Where a column has at most K distinct numbers all components end there, which is refused;
    else chains may never come near, and it is said. Rows beside covariates are not looked at.
    """
    sites = scaled(model)
    if not sites or (isinstance(x, dict) and "covariates" in x):
        return ()
    columns = np.concatenate([np.asarray(columns_of(model, of, x)) for of in sites], axis=1)
    distinct = [len(np.unique(column)) for column in columns.T]
    continuous = all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in model.param_shapes.values())
    if min(distinct) == len(columns) or not continuous or model.lacks_twin or not len(_bordered(model)):
        return ()
    draws = model.prior_draws(jax.random.key(5), NUM_DRAWS)
    change, log_ratio, located = jax.tree.map(np.asarray, _inwards(model)(draws))
    for gain, ratios in zip(change, log_ratio, strict=True):
        shrinks = ratios < -1
        which = shrinks.any(axis=0)  # the columns that this direction narrows, in the components that it narrows
        j = int(shrinks.any(axis=1).sum())
        if j == 0 or not located[which].all() or not np.array_equal(shrinks, shrinks.any(axis=1)[:, None] & which):
            continue
        rows, first, counts = np.unique(columns[:, which], axis=0, return_index=True, return_counts=True)
        if j == len(shrinks) < len(rows):
            continue  # rows elsewhere are left without a component
        if gain - np.sort(counts - 1)[::-1][:j].sum() * ratios[shrinks.any(axis=1)][0][which].sum() > -0.1:
            break
    else:
        return ()
    n = first[np.argmax(counts)]
    value = jax.tree.map(lambda leaf: np.asarray(leaf)[n], x)
    names = [name for name, inside in zip(_names(model, sites), which, strict=True) if inside]
    within = "" if which.all() else f" in {', '.join(names)}"
    said = (
        f"{counts.max()} rows are equal{within} (row {n}, x = {value}) and the prior of {model.name} lets the scale "
        "of a component shrink onto them, where its mass is infinite"
    )
    cure = "give a prior that vanishes at scale 0, such as an InverseGamma variance, or data measured more finely"
    if len(rows) <= model.num_components:
        raise ValueError(f"no proper posterior: {said}; {cure}")
    return (f"the posterior is improper: {said}; draws stand for the part away from there, if any; {cure}",)


def _names(model, sites) -> list[str]:
    """The columns of these sites: "x" or "x[i]"."""
    sizes = {of: int(np.prod(model.observation_shapes[of].shape, dtype=int)) for of in sites}
    return [of if size == 1 else f"{of}[{i}]" for of, size in sizes.items() for i in range(size)]


@functools.cache
def _inwards(model):
    """prior draws -> what moving each bordered coordinate from 20 to 30 further out does to log prior +
    log |d params / d u|, (2 D,), and to the logs of the scales, (2 D, K, F); whether the locations are unknown, (F,).
    """
    of = space.space_of(model)

    def located(params):
        loc = lambda name: conditionals.component_arguments(model, params, name)["loc"]
        return jnp.concatenate([by_column(model, name, loc(name)) for name in scaled(model)], axis=1)

    def program(draws):
        one, other = (jax.tree.map(lambda leaf: leaf[i], draws) for i in (0, 1))  # noqa: B023
        u = of.unconstrain(one)

        def at(shift):
            moved = of.constrain(u + shift)
            return model.log_prior(moved) + of.log_det(u + shift), jnp.log(scales(model, moved))

        axes = jnp.eye(of.size)[_bordered(model)]
        shifts = jnp.array([20.0, 30.0])[:, None, None] * jnp.concatenate([axes, -axes])
        ends = jax.lax.map(lambda shifts: jax.lax.map(at, shifts), shifts)
        change, log_ratio = (there[1] - there[0] for there in ends)
        log_ratio = jnp.where(jnp.isfinite(log_ratio), log_ratio, 0.0)  # singular: not known to shrink
        return jnp.nan_to_num(change, nan=-jnp.inf), log_ratio, jnp.all(located(one) != located(other), axis=0)

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
