"""The distributions with named arguments have the densities that their names say, by SciPy."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from genjax import ChoiceMap, gen
from scipy import stats

from zoo import distributions as gx

KEY = jax.random.key(0)
# name -> the call, a value, SciPy's log density of it
DENSITIES = {
    "categorical": (lambda: gx.categorical(probs=jnp.array([0.2, 0.8])), 1, np.log(0.8)),
    "bernoulli": (lambda: gx.bernoulli(probs=0.8), 1, np.log(0.8)),
    "flip": (lambda: gx.flip(probs=0.8), True, np.log(0.8)),
    "binomial": (lambda: gx.binomial(total_count=10.0, probs=0.3), 4.0, stats.binom.logpmf(4, 10, 0.3)),
    "multinomial": (
        lambda: gx.multinomial(total_count=5.0, probs=jnp.array([0.2, 0.3, 0.5])),
        jnp.array([1.0, 1.0, 3.0]),
        stats.multinomial.logpmf([1, 1, 3], 5, [0.2, 0.3, 0.5]),
    ),
    "geometric": (lambda: gx.geometric(probs=0.3), 2.0, stats.geom.logpmf(3, 0.3)),
    "negative_binomial": (
        lambda: gx.negative_binomial(total_count=2.5, probs=0.3),
        4.0,
        stats.nbinom.logpmf(4, 2.5, 0.7),
    ),
    "beta_binomial": (
        lambda: gx.beta_binomial(total_count=10.0, concentration1=2.0, concentration0=3.0),
        4.0,
        stats.betabinom.logpmf(4, 10, 2.0, 3.0),
    ),
    "poisson": (lambda: gx.poisson(rate=2.5), 3.0, stats.poisson.logpmf(3, 2.5)),
    "exponential": (lambda: gx.exponential(rate=2.0), 0.7, stats.expon.logpdf(0.7, scale=0.5)),
    "gamma": (lambda: gx.gamma(concentration=3.0, rate=2.0), 0.7, stats.gamma.logpdf(0.7, 3, scale=0.5)),
    "inverse_gamma": (
        lambda: gx.inverse_gamma(concentration=3.0, scale=2.0),
        0.7,
        stats.invgamma.logpdf(0.7, 3, scale=2),
    ),
    "weibull": (lambda: gx.weibull(concentration=1.5, scale=2.0), 0.7, stats.weibull_min.logpdf(0.7, 1.5, scale=2)),
    "log_normal": (lambda: gx.log_normal(loc=0.5, scale=2.0), 0.7, stats.lognorm.logpdf(0.7, 2, scale=np.exp(0.5))),
    "beta": (lambda: gx.beta(concentration1=2.0, concentration0=3.0), 0.7, stats.beta.logpdf(0.7, 2, 3)),
    "von_mises": (lambda: gx.von_mises(loc=0.5, concentration=2.0), 0.7, stats.vonmises.logpdf(0.7, 2, loc=0.5)),
    "student_t": (lambda: gx.student_t(df=4.0, loc=0.5, scale=2.0), 0.7, stats.t.logpdf(0.7, 4, loc=0.5, scale=2)),
    "half_cauchy": (lambda: gx.half_cauchy(scale=2.0), 0.7, stats.halfcauchy.logpdf(0.7, scale=2)),
}  # fmt: skip


def log_density(call, value):
    """Of `value` under the distribution that `call` gives, as a site of a `@gen` function."""
    return gen(lambda: call() @ "x").assess(ChoiceMap.d({"x": value}), ())[0]


@pytest.mark.parametrize("name", DENSITIES)
def test_the_density_is_scipys(name):
    call, value, expected = DENSITIES[name]
    score = log_density(call, jnp.asarray(value))
    assert abs(float(score) - expected) <= 1e-12 * (1 + abs(expected))


def test_every_distribution_is_held_to_scipy_and_has_no_positional_argument():
    own = {name: f for name, f in vars(gx).items() if inspect.isfunction(f) and f.__module__ == gx.__name__}
    functions = {name: f for name, f in own.items() if not name.startswith("_")}
    assert set(functions) == set(DENSITIES)
    for function in functions.values():
        assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(function).parameters.values())


def test_a_poisson_of_rate_zero_is_a_point_mass_with_finite_second_derivatives():
    def at(rate, x):
        return log_density(lambda: gx.poisson(log_rate=jnp.where(x < 1e6, -jnp.inf, jnp.log(rate))), x)

    assert float(at(2.0, 0.0)) == 0.0 and float(at(2.0, 2.0)) == -np.inf
    assert float(jax.jvp(jax.grad(at), (2.0, 0.0), (1.0, 0.0))[1]) == 0.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_negative_binomial_of_twins_and_tables_is_right_where_betaln_is_not(dtype):
    """Against r (r + 1) ... (r + x - 1) / x! (1 - p)^r p^x as a sum of logarithms, and SciPy's where that is exact."""
    x = np.arange(200.0)
    for size, probs in [(0.3, 0.9), (2.5, 0.5), (16.5, 0.5), (80.0, 0.2), (1e4, 2e-4), (1e6, 2e-6)]:
        size, probs = float(dtype(size)), float(dtype(probs))
        found = gx.NegativeBinomial(dtype(size), dtype(probs)).log_prob(jnp.asarray(x, dtype))
        choose = np.concatenate([[0.0], np.cumsum(np.log((size + x) / (1 + x)))[:-1]])
        expected = choose + size * np.log1p(-probs) + x * np.log(probs)
        if size < 100:
            np.testing.assert_allclose(expected, stats.nbinom.logpmf(x, size, 1 - probs), rtol=1e-11, atol=1e-11)
        largest = 2 * (x + 16) * np.log(size + 200)  # of the terms that cancel
        assert found.dtype == dtype
        assert np.all(np.abs(found - expected) <= 4 * np.finfo(dtype).eps * (1 + np.abs(expected) + largest))


def test_of_python_numbers_draws_have_the_precision_that_jax_runs_in():
    drawn = jax.eval_shape(lambda key: gen(lambda: gx.gamma(concentration=2.0, rate=3) @ "x").simulate(key, ()), KEY)
    assert drawn.get_retval().dtype == jnp.result_type(float)
