"""Observations with missing entries: the table of what is observed, and the moments of what is not.

N observations, K components, D features: the entries of every site of one observation, flat, in the order of its
addresses. `seen` has the structure of the observed arrays and is False where an entry is missing; x holds some possible
value there, which nothing depends on.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diagnostics.functionals import CIRCULAR, _moments_of, one_row
from zoo.mixture import Mixture


def why_not(model: Mixture, seen: dict[str, np.ndarray]) -> str | None:
    """The sentence why missing entries cannot be integrated out, or None.

    They can where the sites are independent given z, and a site that is missing in part has independent entries
    (left out of the sum) or is a multivariate normal (its marginal).
    """
    missing = {name: ~np.reshape(leaf, (len(leaf), -1)) for name, leaf in seen.items()}
    for name, other in _dependent(model):
        if any(m.any() for m in missing.values()):
            return (
                f"{model.name}: the law of {name} depends on {other}, so missing entries cannot be integrated out; "
                f"remove or impute them"
            )
    for name, family in _joint_families(model).items():
        if (missing[name].any(axis=1) & ~missing[name].all(axis=1)).any() and not _normal(family):
            return (
                f"{model.name}: the entries of {name} have a joint law ({family or 'a density of its own'}) whose "
                f"marginals are not known here; remove or impute the missing ones"
            )
    return None


def log_table(model: Mixture, params, x, seen):
    """log p(z_n = k, what is observed of x_n | params), shape (N, K)."""
    return _cells(model, params, x, seen, lambda log, means, covariances: log)


def moments(model: Mixture, params, x, seen):
    """Of what is missing, given what is observed and params: mean (N, D) and covariance (N, D, D), after the log
    density of the observed part (N,).

    Per component in closed form (of a normal, m_u + C_uo C_oo^-1 (x_o - m_o) and C_uu - C_uo C_oo^-1 C_ou), weighted
    by the responsibilities of the observed part. Observed entries have themselves as mean, and variance 0. An entry
    whose family has no closed mean is NaN.
    """
    table, means, covariances = _cells(model, params, x, seen, lambda *three: three)
    r = jax.nn.softmax(table, axis=1)
    mean = jnp.einsum("nk,nkd->nd", r, means)
    apart = means - mean[:, None]
    covariance = jnp.einsum("nk,nkde->nde", r, covariances + apart[..., :, None] * apart[..., None, :])
    return jax.scipy.special.logsumexp(table, axis=1), mean, covariance


def features(x) -> dict[str, np.ndarray]:
    """Name -> values (N,) of the D features, in the order of `moments`."""
    from zoo.tables import of_arrays

    observed = {k: v for k, v in x.items() if k != "covariates"} if isinstance(x, dict) else {"x": x}
    return of_arrays({name: np.asarray(observed[name]) for name in observed})


def _cells(model, params, x, seen, pick):
    """`pick(log joint, means (D,), covariances (D, D))` of every row and component; leaves (N, K, ...)."""
    observed = {k: v for k, v in x.items() if k != "covariates"} if isinstance(x, dict) else {"x": x}
    covariates = x.get("covariates") if isinstance(x, dict) else None

    def cell(k, x_n, seen_n, c_n):
        sites = model.observation_sites(params, k, x_n, c_n)
        parts = [_part(sites[name], x_n[name], seen_n[name]) for name in x_n]
        log, means, covariances = zip(*parts, strict=True)
        return pick(sites["z"].score + sum(log), jnp.concatenate(means), jax.scipy.linalg.block_diag(*covariances))

    each = jax.vmap(cell, in_axes=(0, None, None, None))
    components = jnp.arange(model.num_components, dtype=jnp.int32)
    return jax.vmap(each, in_axes=(None, 0, 0, 0))(components, jax.tree.map(jnp.asarray, observed), seen, covariates)


def _part(site, value, seen):
    """Log marginal density of the observed entries of one site; mean (D,) and covariance (D, D) of all given them."""
    distribution, shape = _plain(site.distribution), jnp.shape(value)
    flat, known = jnp.ravel(value), jnp.ravel(seen)
    try:
        if type(distribution).__name__ in CIRCULAR:
            raise ValueError("the average of angles means nothing across the cut")
        mean, covariance = _moments_of(distribution, shape)
    except (NotImplementedError, AttributeError, TypeError, ValueError):  # no closed moments
        mean, covariance = jnp.full(flat.shape, jnp.nan), jnp.diag(jnp.full(flat.shape, jnp.nan))
    own = jnp.where(known, flat, mean)
    left = ~known[:, None] & ~known[None, :]
    if distribution is not None and _normal(type(distribution).__name__):
        seen_block = jnp.where(known[:, None] & known[None, :], covariance, jnp.eye(len(flat)))
        root = jnp.linalg.cholesky(seen_block)
        away = jnp.where(known, flat - mean, 0.0)
        standard = jax.scipy.linalg.solve_triangular(root, away, lower=True)
        log = -0.5 * (standard**2).sum() - jnp.log(jnp.diag(root)).sum() - 0.5 * jnp.log(2 * jnp.pi) * known.sum()
        cross = jnp.where(known[None, :], covariance, 0.0)  # C_.o, 0 elsewhere
        half = jax.scipy.linalg.solve_triangular(root, cross.T, lower=True)
        given = jnp.where(known, flat, mean + half.T @ standard)
        return log, given, jnp.where(left, covariance - half.T @ half, 0.0)
    covariance = jnp.where(left, covariance, 0.0)
    if distribution is None or shape == () or len(distribution.event_shape):
        return jnp.where(known.all(), site.score, 0.0), own, covariance  # whole or not at all: `why_not`
    each = jnp.broadcast_to(distribution.log_prob(value), shape)
    return jnp.where(seen, each, 0.0).sum(), own, covariance


def _plain(distribution):
    """The distribution of independent entries behind tfd.Independent."""
    while type(distribution).__name__ == "Independent":
        distribution = distribution.distribution
    return distribution


def _normal(family: str) -> bool:
    return family.startswith("MultivariateNormal")


@functools.cache
def _joint_families(model) -> dict[str, str]:
    """Sites whose entries are not independent given z: name -> family, "" where it is not known."""
    found: dict[str, str] = {}

    def look(params, x):
        for name, site in _sites(model, params, x).items():
            distribution = _plain(site.distribution)
            if name != "z" and model.observation_shapes[name].shape:
                if distribution is None:
                    found[name] = ""
                elif len(distribution.event_shape):
                    found[name] = type(distribution).__name__
        return 0

    jax.eval_shape(look, _zeros(model), one_row(model))
    return found


@functools.cache
def _dependent(model) -> tuple[tuple[str, str], ...]:
    """Pairs of sites (a, b) where the density of a is computed from the value of b too. Compiles nothing."""
    row = one_row(model)
    observed = {k: v for k, v in row.items() if k != "covariates"} if isinstance(row, dict) else {"x": row}
    pairs = []
    for name in ["z", *observed]:
        for other in observed:
            if name == other:
                continue

            def score(leaf, name=name, other=other):
                changed = {**row, other: leaf} if isinstance(row, dict) else leaf
                return _sites(model, _zeros(model), changed)[name].score

            closed = jax.make_jaxpr(score)(jnp.asarray(observed[other], float))
            if _reaches(closed.jaxpr):
                pairs.append((name, other))
    return tuple(pairs)


def _reaches(jaxpr) -> bool:
    """Whether an output depends on the inputs; an equation's outputs are taken to depend on all of its inputs."""
    reached = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(not hasattr(atom, "val") and atom in reached for atom in equation.invars):
            reached |= set(equation.outvars)
    return any(not hasattr(atom, "val") and atom in reached for atom in jaxpr.outvars)


def _sites(model, params, x):
    rows = x if isinstance(x, dict) else {"x": x}
    observed = {name: jnp.asarray(leaf)[0] for name, leaf in rows.items() if name != "covariates"}
    covariates = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], rows["covariates"]) if "covariates" in rows else None
    return model.observation_sites(params, 0, observed, covariates)


def _zeros(model):
    return {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in model.param_shapes.items()}
