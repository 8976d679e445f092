"""Mixtures of positive values: exponential, gamma, lognormal, Weibull, and beta for shares."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import dirichlet, gen, normal

from zoo import distributions as gx
from zoo.dataset import Dataset, shipped
from zoo.mixture import Mixture, builder, positive

PERIODS = """How long 101 planets outside the solar system take for an orbit: exponentials of unlike rates.

    weights  ~ Dirichlet(1, ..., 1)
    rates[k] ~ Gamma(1, 100)               per day: shape 1, mean 1/100
    z[n]     ~ Categorical(weights)
    x[n]     ~ Exponential(rates[z[n]])    days

What makes it hard: exponentials differ in scale alone and all are highest at 0, so that short periods may belong to any
of them; means of 3 to 5,000 days make a posterior of rates over three powers of ten. Conjugate given the assignments.

Data: Mayor & Frei 2003, New Worlds in the Cosmos. As a mixture (normals, three columns at once): Everitt & Hothorn
2006, A Handbook of Statistical Analyses Using R, chapter on cluster analysis.
"""

MASSES = """The masses of 101 planets outside the solar system: lognormals.

    weights      ~ Dirichlet(1, 1)
    means[k]     ~ Normal(0, 2)            log of the mass in masses of Jupiter
    variances[k] ~ Gamma(6, 6)             of these logs: mean 1
    z[n]         ~ Categorical(weights)
    x[n]         ~ LogNormal(means[z[n]], sqrt(variances[z[n]]))

What makes it hard: light planets hide from the method by which these were found, so the logarithms are skewed to the
left, and whether that is one skewed group or two is open: the components overlap over their whole range, and a narrow
one can sit on a few planets of much the same mass: three are given the same .99. The density of a scale goes like s^11
at 0, where s^1 or less would leave the posterior improper; and the tail of a variance is lighter than exp(-4 v),
without which the mean and the variance of the mixture, exp(v / 2) and exp(2 v), have no posterior mean and no error.

Data: Mayor & Frei 2003, New Worlds in the Cosmos. As a mixture (normals, three columns at once): Everitt & Hothorn
2006, A Handbook of Statistical Analyses Using R, chapter on cluster analysis.
"""

WAITING = """Waits for the next eruption of Old Faithful, 272 of them: two gamma components.

    weights   ~ Dirichlet(1, 1)
    means[k]  ~ Gamma(10, 1/7)             minutes: mean 70, standard deviation 22
    shapes[k] ~ Gamma(2, 1/50)             mean 100: the standard deviation is mean / sqrt(shape), a tenth
    z[n]      ~ Categorical(weights)
    x[n]      ~ Gamma(shapes[z[n]], rate = shapes[z[n]] / means[z[n]])

What makes it hard: little, the two groups are well apart; two modes by labels, and shapes that nothing is conjugate to.
By mean and shape, not shape and rate, whose posterior is a thin ridge.

Data: Azzalini & Bowman 1990, Applied Statistics 39.
"""

ONSET = """Age at the onset of schizophrenia of 251 patients: Weibulls, an early and a late group.

    weights   ~ Dirichlet(1, 1)
    scales[k] ~ Gamma(4, 1/8)              years: mean 32
    shapes[k] ~ Gamma(2, 1/2)              mean 4
    z[n]      ~ Categorical(weights)
    x[n]      ~ Weibull(shape = shapes[z[n]], scale = scales[z[n]])

What makes it hard: the ages of men have one peak in the twenties, those of women another late one, and a single Weibull
with a small shape covers both: a broad component under a narrow one is as good as two side by side. The sex
(`labels`: 0 female, 1 male) is not used.

Data: Everitt & Hothorn 2006, A Handbook of Statistical Analyses Using R; the two-component normal mixture of its
chapter on densities.
"""

BODY_FAT = """Body fat of 202 athletes as a share of their weight: beta components.

    weights        ~ Dirichlet(1, 1)
    means[k]       ~ Beta(2, 8)            mean 1/5
    precisions[k]  ~ Gamma(2, 1/100)       mean 200; the variance is mean (1 - mean) / (precision + 1)
    z[n]           ~ Categorical(weights)
    x[n]           ~ Beta(mean precision, (1 - mean) precision)

What makes it hard: a narrow component of lean athletes beside a broad one. The labels, 0 female and 1 male, say whom
the two components nearly are; they are not used.

Data: Cook & Weisberg 1994, An Introduction to Regression Graphics.
"""


@builder
def exoplanet_periods(*, num_components=2, concentration=1.0, rate_shape=1.0, rate_rate=100.0) -> Mixture:
    """Exponentials of unlike rates for the periods of planets."""
    positive(num_components=num_components, concentration=concentration, rate_shape=rate_shape, rate_rate=rate_rate)
    K = num_components

    @gen
    def prior():
        weights = dirichlet(np.full(K, concentration)) @ "weights"
        rates = gx.gamma(concentration=np.full(K, rate_shape), rate=rate_rate) @ "rates"
        return {"weights": weights, "rates": rates}

    @gen
    def observation(params):
        z = gx.categorical(probs=params["weights"]) @ "z"
        return gx.exponential(rate=params["rates"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, concentration)))
        rates = numpyro.sample("rates", dist.Gamma(np.full(K, rate_shape), rate_rate).to_event(1))
        with numpyro.plate("planets", len(x)):
            numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(probs=weights), dist.Exponential(rates)), obs=x)

    data = shipped("exoplanets", ("period",))
    return _mixture(
        "exoplanet_periods", K, prior, observation, twin, data, "exponential", "rates",
        "Periods of planets: a mixture of exponentials", PERIODS,
    )  # fmt: skip


@builder
def planet_masses(*, concentration=1.0, prior_mean=0.0, prior_sd=2.0, variance_shape=6.0, variance_rate=6.0) -> Mixture:
    """Two lognormals for the masses of planets."""
    positive(concentration=concentration, prior_sd=prior_sd)
    positive(variance_shape=variance_shape, variance_rate=variance_rate)

    @gen
    def prior():
        weights = dirichlet(np.full(2, concentration)) @ "weights"
        means = normal(np.full(2, prior_mean), prior_sd) @ "means"
        variances = gx.gamma(concentration=np.full(2, variance_shape), rate=variance_rate) @ "variances"
        return {"weights": weights, "means": means, "variances": variances, "scales": jnp.sqrt(variances)}

    @gen
    def observation(params):
        z = gx.categorical(probs=params["weights"]) @ "z"
        return gx.log_normal(loc=params["means"][z], scale=params["scales"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, concentration)))
        means = numpyro.sample("means", dist.Normal(np.full(2, prior_mean), prior_sd).to_event(1))
        variances = numpyro.sample("variances", dist.Gamma(np.full(2, variance_shape), variance_rate).to_event(1))
        with numpyro.plate("planets", len(x)):
            parts = dist.Categorical(probs=weights)
            numpyro.sample("x", dist.MixtureSameFamily(parts, dist.LogNormal(means, jnp.sqrt(variances))), obs=x)

    data = shipped("exoplanets", ("mass",))
    return _mixture(
        "planet_masses", 2, prior, observation, twin, data, "lognormal", "means",
        "Masses of planets: two lognormals", MASSES,
    )  # fmt: skip


@builder
def faithful_gamma(*, concentration=1.0, mean_shape=10.0, mean_rate=1 / 7, shape_shape=2.0, shape_rate=0.02) -> Mixture:
    """Two gamma components for the waits."""
    positive(concentration=concentration, mean_shape=mean_shape, mean_rate=mean_rate)
    positive(shape_shape=shape_shape, shape_rate=shape_rate)

    @gen
    def prior():
        weights = dirichlet(np.full(2, concentration)) @ "weights"
        means = gx.gamma(concentration=np.full(2, mean_shape), rate=mean_rate) @ "means"
        shapes = gx.gamma(concentration=np.full(2, shape_shape), rate=shape_rate) @ "shapes"
        return {"weights": weights, "means": means, "shapes": shapes}

    @gen
    def observation(params):
        z = gx.categorical(probs=params["weights"]) @ "z"
        shape = params["shapes"][z]
        return gx.gamma(concentration=shape, rate=shape / params["means"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, concentration)))
        means = numpyro.sample("means", dist.Gamma(np.full(2, mean_shape), mean_rate).to_event(1))
        shapes = numpyro.sample("shapes", dist.Gamma(np.full(2, shape_shape), shape_rate).to_event(1))
        with numpyro.plate("eruptions", len(x)):
            parts = dist.Categorical(probs=weights)
            numpyro.sample("x", dist.MixtureSameFamily(parts, dist.Gamma(shapes, shapes / means)), obs=x)

    data = shipped("faithful", ("waiting",))
    return _mixture(
        "faithful_gamma", 2, prior, observation, twin, data, "gamma", "means",
        "Waits for Old Faithful: two gamma components", WAITING,
    )  # fmt: skip


@builder
def schizophrenia_onset(
    *, concentration=1.0, scale_shape=4.0, scale_rate=0.125, shape_shape=2.0, shape_rate=0.5
) -> Mixture:
    """Two Weibulls for the ages at onset."""
    positive(concentration=concentration, scale_shape=scale_shape, scale_rate=scale_rate)
    positive(shape_shape=shape_shape, shape_rate=shape_rate)

    @gen
    def prior():
        weights = dirichlet(np.full(2, concentration)) @ "weights"
        scales = gx.gamma(concentration=np.full(2, scale_shape), rate=scale_rate) @ "scales"
        shapes = gx.gamma(concentration=np.full(2, shape_shape), rate=shape_rate) @ "shapes"
        return {"weights": weights, "scales": scales, "shapes": shapes}

    @gen
    def observation(params):
        z = gx.categorical(probs=params["weights"]) @ "z"
        return gx.weibull(concentration=params["shapes"][z], scale=params["scales"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, concentration)))
        scales = numpyro.sample("scales", dist.Gamma(np.full(2, scale_shape), scale_rate).to_event(1))
        shapes = numpyro.sample("shapes", dist.Gamma(np.full(2, shape_shape), shape_rate).to_event(1))
        with numpyro.plate("patients", len(x)):
            parts = dist.Categorical(probs=weights)
            numpyro.sample("x", dist.MixtureSameFamily(parts, dist.Weibull(scale=scales, concentration=shapes)), obs=x)

    table = shipped("schizophrenia_onset", ("gender",))
    data = replace(shipped("schizophrenia_onset"), labels=table.x.astype(np.int32), categories=table.categories)
    return _mixture(
        "schizophrenia_onset", 2, prior, observation, twin, data, "weibull", "scales",
        "Age at the onset of schizophrenia: two Weibulls", ONSET,
    )  # fmt: skip


@builder
def body_fat(*, concentration=1.0, prior_fat=2.0, prior_lean=8.0, precision_shape=2.0, precision_rate=0.01) -> Mixture:
    """Two beta components for shares of body fat."""
    positive(concentration=concentration, prior_fat=prior_fat, prior_lean=prior_lean)
    positive(precision_shape=precision_shape, precision_rate=precision_rate)

    @gen
    def prior():
        weights = dirichlet(np.full(2, concentration)) @ "weights"
        means = gx.beta(concentration1=np.full(2, prior_fat), concentration0=prior_lean) @ "means"
        precisions = gx.gamma(concentration=np.full(2, precision_shape), rate=precision_rate) @ "precisions"
        return {"weights": weights, "means": means, "precisions": precisions}

    @gen
    def observation(params):
        z = gx.categorical(probs=params["weights"]) @ "z"
        mean, precision = params["means"][z], params["precisions"][z]
        return gx.beta(concentration1=mean * precision, concentration0=(1 - mean) * precision) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, concentration)))
        means = numpyro.sample("means", dist.Beta(np.full(2, prior_fat), prior_lean).to_event(1))
        precisions = numpyro.sample("precisions", dist.Gamma(np.full(2, precision_shape), precision_rate).to_event(1))
        with numpyro.plate("athletes", len(x)):
            parts = dist.Categorical(probs=weights)
            shares = dist.Beta(means * precisions, (1 - means) * precisions)
            numpyro.sample("x", dist.MixtureSameFamily(parts, shares), obs=x)

    table = shipped("ais", ("bfat",))
    data = Dataset(
        name="ais",
        x=table.x / 100,
        feature_names=("bfat",),
        units="share of the weight",
        labels=table.labels,
        source=table.source,
        licence=table.licence,
        variant="body fat as a share",
        categories=table.categories,
    )
    return _mixture(
        "body_fat", 2, prior, observation, twin, data, "beta", "means",
        "Body fat of athletes: two beta components", BODY_FAT,
    )  # fmt: skip


def _mixture(name, K, prior, observation, twin, data, family, order_by, title, description) -> Mixture:
    return Mixture(
        name=name,
        num_components=K,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        data=data,
        family=family,
        title=title,
        description=description,
        source=data.source,
        order_by=order_by,
    )


MODELS = {
    "exoplanet_periods": exoplanet_periods,
    "planet_masses": planet_masses,
    "faithful_gamma": faithful_gamma,
    "schizophrenia_onset": schizophrenia_onset,
    "body_fat": body_fat,
}
