"""The table of conjugate rules: what is known of one prior site given the assignments, from sums over each component.

Every rule names the statistics of one observation that add up over a component, and the posterior from their totals.
With r (N, K) one-hot totals give the Gibbs conditional, with responsibilities the M-step, and over a subset of the
observations its marginal likelihood. Likelihoods act elementwise on vectors, so a site is (K,) or (K, J), or for
multivariate normals (K, D) and (K, D, D). Gelman et al. 2013, Bayesian Data Analysis, chapters 2 and 3.

`of` names the site of the observation whose argument a rule is the prior of: "x" or another address of a row. What
such an argument depends on beside the parameters (covariates, other addresses) differs from row to row.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from zoo.mixture import num_observations, split
from zoo.support import inside


class Collapsed(NamedTuple):
    """The posterior of a site with the site `integrates` (if any) integrated out."""

    statistics: Callable  # (params, x) -> tuple of arrays (N, 1 or K, ...), which add up over a component
    posterior: Callable  # (params, totals) -> NumPyro distribution of the site
    integrates: str | None = None
    change: Callable | None = None  # (posterior, own: one-hot or 0, value) -> log density less that with own added


class Rule(NamedTuple):
    """How one prior site is updated given everything else."""

    site: str
    name: str  # as `zoo show` prints it
    conditional: Callable | None  # (params, r, x) -> NumPyro distribution of the site; None: M-step only
    mode: Callable | None  # (params, r, x, prior) -> the maximiser, prior=False for maximum likelihood
    collapsed: Collapsed | None  # what `inference.marginal.log_marginal` integrates by; None: shared, M-step only
    of: str  # the site of the observation that it is the prior of an argument of; "z" for the mixing weights


class InverseGamma(dist.InverseGamma):
    """Its log density by a formula that holds as far as numbers reach: NumPyro's squares the value."""

    def log_prob(self, value):
        a, b = self.concentration, self.rate
        return a * jnp.log(b) - gammaln(a) - (a + 1) * jnp.log(value) - b / value


def draw(q, key):
    """A draw from the NumPyro distribution q, a number inside its support: see `zoo.support.inside`."""
    value = q.sample(key)
    if isinstance(q, dist.Gamma | dist.InverseGamma):
        return jnp.clip(value, jnp.finfo(value.dtype).tiny, jnp.finfo(value.dtype).max)
    return inside(type(q).__name__, value)


def totals(statistics, r):
    """Sums over the observations of each component, leaves (K, ...)."""
    return tuple(jnp.einsum("nk,nk...->k...", r, jnp.broadcast_to(s, r.shape + s.shape[2:])) for s in statistics)


def _rule(site, name, statistics, posterior, mode, of, collapsed=None, shared=False):
    """`shared`: one value for all components, so their totals are added up (and none has a marginal of its own)."""

    def sums(params, r, x):
        each = totals(statistics(params, x), r)
        return tuple(leaf.sum(axis=0) for leaf in each) if shared else each

    def conditional(params, r, x):
        return posterior(params, sums(params, r, x))

    def maximiser(params, r, x, prior):
        return mode(params, sums(params, r, x), prior)

    if shared:
        return Rule(site, f"{name}, shared", conditional, maximiser, None, of)
    return Rule(site, name, conditional, maximiser, collapsed or Collapsed(statistics, posterior), of)


# -- weights --------------------------------------------------------------------------------------------------


def dirichlet_weights(model, site):
    """weights ~ Dirichlet(alpha), z ~ Categorical(weights): Dirichlet(alpha + n), mode proportional to that - 1."""

    def statistics(params, x):
        return (_ones(x),)

    def posterior(params, totals):
        (alpha,) = _prior_arguments(model, params, site, "concentration")
        return dist.Dirichlet(alpha + totals[0])

    def mode(params, totals, prior):
        return _simplex(posterior(params, totals).concentration - 1 if prior else totals[0], params[site])

    return _rule(site, "Dirichlet weights", statistics, posterior, mode, "z")


# -- normal components, one number or elementwise ----------------------------------------------------------------


def normal_mean(model, site, of):
    """means[k] ~ Normal(m, s), x | z=k ~ Normal(means[k], sd[k]):
    precision = 1/s^2 + n_k/sd[k]^2, mean = (m/s^2 + sum_n r_nk x_n/sd[k]^2) / precision."""

    def statistics(params, x):
        return _ones(x), _rows(x, of)

    def posterior(params, totals):
        n, total = filled(totals[0], totals[1]), totals[1]
        m, s = _prior_arguments(model, params, site, "loc", "scale")
        sd = filled(scale_of(component_arguments(model, params, of)), total)
        precision = s**-2 + n * sd**-2
        return dist.Normal((m * s**-2 + total * sd**-2) / precision, precision**-0.5)

    def mode(params, totals, prior):
        return posterior(params, totals).loc if prior else _mean(totals[1], totals[0], params[site])

    return _rule(site, "Normal mean", statistics, posterior, mode, of)


def normal_spread(model, site, of, family, mean_site=None, shared=False):
    """variances[k] ~ InverseGamma(a, b) or precisions[k] ~ Gamma(a, b), x | z=k ~ Normal(means[k], its sd):
    (a + n_k/2, b + sum_n r_nk (x_n - means[k])^2 / 2); mode b/(a + 1) of variances, (a - 1)/b of precisions.

    With `mean_site`, means[k] ~ Normal(m, sd[k]/sqrt(c)): (a + (n_k + 1)/2, ... + c (means[k] - m)^2 / 2), and with
    the mean integrated out (a + n_k/2, b + (sum (x_n - m)^2 - (sum (x_n - m))^2 / (c + n_k)) / 2). `shared`: one
    spread for all k, and sums over k too.
    """
    precision = family == "Gamma"
    build = dist.Gamma if precision else InverseGamma

    def hyper(params):
        return _prior_arguments(model, params, site, "concentration", "rate" if precision else "scale")

    def mean_prior(params):
        """m, and how many observations the prior of the mean is worth."""
        m, s = _prior_arguments(model, params, mean_site, "loc", "scale")
        variance = 1 / params[site] if precision else params[site]
        return m, variance / s**2

    def statistics(params, x):
        return _ones(x), _deviations(model, params, x, of) ** 2

    def posterior(params, totals):
        (a, b), n = hyper(params), filled(totals[0], totals[1])
        if mean_site is None:
            return build(a + n / 2, b + totals[1] / 2)
        m, worth = mean_prior(params)
        return build(a + (n + 1) / 2, b + (totals[1] + worth * (params[mean_site] - m) ** 2) / 2)

    def mode(params, totals, prior):
        if not prior:
            variance = _mean(totals[1], totals[0], 1 / params[site] if precision else params[site])
            return jnp.where(variance > 0, 1 / variance, params[site]) if precision else variance
        q = posterior(params, totals)
        if precision:
            return _inside(q.concentration - 1, q.rate, params[site])
        return q.rate / (q.concentration + 1)

    def statistics_about_prior(params, x):
        gap = _rows(x, of) - jnp.broadcast_to(mean_prior(params)[0], params[site].shape)
        return _ones(x), gap, gap**2

    def posterior_without_mean(params, totals):
        (a, b), n = hyper(params), filled(totals[0], totals[1])
        spread = totals[2] - totals[1] ** 2 / (mean_prior(params)[1] + n)
        return build(a + n / 2, b + spread / 2)

    name = "Gamma precision" if precision else "InverseGamma variance"
    if mean_site is None:
        return _rule(site, name, statistics, posterior, mode, of, shared=shared)
    joint = Collapsed(statistics_about_prior, posterior_without_mean, mean_site)
    return _rule(site, f"{name}, joint with {mean_site}", statistics, posterior, mode, of, joint)


def normal_scale(model, site, of):
    """x | z=k ~ Normal(means[k], scales[k]) under any prior of the scale: the maximum likelihood M-step alone,
    scales[k]^2 = sum_n r_nk (x_n - means[k])^2 / n_k."""

    def mode(params, r, x, prior):
        n, total = totals((_ones(x), _deviations(model, params, x, of) ** 2), r)
        return jnp.sqrt(_mean(total, n, params[site] ** 2))

    return Rule(site, "Normal scale, maximum likelihood only", None, mode, None, of)


def normal_coefficients(model, site, of):
    """coefficients[k, j] ~ Normal(m, s), x_n | z=k ~ Normal(f_n . coefficients[k] + o_n, sd): precision P = s^-2 I +
    sum_n r_nk f_n f_n' / sd^2, mean P^-1 (m / s^2 + sum_n r_nk f_n (x_n - o_n) / sd^2); f and o are read off the
    location (`design`). Gelman et al. 2013, chapter 14."""

    def statistics(params, x):
        features, offset = design(model, params, x, site, of)
        weighted = features * row_arguments(model, params, x, of)["scale"][..., None] ** -2
        return weighted[..., :, None] * features[..., None, :], weighted * (_rows(x, of) - offset)[..., None]

    def posterior(params, totals):
        squares, products = totals
        m, s = (jnp.broadcast_to(a, params[site].shape) for a in _prior_arguments(model, params, site, "loc", "scale"))
        precision = squares + jax.vmap(jnp.diag)(s**-2)
        loc = jnp.linalg.solve(precision, (products + m * s**-2)[..., None])[..., 0]
        return dist.MultivariateNormal(loc, precision_matrix=precision)

    def mode(params, totals, prior):
        if prior:
            return posterior(params, totals).loc
        return jnp.einsum("kij,kj->ki", jnp.linalg.pinv(totals[0], hermitian=True), totals[1])

    return _rule(site, "Normal coefficients", statistics, posterior, mode, of)


def design(model, params, x, site, of):
    """f and o where the location in row n given z_n = k is f_nk . params[site][k] + o_nk: (N, K, J) and (N, K)."""
    zero = jnp.zeros_like(params[site])
    loc = lambda value: row_arguments(model, {**params, site: value}, x, of)["loc"]
    offset = loc(zero)
    return jnp.stack([loc(zero.at[:, j].set(1.0)) - offset for j in range(zero.shape[1])], axis=-1), offset


# -- multivariate normal components --------------------------------------------------------------------------------


def multivariate_mean(model, site, of):
    """means[k] ~ Normal(m, C), x | z=k ~ Normal(means[k], S[k]): precision P = C^-1 + n_k S[k]^-1, mean
    P^-1 (C^-1 m + S[k]^-1 sum_n r_nk x_n). C is a matrix, or a diagonal of independent normals."""

    def statistics(params, x):
        return _ones(x), _rows(x, of)

    def posterior(params, totals):
        n, total = totals
        m, prior_precision = _mean_prior(model, params, site)
        precision = jnp.linalg.inv(component_arguments(model, params, of)["covariance_matrix"])
        pooled = prior_precision + n[:, None, None] * precision
        shift = jnp.einsum("kij,kj->ki", prior_precision, m) + jnp.einsum("kij,kj->ki", precision, total)
        return dist.MultivariateNormal(jnp.linalg.solve(pooled, shift[..., None])[..., 0], precision_matrix=pooled)

    def mode(params, totals, prior):
        return posterior(params, totals).loc if prior else _mean(totals[1], totals[0], params[site])

    return _rule(site, "multivariate Normal mean", statistics, posterior, mode, of)


def wishart_precision(model, site, of, mean_site=None, shared=False):
    """precisions[k] ~ Wishart(nu, S^-1), x | z=k ~ Normal(means[k], precisions[k]^-1), that is covariances ~
    InverseWishart(nu, S): Wishart(nu + n_k, (S + T)^-1) with T = sum_n r_nk (x_n - means[k])(x_n - means[k])'.

    With `mean_site`, means[k] ~ Normal(m, precisions[k]^-1 / c): nu + n_k + 1 and c (means[k] - m)(means[k] - m)'
    more; with the mean integrated out nu + n_k and sum d d' - (sum d)(sum d)' / (c + n_k), d = x_n - m (Gelman et al.
    2013, section 3.6). Mode (nu - D - 1) S^-1. `shared`: one precision for all k, and sums over k too.
    """
    D = model.param_shapes[site].shape[-1]
    outer = lambda v: v[..., :, None] * v[..., None, :]

    def hyper(params):
        nu, root = _prior_arguments(model, params, site, "df", "scale_tril")
        inverse = jax.scipy.linalg.solve_triangular(root, jnp.broadcast_to(jnp.eye(D), root.shape), lower=True)
        return nu, jnp.swapaxes(inverse, -1, -2) @ inverse

    def mean_prior(params):
        m, precision = _mean_prior(model, params, mean_site)
        return m, precision[:, 0, 0] / params[site][:, 0, 0]

    def statistics(params, x):
        return _ones(x), outer(_deviations(model, params, x, of))

    def posterior(params, totals):
        nu, S = hyper(params)
        n, scatter = totals
        if mean_site is None:
            return dist.Wishart(nu + n, rate_matrix=S + scatter)
        m, worth = mean_prior(params)
        return dist.Wishart(nu + n + 1, rate_matrix=S + scatter + worth[:, None, None] * outer(params[mean_site] - m))

    def mode(params, totals, prior):
        if not prior:
            covariance = _mean(totals[1], totals[0], jnp.linalg.inv(params[site]))
            regular = filled(totals[0] > D, covariance)
            return jnp.where(regular, jnp.linalg.inv(jnp.where(regular, covariance, jnp.eye(D))), params[site])
        q = posterior(params, totals)
        df = filled(q.concentration, q.mean)
        return jnp.where(df > D + 1, (df - D - 1) * q.mean / df, params[site])

    def statistics_about_prior(params, x):
        gap = _rows(x, of) - mean_prior(params)[0]
        return _ones(x), gap, outer(gap)

    def posterior_without_mean(params, totals):
        nu, S = hyper(params)
        n, gap, scatter = totals
        pooled = (mean_prior(params)[1] + n)[:, None, None]
        return dist.Wishart(nu + n, rate_matrix=S + scatter - outer(gap) / pooled)

    if mean_site is None:
        return _rule(site, "Wishart precision", statistics, posterior, mode, of, shared=shared)
    joint = Collapsed(statistics_about_prior, posterior_without_mean, mean_site)
    return _rule(site, f"Wishart precision, joint with {mean_site}", statistics, posterior, mode, of, joint)


# -- counts, waiting times, answers ------------------------------------------------------------------------------


def gamma_rate(model, site, of, likelihood):
    """rates[k] ~ Gamma(a, b): Gamma(a + c_k, b + t_k), mode (a + c_k - 1) / (b + t_k), maximum likelihood c_k / t_k;
    x | z=k ~ Poisson(rates[k]): c_k = sum_n r_nk x_n, t_k = n_k; ~ Exponential(rates[k]): the other way round."""

    def statistics(params, x):
        values = _rows(x, of)
        ones = jnp.ones_like(values)
        return (values, ones) if likelihood == "Poisson" else (ones, values)

    def posterior(params, totals):
        a, b = _prior_arguments(model, params, site, "concentration", "rate")
        return dist.Gamma(a + totals[0], b + totals[1])

    def mode(params, totals, prior):
        q = posterior(params, totals)
        return _inside(*((q.concentration - 1, q.rate) if prior else totals), params[site])

    return _rule(site, f"Gamma rate, {likelihood}", statistics, posterior, mode, of)


def beta_probability(model, site, of, likelihood):
    """probs[k] ~ Beta(a, b), x | z=k ~ Bernoulli(probs[k]) or Binomial(M, probs[k]): Beta(a + s_k, b + f_k) with the
    successes s_k and failures f_k of the component; mode (a + s - 1) / (a + b + s + f - 2)."""

    def statistics(params, x):
        values = jnp.asarray(_rows(x, of), jnp.result_type(float))
        trials = row_arguments(model, params, x, of).get("total_count", jnp.ones((1, 1)))
        return values, filled(trials, values, 2) - values

    def posterior(params, totals):
        a, b = _prior_arguments(model, params, site, "concentration1", "concentration0")
        return dist.Beta(a + totals[0], b + totals[1])

    def mode(params, totals, prior):
        q = posterior(params, totals)
        a, b = (q.concentration1 - 1, q.concentration0 - 1) if prior else totals
        return jnp.where((a > 0) & (b > 0), a / jnp.where(a + b > 0, a + b, 1.0), params[site])

    def change(q, own, value):
        pairs = (q.concentration1, q.concentration0), own, (value, 1 - value)
        return _one_more(*(jnp.stack(pair, axis=-1) for pair in pairs))

    collapsed = Collapsed(statistics, posterior, change=change if likelihood == "Bernoulli" else None)
    return _rule(site, f"Beta probability, {likelihood}", statistics, posterior, mode, of, collapsed)


def dirichlet_items(model, site, of):
    """probs[k, j] ~ Dirichlet(alpha), x_j | z=k ~ Categorical(probs[k, j]): Dirichlet(alpha + how often component k
    gave each answer to item j), mode proportional to that - 1."""
    categories = model.param_shapes[site].shape[-1]

    def statistics(params, x):
        return (jax.nn.one_hot(jnp.asarray(_rows(x, of), jnp.int32), categories, dtype=jnp.result_type(float)),)

    def posterior(params, totals):
        (alpha,) = _prior_arguments(model, params, site, "concentration")
        return dist.Dirichlet(alpha + totals[0])

    def mode(params, totals, prior):
        return _simplex(posterior(params, totals).concentration - 1 if prior else totals[0], params[site])

    collapsed = Collapsed(statistics, posterior, change=lambda q, own, value: _one_more(q.concentration, *own, value))
    return _rule(site, "Dirichlet items", statistics, posterior, mode, of, collapsed)


def _one_more(concentration, own, probs):
    """log Dirichlet(probs; concentration) - log Dirichlet(probs; concentration + own), where `own` (..., C) is one-hot
    or zero: Gamma(a + 1) = a Gamma(a) takes the place of the log-gammas."""
    gained = jnp.where(own > 0, jnp.log(concentration / probs), 0.0)  # a share may round to 0 where nothing is added
    return gained.sum(-1) - own.sum(-1) * jnp.log(concentration.sum(-1))


# -- whole numbers ------------------------------------------------------------------------------------------------


def finite(model, site, size):
    """site ~ Categorical over 0..size-1, whatever depends on it: each value in proportion to the joint density."""

    def conditional(params, r, x):
        def log_joint(value):
            moved = {**params, site: value}
            table = jnp.where(r > 0, model.log_table(moved, x), 0.0)  # -inf where a component is not there
            return model.log_prior(moved) + jnp.sum(r * table)

        return dist.Categorical(logits=jax.vmap(log_joint)(jnp.arange(size, dtype=model.param_shapes[site].dtype)))

    return Rule(site, "whole number, each value weighed", conditional, None, None, "the joint density")


# -- pieces -------------------------------------------------------------------------------------------------------


def component_arguments(model, params, of="x"):
    """Arguments by name of the distribution of site `of` given z = k, leaves (K, ...): those of every row, where they
    do not depend on it, else those of one."""
    return {name: leaf[0] for name, leaf in row_arguments(model, params, first_row(model), of).items()}


def first_row(model):
    """One row, where `component_arguments` are looked up: zeros beside the first covariates of the model's data."""
    shapes = {name: shape for name, shape in model.observation_shapes.items() if name != "z"}
    row = {name: jnp.zeros((1, *shape.shape), shape.dtype) for name, shape in shapes.items()}
    if model.covariates_row is not None:
        row["covariates"] = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], model.covariates_row)
    return row


def row_arguments(model, params, x, of="x"):
    """Arguments by name of the distribution of site `of` in row n given z_n = k, leaves (N, K, ...); (1, K, ...) where
    a row is one array and so has nothing that they could depend on."""
    observed, covariates = split(x)
    if not isinstance(x, dict):
        observed = {"x": observed["x"][:1]}

    def one(x_n, c_n, k):
        return arrays(model.observation_sites(params, k, x_n, c_n)[of])

    rows = jax.vmap(jax.vmap(one, in_axes=(None, None, 0)), in_axes=(0, 0, None))
    return rows(observed, covariates, jnp.arange(model.num_components, dtype=jnp.int32))


def _rows(x, of):
    """What was observed at `of`, (N, 1, ...)."""
    return jnp.asarray(x[of] if isinstance(x, dict) else x)[:, None]


def _ones(x):
    """(N, 1)."""
    return jnp.ones((num_observations(x), 1))


def _deviations(model, params, x, of):
    """x_n - loc_k, (N, K, ...)."""
    rows = _rows(x, of)
    return rows - filled(row_arguments(model, params, x, of)["loc"], rows, 2)


def arrays(site):
    return {name: jnp.asarray(v) for name, v in site.parameters.items()}


def scale_of(arguments):
    """The sd of a normal component, by the name that its class gives it; None for other classes."""
    return arguments.get("scale", arguments.get("scale_diag"))


def _prior_arguments(model, params, site, *names):
    arguments = model.prior_sites(params)[site].parameters
    return tuple(jnp.asarray(arguments[name]) for name in names)


def _mean_prior(model, params, site):
    """Prior mean (K, D) and precision matrix (K, D, D) of means that are normal, whichever class says so."""
    arguments = arrays(model.prior_sites(params)[site])
    K, D = params[site].shape
    if "covariance_matrix" in arguments:
        precision = jnp.linalg.inv(arguments["covariance_matrix"])
    else:
        precision = jnp.eye(D) * jnp.broadcast_to(scale_of(arguments) ** -2, (K, D))[..., None]
    return jnp.broadcast_to(arguments["loc"], (K, D)), jnp.broadcast_to(precision, (K, D, D))


def filled(values, like, first=1):
    """`values` (K, ...) with axes of length 1 after the `first`, up to the number of axes of `like`."""
    values = jnp.asarray(values)
    return values.reshape(values.shape[:first] + (1,) * (like.ndim - values.ndim) + values.shape[first:])


def _mean(total, n, otherwise):
    n = filled(n, total)
    return jnp.where(n > 0, total / jnp.where(n > 0, n, 1.0), otherwise)


def _inside(count, amount, otherwise):
    """count/amount; where that is on the border, to which the density rises, stay."""
    inside = (count > 0) & (amount > 0)
    return jnp.where(inside, count / jnp.where(inside, amount, 1.0), otherwise)


def _simplex(counts, otherwise):
    """Proportional to `counts` along the last axis; below 0 the density rises to the border, so they stay on it."""
    counts = jnp.maximum(counts, 0.0)
    total = counts.sum(-1, keepdims=True)
    return jnp.where(total > 0, counts / jnp.where(total > 0, total, 1.0), otherwise)
