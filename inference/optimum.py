"""What an optimum is worth: whether a finite maximum exists, how the log density curves there, standard errors."""

import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from inference import loop, space
from inference.em_step import scales
from inference.results import Cost, Params
from zoo.mixture import twin_supports


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
        return hessian_of(log_density, u), jax.jacfwd(of.constrain)(u)

    return jax.jit(program)


def hessian_of(function, u):
    """The Hessian (D, D) of `function` at u (D,), one row at a time: it takes as much memory as one gradient."""
    row = lambda e: jax.jvp(jax.grad(function), (u,), (e,))[1]
    H = jax.lax.map(row, jnp.eye(len(u), dtype=u.dtype))
    return (H + H.T) / 2


# -- no finite maximum -------------------------------------------------------------------------------------------


def rising(model, prior, params, x):
    """Why the log density has no finite maximum, as the start of a sentence, or None; and the cost of finding out.

    From `params` every unconstrained coordinate of a site with a border is moved far out, both ways. Where
    that shrinks the scale of some components but not of all, one of them can sit on a single point, which gains
    -log(scale) without end unless the prior falls as fast.
    """
    if not len(bordered(model)):
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

        directions = jnp.concatenate([jnp.eye(of.size)[bordered(model)], -jnp.eye(of.size)[bordered(model)]])
        near, far = (jax.vmap(lambda d: at(distance * d))(directions) for distance in (20.0, 30.0))  # noqa: B023
        return jnp.nan_to_num(far[0] - near[0], nan=-jnp.inf), far[1]

    return jax.jit(program)


@functools.cache
def bordered(model):
    """Coordinates of the sites that have a border: on the whole line a proper prior falls at both ends."""
    of, supports = space.space_of(model), twin_supports(model)
    found = [np.arange(0)]
    for name, (support, _) in supports.items():
        if getattr(support, "base_constraint", support) is not constraints.real:
            found.append(np.arange(of.size)[of.slices[name]])
    return np.concatenate(found)
