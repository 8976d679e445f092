"""A thousand points from three overlapping normals of unequal weight and width, everything unknown.

    weights   ~ Dirichlet(1, 1, 1)
    means[k]  ~ Normal(15, 10)
    scales[k] ~ HalfNormal(5)
    z[n]      ~ Categorical(weights)
    x[n]      ~ Normal(means[z[n]], scales[z[n]])

What makes it hard: six labellings, two components that overlap, and lesser modes of the density in which one
normal covers two groups. The likelihood alone is unbounded (a scale can shrink onto one point).

Origin: a first-look article on Gaussian mixtures, which fixes weights (.2, .7, .1), means (10, 15, 21) and scales
(1, 2, .5) and draws the data with NumPy's legacy generator, seed 42.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import categorical, dirichlet, gen, half_normal, normal

from zoo.dataset import Dataset
from zoo.mixture import Mixture, builder, positive

SOURCE = "Gaussian mixture models: a first look (2025); simulated, NumPy legacy generator, seed 42"
TRUE_WEIGHTS = np.array([0.2, 0.7, 0.1])
TRUE_MEANS = np.array([10.0, 15.0, 21.0])
TRUE_SCALES = np.array([1.0, 2.0, 0.5])


def _points() -> Dataset:
    rng = np.random.RandomState(42)  # the recipe's own generator: labels first, then one normal per point
    labels = rng.choice([0, 1, 2], size=1000, p=TRUE_WEIGHTS)
    x = TRUE_MEANS[labels] + TRUE_SCALES[labels] * rng.standard_normal(1000)
    return Dataset(
        name="three_gaussians",
        x=x,
        feature_names=("x",),
        labels=labels,
        params={"weights": TRUE_WEIGHTS, "means": TRUE_MEANS, "scales": TRUE_SCALES},
        source=SOURCE,
        licence="simulated by its recipe",
        sha256="df7945307c35c0b9fb3d0b5e15c9b74f51e503efb0a293f1b1b8fc9c97729c4b",
    )


@builder
def three_gaussians(*, concentration=(1.0, 1.0, 1.0), prior_mean=15.0, prior_sd=10.0, prior_scale=5.0) -> Mixture:
    """Three normals, weights, means and scales unknown."""
    positive(concentration=concentration, prior_sd=prior_sd, prior_scale=prior_scale)
    alpha = np.array(concentration)

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        means = normal(np.full(3, prior_mean), prior_sd) @ "means"
        scales = half_normal(np.full(3, prior_scale)) @ "scales"
        return {"weights": weights, "means": means, "scales": scales}

    @gen
    def observation(params):
        """One point. z ~ Categorical(weights); x | z ~ Normal(means[z], scales[z])."""
        z = categorical(probs=params["weights"]) @ "z"  # named: a bare argument means logits
        return normal(params["means"][z], params["scales"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        means = numpyro.sample("means", dist.Normal(np.full(3, prior_mean), prior_sd).to_event(1))
        scales = numpyro.sample("scales", dist.HalfNormal(np.full(3, prior_scale)).to_event(1))
        with numpyro.plate("points", len(x)):
            parts = dist.Categorical(probs=weights)
            numpyro.sample("x", dist.MixtureSameFamily(parts, dist.Normal(means, scales)), obs=x)

    return Mixture(
        name="three_gaussians",
        num_components=3,
        exchangeable=len(set(concentration)) == 1,
        prior=prior,
        observation=observation,
        twin=twin,
        data=_points(),
        family="gaussian",
        title="Three overlapping normals, everything unknown",
        description=__doc__,
        source=SOURCE,
        order_by="means",
    )


MODELS = {"three_gaussians": three_gaussians}
