"""Expected log densities under a mean-field q: what coordinate ascent needs of each conjugate family.

A component density is exp(eta(site) . t(x) - A(site) + c(x)). Its expected log differs from the log density at the
*plug*, the site's value with natural parameter E eta, by the *excess* A(plug) - E A, whatever x: so every expectation
stands on the model's own table (Wainwright & Jordan 2008, Graphical Models, Exponential Families, and Variational
Inference, section 3). For normals, of mean m and precision p, the plugs are E m and E p.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import digamma, multigammaln
from numpyro.distributions import kl_divergence

from inference.conditionals import scale_of


class Family(NamedTuple):
    """What the expected table needs of one q(site); excesses are (K,), (K, J) by column, or one number."""

    plug: Callable  # q -> the site's value at which the table is taken
    excess: Callable  # (q, arguments by name, (K, ...), of the component there) -> E log p - log p there


def family_of(rule) -> Family | None:
    """By the rule's name; of a spread whose prior the mean shares, q(mean | spread) has the spread's plug."""
    return FAMILIES.get(rule.name.split(", joint with")[0])


def precision_of(arguments):
    """Of a normal component at its arguments, (K,), (K, J) or (K, D, D)."""
    if "covariance_matrix" in arguments:
        return jnp.linalg.inv(arguments["covariance_matrix"])
    return scale_of(arguments) ** -2


def by_column(a, b):
    """a b of (K,) or (K, J) each, component by component."""
    return (a.T * b.T).T


def spread_by_mean(rule, q, of_mean, n):
    """q(spread) once the squares about an uncertain mean are counted: E (x - m)^2 = (x - E m)^2 + Var m; n (K,)."""
    if rule.name == "Wishart precision":
        inverse = jnp.linalg.inv(q.scale_matrix)
        return dist.Wishart(q.concentration, rate_matrix=inverse + n[:, None, None] * of_mean.covariance_matrix)
    return type(q)(q.concentration, q.rate + by_column(of_mean.variance, n) / 2)


def kl(q, p):
    """KL(q || p), summed over the components and columns."""
    if isinstance(q, dist.InverseGamma):  # of y and of 1 / y it is the same
        q, p = dist.Gamma(q.concentration, q.rate), dist.Gamma(p.concentration, p.rate)
    if isinstance(q, dist.Beta):  # JAX's log Beta is right to 1e-7 only
        q, p = (dist.Dirichlet(jnp.stack([law.concentration1, law.concentration0], -1)) for law in (q, p))
    if isinstance(q, dist.Wishart):
        return _kl_wishart(q, p).sum()
    return kl_divergence(q, p).sum()


def _kl_wishart(q, p):
    """E log|P| = sum_i digamma((nu - i) / 2) + D log 2 + log|V|, E P = nu V (Bishop 2006, appendix B)."""
    D = q.event_shape[-1]
    a, b = q.concentration / 2, p.concentration / 2
    ratio = jnp.linalg.solve(p.scale_matrix, q.scale_matrix)
    log_det = jnp.linalg.slogdet(ratio)[1]
    gammas = multigammaln(b, D) - multigammaln(a, D)
    trace = jnp.trace(ratio, axis1=-2, axis2=-1)
    return (a - b) * _digammas(a, D) - b * log_det + a * (trace - D) + gammas


def _digammas(a, D):
    """Derivative of log Gamma_D(a)."""
    return digamma(a[..., None] - jnp.arange(D) / 2).sum(-1)


def _below(q):
    """E log(y) - log E y of y ~ Gamma(a, any rate), for every entry of q, whether they share a or not."""
    a = jnp.broadcast_to(q.concentration, q.batch_shape)
    return digamma(a) - jnp.log(a)


def _expected_log_simplex(q):
    return digamma(q.concentration) - digamma(q.concentration.sum(-1, keepdims=True))


def _wishart_excess(q, arguments):
    """(E log|P| - log|E P|) / 2."""
    D = q.event_shape[-1]
    return (_digammas(q.concentration / 2, D) - D * jnp.log(q.concentration / 2)) / 2


def _beta_excess(q, arguments):
    """eta = log(p / (1 - p)), A = -log(1 - p) of every trial."""
    a, b = digamma(q.concentration1), digamma(q.concentration0)
    each = jnp.logaddexp(a, b) - digamma(q.concentration1 + q.concentration0)
    trials = arguments.get("total_count")
    return each if trials is None else by_column(each, trials)


_SIMPLEX = Family(
    lambda q: jax.nn.softmax(_expected_log_simplex(q), axis=-1),
    lambda q, _: jax.nn.logsumexp(_expected_log_simplex(q), axis=-1),
)
_PROBABILITY = Family(
    lambda q: jax.nn.sigmoid(digamma(q.concentration1) - digamma(q.concentration0)),
    _beta_excess,
)

# rule -> family
FAMILIES = {
    "Normal mean": Family(lambda q: q.mean, lambda q, arguments: -by_column(q.variance, precision_of(arguments)) / 2),
    "InverseGamma variance": Family(lambda q: q.rate / q.concentration, lambda q, _: _below(q) / 2),
    "Gamma precision": Family(lambda q: q.mean, lambda q, _: _below(q) / 2),
    "multivariate Normal mean": Family(
        lambda q: q.mean,
        lambda q, arguments: -(q.covariance_matrix * precision_of(arguments)).sum((-2, -1)) / 2,
    ),
    "Wishart precision": Family(lambda q: q.concentration[..., None, None] * q.scale_matrix, _wishart_excess),
    "Gamma rate, Poisson": Family(
        lambda q: jnp.exp(digamma(q.concentration)) / q.rate,
        lambda q, _: (jnp.exp(digamma(q.concentration)) - q.concentration) / q.rate,
    ),
    "Gamma rate, exponential": Family(lambda q: q.mean, lambda q, _: _below(q)),
    "Beta probability, Bernoulli": _PROBABILITY,
    "Beta probability, Binomial": _PROBABILITY,
    "Dirichlet weights": _SIMPLEX,
    "Dirichlet items": _SIMPLEX,
}
