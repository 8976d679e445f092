"""Galaxies again, by components that outliers cannot pull: heavy tails, or a background that takes what is left.

`galaxy_student` gives each clump Student-t tails, `galaxy_background` has one clump in front of a uniform background.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import beta, categorical, dirichlet, gen, half_normal, normal, student_t, switch, uniform
from numpyro.distributions import constraints

from zoo.dataset import shipped
from zoo.mixture import Mixture, builder, positive

STUDENT = """Velocities of 82 galaxies in three clumps with heavy tails.

    weights   ~ Dirichlet(1, 1, 1)
    means[k]  ~ Normal(20, 10)                  1000 km/s
    scales[k] ~ HalfNormal(5)                   not the standard deviation, which is scales[k] sqrt(2)
    z[n]      ~ Categorical(weights)
    x[n]      ~ StudentT(4, means[z[n]], scales[z[n]])

What makes it hard: six labellings, and a lone galaxy that a normal component would serve alone is now as well the
tail of a neighbour: components empty and fill. No conditional is conjugate in the declared form.

Origin: Peel & McLachlan 2000, Statistics and Computing 10; data: Postman, Huchra & Geller 1986.
"""
BACKGROUND = """One cluster of galaxies and a background that is uniform in velocity: which galaxy belongs to it?

    share ~ Beta(1, 1)                          of the cluster
    mean  ~ Normal(20, 5)                       1000 km/s
    scale ~ HalfNormal(5)
    z[n]  ~ Categorical(share, 1 - share)
    x[n]  ~ Normal(mean, scale) if z[n] = 0, Uniform(0, 40) if z[n] = 1

What makes it hard: little, and that is the point. The components are of different kinds, so labels mean something and
nothing can be switched; code that takes components for alike fails here.

Origin: normal components with a uniform one for noise: Fraley & Raftery 1998, The Computer Journal 41; Hogg, Bovy &
Lang 2010, arXiv 1008.4686; data: Postman, Huchra & Geller 1986.
"""


@builder
def galaxy_student(*, concentration=1.0, prior_mean=20.0, prior_sd=10.0, prior_scale=5.0, df=4.0) -> Mixture:
    """Three Student-t components of known degrees of freedom."""
    positive(concentration=concentration, prior_sd=prior_sd, prior_scale=prior_scale, df=df)
    alpha, centres, widths = np.full(3, concentration), np.full(3, prior_mean), np.full(3, prior_scale)

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        means = normal(centres, prior_sd) @ "means"
        scales = half_normal(widths) @ "scales"
        return {"weights": weights, "means": means, "scales": scales}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"  # named: a bare argument means logits
        return student_t(jnp.asarray(df), params["means"][z], params["scales"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        means = numpyro.sample("means", dist.Normal(centres, prior_sd).to_event(1))
        scales = numpyro.sample("scales", dist.HalfNormal(widths).to_event(1))
        with numpyro.plate("galaxies", len(x)):
            clumps = dist.Categorical(probs=weights)
            numpyro.sample("x", dist.MixtureSameFamily(clumps, dist.StudentT(df, means, scales)), obs=x)

    return Mixture(
        name="galaxy_student",
        num_components=3,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        data=shipped("galaxy"),
        family="student t",
        title="Galaxies, three clumps with heavy tails",
        description=STUDENT,
        source="Peel & McLachlan 2000, Statistics and Computing 10",
        order_by="means",
    )


@builder
def galaxy_background(*, shares=(1.0, 1.0), prior_mean=20.0, prior_sd=5.0, prior_scale=5.0, low=0.0, high=40.0):
    """A normal cluster and a uniform background: components of different kinds."""
    positive(shares=shares, prior_sd=prior_sd, prior_scale=prior_scale)
    if not low < high:
        raise ValueError(f"low should be below high, got {low:g} and {high:g}")
    constants = [np.array(c) for c in (*shares, prior_mean, prior_sd, prior_scale, low, high)]  # arrays keep float64
    a, b, centre, sd, width, left, right = constants

    @gen
    def prior():
        share = beta(a, b) @ "share"
        mean = normal(centre, sd) @ "mean"
        scale = half_normal(width) @ "scale"
        return {"weights": jnp.stack([share, 1 - share]), "mean": mean, "scale": scale}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"
        return switch(normal, uniform)(z, (params["mean"], params["scale"]), (left, right)) @ "x"

    def twin(x):
        share = numpyro.sample("share", dist.Beta(a, b))
        mean = numpyro.sample("mean", dist.Normal(centre, sd))
        scale = numpyro.sample("scale", dist.HalfNormal(width))
        with numpyro.plate("galaxies", len(x)):
            kinds = dist.Categorical(probs=jnp.stack([share, 1 - share], axis=-1))
            parts = [dist.Normal(mean, scale), dist.Uniform(left, right)]
            numpyro.sample("x", dist.MixtureGeneral(kinds, parts, support=constraints.real), obs=x)

    return Mixture(
        name="galaxy_background",
        num_components=2,
        exchangeable=False,
        prior=prior,
        observation=observation,
        twin=twin,
        data=shipped("galaxy"),
        family="gaussian with background",
        title="One cluster of galaxies and a uniform background",
        description=BACKGROUND,
        source="Fraley & Raftery 1998, The Computer Journal 41",
    )


MODELS = {"galaxy_student": galaxy_student, "galaxy_background": galaxy_background}
