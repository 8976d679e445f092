"""Whether observations that are equal, or on one line, leave a proper posterior."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from inference import conditionals, space
from inference.em_step import FULL, by_column, columns_of, scaled, scales
from inference.optimum import bordered
from zoo.mixture import twin_supports
from zoo.probe import NUM_DRAWS

IMPROPER = "the posterior is improper: {}; draws stand for the part away from there, if any; {}"
LONG = 2000  # rows that are compared with each other in the search of a line


def check_proper(model, x) -> tuple[str, ...]:
    """The warning, if any, that rows of x that are equal, or lie on one line, leave no proper posterior; ValueError
    where there is nothing else. Rows beside covariates are not looked at."""
    if isinstance(x, dict) and "covariates" in x:
        return ()
    return ties(model, x) or aligned(model, x)


def ties(model, x) -> tuple[str, ...]:
    """`check_proper` of equal entries.

    A Normal, log-normal or Student-t component of unknown location that sits on m equal numbers has likelihood s^-m as
    its scale s -> 0, and s^(1 - m) once the location is integrated out, against a prior density like s^a: the integral
    over s is infinite where m >= a + 2. HalfNormal and HalfCauchy have a = 0, so two equal numbers suffice, in one
    column if that has a scale of its own (of a full covariance, that given the others); an InverseGamma variance falls
    faster than any power. Where a column has at most K distinct numbers all components end there, which is refused;
    else chains may never come near, and it is said.
    """
    sites = scaled(model)
    if not sites:
        return ()
    columns = np.concatenate([np.asarray(columns_of(model, of, x)) for of in sites], axis=1)
    distinct = [len(np.unique(column)) for column in columns.T]
    if min(distinct) == len(columns) or space.discrete(model) or model.lacks_twin or not len(bordered(model)):
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
    return (IMPROPER.format(said, cure),)


def aligned(model, x) -> tuple[str, ...]:
    """`check_proper` of rows on one line, under two-dimensional normal components whose correlation matrix, or its
    Cholesky factor, has a prior of its own; locations and scales unknown.

    With d = 1 - correlation^2, m rows on a line have likelihood d^(-m/2) as d -> 0 if the component lies along it;
    slope and intercept, integrated out, give a factor d, and the prior is like d^(eta - 1) (LKJ of concentration eta):
    the integral over d is infinite where m >= 2 eta + 2. A line along an axis is a matter of `ties`. Hyperplanes of
    more columns are not looked at, nor are more than the first LONG rows.
    """
    found = _correlated(model)
    if found is None:
        return ()
    points = np.asarray(columns_of(model, found.site, x))
    gains = lambda m: found.prior + found.volume - (m - 2) * found.narrows  # of log mass
    if gains(len(points)).max() < -0.1:
        return ()  # not even if all rows were on one line
    rows = on_a_line(points)
    m = len(rows)
    if gains(m).max() < -0.1 or (model.num_components == 1 and m < len(points)):
        return ()  # of one component, rows elsewhere are left without any
    value = jax.tree.map(lambda leaf: np.asarray(leaf)[rows[0]], x)
    columns = " and ".join(_names(model, (found.site,)))
    said = (
        f"{m} rows lie on one line in {columns} (row {rows[0]}, x = {value}, is one) "
        f"and the prior of {model.name} lets a correlation go to 1 or -1 along it, where its mass is infinite"
    )
    cure = "give a prior of correlations that vanishes faster there, such as LKJ of a larger concentration"
    if m == len(points):
        raise ValueError(f"no proper posterior: {said}; {cure}")
    return (IMPROPER.format(said, cure),)


def unbounded_along_a_line(model, x) -> bool:
    """Whether the density grows without bound as a correlation goes to 1 or -1 along rows on one line: m rows gain
    d^(-m/2) against the prior's d^(eta - 1)."""
    found = None if isinstance(x, dict) and "covariates" in x else _correlated(model)
    if found is None:
        return False
    points = np.asarray(columns_of(model, found.site, x))
    m = len(on_a_line(points))
    return (model.num_components > 1 or m == len(points)) and bool((found.prior - m * found.narrows).max() > 0.1)


def on_a_line(points) -> np.ndarray:
    """The largest set of rows of `points` (N, 2), sorted, on one line that is not along an axis, empty without two such
    rows; of the first LONG rows. Directions from each row to the others are compared, up to the rounding of `points`.
    """
    eps = np.finfo(points.dtype).eps
    points = points[:LONG].astype(float)
    points = points / np.where(points.std(axis=0) > 0, points.std(axis=0), 1.0)
    rounding, best = 4 * eps * np.abs(points).max(), np.arange(0)
    for point in points:
        away = points - point
        slanted = np.flatnonzero((away != 0).all(axis=1))
        angles = np.arctan2(away[slanted, 1], away[slanted, 0]) % np.pi
        order = np.argsort(angles)
        off = rounding / np.hypot(*away[slanted[order]].T)
        apart = np.diff(angles[order]) > off[1:] + off[:-1]
        groups = np.split(slanted[order], 1 + np.flatnonzero(apart))
        largest = max(groups, key=len)
        equal = np.flatnonzero((away == 0).all(axis=1))
        if len(largest) and len(largest) + len(equal) > len(best):
            best = np.sort(np.r_[largest, equal])
    return best


class _Correlated(NamedTuple):
    """What moving a coordinate of a correlation towards 1 or -1 does, (2 D,)."""

    site: str  # whose components are normal in two columns
    prior: np.ndarray  # to the log prior
    volume: np.ndarray  # to log |d params / d u|
    narrows: np.ndarray  # to the log scale of either column given the other, in one component


@functools.cache
def _correlated(model) -> _Correlated | None:
    """None without normal components in two columns with a correlation of their own, or where nothing is known."""
    shapes, (site, *others) = model.observation_shapes, scaled(model) or ("",)
    fits = not others and site and shapes[site].family == FULL and shapes[site].shape == (2,)
    if not fits or space.discrete(model) or model.lacks_twin or not len(_correlations(model)):
        return None
    draws = model.prior_draws(jax.random.key(5), NUM_DRAWS)
    prior, volume, ratios, unknown = (np.asarray(out) for out in _towards_one(model)(draws))
    one = ((ratios < -1).all(axis=2).sum(axis=1) == 1) & np.isfinite(prior) & unknown
    return _Correlated(site, prior[one], volume[one], ratios[one].min(axis=(1, 2))) if one.any() else None


@functools.cache
def _correlations(model):
    """Coordinates of the sites that are correlation matrices or their Cholesky factors."""
    of, kinds = space.space_of(model), (type(constraints.corr_cholesky), type(constraints.corr_matrix))
    named = [name for name, (support, _) in twin_supports(model).items() if isinstance(_base(support), kinds)]
    return np.concatenate([np.arange(0), *(np.arange(of.size)[of.slices[name]] for name in named)])


def _base(support):
    return getattr(support, "base_constraint", support)


@functools.cache
def _towards_one(model):
    """prior draws -> what moving each coordinate of a correlation from 3 to 5 further out (1 - correlation^2 from about
    .01 to .0002, which both precisions resolve) does to log prior, to log |d params / d u| and to the log scales; and
    whether locations and scales are unknown, so that a component can lie along any line."""
    of, (site,) = space.space_of(model), scaled(model)

    def placed(params):  # (K, 4)
        arguments = conditionals.component_arguments(model, params, site)
        variances = jnp.diagonal(arguments["covariance_matrix"], axis1=-2, axis2=-1)
        return jnp.concatenate(
            [jnp.broadcast_to(a, (model.num_components, 2)) for a in (arguments["loc"], variances)], 1
        )

    def program(draws):
        one, other = (jax.tree.map(lambda leaf: leaf[i], draws) for i in (0, 1))  # noqa: B023
        moved = jnp.abs(placed(one) / placed(other) - 1) > 1e-3
        u = of.unconstrain(one)

        def at(shift):
            moved = of.constrain(u + shift)
            return model.log_prior(moved), of.log_det(u + shift), jnp.log(scales(model, moved))

        unknown = moved[:, :2].any(axis=1) & moved[:, 2:].any(axis=1)
        return *_change(at, jnp.eye(of.size)[_correlations(model)], 3.0, 5.0), unknown.all()

    return jax.jit(program)


def _change(at, axes, near, far):
    """How what `at(shift)` returns changes as the shift goes from `near` to `far` along each axis, both ways."""
    shifts = jnp.array([near, far])[:, None, None] * jnp.concatenate([axes, -axes])
    ends = jax.lax.map(lambda shifts: jax.lax.map(at, shifts), shifts)
    return tuple(there[1] - there[0] for there in ends)


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

        change, log_ratio = _change(at, jnp.eye(of.size)[bordered(model)], 20.0, 30.0)
        log_ratio = jnp.where(jnp.isfinite(log_ratio), log_ratio, 0.0)  # singular: not known to shrink
        return jnp.nan_to_num(change, nan=-jnp.inf), log_ratio, jnp.all(located(one) != located(other), axis=0)

    return jax.jit(program)
