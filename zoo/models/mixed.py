"""202 athletes by height, ferritin and sport: rows of a length, a count and a category, in two groups.

    weights      ~ Dirichlet(1, 1)
    heights[k]   ~ Normal(180, 20)           cm
    variances[k] ~ InverseGamma(3, 150)      cm^2: mean 75
    irons[k]     ~ Gamma(2, 1/40)            mean ferritin, ng/ml, recorded in whole numbers
    sizes[k]     ~ Gamma(2, 1/2)             the variance is mean + mean^2 / size
    sports[k]    ~ Dirichlet(1, ..., 1)      ten of them
    z[n]         ~ Categorical(weights)
    height[n]    ~ Normal(heights[z[n]], sqrt(variances[z[n]]))
    ferritin[n]  ~ NegativeBinomial(sizes[z[n]], probs = iron / (iron + size))
    sport[n]     ~ Categorical(sports[z[n]])

What makes it hard: the three columns pull at the assignments with unlike strength, and not the same way. Men are
taller, have more iron and play water polo, women netball (`labels`, which the model does not see); but basketball
players and rowers of both sexes are tall, and gymnasts are small. Heights are recorded in tenths of a centimetre and
several are equal; the prior of a variance vanishes at 0 faster than any power, so the posterior is proper all the same.

Data: Cook & Weisberg 1994, An Introduction to Regression Graphics.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import dirichlet, gen, inverse_gamma, normal

from zoo import distributions as gx
from zoo.dataset import Dataset, shipped
from zoo.mixture import Mixture, builder, positive

SPORTS = 10


def _rows() -> Dataset:
    table = shipped("ais", ("ht", "fe", "sport"))
    height, ferritin, sport = table.x.T
    return Dataset(
        name="ais",
        x={"height": height, "ferritin": ferritin, "sport": sport},
        units="height: cm; ferritin: ng/ml; sport: code",
        labels=table.labels,
        source=table.source,
        licence=table.licence,
        categories=table.categories,
    )


@builder
def ais(
    *,
    concentration=1.0,
    height_mean=180.0,
    height_sd=20.0,
    variance_shape=3.0,
    variance_scale=150.0,
    iron_shape=2.0,
    iron_rate=0.025,
    size_shape=2.0,
    size_rate=0.5,
    sport_concentration=1.0,
) -> Mixture:
    """Two groups of athletes by a Gaussian, a count and a categorical column; x is a dict."""
    positive(concentration=concentration, height_sd=height_sd, iron_shape=iron_shape)
    positive(variance_shape=variance_shape, variance_scale=variance_scale)
    positive(iron_rate=iron_rate, size_shape=size_shape, size_rate=size_rate, sport_concentration=sport_concentration)

    @gen
    def prior():
        weights = dirichlet(np.full(2, concentration)) @ "weights"
        heights = normal(np.full(2, height_mean), height_sd) @ "heights"
        variances = inverse_gamma(np.full(2, variance_shape), variance_scale) @ "variances"  # (shape, scale)
        irons = gx.gamma(concentration=np.full(2, iron_shape), rate=iron_rate) @ "irons"
        sizes = gx.gamma(concentration=np.full(2, size_shape), rate=size_rate) @ "sizes"
        sports = dirichlet(np.full((2, SPORTS), sport_concentration)) @ "sports"
        return {
            "weights": weights,
            "heights": heights,
            "variances": variances,
            "scales": jnp.sqrt(variances),
            "irons": irons,
            "sizes": sizes,
            "sports": sports,
        }

    @gen
    def observation(params):
        z = gx.categorical(probs=params["weights"]) @ "z"
        iron, size = params["irons"][z], params["sizes"][z]
        height = normal(params["heights"][z], params["scales"][z]) @ "height"
        ferritin = gx.negative_binomial(total_count=size, probs=iron / (iron + size)) @ "ferritin"
        sport = gx.categorical(probs=params["sports"][z]) @ "sport"
        return {"height": height, "ferritin": ferritin, "sport": sport}

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, concentration)))
        heights = numpyro.sample("heights", dist.Normal(np.full(2, height_mean), height_sd).to_event(1))
        each = dist.InverseGamma(np.full(2, variance_shape), variance_scale)
        variances = numpyro.sample("variances", each.to_event(1))
        irons = numpyro.sample("irons", dist.Gamma(np.full(2, iron_shape), iron_rate).to_event(1))
        sizes = numpyro.sample("sizes", dist.Gamma(np.full(2, size_shape), size_rate).to_event(1))
        sports = numpyro.sample("sports", dist.Dirichlet(np.full((2, SPORTS), sport_concentration)).to_event(1))
        table = (
            jnp.log(weights)
            + dist.Normal(heights, jnp.sqrt(variances)).log_prob(x["height"][:, None])
            + gx.NegativeBinomial(sizes, irons / (irons + sizes)).log_prob(x["ferritin"][:, None])
            + dist.Categorical(probs=sports).log_prob(x["sport"].astype(jnp.int32)[:, None])
        )
        numpyro.factor("x", jax.nn.logsumexp(table, axis=1).sum())

    def table(params, x):  # GenJAX's negative binomial takes five times as long
        weights, irons, sizes = params["weights"], params["irons"], params["sizes"]
        heights = jax.scipy.stats.norm.logpdf(x["height"][:, None], params["heights"], jnp.sqrt(params["variances"]))
        counts = gx.NegativeBinomial(sizes, irons / (irons + sizes)).log_prob(x["ferritin"][:, None])
        sports = jnp.log(params["sports"]) - jnp.log(params["sports"].sum(axis=1, keepdims=True))
        shares = jnp.log(weights) - jnp.log(weights.sum())
        return shares + heights + counts + sports.T[x["sport"].astype(jnp.int32)]

    data = _rows()
    return Mixture(
        name="ais",
        num_components=2,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        table=table,
        data=data,
        family="mixed",
        title="Athletes by height, ferritin and sport: two groups",
        description=__doc__,
        source=data.source,
        order_by="heights",
    )


MODELS = {"ais": ais}
