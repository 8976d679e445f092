"""Latent classes: items that are independent given the class, two answers each or more."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import dirichlet, gen

from zoo import distributions as gx
from zoo.dataset import Dataset, shipped
from zoo.mixture import Mixture, builder, positive

SCOTCH = """Which of 21 brands of Scotch whisky 2,218 households bought in a year: kinds of customers.

    weights     ~ Dirichlet(1, ..., 1)
    probs[k, j] ~ Beta(1, 1)               how often customers of kind k buy brand j
    z[n]        ~ Categorical(weights)
    x[n, j]     ~ Bernoulli(probs[z[n], j]), j = 0, ..., 20

What makes it hard: a household buys few of the brands, so that its class is uncertain, yet with 2,218 households the
posterior is narrow in 65 dimensions: a sampler that starts where one class stands for two of another labelling seldom
leaves. Brands that a class never buys have their chance on the border. All is conjugate given the classes.

Model: Lazarsfeld & Henry 1968, Latent Structure Analysis. Data: Simmons Study of Media and Markets 1997; Edwards &
Allenby 2003, Journal of Marketing Research 40.
"""

DIGITS = """1,797 handwritten digits in 8 x 8 pixels, black or white: shapes that are drawn again and again.

    weights     ~ Dirichlet(1, ..., 1)     K = 10
    probs[k, j] ~ Beta(2, 2)               how often pixel j is inked in shape k
    z[n]        ~ Categorical(weights)
    x[n, j]     ~ Bernoulli(probs[z[n], j]), j = 0, ..., 63

A pixel counts as inked where more than 7.5 of its 16 points are, that is half of them.

What makes it hard: with 64 pixels a row belongs to its shape almost surely, so that a sampler changes assignments one
by one or not at all, and stays near the first of many modes that it meets, in 649 dimensions. Shapes are not digits:
some digits are written in two ways and share a shape with others (`labels`, which the model does not see). Some pixels
are never inked in some shapes or in all: the prior, and it alone, keeps their chance off 0, where the likelihood is
highest, so that there is a mode.

Data: Alpaydin & Kaynak 1998, Kybernetika 34. Model: Carreira-Perpinan & Renals 2000, Neural Computation 12 (mixtures of
multivariate Bernoullis).
"""

PENGUINS = """Two latent classes of 333 penguins by island, sex and year alone: items of three, two and three answers.

    weights       ~ Dirichlet(1, 1)
    islands[k]    ~ Dirichlet(1, 1, 1)     Biscoe, Dream, Torgersen
    sexes[k]      ~ Dirichlet(1, 1)        female, male
    years[k]      ~ Dirichlet(1, 1, 1)     2007, 2008, 2009
    z[n]          ~ Categorical(weights)
    island[n]     ~ Categorical(islands[z[n]]), and so on

What makes it hard: there is next to nothing to find. The birds were caught in pairs, and in much the same shares on
each island every year, so that the three items are all but independent: one class explains them, and the posterior of
two spreads over every way to split it, up to the borders of the simplices.

Data: Gorman, Williams & Fraser 2014, PLoS ONE 9(3); the rows whose sex is known.
"""


@builder
def scotch(*, num_components=3, concentration=1.0, prior_bought=1.0, prior_not=1.0) -> Mixture:
    """Kinds of customers by the brands that they buy."""
    how = (num_components, concentration, prior_bought, prior_not)
    return _items("scotch", shipped("scotch"), *how, "Brands of Scotch whisky: kinds of customers", SCOTCH)


@builder
def digits(*, num_components=10, concentration=1.0, prior_inked=2.0, prior_blank=2.0, threshold=7.5) -> Mixture:
    """Shapes of handwritten digits; a pixel is inked where more than `threshold` of its 16 points are."""
    if not 0 <= threshold < 16:
        raise ValueError(f"threshold should be 0 or more and below 16, got {threshold:g}")
    counts = shipped("digits")
    data = replace(
        counts,
        x=(counts.x > threshold).astype(float),
        units="1 inked, 0 not",
        variant=f"inked above {threshold:g} of 16 points",
        sha256="",
    )
    how = (num_components, concentration, prior_inked, prior_blank)
    return _items("digits", data, *how, "Handwritten digits in black and white: shapes", DIGITS)


def _items(name, data, K, concentration, prior_one, prior_zero, title, description) -> Mixture:
    """K classes of rows of J items, 0 or 1 each, independent given the class."""
    positive(num_components=K, concentration=concentration, prior_one=prior_one, prior_zero=prior_zero)
    J = data.num_features

    @gen
    def prior():
        weights = dirichlet(np.full(K, concentration)) @ "weights"
        probs = gx.beta(concentration1=np.full((K, J), prior_one), concentration0=prior_zero) @ "probs"
        return {"weights": weights, "probs": probs}

    @gen
    def observation(params):
        z = gx.categorical(probs=params["weights"]) @ "z"
        return gx.bernoulli(probs=params["probs"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, concentration)))
        probs = numpyro.sample("probs", dist.Beta(np.full((K, J), prior_one), prior_zero).to_event(2))
        logits = dist.Bernoulli(probs=probs).logits
        table = jnp.log(weights) + x @ logits.T - jax.nn.softplus(logits).sum(1)
        numpyro.factor("x", jax.nn.logsumexp(table, axis=1).sum())

    return Mixture(
        name=name,
        num_components=K,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        table=_products,
        data=data,
        family="latent class",
        title=title,
        description=description,
        source=data.source,
    )


def _products(params, x):
    """The table as two matrix products, log weights[k] + sum_j x[n, j] log probs[k, j] + (1 - x[n, j]) log(1 - ...)."""
    weights, probs, x = params["weights"], params["probs"], x.astype(params["probs"].dtype)
    never = -jnp.sqrt(jnp.finfo(x.dtype).max)  # in the place of log 0: times 0 it is 0, as 0 log 0 should be
    ones = jnp.where(probs <= 0, never, jnp.log(jnp.where(probs <= 0, 1.0, probs)))
    zeros = jnp.where(probs >= 1, never, jnp.log1p(-jnp.where(probs >= 1, 0.0, probs)))
    table = x @ ones.T + (1 - x) @ zeros.T
    return jnp.log(weights) - jnp.log(weights.sum()) + jnp.where(table < never / 2, -jnp.inf, table)


ITEMS = {"island": 3, "sex": 2, "year": 3}


def _birds() -> Dataset:
    """Island, sex and year of the birds whose sex is known, each coded from 0; the species are the labels."""
    table = shipped("penguins", tuple(ITEMS)).complete()
    island, sex, year = table.x.T
    return Dataset(
        name="penguins",
        x={"island": island, "sex": sex, "year": year - 2007},
        units="code",
        labels=table.labels,
        source=table.source,
        licence=table.licence,
        variant=table.variant,
        categories={**table.categories, "year": ("2007", "2008", "2009")},
    )


@builder
def penguin_classes(*, num_components=2, concentration=1.0, item_concentration=1.0) -> Mixture:
    """Latent classes by three categorical items of unlike numbers of answers; x is a dict."""
    positive(num_components=num_components, concentration=concentration, item_concentration=item_concentration)
    K, data = num_components, _birds()
    flat = {item: np.full((K, answers), item_concentration) for item, answers in ITEMS.items()}

    @gen
    def prior():
        weights = dirichlet(np.full(K, concentration)) @ "weights"
        islands = dirichlet(flat["island"]) @ "islands"
        sexes = dirichlet(flat["sex"]) @ "sexes"
        years = dirichlet(flat["year"]) @ "years"
        return {"weights": weights, "islands": islands, "sexes": sexes, "years": years}

    @gen
    def observation(params):
        z = gx.categorical(probs=params["weights"]) @ "z"
        island = gx.categorical(probs=params["islands"][z]) @ "island"
        sex = gx.categorical(probs=params["sexes"][z]) @ "sex"
        year = gx.categorical(probs=params["years"][z]) @ "year"
        return {"island": island, "sex": sex, "year": year}

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, concentration)))
        table = jnp.log(weights)
        for item in ITEMS:
            probs = numpyro.sample(f"{item}s" if item != "sex" else "sexes", dist.Dirichlet(flat[item]).to_event(1))
            answers = x[item].astype(jnp.int32)[:, None]
            table = table + dist.Categorical(probs=probs).log_prob(answers)
        numpyro.factor("x", jax.nn.logsumexp(table, axis=1).sum())

    return Mixture(
        name="penguin_classes",
        num_components=K,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        data=data,
        family="latent class",
        title="Penguins by island, sex and year: latent classes",
        description=PENGUINS,
        source=data.source,
    )


MODELS = {"scotch": scotch, "digits": digits, "penguin_classes": penguin_classes}
