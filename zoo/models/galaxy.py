"""Velocities of 82 galaxies, the most analysed data set of mixture modelling: galaxies clump along the line of sight.

    weights      ~ Dirichlet(1, ..., 1)
    means[k]     ~ Normal(20, 10)               1000 km/s, k = 0, ..., K - 1
    variances[k] ~ InverseGamma(3, 20)          one common `variance` in `galaxy_2_equal` and `galaxy_3_equal`
    z[n]         ~ Categorical(weights)
    x[n]         ~ Normal(means[z[n]], sqrt(variances[z[n]]))

What makes it hard: K! identical modes, and among them lesser ones: most galaxies lie in one broad heap near 20, which
one wide component covers about as well as two narrow ones do. This prior is the one whose evidence Chib computed; Neal
showed that his values missed the other labellings. `galaxy_6` has the hierarchical prior of Richardson and Green.

Origin: Postman, Huchra & Geller 1986, Astronomical Journal 92; Roeder 1990, JASA 85. Prior: Chib 1995, JASA 90,
section 4; Neal 1999, Erroneous results in "Marginal likelihood from the Gibbs output". The data have the corrected 78th
value, 26.960; much of the literature used the misprint 26.690.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import categorical, dirichlet, gamma, gen, inverse_gamma, normal

from zoo.dataset import shipped
from zoo.mixture import Mixture, builder, positive

SOURCE = "Postman, Huchra & Geller 1986; prior of Chib 1995, Journal of the American Statistical Association 90"

HIERARCHICAL = """Velocities of 82 galaxies under the prior of Richardson and Green, the number of components fixed.

    weights       ~ Dirichlet(1, ..., 1)
    means[k]      ~ Normal(21.7255, R)          1000 km/s; the midrange of the data and their range R = 25.107
    beta          ~ Gamma(.2, 10 / R^2)         one scale of precisions for all components
    precisions[k] ~ Gamma(2, beta)
    z[n]          ~ Categorical(weights)
    x[n]          ~ Normal(means[z[n]], 1 / sqrt(precisions[z[n]]))

What makes it hard: 720 labellings, more components than the galaxies need for sure, and a shape of .2 in the prior of
beta, which puts precisions anywhere over many orders of magnitude: prior draws are no guide to where the data are.

Origin: Richardson & Green 1997, Journal of the Royal Statistical Society B 59, who let the number of components vary
and found 5 to 7 the most probable.
"""


@builder
def galaxy_2_equal(*, concentration=1.0, prior_mean=20.0, prior_sd=10.0, variance_shape=3.0, variance_scale=20.0):
    """Two components with one common variance."""
    return _equal("galaxy_2_equal", 2, concentration, prior_mean, prior_sd, variance_shape, variance_scale)


@builder
def galaxy_3_equal(*, concentration=1.0, prior_mean=20.0, prior_sd=10.0, variance_shape=3.0, variance_scale=20.0):
    """Three components with one common variance."""
    return _equal("galaxy_3_equal", 3, concentration, prior_mean, prior_sd, variance_shape, variance_scale)


def _equal(name, K, concentration, prior_mean, prior_sd, variance_shape, variance_scale) -> Mixture:
    positive(
        concentration=concentration, prior_sd=prior_sd, variance_shape=variance_shape, variance_scale=variance_scale
    )
    alpha, centres, shape = np.full(K, concentration), np.full(K, prior_mean), np.array(variance_shape)

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        means = normal(centres, prior_sd) @ "means"
        variance = inverse_gamma(shape, variance_scale) @ "variance"  # (shape, scale)
        return {"weights": weights, "means": means, "scale": jnp.sqrt(variance)}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"  # named: a bare argument means logits
        return normal(params["means"][z], params["scale"]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        means = numpyro.sample("means", dist.Normal(centres, prior_sd).to_event(1))
        variance = numpyro.sample("variance", dist.InverseGamma(shape, variance_scale))
        with numpyro.plate("galaxies", len(x)):
            clumps = dist.Categorical(probs=weights)
            numpyro.sample("x", dist.MixtureSameFamily(clumps, dist.Normal(means, jnp.sqrt(variance))), obs=x)

    return _mixture(name, K, prior, observation, twin, f"Galaxies, {K} clumps of one common variance", __doc__)


@builder
def galaxy_3(*, concentration=1.0, prior_mean=20.0, prior_sd=10.0, variance_shape=3.0, variance_scale=20.0) -> Mixture:
    """Three components, each with a variance of its own."""
    positive(
        concentration=concentration, prior_sd=prior_sd, variance_shape=variance_shape, variance_scale=variance_scale
    )
    alpha, centres, shapes = np.full(3, concentration), np.full(3, prior_mean), np.full(3, variance_shape)

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        means = normal(centres, prior_sd) @ "means"
        variances = inverse_gamma(shapes, variance_scale) @ "variances"  # (shape, scale)
        return {"weights": weights, "means": means, "variances": variances, "scales": jnp.sqrt(variances)}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"
        return normal(params["means"][z], params["scales"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        means = numpyro.sample("means", dist.Normal(centres, prior_sd).to_event(1))
        variances = numpyro.sample("variances", dist.InverseGamma(shapes, variance_scale).to_event(1))
        with numpyro.plate("galaxies", len(x)):
            clumps = dist.Categorical(probs=weights)
            numpyro.sample("x", dist.MixtureSameFamily(clumps, dist.Normal(means, jnp.sqrt(variances))), obs=x)

    return _mixture("galaxy_3", 3, prior, observation, twin, "Galaxies, 3 clumps of different variance", __doc__)


@builder
def galaxy_6(*, num_components=6, concentration=1.0, precision_shape=2.0, rate_shape=0.2, rate_factor=10.0) -> Mixture:
    """Six components under a hierarchical prior; its centre and its spread are those of the data."""
    positive(num_components=num_components, concentration=concentration)
    positive(precision_shape=precision_shape, rate_shape=rate_shape, rate_factor=rate_factor)
    K, x = num_components, shipped("galaxy").x
    spread = float(x.max() - x.min())
    alpha, centres = np.full(K, concentration), np.full(K, (x.max() + x.min()) / 2)
    shapes, rate = np.full(K, precision_shape), rate_factor / spread**2

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        means = normal(centres, spread) @ "means"
        beta = gamma(np.array(rate_shape), rate) @ "beta"  # (shape, rate)
        precisions = gamma(jnp.asarray(shapes), beta) @ "precisions"
        return {"weights": weights, "means": means, "precisions": precisions, "scales": precisions**-0.5}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"
        return normal(params["means"][z], params["scales"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        means = numpyro.sample("means", dist.Normal(centres, spread).to_event(1))
        beta = numpyro.sample("beta", dist.Gamma(rate_shape, rate))
        precisions = numpyro.sample("precisions", dist.Gamma(shapes, beta).to_event(1))
        with numpyro.plate("galaxies", len(x)):
            clumps = dist.Categorical(probs=weights)
            numpyro.sample("x", dist.MixtureSameFamily(clumps, dist.Normal(means, precisions**-0.5)), obs=x)

    title = f"Galaxies, {K} clumps under a hierarchical prior"
    return _mixture("galaxy_6", K, prior, observation, twin, title, HIERARCHICAL)


def _mixture(name, num_components, prior, observation, twin, title, description) -> Mixture:
    return Mixture(
        name=name,
        num_components=num_components,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        data=shipped("galaxy"),
        family="gaussian",
        title=title,
        description=description,
        source=SOURCE if description is __doc__ else "Richardson & Green 1997, J. Roy. Statist. Soc. B 59",
        order_by="means",
    )


MODELS = {
    "galaxy_2_equal": galaxy_2_equal,
    "galaxy_3_equal": galaxy_3_equal,
    "galaxy_3": galaxy_3,
    "galaxy_6": galaxy_6,
}
