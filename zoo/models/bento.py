"""Mystery bentos: two kinds of lunch box, told apart by weight alone.

    means[k] ~ Normal(400, 50)            grams, k = 0, 1
    z[n]     ~ Categorical(1/2, 1/2)      which kind bento n is
    x[n]     ~ Normal(means[z[n]], 2)     its weight

What makes it hard: the two labellings of the kinds are equally probable, so the posterior has two identical
modes 150 g apart that no local move connects, and a draw from the prior practically never fits 20 bentos.
`bento_425` adds one bento half way between the kinds. `bento_known` fixes the parameters, so only the
assignments are unknown. `bento_full` learns weights, means and variances, all independent a priori.

Origin: the mystery-bento chapters of an introductory GenJAX tutorial on Gaussian mixture models.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import categorical, dirichlet, gen, inverse_gamma, normal

from zoo.dataset import Dataset
from zoo.mixture import Mixture, builder, positive, simplex

SOURCE = "Mystery-bento chapters of an introductory GenJAX tutorial on Gaussian mixture models"

KNOWN = """Mystery bentos of two kinds whose weights are known: only which box is of which kind is not.

    z[n] ~ Categorical(.7, .3)                    which kind bento n is
    x[n] ~ Normal((500, 350)[z[n]], 2)            its weight in grams

Nothing is hard: P(z[n] | x[n]) is Bayes' rule, one box at a time. It is here to check everything else against.
"""
FULL = """Mystery bentos of two kinds, told apart by weight alone, about which nothing is known for sure.

    weights      ~ Dirichlet(1, 1)                      shares of the kinds
    means[k]     ~ Normal(400, 50)                      grams, k = 0, 1
    variances[k] ~ InverseGamma(3, 8)                   grams squared
    z[n]         ~ Categorical(weights)                 which kind bento n is
    x[n]         ~ Normal(means[z[n]], sqrt(variances[z[n]]))

What makes it hard: two identical modes, one for each labelling of the kinds, and ten boxes of each kind at most to
learn three numbers from.
"""

# fmt: off
GRAMS = np.array([
    498, 352, 501, 349, 497, 503, 351, 500, 348, 502,
    499, 350, 498, 353, 501, 347, 499, 502, 352, 500,
], dtype=np.float64)
# fmt: on

BENTOS = Dataset(
    name="bento",
    x=GRAMS,
    feature_names=("weight",),
    units="g",
    source=SOURCE,
    licence="factual table",
    sha256="c4087056ef2cd2efc030ba493960c27673c62f20503f1e8e4847f34b7f81c70a",
)
BENTOS_425 = Dataset(
    name="bento_425",
    x=np.append(GRAMS, 425.0),
    feature_names=("weight",),
    units="g",
    source=f"{SOURCE}, with one more bento of 425 g",
    licence="factual table",
    sha256="cf16b214b56bb1f867ff117168c5300547c25a59207c6e1634302a9e3e4c7138",
    variant="with one bento of 425 g",
)


@builder
def bento(*, scale=2.0, weights=(0.5, 0.5), prior_mean=400.0, prior_sd=50.0) -> Mixture:
    """Two kinds of bento with unknown means; scale and weights are known."""
    return _means_unknown("bento", BENTOS, scale, weights, prior_mean, prior_sd)


@builder
def bento_425(*, scale=2.0, weights=(0.5, 0.5), prior_mean=400.0, prior_sd=50.0) -> Mixture:
    """`bento` with one more box of 425 g, half way between the kinds."""
    return _means_unknown("bento_425", BENTOS_425, scale, weights, prior_mean, prior_sd)


def _means_unknown(name, data, scale, weights, prior_mean, prior_sd):
    positive(scale=scale, prior_sd=prior_sd)
    simplex(weights=weights)
    probs = np.array(weights)

    @gen
    def prior():
        means = normal(np.full(2, prior_mean), prior_sd) @ "means"
        return {"means": means}

    @gen
    def observation(params):
        """One bento. z ~ Categorical(weights); x | z ~ Normal(means[z], scale), in grams."""
        z = categorical(probs=probs) @ "z"  # named: a bare argument means logits
        return normal(params["means"][z], scale) @ "x"

    def twin(x):
        means = numpyro.sample("means", dist.Normal(np.full(2, prior_mean), prior_sd).to_event(1))
        kinds = dist.Categorical(probs=jnp.asarray(probs))
        with numpyro.plate("bentos", len(x)):
            numpyro.sample("x", dist.MixtureSameFamily(kinds, dist.Normal(means, scale)), obs=x)

    return Mixture(
        name=name,
        num_components=2,
        exchangeable=weights[0] == weights[1],
        prior=prior,
        observation=observation,
        twin=twin,
        data=data,
        family="gaussian",
        title="Mystery bentos, means unknown" + (", one of 425 g" if name == "bento_425" else ""),
        description=__doc__,
        source=SOURCE,
    )


@builder
def bento_known(*, weights=(0.7, 0.3), means=(500.0, 350.0), scales=(2.0, 2.0)) -> Mixture:
    """Everything known but which bento is which: P(z | x) is Bayes' rule."""
    positive(scales=scales)
    simplex(weights=weights)
    probs, locs, sds = np.array(weights), np.array(means), np.array(scales)

    @gen
    def prior():
        return {}

    @gen
    def observation(params):
        z = categorical(probs=probs) @ "z"
        return normal(jnp.asarray(locs)[z], jnp.asarray(sds)[z]) @ "x"

    def twin(x):
        kinds = dist.Categorical(probs=jnp.asarray(probs))
        with numpyro.plate("bentos", len(x)):
            numpyro.sample("x", dist.MixtureSameFamily(kinds, dist.Normal(jnp.asarray(locs), jnp.asarray(sds))), obs=x)

    return Mixture(
        name="bento_known",
        num_components=2,
        exchangeable=len({*zip(weights, means, scales, strict=True)}) == 1,
        prior=prior,
        observation=observation,
        twin=twin,
        data=BENTOS,
        family="gaussian",
        title="Mystery bentos, parameters known",
        description=KNOWN,
        source=SOURCE,
    )


@builder
def bento_full(
    *, concentration=(1.0, 1.0), prior_mean=400.0, prior_sd=50.0, variance_shape=3.0, variance_scale=8.0
) -> Mixture:
    """Weights, means and variances all unknown and independent a priori."""
    positive(concentration=concentration, prior_sd=prior_sd)
    positive(variance_shape=variance_shape, variance_scale=variance_scale)
    alpha = np.array(concentration)

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        means = normal(np.full(2, prior_mean), prior_sd) @ "means"
        variances = inverse_gamma(np.full(2, variance_shape), variance_scale) @ "variances"  # (shape, scale)
        return {"weights": weights, "means": means, "variances": variances, "scales": jnp.sqrt(variances)}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"
        return normal(params["means"][z], params["scales"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        means = numpyro.sample("means", dist.Normal(np.full(2, prior_mean), prior_sd).to_event(1))
        spread = dist.InverseGamma(np.full(2, variance_shape), variance_scale).to_event(1)
        variances = numpyro.sample("variances", spread)
        with numpyro.plate("bentos", len(x)):
            kinds = dist.Categorical(probs=weights)
            numpyro.sample("x", dist.MixtureSameFamily(kinds, dist.Normal(means, jnp.sqrt(variances))), obs=x)

    return Mixture(
        name="bento_full",
        num_components=2,
        exchangeable=concentration[0] == concentration[1],
        prior=prior,
        observation=observation,
        twin=twin,
        data=BENTOS,
        family="gaussian",
        title="Mystery bentos, weights, means and variances unknown",
        description=FULL,
        source=SOURCE,
        order_by="means",
    )


MODELS = {"bento": bento, "bento_425": bento_425, "bento_known": bento_known, "bento_full": bento_full}
