"""Three coffee blends, told apart by the caffeine in 30 cups.

    means[k] ~ Normal((80, 120, 160)[k], 20)     mg per cup, k = 0, 1, 2
    z[n]     ~ Categorical(1/3, 1/3, 1/3)        the blend of cup n
    x[n]     ~ Normal(means[z[n]], 5)            its caffeine

What makes it hard: each blend has a prior of its own, so the labels mean something, but the priors overlap
enough that 4.4 percent of the posterior lies on the other five labellings. A sampler that stays in the
obvious labelling looks perfect and reports too small a spread. `coffee_full` learns weights and variances too.

Origin: the three-blend exercise of an introductory GenJAX tutorial on Gaussian mixture models.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import categorical, dirichlet, gen, inverse_gamma, normal

from zoo.dataset import Dataset
from zoo.mixture import Mixture, builder, positive, simplex

SOURCE = "Three-blend exercise of an introductory GenJAX tutorial on Gaussian mixture models"

FULL = """Three coffee blends, told apart by the caffeine in 30 cups, with shares and spreads unknown too.

    weights      ~ Dirichlet(1, 1, 1)                   shares of the blends
    means[k]     ~ Normal((80, 120, 160)[k], 20)        mg per cup, k = 0, 1, 2
    variances[k] ~ InverseGamma(3, 50)                  mg squared
    z[n]         ~ Categorical(weights)                 the blend of cup n
    x[n]         ~ Normal(means[z[n]], sqrt(variances[z[n]]))

What makes it hard: the blends' priors overlap, so other labellings than the obvious one have mass too, and ten cups
of each blend say little about its spread.
"""

# fmt: off
CAFFEINE = np.array([
    82, 118, 155, 80, 120, 158, 79, 115, 160, 83, 121, 157, 81, 119, 156,
    84, 117, 159, 78, 122, 154, 82, 116, 158, 80, 120, 155, 81, 118, 157,
], dtype=np.float64)
# fmt: on

CUPS = Dataset(
    name="coffee",
    x=CAFFEINE,
    feature_names=("caffeine",),
    units="mg per cup",
    source=SOURCE,
    licence="factual table",
    sha256="7c00a70873f519fbdf8740b323ab327b567121144bffc087e89f1ee02fae010e",
)


@builder
def coffee(*, scale=5.0, weights=(1 / 3, 1 / 3, 1 / 3), prior_means=(80.0, 120.0, 160.0), prior_sd=20.0) -> Mixture:
    """Three blends with unknown means under priors of their own; scale and weights are known."""
    positive(scale=scale, prior_sd=prior_sd)
    simplex(weights=weights)
    probs, centres = np.array(weights), np.array(prior_means)

    @gen
    def prior():
        means = normal(centres, prior_sd) @ "means"
        return {"means": means}

    @gen
    def observation(params):
        """One cup. z ~ Categorical(weights); x | z ~ Normal(means[z], scale), in mg."""
        z = categorical(probs=probs) @ "z"  # named: a bare argument means logits
        return normal(params["means"][z], scale) @ "x"

    def twin(x):
        means = numpyro.sample("means", dist.Normal(centres, prior_sd).to_event(1))
        blends = dist.Categorical(probs=jnp.asarray(probs))
        with numpyro.plate("cups", len(x)):
            numpyro.sample("x", dist.MixtureSameFamily(blends, dist.Normal(means, scale)), obs=x)

    return Mixture(
        name="coffee",
        num_components=3,
        exchangeable=len({*zip(weights, prior_means, strict=True)}) == 1,
        prior=prior,
        observation=observation,
        twin=twin,
        data=CUPS,
        family="gaussian",
        title="Three coffee blends, means unknown",
        description=__doc__,
        source=SOURCE,
    )


@builder
def coffee_full(
    *,
    concentration=(1.0, 1.0, 1.0),
    prior_means=(80.0, 120.0, 160.0),
    prior_sd=20.0,
    variance_shape=3.0,
    variance_scale=50.0,
) -> Mixture:
    """Three blends with weights, means and variances unknown and independent a priori."""
    positive(concentration=concentration, prior_sd=prior_sd)
    positive(variance_shape=variance_shape, variance_scale=variance_scale)
    alpha, centres = np.array(concentration), np.array(prior_means)

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        means = normal(centres, prior_sd) @ "means"
        variances = inverse_gamma(np.full(3, variance_shape), variance_scale) @ "variances"  # (shape, scale)
        return {"weights": weights, "means": means, "variances": variances, "scales": jnp.sqrt(variances)}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"
        return normal(params["means"][z], params["scales"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        means = numpyro.sample("means", dist.Normal(centres, prior_sd).to_event(1))
        spread = dist.InverseGamma(np.full(3, variance_shape), variance_scale).to_event(1)
        variances = numpyro.sample("variances", spread)
        with numpyro.plate("cups", len(x)):
            blends = dist.Categorical(probs=weights)
            numpyro.sample("x", dist.MixtureSameFamily(blends, dist.Normal(means, jnp.sqrt(variances))), obs=x)

    return Mixture(
        name="coffee_full",
        num_components=3,
        exchangeable=len({*zip(concentration, prior_means, strict=True)}) == 1,
        prior=prior,
        observation=observation,
        twin=twin,
        data=CUPS,
        family="gaussian",
        title="Three coffee blends, weights, means and variances unknown",
        description=FULL,
        source=SOURCE,
        order_by="means",
    )


MODELS = {"coffee": coffee, "coffee_full": coffee_full}
