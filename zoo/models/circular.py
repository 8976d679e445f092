"""Directions in which animals set off, two groups on a circle: von Mises components on a recorded simulation.

    weights           ~ Dirichlet(1, 1)
    means[k]          ~ Uniform(-pi, pi)           radians
    concentrations[k] ~ Gamma(2, 1/5)              mean 10; 0 is the uniform distribution
    z[n]              ~ Categorical(weights)
    x[n]              ~ VonMises(means[z[n]], concentrations[z[n]])

What makes it hard: the circle has no ends, but the coordinate has: one of the two true means, 3.1, is so near to pi
that the posterior of its direction goes on at -pi. A sampler that moves in small steps on the line takes that for two
modes, and averages of angles mean nothing across it. Where a concentration is near 0 its mean is anywhere.

Data: simulated with NumPy's legacy generator, seed 7: 200 angles, 120 of VonMises(3.1, 4) and then 80 of
VonMises(-0.5, 8). Model: Mardia & Jupp 2000, Directional Statistics.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import dirichlet, gen, uniform

from zoo import distributions as gx
from zoo.dataset import Dataset
from zoo.mixture import Mixture, builder, positive

SOURCE = "Simulated: 120 angles of VonMises(3.1, 4), then 80 of VonMises(-0.5, 8); NumPy legacy generator, seed 7"
SIZES, MEANS, CONCENTRATIONS = np.array([120, 80]), np.array([3.1, -0.5]), np.array([4.0, 8.0])


def _directions() -> Dataset:
    rng = np.random.RandomState(7)
    x = np.concatenate([rng.vonmises(*of) for of in zip(MEANS, CONCENTRATIONS, SIZES, strict=True)])
    return Dataset(
        name="directions",
        x=x,
        feature_names=("direction",),
        units="radians",
        labels=np.repeat([0, 1], SIZES),
        params={"weights": SIZES / SIZES.sum(), "means": MEANS, "concentrations": CONCENTRATIONS},
        source=SOURCE,
        licence="simulated by its recipe",
        sha256="65b335750e2dea97bca6985dc203f08235a0a718958c64272bd099f6f60898da",
    )


@builder
def directions(*, concentration=1.0, kappa_shape=2.0, kappa_rate=0.2) -> Mixture:
    """Two von Mises components; means, concentrations and weights unknown."""
    positive(concentration=concentration, kappa_shape=kappa_shape, kappa_rate=kappa_rate)

    @gen
    def prior():
        weights = dirichlet(np.full(2, concentration)) @ "weights"
        means = uniform(np.full(2, -np.pi), np.pi) @ "means"
        concentrations = gx.gamma(concentration=np.full(2, kappa_shape), rate=kappa_rate) @ "concentrations"
        return {"weights": weights, "means": means, "concentrations": concentrations}

    @gen
    def observation(params):
        z = gx.categorical(probs=params["weights"]) @ "z"
        return gx.von_mises(loc=params["means"][z], concentration=params["concentrations"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, concentration)))
        means = numpyro.sample("means", dist.Uniform(np.full(2, -np.pi), np.pi).to_event(1))
        concentrations = numpyro.sample("concentrations", dist.Gamma(np.full(2, kappa_shape), kappa_rate).to_event(1))
        with numpyro.plate("animals", len(x)):
            parts = dist.Categorical(probs=weights)
            numpyro.sample("x", dist.MixtureSameFamily(parts, dist.VonMises(means, concentrations)), obs=x)

    return Mixture(
        name="directions",
        num_components=2,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        data=_directions(),
        family="von mises",
        title="Directions on a circle: two von Mises components",
        description=__doc__,
        source=SOURCE,
        order_by="concentrations",
    )


MODELS = {"directions": directions}
