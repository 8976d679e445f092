"""Whether equal observations leave a proper posterior."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from inference import conditionals, space
from inference.em_step import by_column, columns_of, scaled, scales
from inference.optimum import bordered
from zoo.probe import NUM_DRAWS


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
    if min(distinct) == len(columns) or not continuous or model.lacks_twin or not len(bordered(model)):
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

        axes = jnp.eye(of.size)[bordered(model)]
        shifts = jnp.array([20.0, 30.0])[:, None, None] * jnp.concatenate([axes, -axes])
        ends = jax.lax.map(lambda shifts: jax.lax.map(at, shifts), shifts)
        change, log_ratio = (there[1] - there[0] for there in ends)
        log_ratio = jnp.where(jnp.isfinite(log_ratio), log_ratio, 0.0)  # singular: not known to shrink
        return jnp.nan_to_num(change, nan=-jnp.inf), log_ratio, jnp.all(located(one) != located(other), axis=0)

    return jax.jit(program)
