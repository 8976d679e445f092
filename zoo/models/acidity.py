"""Acidity of 155 lakes in the north-east of the United States: two kinds of lake, or three.

    weights      ~ Dirichlet(1, 1)
    variances[k] ~ InverseGamma(3, .5)
    means[k]     ~ Normal(5, sqrt(variances[k] / .1))    log(capacity + 50): the prior is worth a tenth of a lake
    z[n]         ~ Categorical(weights)
    x[n]         ~ Normal(means[z[n]], sqrt(variances[z[n]]))

What makes it hard: little. The heaps are well apart, so the two labellings are two modes that no local move connects,
and the upper heap is skew, which two normals can only approximate. Mean and variance are tied a priori (Normal-
InverseGamma), so both can be integrated out: the model for samplers on partitions.

Origin: Crawford, DeGroot, Kadane & Small 1992, Technometrics 34; Crawford 1994, JASA 89; Richardson & Green 1997,
Journal of the Royal Statistical Society B 59, found three to five components.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import categorical, dirichlet, gen, inverse_gamma, normal

from zoo.dataset import shipped
from zoo.mixture import Mixture, builder, positive


@builder
def acidity(
    *, num_components=2, concentration=1.0, prior_mean=5.0, worth=0.1, variance_shape=3.0, variance_scale=0.5
) -> Mixture:
    """Normals whose mean and variance are conjugate together; the prior of a mean is worth `worth` observations."""
    positive(num_components=num_components, concentration=concentration, worth=worth)
    positive(variance_shape=variance_shape, variance_scale=variance_scale)
    K = num_components
    alpha, centres, shapes = np.full(K, concentration), np.full(K, prior_mean), np.full(K, variance_shape)

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        variances = inverse_gamma(shapes, variance_scale) @ "variances"  # (shape, scale)
        means = normal(jnp.asarray(centres), jnp.sqrt(variances / worth)) @ "means"
        return {"weights": weights, "means": means, "variances": variances, "scales": jnp.sqrt(variances)}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"  # named: a bare argument means logits
        return normal(params["means"][z], params["scales"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        variances = numpyro.sample("variances", dist.InverseGamma(shapes, variance_scale).to_event(1))
        means = numpyro.sample("means", dist.Normal(centres, jnp.sqrt(variances / worth)).to_event(1))
        with numpyro.plate("lakes", len(x)):
            kinds = dist.Categorical(probs=weights)
            numpyro.sample("x", dist.MixtureSameFamily(kinds, dist.Normal(means, jnp.sqrt(variances))), obs=x)

    return Mixture(
        name="acidity",
        num_components=K,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        data=shipped("acidity"),
        family="gaussian",
        title="Acidity of lakes, mean and variance tied a priori",
        description=__doc__,
        source="Crawford, DeGroot, Kadane & Small 1992, Technometrics 34",
        order_by="means",
    )


MODELS = {"acidity": acidity}
