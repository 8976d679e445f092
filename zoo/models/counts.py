"""Mixtures of counts: Poisson, negative binomial, Poisson beside a point mass at zero, binomial with known trials."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import dirichlet, gen

from zoo import distributions as gx
from zoo.dataset import Dataset, shipped
from zoo.mixture import Mixture, builder, positive

DEATHS = """Death notices of women over 80 in The Times on 1,096 days: two rates, winter and summer perhaps.

    weights  ~ Dirichlet(1, 1)
    rates[k] ~ Gamma(2, 1)                 notices a day: shape 2, mean 2
    z[n]     ~ Categorical(weights)
    x[n]     ~ Poisson(rates[z[n]])

What makes it hard: the rates, 1.26 and 2.66 at the maximum likelihood, differ by about a standard deviation, so a day
tells little about its component. The density is a long curved ridge, along which EM
crawls: the example on which accelerations of EM are measured (Varadhan & Roland 2008, Scandinavian Journal of
Statistics 35). Weights and rates are conjugate given the assignments, but the assignments carry the information that is
missing, so Gibbs crawls with it.

Data: Hasselblad 1969, JASA 64.
"""

CANDY = """Packages of candy that 456 people bought in a week: a Poisson mixture with many zeros and a long tail.

    weights  ~ Dirichlet(1, ..., 1)
    rates[k] ~ Gamma(1, 1/4)               packages a week: shape 1, mean 4, that of the data
    z[n]     ~ Categorical(weights)
    x[n]     ~ Poisson(rates[z[n]])

What makes it hard: the number of components is a matter of taste (`num_components`), since the tail from 10 to 20
packages can be one component or two. A rate can be nearly 0, where its density is highest: those who never buy.

Data: Boehning, Schlattmann & Lindsay 1992, Biometrics 48.
"""

CANDY_NEGATIVE_BINOMIAL = """Packages of candy that 456 people bought in a week: two components wider than a Poisson.

    weights  ~ Dirichlet(1, 1)
    means[k] ~ Gamma(2, 1/2)               packages a week: mean 4, that of the data
    sizes[k] ~ Gamma(2, 1/2)               r: the variance is mean + mean^2 / r
    z[n]     ~ Categorical(weights)
    x[n]     ~ NegativeBinomial(sizes[z[n]], probs = mean / (mean + size))

What makes it hard: one negative binomial with a small size explains zeros and tail alike (it is a gamma mixture of
Poissons), so whether there are two groups depends on the prior of the sizes: the posterior covers both readings,
and its components blend into each other. Nothing but the weights is conjugate.

Data: Boehning, Schlattmann & Lindsay 1992, Biometrics 48.
"""

CANDY_ZERO_INFLATED = """Packages of candy that 456 people bought in a week: those who never buy, and a Poisson.

    weights  ~ Dirichlet(1, 1)
    rate     ~ Gamma(1, 1/4)               packages a week of those who may buy
    z[n]     ~ Categorical(weights)        0: never buys, 1: may buy
    x[n]     = 0 where z[n] = 0, else ~ Poisson(rate)

What makes it hard: the components are unlike, so the labels mean something and nothing is permuted; a point mass gives
most cells of the table a density of 0. That the data's tail is longer than a Poisson's is seen in the predictions.

Model: Lambert 1992, Technometrics 34. Data: Boehning, Schlattmann & Lindsay 1992, Biometrics 48.
"""

BETABLOCKER = """Deaths among patients in the 44 arms of 22 trials of beta blockers: hospitals of several mortalities.

    weights  ~ Dirichlet(1, 1, 1)
    probs[k] ~ Beta(1, 9)                  a patient's chance to die: mean 1/10
    z[n]     ~ Categorical(weights)
    x[n]     ~ Binomial(covariates[n], probs[z[n]])

What makes it hard: the number of patients of an arm, its covariate, runs from 38 to 1,921, so large arms are assigned
without doubt and small ones not at all. The two arms of a trial are taken as separate rows, the treatment is left out.

Data: Yusuf et al. 1985, Progress in Cardiovascular Diseases 27; as a mixture of trials, Aitkin 1999, Statistics in
Medicine 18.
"""


@builder
def london_deaths(*, num_components=2, concentration=1.0, rate_shape=2.0, rate_rate=1.0) -> Mixture:
    """A mixture of Poissons for the death notices."""
    return _poisson(
        "london_deaths", num_components, concentration, rate_shape, rate_rate, "Death notices a day", DEATHS
    )


@builder
def candy(*, num_components=3, concentration=1.0, rate_shape=1.0, rate_rate=0.25) -> Mixture:
    """A mixture of Poissons for the packages of candy."""
    return _poisson("candy", num_components, concentration, rate_shape, rate_rate, "Packages of candy", CANDY)


def _poisson(data_name, K, concentration, rate_shape, rate_rate, title, description) -> Mixture:
    positive(num_components=K, concentration=concentration, rate_shape=rate_shape, rate_rate=rate_rate)

    @gen
    def prior():
        weights = dirichlet(np.full(K, concentration)) @ "weights"
        rates = gx.gamma(concentration=np.full(K, rate_shape), rate=rate_rate) @ "rates"
        return {"weights": weights, "rates": rates}

    @gen
    def observation(params):
        z = gx.categorical(probs=params["weights"]) @ "z"
        return gx.poisson(rate=params["rates"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, concentration)))
        rates = numpyro.sample("rates", dist.Gamma(np.full(K, rate_shape), rate_rate).to_event(1))
        with numpyro.plate("counts", len(x)):
            parts = dist.Categorical(probs=weights)
            numpyro.sample("x", dist.MixtureSameFamily(parts, dist.Poisson(rates)), obs=x)

    data = shipped(data_name)
    return Mixture(
        name=data_name,
        num_components=K,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        data=data,
        family="poisson",
        title=f"{title}: a mixture of Poissons",
        description=description,
        source=data.source,
        order_by="rates",
    )


@builder
def candy_negative_binomial(
    *, concentration=1.0, mean_shape=2.0, mean_rate=0.5, size_shape=2.0, size_rate=0.5
) -> Mixture:
    """Two negative binomials for the packages of candy."""
    positive(concentration=concentration, mean_shape=mean_shape, mean_rate=mean_rate)
    positive(size_shape=size_shape, size_rate=size_rate)

    @gen
    def prior():
        weights = dirichlet(np.full(2, concentration)) @ "weights"
        means = gx.gamma(concentration=np.full(2, mean_shape), rate=mean_rate) @ "means"
        sizes = gx.gamma(concentration=np.full(2, size_shape), rate=size_rate) @ "sizes"
        return {"weights": weights, "means": means, "sizes": sizes, "probs": means / (means + sizes)}

    @gen
    def observation(params):
        z = gx.categorical(probs=params["weights"]) @ "z"
        return gx.negative_binomial(total_count=params["sizes"][z], probs=params["probs"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, concentration)))
        means = numpyro.sample("means", dist.Gamma(np.full(2, mean_shape), mean_rate).to_event(1))
        sizes = numpyro.sample("sizes", dist.Gamma(np.full(2, size_shape), size_rate).to_event(1))
        with numpyro.plate("people", len(x)):
            parts = dist.Categorical(probs=weights)
            counts = gx.NegativeBinomial(sizes, means / (means + sizes))
            numpyro.sample("x", dist.MixtureSameFamily(parts, counts), obs=x)

    def table(params, x):  # GenJAX's negative binomial takes five times as long
        weights, means, sizes = params["weights"], params["means"], params["sizes"]
        counts = gx.NegativeBinomial(sizes, means / (means + sizes))
        return jnp.log(weights) - jnp.log(weights.sum()) + counts.log_prob(x[:, None])

    data = shipped("candy")
    return Mixture(
        name="candy_negative_binomial",
        num_components=2,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        table=table,
        data=data,
        family="negative binomial",
        title="Packages of candy: two negative binomials",
        description=CANDY_NEGATIVE_BINOMIAL,
        source=data.source,
        order_by="means",
    )


@builder
def candy_zero_inflated(*, concentration=1.0, rate_shape=1.0, rate_rate=0.25) -> Mixture:
    """A point mass at zero and a Poisson for the packages of candy."""
    positive(concentration=concentration, rate_shape=rate_shape, rate_rate=rate_rate)

    @gen
    def prior():
        weights = dirichlet(np.full(2, concentration)) @ "weights"
        rate = gx.gamma(concentration=rate_shape, rate=rate_rate) @ "rate"
        return {"weights": weights, "rate": rate}

    @gen
    def observation(params):
        z = gx.categorical(probs=params["weights"]) @ "z"
        # the logarithm, since derivatives of log(rate) at a rate of 0 are not finite
        return gx.poisson(log_rate=jnp.where(z == 0, -jnp.inf, jnp.log(params["rate"]))) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, concentration)))
        rate = numpyro.sample("rate", dist.Gamma(rate_shape, rate_rate))
        with numpyro.plate("people", len(x)):
            numpyro.sample("x", dist.ZeroInflatedPoisson(weights[0], rate), obs=x)

    data = shipped("candy")
    return Mixture(
        name="candy_zero_inflated",
        num_components=2,
        exchangeable=False,
        prior=prior,
        observation=observation,
        twin=twin,
        data=data,
        family="zero-inflated poisson",
        title="Packages of candy: never, or a Poisson",
        description=CANDY_ZERO_INFLATED,
        source=data.source,
    )


def _arms() -> Dataset:
    """Deaths of every arm, and its patients as the covariate."""
    table = shipped("betablocker", ("deaths", "total"))
    deaths, total = table.x.T
    return Dataset(
        name="betablocker",
        x={"x": deaths, "covariates": total},
        units="patients",
        source=table.source,
        licence=table.licence,
    )


@builder
def betablocker(*, num_components=3, concentration=1.0, prior_deaths=1.0, prior_survivors=9.0) -> Mixture:
    """A mixture of binomials for the deaths in the arms of the trials."""
    positive(num_components=num_components, concentration=concentration)
    positive(prior_deaths=prior_deaths, prior_survivors=prior_survivors)
    K = num_components

    @gen
    def prior():
        weights = dirichlet(np.full(K, concentration)) @ "weights"
        probs = gx.beta(concentration1=np.full(K, prior_deaths), concentration0=prior_survivors) @ "probs"
        return {"weights": weights, "probs": probs}

    @gen
    def observation(params, patients):
        z = gx.categorical(probs=params["weights"]) @ "z"
        return gx.binomial(total_count=patients, probs=params["probs"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, concentration)))
        probs = numpyro.sample("probs", dist.Beta(np.full(K, prior_deaths), prior_survivors).to_event(1))
        with numpyro.plate("arms", len(x["x"])):
            parts = dist.Categorical(probs=weights)
            deaths = dist.Binomial(total_count=x["covariates"][:, None], probs=probs)
            numpyro.sample("x", dist.MixtureSameFamily(parts, deaths), obs=x["x"])

    data = _arms()
    return Mixture(
        name="betablocker",
        num_components=K,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        data=data,
        family="binomial",
        title="Deaths in trials of beta blockers: a mixture of binomials",
        description=BETABLOCKER,
        source=data.source,
        order_by="probs",
    )


MODELS = {
    "london_deaths": london_deaths,
    "candy": candy,
    "candy_negative_binomial": candy_negative_binomial,
    "candy_zero_inflated": candy_zero_inflated,
    "betablocker": betablocker,
}
