"""GenJAX's distributions with named arguments only, where a bare one is easily taken for another.

GenJAX 0.10.3 takes TensorFlow Probability's order: a bare argument of `categorical` or `bernoulli` means logits, and so
does the second of `binomial`, `negative_binomial` and `multinomial` and the first of `geometric`; other libraries give
`weibull`, `beta_binomial` and `half_cauchy` another order. The functions here have one reading each. A test forbids the
bare forms of all of them in this repository.

`NegativeBinomial` is NumPyro's side of the one family whose density NumPyro has wrong with jax 0.5.3.
"""

import genjax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from numpyro.distributions import constraints


def _arrays(**arguments):
    """Of Python numbers, and of some NumPy arrays, TFP makes float32, whatever the precision that JAX runs in."""
    as_array = lambda v: v if isinstance(v, jax.Array) else jnp.asarray(np.asarray(v, float))
    return {name: as_array(value) for name, value in arguments.items()}


def categorical(*, probs):
    """0..L-1 with probabilities `probs` (..., L); int32."""
    return genjax.categorical(**_arrays(probs=probs))


def bernoulli(*, probs):
    """1 with probability `probs`, else 0; int32."""
    return genjax.bernoulli(**_arrays(probs=probs))


def flip(*, probs):
    """True with probability `probs`; bool."""
    return genjax.flip(*_arrays(probs=probs).values())


def binomial(*, total_count, probs):
    """Successes among `total_count` trials."""
    return genjax.binomial(**_arrays(total_count=total_count, probs=probs))


def multinomial(*, total_count, probs):
    """How often each of L outcomes came up in `total_count` trials, (..., L)."""
    return genjax.multinomial(**_arrays(total_count=total_count, probs=probs))


def geometric(*, probs):
    """Failures before the first success: 0, 1, 2, ..."""
    return genjax.geometric(**_arrays(probs=probs))


def negative_binomial(*, total_count, probs):
    """Successes before `total_count` failures: mean total_count probs / (1 - probs)."""
    return genjax.negative_binomial(**_arrays(total_count=total_count, probs=probs))


def beta_binomial(*, total_count, concentration1, concentration0):
    """Binomial whose probability of success is Beta(concentration1, concentration0)."""
    return genjax.beta_binomial(
        **_arrays(total_count=total_count, concentration1=concentration1, concentration0=concentration0)
    )


def poisson(*, rate=None, log_rate=None):
    """0, 1, 2, ... with mean `rate`, or exp(log_rate), where -inf is a point mass at 0."""
    given = {"rate": rate, "log_rate": log_rate}
    return genjax.poisson(**_arrays(**{name: value for name, value in given.items() if value is not None}))


def exponential(*, rate):
    """Mean 1 / rate."""
    return genjax.exponential(**_arrays(rate=rate))


def gamma(*, concentration, rate):
    """Mean concentration / rate."""
    return genjax.gamma(**_arrays(concentration=concentration, rate=rate))


def inverse_gamma(*, concentration, scale):
    """1 / Gamma(concentration, rate=scale): mean scale / (concentration - 1)."""
    return genjax.inverse_gamma(**_arrays(concentration=concentration, scale=scale))


def weibull(*, concentration, scale):
    """P(x > t) = exp(-(t / scale)^concentration)."""
    return genjax.weibull(**_arrays(concentration=concentration, scale=scale))


def log_normal(*, loc, scale):
    """exp(Normal(loc, scale))."""
    return genjax.log_normal(**_arrays(loc=loc, scale=scale))


def beta(*, concentration1, concentration0):
    """On (0, 1), mean concentration1 / (concentration1 + concentration0)."""
    return genjax.beta(**_arrays(concentration1=concentration1, concentration0=concentration0))


def von_mises(*, loc, concentration):
    """An angle in [-pi, pi]."""
    return genjax.von_mises(**_arrays(loc=loc, concentration=concentration))


def student_t(*, df, loc, scale):
    """loc + scale T, T with `df` degrees of freedom."""
    return genjax.student_t(**_arrays(df=df, loc=loc, scale=scale))


def half_cauchy(*, scale):
    """|Cauchy(0, scale)|."""
    return genjax.half_cauchy(**_arrays(loc=0.0, scale=scale))


LARGE = 16.0  # from here on the Stirling series below is exact to 1e-16


def _log_rising(r, x):
    """log Gamma(r + x) / Gamma(r). Of a large r the difference would lose the digits that the two have in common: it is
    that of their Stirling series, (r + x - 1/2) log(1 + x / r) + x log r - x + c(r + x) - c(r)."""
    big = jnp.maximum(r, LARGE)
    c = lambda z: (1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680 - 1 / (1188 * z**2)) / z**2) / z**2) / z**2) / z
    series = (big + x - 0.5) * jnp.log1p(x / big) + x * jnp.log(big) - x + c(big + x) - c(big)
    return jnp.where(r > LARGE, series, gammaln(r + x) - gammaln(r))


class NegativeBinomial(dist.Distribution):
    """p(x) = Gamma(r + x) / (Gamma(r) x!) (1 - p)^r p^x with r = total_count, p = probs; for twins and tables.

    NumPyro's own goes through `betaln`, which jax 0.5.3 has wrong by 1e-6 in float64; `gammaln` is right.
    """

    arg_constraints = {"total_count": constraints.positive, "probs": constraints.unit_interval}
    support = constraints.nonnegative_integer

    def __init__(self, total_count, probs, *, validate_args=None):
        shape = jax.lax.broadcast_shapes(jnp.shape(total_count), jnp.shape(probs))
        self.total_count, self.probs = (jnp.broadcast_to(v, shape) for v in (total_count, probs))
        super().__init__(batch_shape=shape, validate_args=validate_args)

    def log_prob(self, value):
        r, p = self.total_count, self.probs
        choose = _log_rising(r, value) - gammaln(1 + value)
        return choose + r * jnp.log1p(-p) + jnp.where(value > 0, value * jnp.log(jnp.where(value > 0, p, 1.0)), 0.0)
