"""The NumPyro twin derived from the declaration, for a model without a hand-written one.

The prior's sites become NumPyro's own distributions, `x` enters as one factor: the log likelihood with the assignments
summed out. So the prior is stated twice, the likelihood once: a hand-written twin checks more.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from zoo import introspect, probe

NO_TWIN = "no NumPyro twin can be derived"
NUM_POINTS = 16  # prior draws at which the two densities are compared
TOLERANCE = {4: 1e-4, 8: 1e-8}  # relative to 1 + |log density|, by the bytes of the coarsest site

# TFP class of a prior site -> NumPyro class, and its arguments by TFP's names
CLASSES: dict[str, tuple[str, dict[str, str]]] = {
    "Beta": ("Beta", {"concentration1": "concentration1", "concentration0": "concentration0"}),
    "Cauchy": ("Cauchy", {"loc": "loc", "scale": "scale"}),
    "Dirichlet": ("Dirichlet", {"concentration": "concentration"}),
    "Exponential": ("Exponential", {"rate": "rate"}),
    "Gamma": ("Gamma", {"concentration": "concentration", "rate": "rate"}),
    "Gumbel": ("Gumbel", {"loc": "loc", "scale": "scale"}),
    "HalfCauchy": ("HalfCauchy", {"scale": "scale"}),
    "HalfNormal": ("HalfNormal", {"scale": "scale"}),
    "InverseGamma": ("InverseGamma", {"concentration": "concentration", "scale": "rate"}),
    "Kumaraswamy": ("Kumaraswamy", {"concentration1": "concentration1", "concentration0": "concentration0"}),
    "Laplace": ("Laplace", {"loc": "loc", "scale": "scale"}),
    "LogNormal": ("LogNormal", {"loc": "loc", "scale": "scale"}),
    "MultivariateNormalDiag": ("Normal", {"loc": "loc", "scale_diag": "scale"}),
    "MultivariateNormalFullCovariance": (
        "MultivariateNormal",
        {"loc": "loc", "covariance_matrix": "covariance_matrix"},
    ),
    "Normal": ("Normal", {"loc": "loc", "scale": "scale"}),
    "StudentT": ("StudentT", {"df": "df", "loc": "loc", "scale": "scale"}),
    "TruncatedNormal": ("TruncatedNormal", {"loc": "loc", "scale": "scale", "low": "low", "high": "high"}),
    "Uniform": ("Uniform", {"low": "low", "high": "high"}),
    "Weibull": ("Weibull", {"concentration": "concentration", "scale": "scale"}),
    "WishartTriL": ("Wishart", {"df": "concentration", "scale_tril": "scale_tril"}),
}


def derived(model) -> Callable:
    """A NumPyro model twin(x) with the prior's sites and the assignments summed out.

    Raises ValueError, with one sentence, for a prior site that NumPyro has no distribution for here, and where the
    density it gives is not the model's at NUM_POINTS prior draws.
    """
    import numpyro

    def twin(x):
        params = {}

        def visit(name, site, args):
            params[name] = numpyro.sample(name, distribution(name, site, args))
            return params[name]

        introspect.walk(model.prior, (), visit)
        numpyro.factor("x", model.log_likelihood(params, x))

    gap = _largest_gap(model, twin)
    coarsest = min((leaf.dtype.itemsize for leaf in model.param_shapes.values()), default=8)
    if not gap <= TOLERANCE[min(coarsest, jnp.result_type(float).itemsize)]:
        raise ValueError(
            f"the NumPyro twin derived for {model.name} has another log density (relative difference {gap:.1e}); "
            "write one by hand: Mixture(twin=...)"
        )
    return twin


def distribution(name, site, args):
    """The NumPyro distribution of a prior site, all its axes in the event."""
    import numpyro.distributions as dist

    tfp = introspect.distribution_of(site, args)
    family = type(tfp).__name__
    if tfp is None or family not in CLASSES:
        what = family if tfp is not None else type(site).__name__
        raise ValueError(
            f"{NO_TWIN}: the prior site {name} is a {what}, known are {', '.join(CLASSES)}; "
            "write one by hand: Mixture(twin=...)"
        )
    ours, names = CLASSES[family]
    found = getattr(dist, ours)(**{names[k]: tfp.parameters[k] for k in names})
    return found.to_event(len(found.batch_shape))


def _largest_gap(model, twin) -> float:
    """The largest difference of the two log densities at prior draws with data of their own, relative to 1 + size."""
    from numpyro.infer.util import log_density

    @jax.jit
    @jax.vmap
    def both(params, key):
        _, x = probe.draw_observations(model, params, key)
        return log_density(twin, (x,), {}, params)[0], model.log_density(params, x)

    draws = model.prior_draws(jax.random.key(5), probe.NUM_DRAWS)
    params = {name: leaf[:NUM_POINTS] for name, leaf in draws.items()}
    theirs, ours = map(np.asarray, both(params, jax.random.split(jax.random.key(6), NUM_POINTS)))
    if np.isnan(ours).any():
        raise ValueError(
            f"the log density of {model.name} is NaN at draws from its prior: an argument of a distribution is outside "
            "its domain, such as a scale below 0 or a covariance that is not positive definite"
        )
    return float(np.max(np.abs(theirs - ours) / (1 + np.abs(ours))))
