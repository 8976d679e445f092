"""Galaxies once more, with more components than are needed: how many are occupied is for the posterior to say.

    means[k]     ~ Normal(20, 10)               1000 km/s, k = 0, ..., 9
    variances[k] ~ InverseGamma(3, 20)
    z[n]         ~ Categorical(weights)
    x[n]         ~ Normal(means[z[n]], sqrt(variances[z[n]]))

`galaxy_sparse` has weights that are nearly all 0 a priori; `galaxy_dirichlet_process` and `galaxy_pitman_yor` break
them off a stick, one piece after the other; `galaxy_finite_mixtures` has a prior on how many there are. The prior of
means and variances is Chib's, as in `galaxy_3`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import beta, categorical, dirichlet, gen, inverse_gamma, normal
from scipy import stats

from zoo import distributions as gx
from zoo.dataset import shipped
from zoo.mixture import Mixture, builder, positive
from zoo.probe import permute_leaves

COMMON = """    means[k]     ~ Normal(20, 10)               1000 km/s
    variances[k] ~ InverseGamma(3, 20)
    z[n]         ~ Categorical(weights)
    x[n]         ~ Normal(means[z[n]], sqrt(variances[z[n]]))
"""
SPARSE = f"""Velocities of 82 galaxies under ten components, most of them empty.

    weights      ~ Dirichlet(.1, ..., .1)       K = 10; --set concentration=.01 is sparser still
{COMMON}
What makes it hard: 10! labellings, and weights that pile up at 0, over hundreds of orders of magnitude: an empty
component is at the prior, a sampler has to let it find the data again, and floating point has to bear it.

Origin: Rousseau & Mengersen 2011, Journal of the Royal Statistical Society B 73; Malsiner-Walli, Fruehwirth-Schnatter &
Gruen 2016, Statistics and Computing 26.
"""
STICKS = f"""Velocities of 82 galaxies under a {{process}}, its stick broken off after {{pieces}} pieces.

    sticks[j]    ~ {{sticks}}
    weights[k]   = sticks[k] (1 - sticks[0]) ... (1 - sticks[k-1]), the last piece is what is left
{COMMON}
What makes it hard: the labels are not alike a priori, since earlier pieces tend to be larger, yet the data hardly tell
them apart: the posterior has a mode, of unequal height, for every order of the occupied components.

What the cut does: {{cut}}

Origin: {{origin}}
"""
DIRICHLET_CUT = """the density of N = 82 observations is within 4 N exp(-(T - 1) / concentration) = {bound:.1g} of the
process's in L1, T = {pieces} pieces (Ishwaran & James 2001). For figures about the process itself that should be below
1e-6: 21 pieces at concentration 1, by --set num_components=21. Back ends are held to the posterior of the pieces."""
PITMAN_YOR_CUT = """with a discount the pieces shrink like a power of their number, not exponentially, so that this is a
model of its own and not the process to any accuracy; --set num_components takes more."""
FINITE = f"""Velocities of 82 galaxies under an unknown number of components: a mixture of finite mixtures.

    extra        ~ Poisson(1), cut at 9         components beyond the first, so K = 1 + extra; 1e-7 is cut off
    masses[k]    ~ Gamma(1, 1)
    weights[k]   = masses[k] / (masses[0] + ... + masses[extra]) for k <= extra, else 0
{COMMON}
so that given K the weights are Dirichlet(1, ..., 1) over the first K components, and the others wait at the prior.

What makes it hard: the number of components is a parameter, beside others of which it decides how many matter. A
component is born with whatever mean, variance and mass it has meanwhile, and dies only when no observation is left in
it and none after it is occupied: labels are alike among the first K alone. Weights are exactly 0 beyond them: the
logarithms of the masses are masked, not the weights, so that no derivative meets the logarithm of 0.

Model: Miller & Harrison 2018, Journal of the American Statistical Association 113 (static, gamma = 1); Nobile 2004,
The Annals of Statistics 32.
"""


@builder
def galaxy_sparse(
    *,
    num_components=10,
    concentration=0.1,
    prior_mean=20.0,
    prior_sd=10.0,
    variance_shape=3.0,
    variance_scale=20.0,
) -> Mixture:
    """A sparse Dirichlet on the weights of too many components."""
    positive(concentration=concentration, prior_sd=prior_sd, num_components=num_components)
    positive(variance_shape=variance_shape, variance_scale=variance_scale)
    K = num_components
    alpha = np.full(K, concentration)
    components, twin_components = _clumps(K, prior_mean, prior_sd, variance_shape, variance_scale)

    @gen
    def prior():
        weights = dirichlet(alpha) @ "weights"
        return {"weights": weights, **components.inline()}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"  # named: a bare argument means logits
        return normal(params["means"][z], params["scales"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(alpha)))
        twin_components(x, dist.Categorical(probs=weights))

    return Mixture(
        name="galaxy_sparse",
        num_components=K,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        data=shipped("galaxy"),
        family="gaussian",
        title="Galaxies, more components than needed, sparse weights",
        description=SPARSE,
        source="Rousseau & Mengersen 2011; Malsiner-Walli, Fruehwirth-Schnatter & Gruen 2016",
        order_by="means",
    )


@builder
def galaxy_dirichlet_process(
    *,
    num_components=10,
    concentration=1.0,
    prior_mean=20.0,
    prior_sd=10.0,
    variance_shape=3.0,
    variance_scale=20.0,
) -> Mixture:
    """A Dirichlet process, truncated."""
    said = {"process": "Dirichlet process", "sticks": f"Beta(1, {concentration:g}), j = 0, ..., {num_components - 2}"}
    said["origin"] = "Ferguson 1973, The Annals of Statistics 1; Ishwaran & James 2001, JASA 96, for the truncation."
    bound = 4 * 82 * np.exp(-(num_components - 1) / concentration)
    said |= {"pieces": num_components, "cut": DIRICHLET_CUT.format(bound=bound, pieces=num_components)}
    how = (num_components, 0.0, concentration, prior_mean, prior_sd, variance_shape, variance_scale)
    return _sticks("galaxy_dirichlet_process", "Galaxies, truncated Dirichlet process", STICKS.format(**said), *how)


@builder
def galaxy_pitman_yor(
    *,
    num_components=10,
    discount=0.25,
    concentration=1.0,
    prior_mean=20.0,
    prior_sd=10.0,
    variance_shape=3.0,
    variance_scale=20.0,
) -> Mixture:
    """A Pitman-Yor process, truncated."""
    if not 0 <= discount < 1:
        raise ValueError(f"discount should be 0 or more and below 1, got {discount:g}")
    said = {
        "process": "Pitman-Yor process",
        "origin": "Pitman & Yor 1997, The Annals of Probability 25; Ishwaran & James",
    }
    said["origin"] += " 2001, JASA 96, for the truncation."
    said["sticks"] = (
        f"Beta({1 - discount:g}, {concentration:g} + {discount:g} (j + 1)), j = 0, ..., {num_components - 2}"
    )
    said |= {"pieces": num_components, "cut": PITMAN_YOR_CUT}
    how = (num_components, discount, concentration, prior_mean, prior_sd, variance_shape, variance_scale)
    return _sticks("galaxy_pitman_yor", "Galaxies, truncated Pitman-Yor process", STICKS.format(**said), *how)


def _sticks(
    name, title, description, K, discount, concentration, prior_mean, prior_sd, variance_shape, variance_scale
) -> Mixture:
    positive(concentration=concentration, prior_sd=prior_sd)
    positive(variance_shape=variance_shape, variance_scale=variance_scale)
    if K < 2:
        raise ValueError(f"num_components should be 2 or more, got {K}")
    ones, rest = np.full(K - 1, 1 - discount), concentration + discount * np.arange(1.0, K)
    components, twin_components = _clumps(K, prior_mean, prior_sd, variance_shape, variance_scale)

    @gen
    def prior():
        sticks = beta(ones, rest) @ "sticks"
        left = jnp.concatenate([jnp.ones(1), jnp.cumprod(1 - sticks)])
        return {"weights": left * jnp.append(sticks, 1.0), **components.inline()}

    @gen
    def observation(params):
        z = categorical(probs=params["weights"]) @ "z"
        return normal(params["means"][z], params["scales"][z]) @ "x"

    def twin(x):
        sticks = numpyro.sample("sticks", dist.Beta(ones, rest).to_event(1))
        left = jnp.append(0.0, jnp.cumsum(jnp.log1p(-sticks)))
        twin_components(x, dist.Categorical(logits=left + jnp.append(jnp.log(sticks), 0.0)))

    return Mixture(
        name=name,
        num_components=K,
        exchangeable=False,
        prior=prior,
        observation=observation,
        twin=twin,
        data=shipped("galaxy"),
        family="gaussian",
        title=title,
        description=description,
        source="Ishwaran & James 2001, Journal of the American Statistical Association 96",
        order_by="means",
    )


@builder
def galaxy_finite_mixtures(
    *,
    num_components=10,
    rate=1.0,
    concentration=1.0,
    prior_mean=20.0,
    prior_sd=10.0,
    variance_shape=3.0,
    variance_scale=20.0,
) -> Mixture:
    """A prior on the number of components, `num_components` at most."""
    positive(rate=rate, concentration=concentration, prior_sd=prior_sd, num_components=num_components)
    positive(variance_shape=variance_shape, variance_scale=variance_scale)
    K = num_components
    pmf = stats.poisson.pmf(np.arange(K), rate)
    probs, alpha = pmf / pmf.sum(), np.full(K, concentration)
    components, twin_components = _clumps(K, prior_mean, prior_sd, variance_shape, variance_scale)

    @gen
    def prior():
        extra = gx.categorical(probs=probs) @ "extra"
        masses = gx.gamma(concentration=alpha, rate=1.0) @ "masses"
        logits = jnp.where(jnp.arange(K) <= extra, jnp.log(masses), -jnp.inf)
        return {"logits": logits, "weights": jax.nn.softmax(logits), "number": 1 + extra, **components.inline()}

    @gen
    def observation(params):
        z = categorical(logits=params["logits"]) @ "z"
        return normal(params["means"][z], params["scales"][z]) @ "x"

    def twin(x):
        extra = numpyro.sample("extra", dist.Categorical(probs=jnp.asarray(probs)))
        masses = numpyro.sample("masses", dist.Gamma(alpha, 1.0).to_event(1))
        twin_components(x, dist.Categorical(logits=jnp.where(jnp.arange(K) <= extra, jnp.log(masses), -jnp.inf)))

    return Mixture(
        name="galaxy_finite_mixtures",
        num_components=K,
        exchangeable=False,
        prior=prior,
        observation=observation,
        twin=twin,
        data=shipped("galaxy"),
        family="gaussian",
        title="Galaxies, a mixture of finite mixtures",
        description=FINITE,
        source="Miller & Harrison 2018, Journal of the American Statistical Association 113",
        permute=lambda params, s: permute_leaves(params, s, ("masses", "means", "variances")),
        order_by="means",
    )


def _clumps(K, prior_mean, prior_sd, variance_shape, variance_scale):
    """Means and variances of K normal components: their prior, and the twin's share with the data."""
    centres, shapes = np.full(K, prior_mean), np.full(K, variance_shape)

    @gen
    def components():
        means = normal(centres, prior_sd) @ "means"
        variances = inverse_gamma(shapes, variance_scale) @ "variances"  # (shape, scale)
        return {"means": means, "variances": variances, "scales": jnp.sqrt(variances)}

    def twin(x, kinds):
        means = numpyro.sample("means", dist.Normal(centres, prior_sd).to_event(1))
        variances = numpyro.sample("variances", dist.InverseGamma(shapes, variance_scale).to_event(1))
        with numpyro.plate("galaxies", len(x)):
            numpyro.sample("x", dist.MixtureSameFamily(kinds, dist.Normal(means, jnp.sqrt(variances))), obs=x)

    return components, twin


MODELS = {
    "galaxy_sparse": galaxy_sparse,
    "galaxy_dirichlet_process": galaxy_dirichlet_process,
    "galaxy_pitman_yor": galaxy_pitman_yor,
    "galaxy_finite_mixtures": galaxy_finite_mixtures,
}
