"""Quantities of a mixture that labels cannot change, one number per draw: what every verdict stands on.

C chains, S draws, N observations, K components, D features; M = C S draws are evaluated in blocks of one compiled
program, so memory is bounded whatever M is.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr, logsumexp
from numpyro.distributions import constraints

from inference import loop
from inference.conditionals import component_arguments
from zoo.mixture import permutations, twin_supports
from zoo.probe import NUM_DRAWS

NUM_POINTS = 10
MAX_FEATURES = 5  # moments of the mixture are kept for so many features
MAX_LABELLED = 5  # up to 5! = 120 labellings are enumerated
CELLS = 2**21  # table cells in one block: 16 MiB in float64
MAX_BLOCK = 4096  # draws in one block
POSITIVE = (constraints.positive, constraints.nonnegative)
CIRCULAR = ("VonMises",)  # families of angles


def functionals(model, params, assignments, x) -> dict[str, np.ndarray]:
    """name -> (C, S), for params with leaves (C, S, ...) and assignments (C, S, N) or None.

    log_density            log p(params, x), assignments summed out
    log_predictive[i]      log p(x_n | params) at the i-th of `fixed_points`
    sorted_means[k], ...   1-D: the components' own parameters, in the order of the first of them (or `order_by`)
    sorted_weights[k]      the mixing weights in that order; without 1-D atoms, in ascending order
    sorted_log_scales[k], ...    the logarithm of those that are positive, whose tails are lighter
    sorted_cos_means[k], sorted_sin_means[k]    in the place of angles, whose average means nothing across the cut
    co_clustering[i,j]     sum_k r_ik r_jk for the `fixed_pairs`, r the responsibilities
    entropy                - sum_n sum_k r_nk log r_nk
    occupied               components with at least one assignment (left out where assignments are None)
    mixture_mean[d], mixture_covariance[d,e]    moments of the mixture, where the components have them in closed form;
                           none of angles
    mixture_log_variance[d]    log mixture_covariance[d,d]
    means[0], ...          every parameter, for models that are not exchangeable

    Quantities that are constants of the model are left out. Where nothing is unknown but the assignments,
    co-clustering is that of the drawn assignments, 1{z_i = z_j}: its mean is the same and it can be wrong.
    """
    if params:
        shape = np.shape(next(iter(params.values())))[:2]
    else:
        shape = np.shape(assignments)[:2] if assignments is not None else (1, 1)
    points, pairs = fixed_points(x), fixed_pairs(x)
    plan = _plan(model)
    found = in_blocks(_program(model), params, shape, model, x, jnp.asarray(points), jnp.asarray(pairs))
    values = {"log_density": found["log_density"]}
    values |= _rows("log_predictive", found["log_predictive"])
    values |= {f"co_clustering[{i},{j}]": found["co_clustering"][..., n] for n, (i, j) in enumerate(pairs)}
    values["entropy"] = found["entropy"]
    if assignments is not None:
        values["occupied"] = occupied(assignments, model.num_components)
    if not params and assignments is not None:
        z = np.asarray(assignments)
        values |= {f"co_clustering[{i},{j}]": (z[..., i] == z[..., j]).astype(float) for i, j in pairs}
    if plan.weights_vary:
        values |= _rows("sorted_weights", found["sorted_weights"])
    for name in plan.atoms:
        values |= _around("sorted_", name, found[f"sorted_{name}"], name in plan.angles)
        values |= _rows(f"sorted_log_{name}", np.log(found[f"sorted_{name}"])) if name in plan.positive else {}
    if plan.moments:
        D = min(found["mixture_mean"].shape[-1], MAX_FEATURES)
        values |= {f"mixture_mean[{d}]": found["mixture_mean"][..., d] for d in range(D)}
        each = itertools.combinations_with_replacement(range(D), 2)
        values |= {f"mixture_covariance[{d},{e}]": found["mixture_covariance"][..., d, e] for d, e in each}
        values |= {f"mixture_log_variance[{d}]": np.log(values[f"mixture_covariance[{d},{d}]"]) for d in range(D)}
    if not model.exchangeable:
        for name, leaf in params.items():
            values |= _around("", name, np.asarray(leaf), name in plan.angles)
    return values


def _around(prefix, name, leaf, angle) -> dict[str, np.ndarray]:
    """The rows of a parameter; of an angle those of its cosine and sine (Mardia & Jupp 2000, section 2.2)."""
    if not angle:
        return _rows(prefix + name, leaf)
    return _rows(f"{prefix}cos_{name}", np.cos(leaf)) | _rows(f"{prefix}sin_{name}", np.sin(leaf))


def fixed_points(x) -> np.ndarray:
    """Indices (P,) of at most ten observations, evenly spaced in the order of the first feature, the ends included.

    A pure function of x: a stable sort, then ranks floor(i (N - 1) / (P - 1)). For 1-D data, order statistics.
    """
    first = np.asarray(_leaves(x)[0])
    order = np.argsort(first.reshape(len(first), -1)[:, 0], kind="stable")
    P = min(NUM_POINTS, len(order))
    return order[np.arange(P) * (len(order) - 1) // max(P - 1, 1)]


def fixed_pairs(x) -> np.ndarray:
    """Pairs (i, j), i < j, shape (P, 2): neighbours among the fixed points, and the two ends."""
    points = fixed_points(x)
    pairs = list(itertools.pairwise(points)) + ([(points[0], points[-1])] if len(points) > 2 else [])
    return np.sort(np.array(pairs, dtype=int).reshape(-1, 2), axis=1)


def occupied(assignments, num_components: int) -> np.ndarray:
    """Number of components with at least one of the N assignments: (C, S, N) -> (C, S)."""
    z = np.asarray(assignments)
    return sum((z == k).any(axis=-1) for k in range(num_components)).astype(float)


def expected_occupied(model, params, x) -> tuple[np.ndarray, np.ndarray]:
    """Mean and second moment of the number of occupied components given params, each (C, S).

    Assignments are independent given params, so component k is empty with probability prod_n (1 - r_nk), and k and l
    together with probability prod_n (1 - r_nk - r_nl).
    """
    shape = np.shape(next(iter(params.values())))[:2] if params else (1, 1)
    return in_blocks(_occupied_program(model), params, shape, model, x)


def log_likelihoods(model, params, x) -> np.ndarray:
    """log p(x | params), assignments summed out: leaves (C, S, ...) -> (C, S)."""
    shape = np.shape(next(iter(params.values())))[:2] if params else (1, 1)
    return in_blocks(_likelihood_program(model), params, shape, model, x)


def pointwise_log_likelihoods(model, params, x) -> np.ndarray:
    """log p(x_n | params), assignments summed out: leaves (C, S, ...) -> (C, S, N)."""
    shape = np.shape(next(iter(params.values())))[:2] if params else (1, 1)
    return in_blocks(_pointwise_program(model), params, shape, model, x)


def labelling_masses(model, params, x) -> dict[tuple[int, ...], np.ndarray]:
    """Conditional probability of every labelling given each draw up to its labels: tuple -> (C, S), summing to 1.

    A draw params has K! relabellings permute(params, s), of probability proportional to p(permute(params, s), x). The
    key of a relabelling is the tuple of components in ascending order of their means under it (of `order_by`). The
    posterior mass of a labelling is the average over draws (STATISTICS, labelling masses). Empty for exchangeable
    models (every labelling has mass 1/K!), more than five components, or where there is nothing to relabel or sort by.
    """
    if not _has_labellings(model, params):
        return {}
    every = permutations(model.num_components)
    shape = np.shape(next(iter(params.values())))[:2]
    masses = in_blocks(_labelling_program(model), params, shape, model, x, cost=len(every))
    return {tuple(map(int, s)): masses[..., i] for i, s in enumerate(every)}


def visited_labellings(model, params, x) -> dict[tuple[int, ...], np.ndarray]:
    """Whether each draw itself is in a labelling, 0 or 1: tuple -> (C, S), summing to 1, where there are masses.

    Masses are given each draw up to its labels, so a sampler that never switches labels has them right all the same.
    """
    if not _has_labellings(model, params):
        return {}
    shape = np.shape(next(iter(params.values())))[:2]
    order = in_blocks(_order_program(model), params, shape, model, x)
    every = permutations(model.num_components)
    return {tuple(map(int, s)): (order == s).all(axis=-1).astype(float) for s in every}


def _has_labellings(model, params) -> bool:
    if model.exchangeable or not 1 < model.num_components <= MAX_LABELLED or not params:
        return False
    return bool(_sort_leaf(model) is not None and model.relabels)


# -- what applies to a model --------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """Which functionals a model has, read off its declaration."""

    weights_vary: bool  # the mixing weights depend on parameters, and on nothing else
    atoms: tuple[str, ...]  # 1-D: the components' own parameters of shape (K,), the one to sort by first
    positive: tuple[str, ...]  # those of them whose support is the positive half line
    moments: bool  # the components have means and variances in closed form, which depend on parameters alone
    angles: tuple[str, ...]  # locations of von Mises components


@functools.cache
def _plan(model) -> Plan:
    x = one_row(model)
    weights_from = _inputs(lambda p, x: model.log_weights_table(p, x), model, x)
    weights_vary = weights_from != set() and "x" not in weights_from
    moments = False
    if "x" not in weights_from and not _circular(model):
        try:
            moments_from = _inputs(lambda p, x: _mixture_moments(model, p, x), model, x)
            moments = moments_from != set() and "x" not in moments_from
        except (NotImplementedError, AttributeError, TypeError, ValueError):
            pass  # a component without closed moments
    atoms = _atoms(model, weights_from)
    supports = {name: support for name, (support, _) in twin_supports(model).items()} if atoms else {}
    positive = tuple(name for name in atoms if name == "scales" or _is_positive(supports.get(name)))
    return Plan(weights_vary, atoms, positive, moments, angles(model))


def _circular(model) -> list[str]:
    """The sites that are angles."""
    return [name for name, shape in model.observation_shapes.items() if shape.family in CIRCULAR]


@functools.cache
def angles(model) -> tuple[str, ...]:
    """The parameters that are locations of von Mises components."""
    sites = _circular(model)
    if not sites or not model.param_shapes:
        return ()
    draw = {name: leaf[0] for name, leaf in model.prior_draws(jax.random.key(5), NUM_DRAWS).items()}
    at = [np.asarray(component_arguments(model, draw, site)["loc"]) for site in sites]
    return tuple(name for name, leaf in draw.items() if any(np.array_equal(leaf, loc) for loc in at))


def _is_positive(support) -> bool:
    while hasattr(support, "base_constraint"):  # the support of an entry of a vector
        support = support.base_constraint
    return support in POSITIVE


def sorted_by(model) -> str | None:
    """The parameter that orders the components, `sorted_...[k]`; None where they have no order (not 1-D)."""
    atoms = _plan(model).atoms
    return atoms[0] if atoms else None


def _atoms(model, weights_from):
    """The components' own scalars, the one to sort by first; standard deviations stand for variances."""
    sizes = [int(np.prod(s.shape, dtype=int)) for name, s in model.observation_shapes.items() if name != "z"]
    first = _sort_leaf(model, weights_from)
    if sum(sizes) != 1 or first is None:
        return ()
    derived = jax.eval_shape(model.derived, model.param_shapes)
    own = [name for name in model.component_leaves if _is_row(model, name) and name not in weights_from]
    if "scales" in derived and derived["scales"].shape == (model.num_components,):
        own = [name for name in own if name not in ("variances", "precisions")] + ["scales"]
    return (first, *(name for name in own if name != first))


def _sort_leaf(model, weights_from=None):
    """`order_by`, or the first component parameter of shape (K,) that is not the mixing weights, of angles the last, as
    they have no order; None without one."""
    if model.order_by is not None:
        return model.order_by if _is_row(model, model.order_by) else None
    if weights_from is None:
        weights_from = _inputs(lambda p, x: model.log_weights_table(p, x), model, one_row(model))
    own = [name for name in model.component_leaves if _is_row(model, name) and name not in weights_from]
    return next((name for name in own if name not in angles(model)), own[0] if own else None)


def _is_row(model, name):
    shapes = {**jax.eval_shape(model.derived, model.param_shapes), **model.param_shapes}
    return name in shapes and shapes[name].shape == (model.num_components,)


def one_row(model):
    """An observation of the right shapes: the data's first, else zeros."""
    if model.data is not None:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:1], model.data.x)
    rows = {name: np.zeros((1, *s.shape)) for name, s in model.observation_shapes.items() if name != "z"}
    return rows["x"] if set(rows) == {"x"} else rows


def _inputs(function, model, x) -> set[str]:
    """Names of the parameters that `function(params, x)` depends on, "x" included. Compiles nothing.

    An equation's outputs are taken to depend on all of its inputs, so the answer can only be too large.
    """
    params = {name: np.zeros(s.shape, s.dtype) for name, s in model.param_shapes.items()}
    closed = jax.make_jaxpr(function)(params, x)
    names = sorted(params)  # the order in which JAX flattens a dictionary of arrays
    names += ["x"] * (len(closed.jaxpr.invars) - len(names))
    return set().union(*_reach(closed.jaxpr, [{name} for name in names]))


def _reach(jaxpr, inputs) -> list[set[str]]:
    """What every output depends on, where the inputs depend on `inputs`; programs within are looked into."""
    reach = dict(zip(jaxpr.invars, inputs, strict=True))
    of = lambda atom: set() if hasattr(atom, "val") else reach.get(atom, set())  # a literal has a value
    for equation in jaxpr.eqns:
        given = [of(atom) for atom in equation.invars]
        if equation.primitive.name == "pjit":
            found = _reach(equation.params["jaxpr"].jaxpr, given)
        else:
            found = [set().union(*given)] * len(equation.outvars)
        reach.update(zip(equation.outvars, found, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


# -- one draw -----------------------------------------------------------------------------------------------------


@functools.cache
def _program(model):
    plan = _plan(model)

    def one(_, params, x, points, pairs):
        table = model.log_table(params, x)
        pointwise = logsumexp(table, axis=1)
        r = jax.nn.softmax(table, axis=1)
        found = {
            "log_density": model.log_prior(params) + pointwise.sum(),
            "log_predictive": pointwise[points],
            "co_clustering": (r[pairs[:, 0]] * r[pairs[:, 1]]).sum(axis=1),
            "entropy": entr(r).sum(),
        }
        every = {**model.derived(params), **params}
        weights = model.weights(params, x)
        order = jnp.argsort(every[plan.atoms[0]] if plan.atoms else weights)
        found |= {f"sorted_{name}": every[name][order] for name in plan.atoms}
        if plan.weights_vary:
            found["sorted_weights"] = weights[order]
        if plan.moments:
            found["mixture_mean"], found["mixture_covariance"] = _mixture_moments(model, params, x)
        return found

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None, None, None)))


def _mixture_moments(model, params, x):
    """Mean (D,) and covariance (D, D) of the mixture: sum_k w_k m_k, and sum_k w_k (C_k + (m_k - m)(m_k - m)')."""
    rows = x if isinstance(x, dict) else {"x": x}
    observed = {name: jnp.asarray(leaf)[0] for name, leaf in rows.items() if name != "covariates"}
    covariates = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], rows["covariates"]) if "covariates" in rows else None

    def component(k):
        sites = model.observation_sites(params, k, observed, covariates)
        parts = [_moments_of(sites[name].distribution, jnp.shape(leaf)) for name, leaf in observed.items()]
        return jnp.concatenate([m for m, _ in parts]), jax.scipy.linalg.block_diag(*[c for _, c in parts])

    means, covariances = jax.vmap(component)(jnp.arange(model.num_components, dtype=jnp.int32))
    w = model.weights(params, x)
    mean = w @ means
    apart = means - mean
    return mean, jnp.einsum("k,kde->de", w, covariances + apart[:, :, None] * apart[:, None, :])


def _moments_of(distribution, shape):
    """Mean (D,) and covariance (D, D) of one component at one site whose values have `shape`."""
    D = int(np.prod(shape, dtype=int))
    mean = jnp.broadcast_to(distribution.mean(), shape).reshape(D)
    if len(distribution.event_shape):
        return mean, distribution.covariance().reshape(D, D)
    return mean, jnp.diag(jnp.broadcast_to(distribution.variance(), shape).reshape(D))


@functools.cache
def _occupied_program(model):
    def one(_, params, x):
        r = model.responsibilities(params, x)
        empty = jnp.prod(1 - r, axis=0)
        both = jnp.prod(jnp.clip(1 - r[:, :, None] - r[:, None, :], 0), axis=0)  # both empty; k = l is not used
        pairs = 1 - empty[:, None] - empty[None, :] + both
        mean = (1 - empty).sum()
        return mean, mean + pairs.sum() - jnp.trace(pairs)

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None)))


@functools.cache
def _likelihood_program(model):
    return jax.jit(jax.vmap(lambda _, params, x: model.log_likelihood(params, x), in_axes=(0, 0, None)))


@functools.cache
def _pointwise_program(model):
    return jax.jit(jax.vmap(lambda _, params, x: model.pointwise_log_likelihood(params, x), in_axes=(0, 0, None)))


@functools.cache
def _labelling_program(model):
    every = permutations(model.num_components)
    sort_by = _sort_leaf(model)

    def one(_, params, x):
        def relabelled(s):
            here = model.permute(params, s)
            return model.log_density(here, x), jnp.argsort({**model.derived(here), **here}[sort_by])

        log_density, order = jax.vmap(relabelled)(jnp.asarray(every))
        key = jnp.argmax((order[:, None, :] == every[None]).all(axis=-1), axis=1)
        return jnp.zeros(len(every)).at[key].add(jax.nn.softmax(log_density))

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None)))


@functools.cache
def _order_program(model):
    sort_by = _sort_leaf(model)
    return jax.jit(
        jax.vmap(lambda _, params, x: jnp.argsort({**model.derived(params), **params}[sort_by]), in_axes=(0, 0, None))
    )


# -- blocks -------------------------------------------------------------------------------------------------------


def in_blocks(program, params, shape, model, x, *more, cost=1):
    """`program(index, params, x, *more)` over all M = C S draws in blocks of one shape; leaves (C, S, ...) in NumPy."""
    M = int(np.prod(shape))
    flat = {name: np.asarray(leaf).reshape(M, *np.shape(leaf)[2:]) for name, leaf in params.items()}
    x = jax.tree.map(jnp.asarray, x)
    N = len(_leaves(x)[0])
    block = int(np.clip(CELLS // (N * model.num_components * cost), 1, MAX_BLOCK))
    outs = []
    with loop.one_blas_thread():
        for start in range(0, M, block):
            index = np.minimum(np.arange(start, start + block), M - 1)  # the last block is filled up with its last draw
            out = program(jnp.asarray(index), {name: jnp.asarray(leaf[index]) for name, leaf in flat.items()}, x, *more)
            outs.append(jax.tree.map(lambda leaf: np.asarray(leaf)[: M - start], out))  # noqa: B023
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *outs)
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), whole)


def _leaves(x) -> list[Any]:
    """The observed arrays of `x`, in the order of its keys, covariates left out."""
    return [leaf for name, leaf in x.items() if name != "covariates"] if isinstance(x, dict) else [x]


def _rows(name, values):
    """name[i], name[i,j], ... -> (C, S) for values (C, S, ...); the bare name for (C, S)."""
    indices = np.ndindex(*values.shape[2:])
    return {f"{name}[{','.join(map(str, i))}]" if i else name: values[(..., *i)] for i in indices}
