"""Several measurements of each flower, crab, wine, bird or eruption, and a normal distribution of them in each group.

    weights ~ Dirichlet(1, ..., 1)
    z[n]    ~ Categorical(weights)
    x[n]    ~ MultivariateNormal(means[z[n]], covariances[z[n]])

The models differ in what they let a covariance be: any positive definite matrix of each group's own, one for all
groups, or correlations and scales apart (diagonals are in `diagonal_gaussian`). Where it is a matrix, its inverse is
the unknown: precisions[k] ~ Wishart(nu, S^-1), that is covariances[k] ~ InverseWishart(nu, S). The constants of the
priors are round numbers near the centre and the spread of the data.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import (
    categorical,
    dirichlet,
    gen,
    mv_normal,
    normal,
    tfp_distribution,
)
from tensorflow_probability.substrates.jax import distributions as tfd

from zoo.dataset import shipped
from zoo.distributions import log_normal
from zoo.mixture import Mixture, builder, positive

wishart = tfp_distribution(lambda df, scale_tril: tfd.WishartTriL(df, scale_tril))
lkj_cholesky = tfp_distribution(lambda concentration: tfd.CholeskyLKJ(2, concentration))

FAITHFUL = """Old Faithful: 272 eruptions, how long each lasted and how long the next was to wait for, of two kinds.

    weights       ~ Dirichlet(1, 1)
    precisions[k] ~ Wishart(4, S^-1), S = diag(.5, 6)^2           so E covariances[k] = S, in minutes squared
    means[k]      ~ MultivariateNormal((3.5, 70), 10 precisions[k]^-1)    worth a tenth of an eruption
    x[n]          ~ MultivariateNormal(means[z[n]], precisions[z[n]]^-1)

What makes it hard: nothing but the two labellings, far apart. Mean and covariance are conjugate together (Normal-
Wishart), so both can be integrated out. The data that every textbook shows; maximum likelihood is -1130.264068.

Origin: Azzalini & Bowman 1990, Applied Statistics 39; prior: Gelman et al. 2013, Bayesian Data Analysis, section 3.6.
"""
LKJ = """Old Faithful, with the scales of both measurements and their correlation under priors of their own.

    weights      ~ Dirichlet(1, 1)
    means[k]     ~ Normal((3.5, 70), (2, 20))
    scales[k]    ~ LogNormal(log (.4, 6), (.5, .5))    minutes: medians .4 and 6
    roots[k]     ~ LKJCholesky(6)                      Cholesky factor of the correlation matrix, density prop. to |R|^5
    x[n]         ~ MultivariateNormal(means[z[n]], L L'), L = diag(scales[z[n]]) roots[z[n]]

What makes it hard: nothing is conjugate, and a correlation matrix is an awkward space: the model for samplers that
follow gradients. Two ways lead to a singular covariance, and the prior closes both. Several eruptions are given the
same length: a log-normal prior of a scale vanishes at 0 faster than any power. And eight lie on one line, waiting =
36 + 10 eruption: under LKJ(eta) m pairs on a line have infinite mass from m = 2 eta + 2 on and a density without bound
from m = 2 eta - 1 on, here 14 and 11.

Origin: Lewandowski, Kurowicka & Joe 2009, Journal of Multivariate Analysis 100; data: Azzalini & Bowman 1990.
"""
IRIS = """Anderson's 150 irises, four measurements, three species that the model is not told of.

    weights       ~ Dirichlet(1, 1, 1)
    means[k]      ~ Normal((5.8, 3.1, 3.8, 1.2), (1, .5, 2, 1))    cm
    precisions[k] ~ Wishart(6, S^-1), S = .3^2 I
    x[n]          ~ MultivariateNormal(means[z[n]], precisions[z[n]]^-1)

What makes it hard: setosa stands apart, but versicolor and virginica touch, and with 44 free parameters other ways of
cutting the flowers into three fit nearly as well. The best known maximum likelihood is -180.1858.

Origin: Fisher 1936, Annals of Eugenics 7; Anderson 1935.
"""
CRABS = """Leptograpsus crabs of two colour forms and both sexes: five lengths, nearly proportional to each other.

    weights   ~ Dirichlet(1, 1, 1, 1)
    means[k]  ~ Normal((15, 13, 32, 36, 14), (4, 3, 8, 9, 4))    mm
    precision ~ Wishart(7, S^-1), S = .5^2 I                     one for all four groups
    x[n]      ~ MultivariateNormal(means[z[n]], precision^-1)

What makes it hard: size varies within a group far more than groups differ, and all lengths follow it (correlations
above .98): the groups show in the smallest directions only, and cutting by size is a mode of its own.

Origin: Campbell & Mahon 1974, Australian Journal of Zoology 22; four groups with a common covariance: McLachlan & Peel
2000, Finite Mixture Models.
"""
PENGUINS = """Penguins of three species at Palmer Station: bill, flipper and mass of the 342 birds that were measured.

    weights       ~ Dirichlet(1, 1, 1)
    means[k]      ~ Normal(0, 1.5)                      standardised units, four measurements
    precisions[k] ~ Wishart(6, S^-1), S = .5^2 I
    x[n]          ~ MultivariateNormal(means[z[n]], precisions[z[n]]^-1)

What makes it hard: Gentoo stand apart, while Adelie and Chinstrap differ in the bill alone; both sexes of each species
differ in size, so that six groups fit about as well as three.

Origin: Gorman, Williams & Fraser 2014, PLoS ONE 9(3). Two birds that lack all four measurements are left out.
"""


@gen
def any_covariance(params):
    """One observation under matrices of each component's own; x (D,)."""
    z = categorical(probs=params["weights"]) @ "z"  # named: a bare argument means logits
    return mv_normal(params["means"][z], params["covariances"][z]) @ "x"


def scale_tril(df, scales):
    """Cholesky factor of S^-1 for Wishart(df, S^-1), S = (df - D - 1) diag(scales)^2, so E covariance = scales^2."""
    D = len(scales)
    if df <= D + 1:
        raise ValueError(f"df should be above D + 1 = {D + 1} for a covariance with a mean, got {df:g}")
    return np.diag(1 / (np.sqrt(df - D - 1) * np.asarray(scales)))


def observe(x, weights, components):
    """The twin's observations, assignments summed out."""
    with numpyro.plate("observations", len(x)):
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(probs=weights), components), obs=x)


@builder
def faithful(*, concentration=1.0, prior_mean=(3.5, 70.0), worth=0.1, df=4.0, prior_scale=(0.5, 6.0)) -> Mixture:
    """Two full covariances, conjugate together with the means; the prior of a mean is worth `worth` observations."""
    positive(concentration=concentration, worth=worth, prior_scale=prior_scale)
    alpha, centre, root = np.full(2, concentration), np.array(prior_mean), scale_tril(df, prior_scale)

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        precisions = wishart(df, jnp.broadcast_to(root, (2, 2, 2))) @ "precisions"
        covariances = jnp.linalg.inv(precisions)
        means = mv_normal(jnp.asarray(centre), covariances / worth) @ "means"
        return {"weights": weights, "means": means, "precisions": precisions, "covariances": covariances}

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        each = dist.Wishart(df, scale_tril=jnp.asarray(root)).expand([2]).to_event(1)
        precisions = numpyro.sample("precisions", each)
        spread = dist.MultivariateNormal(jnp.asarray(centre), precision_matrix=worth * precisions)
        means = numpyro.sample("means", spread.to_event(1))
        observe(x, weights, dist.MultivariateNormal(means, precision_matrix=precisions))

    return mixture(
        "faithful", 2, prior, any_covariance, twin, shipped("faithful"), "Old Faithful, full covariances", FAITHFUL
    )


@builder
def faithful_lkj_6(
    *,
    concentration=1.0,
    prior_mean=(3.5, 70.0),
    prior_sd=(2.0, 20.0),
    median_scale=(0.4, 6.0),
    log_scale_sd=0.5,
    lkj=6.0,
) -> Mixture:
    """Two full covariances as scales and correlations, independent of the means."""
    positive(concentration=concentration, prior_sd=prior_sd, median_scale=median_scale)
    positive(log_scale_sd=log_scale_sd, lkj=lkj)
    alpha, centres, sds = np.full(2, concentration), np.tile(prior_mean, (2, 1)), np.tile(prior_sd, (2, 1))
    widths, shapes = np.log(np.tile(median_scale, (2, 1))), np.full(2, lkj)

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        means = normal(centres, sds) @ "means"
        scales = log_normal(loc=widths, scale=log_scale_sd) @ "scales"
        roots = lkj_cholesky(jnp.asarray(shapes)) @ "roots"
        factors = scales[:, :, None] * roots
        covariances = factors @ jnp.swapaxes(factors, 1, 2)
        return {"weights": weights, "means": means, "scales": scales, "covariances": covariances}

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        means = numpyro.sample("means", dist.Normal(centres, sds).to_event(2))
        scales = numpyro.sample("scales", dist.LogNormal(widths, log_scale_sd).to_event(2))
        roots = numpyro.sample("roots", dist.LKJCholesky(2, jnp.asarray(shapes)).to_event(1))
        observe(x, weights, dist.MultivariateNormal(means, scale_tril=scales[:, :, None] * roots))

    return mixture(
        "faithful_lkj_6",
        2,
        prior,
        any_covariance,
        twin,
        shipped("faithful"),
        "Old Faithful, scales and correlations",
        LKJ,
    )


@builder
def iris(
    *,
    concentration=1.0,
    prior_mean=(5.8, 3.1, 3.8, 1.2),
    prior_sd=(1.0, 0.5, 2.0, 1.0),
    df=6.0,
    prior_scale=(0.3, 0.3, 0.3, 0.3),
) -> Mixture:
    """Three full covariances, independent of the means."""
    how = (concentration, prior_mean, prior_sd, df, prior_scale)
    return _full("iris", shipped("iris"), "Anderson's irises, full covariances", IRIS, *how)


@builder
def penguins(*, concentration=1.0, prior_sd=1.5, df=6.0, prior_scale=0.5) -> Mixture:
    """Three full covariances, independent of the means; complete rows, standardised."""
    how = (concentration, (0.0,) * 4, (prior_sd,) * 4, df, (prior_scale,) * 4)
    data = shipped("penguins").complete().standardised()
    return _full("penguins", data, "Penguins, full covariances", PENGUINS, *how)


def _full(name, data, title, description, concentration, prior_mean, prior_sd, df, prior_scale) -> Mixture:
    positive(concentration=concentration, prior_sd=prior_sd, prior_scale=prior_scale)
    D, alpha, root = len(prior_mean), np.full(3, concentration), scale_tril(df, prior_scale)
    centres, sds = np.tile(prior_mean, (3, 1)), np.tile(prior_sd, (3, 1))

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        means = normal(centres, sds) @ "means"
        precisions = wishart(df, jnp.broadcast_to(root, (3, D, D))) @ "precisions"
        covariances = jnp.linalg.inv(precisions)
        return {"weights": weights, "means": means, "precisions": precisions, "covariances": covariances}

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        means = numpyro.sample("means", dist.Normal(centres, sds).to_event(2))
        each = dist.Wishart(df, scale_tril=jnp.asarray(root)).expand([3]).to_event(1)
        precisions = numpyro.sample("precisions", each)
        observe(x, weights, dist.MultivariateNormal(means, precision_matrix=precisions))

    return mixture(name, 3, prior, any_covariance, twin, data, title, description)


@builder
def crabs(
    *,
    concentration=1.0,
    prior_mean=(15.0, 13.0, 32.0, 36.0, 14.0),
    prior_sd=(4.0, 3.0, 8.0, 9.0, 4.0),
    df=7.0,
    prior_scale=0.5,
) -> Mixture:
    """Four groups with one common covariance."""
    positive(concentration=concentration, prior_sd=prior_sd, prior_scale=prior_scale)
    alpha, root = np.full(4, concentration), scale_tril(df, (prior_scale,) * 5)
    centres, sds = np.tile(prior_mean, (4, 1)), np.tile(prior_sd, (4, 1))

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        means = normal(centres, sds) @ "means"
        precision = wishart(df, jnp.asarray(root)) @ "precision"
        return {"weights": weights, "means": means, "precision": precision, "covariance": jnp.linalg.inv(precision)}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"
        return mv_normal(params["means"][z], params["covariance"]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        means = numpyro.sample("means", dist.Normal(centres, sds).to_event(2))
        precision = numpyro.sample("precision", dist.Wishart(df, scale_tril=jnp.asarray(root)))
        observe(x, weights, dist.MultivariateNormal(means, precision_matrix=precision))

    return mixture("crabs", 4, prior, observation, twin, shipped("crabs"), "Crabs, one common covariance", CRABS)


def mixture(name, num_components, prior, observation, twin, data, title, description) -> Mixture:
    return Mixture(
        name=name,
        num_components=num_components,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        data=data,
        family="multivariate gaussian",
        title=title,
        description=description,
        source=data.source,
    )


MODELS = {
    "faithful": faithful,
    "faithful_lkj_6": faithful_lkj_6,
    "iris": iris,
    "crabs": crabs,
    "penguins": penguins,
}
