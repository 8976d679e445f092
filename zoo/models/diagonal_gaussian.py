"""Several measurements at a time, taken as independent within a group: diagonal and spherical covariances.

    weights         ~ Dirichlet(1, ..., 1)
    means[k, d]     ~ Normal(0, prior_sd)                       the data are standardised: mean 0, sd 1
    variances[k, d] ~ InverseGamma(2, .5)                       or one for all d: spherical
    z[n]            ~ Categorical(weights)
    x[n, d]         ~ Normal(means[z[n], d], sqrt(variances[z[n], d]))

What makes it hard is said for each model below. The mean and sd taken out of each column are kept with the data.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import categorical, dirichlet, gen, inverse_gamma, mv_normal_diag, normal

from zoo.dataset import Dataset, shipped
from zoo.mixture import Mixture, builder, positive
from zoo.models.multivariate_gaussian import mixture, observe

SPHERICAL = """Old Faithful, standardised, as two round clouds: one variance for both measurements of a group.

    weights      ~ Dirichlet(1, 1)
    means[k]     ~ Normal(0, 1)
    variances[k] ~ InverseGamma(2, .5)
    x[n]         ~ Normal(means[z[n]], sqrt(variances[z[n]]))     both measurements

What makes it hard: the model is too simple for the data, whose groups are neither round nor equal: the k-means of
mixture models. The posterior is narrow all the same.

Origin: Azzalini & Bowman 1990, Applied Statistics 39; as a mixture of two normals Bishop 2006, Pattern Recognition and
Machine Learning, section 9.2.
"""
WINE = """Piedmont wines: 178 bottles of Barolo, Grignolino and Barbera, 13 measurements of their chemistry.

    weights         ~ Dirichlet(1, 1, 1)
    means[k, d]     ~ Normal(0, 2)                      standardised units
    variances[k, d] ~ InverseGamma(2, .5)
    x[n, d]         ~ Normal(means[z[n], d], sqrt(variances[z[n], d]))

What makes it hard: 13 dimensions and 80 free parameters from 178 bottles. Within a cultivar the measurements are taken
as independent, which they are not quite.

Origin: Forina, Armanino, Castino & Ubigli 1986, Vitis 25; the 13 of its 27 columns that the UCI repository has.
The 27 as a mixture of normals: McNicholas & Murphy 2008, Statistics and Computing 18.
"""
THYROID = """The thyroid gland of 215 patients, five laboratory tests: normal, hyper- or hypofunction.

    weights         ~ Dirichlet(1, 1, 1)
    means[k, d]     ~ Normal(0, 2)                      standardised units
    variances[k, d] ~ InverseGamma(2, .5)
    x[n, d]         ~ Normal(means[z[n], d], sqrt(variances[z[n], d]))

What makes it hard: 150 patients are alike and in one narrow heap, the others are few and scattered over a region many
times as wide, so the spreads of the components differ by an order of magnitude.

Origin: Coomans, Broeckaert, Jonckheer & Massart 1983, Methods of Information in Medicine 22.
"""
# fmt: off
UCI_WINE = ("alcohol", "malic", "ash", "alcal_ash", "magnesium", "phenols", "flavanoids", "nonflavanoids",
            "proanthocyanins", "colour", "hue", "od_dw", "proline")
# fmt: on


@builder
def faithful_spherical(*, concentration=1.0, prior_sd=1.0, variance_shape=2.0, variance_scale=0.5) -> Mixture:
    """Two multiples of the identity, data standardised."""
    positive(concentration=concentration, prior_sd=prior_sd)
    positive(variance_shape=variance_shape, variance_scale=variance_scale)
    alpha, centres, shapes = np.full(2, concentration), np.zeros((2, 2)), np.full(2, variance_shape)

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        means = normal(centres, prior_sd) @ "means"
        variances = inverse_gamma(shapes, variance_scale) @ "variances"  # (shape, scale)
        return {"weights": weights, "means": means, "scales": jnp.sqrt(variances)}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"
        return normal(params["means"][z], params["scales"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        means = numpyro.sample("means", dist.Normal(centres, prior_sd).to_event(2))
        variances = numpyro.sample("variances", dist.InverseGamma(shapes, variance_scale).to_event(1))
        observe(x, weights, dist.Normal(means, jnp.sqrt(variances)[:, None]).to_event(1))

    data = shipped("faithful").standardised()
    title = "Old Faithful, spherical covariances"
    return mixture("faithful_spherical", 2, prior, observation, twin, data, title, SPHERICAL)


@builder
def wine(*, concentration=1.0, prior_sd=2.0, variance_shape=2.0, variance_scale=0.5) -> Mixture:
    """Three diagonal covariances in 13 dimensions, data standardised."""
    data = shipped("piedmont_wines", UCI_WINE).standardised()
    how = (concentration, prior_sd, variance_shape, variance_scale)
    return _diagonal("wine", data, "Piedmont wines, diagonal covariances", WINE, *how)


@builder
def thyroid(*, concentration=1.0, prior_sd=2.0, variance_shape=2.0, variance_scale=0.5) -> Mixture:
    """Three diagonal covariances in 5 dimensions, data standardised."""
    data = shipped("thyroid").standardised()
    how = (concentration, prior_sd, variance_shape, variance_scale)
    return _diagonal("thyroid", data, "Thyroid gland, diagonal covariances", THYROID, *how)


def _diagonal(
    name, data: Dataset, title, description, concentration, prior_sd, variance_shape, variance_scale
) -> Mixture:
    positive(concentration=concentration, prior_sd=prior_sd)
    positive(variance_shape=variance_shape, variance_scale=variance_scale)
    alpha, centres = np.full(3, concentration), np.zeros((3, data.num_features))
    shapes = np.full_like(centres, variance_shape)

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        means = normal(centres, prior_sd) @ "means"
        variances = inverse_gamma(shapes, variance_scale) @ "variances"  # (shape, scale)
        return {"weights": weights, "means": means, "variances": variances, "scales": jnp.sqrt(variances)}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"
        return mv_normal_diag(params["means"][z], params["scales"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        means = numpyro.sample("means", dist.Normal(centres, prior_sd).to_event(2))
        variances = numpyro.sample("variances", dist.InverseGamma(shapes, variance_scale).to_event(2))
        observe(x, weights, dist.Normal(means, jnp.sqrt(variances)).to_event(1))

    return mixture(name, 3, prior, observation, twin, data, title, description)


MODELS = {"faithful_spherical": faithful_spherical, "wine": wine, "thyroid": thyroid}
