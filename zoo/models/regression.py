"""Mixtures of regressions: x["covariates"] is what the response x["x"] depends on, by lines or curves of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import dirichlet, gen, normal

from zoo import distributions as gx
from zoo.dataset import Dataset, shipped
from zoo.mixture import Mixture, builder, positive

TONE = """Tones that a musician tuned 150 times against stretched overtones: two rules, two lines.

    weights            ~ Dirichlet(1, 1)
    coefficients[k, j] ~ Normal(0, 2)                  intercept and slope
    variances[k]       ~ InverseGamma(2, 0.02)
    z[n]               ~ Categorical(weights)
    x[n]               ~ Normal(intercept + slope covariates[n], sd) of component z[n]

What makes it hard: one rule follows the stretch (slope 1, intercept 0), the other stays at the octave (slope 0,
intercept 2), and the lines cross at 2, so that points there belong to either. One component is very narrow beside the
other: the likelihood is unbounded, with maxima on a few collinear points. Intercept and slope are nearly collinear, as
the covariate is not centred.

Data: Cohen 1980. Model: De Veaux 1989, Computational Statistics & Data Analysis 8.
"""

NP_REG = """Simulated regression of two classes: a line, 5 c, and a parabola, 15 + 10 c - c^2, with noise.

    weights            ~ Dirichlet(1, 1)
    coefficients[k, j] ~ Normal(0, 20)                 of 1, c and c^2
    variances[k]       ~ InverseGamma(2, 5)
    z[n]               ~ Categorical(weights)
    x[n]               ~ Normal(coefficients[z[n]] . (1, c, c^2), sd[z[n]]),  c = covariates[n] in 0, ..., 10

What makes it hard: line and parabola cross within the range, where the points belong to either; the coefficients of
1, c and c^2 are strongly correlated. The published classes are known (`labels`), and nearly recovered.

Data: Leisch 2004, Journal of Statistical Software 11(8).
"""

EXPERTS = """Tones that a musician tuned 150 times: two lines, and which is followed depends on the stretch.

    gates[k, j]        ~ Normal(0, 3)
    coefficients[k, j] ~ Normal(0, 2)                  intercept and slope
    variances[k]       ~ InverseGamma(2, 0.02)
    z[n]               ~ Categorical(softmax over k of gates[k, 0] + gates[k, 1] (covariates[n] - 2))
    x[n]               ~ Normal(intercept + slope covariates[n], sd) of component z[n]

What makes it hard: what the lines of `tone` do, and the weights differ from row to row: there is no one vector of
mixing weights. The gates have a row per component, and only their differences matter to the likelihood: the prior alone
holds their sum. Relabelling exchanges the rows of all three parameters.

Data: Cohen 1980. Model: Jacobs, Jordan, Nowlan & Hinton 1991, Neural Computation 3 (mixtures of experts).
"""


def _line(c):
    return jnp.stack([jnp.ones_like(c), c], axis=-1)


def _parabola(c):
    return jnp.stack([jnp.ones_like(c), c, c**2], axis=-1)


@builder
def tone(*, concentration=1.0, coefficient_sd=2.0, variance_shape=2.0, variance_scale=0.02) -> Mixture:
    """Two lines for the tuned tones."""
    positive(concentration=concentration, coefficient_sd=coefficient_sd)
    positive(variance_shape=variance_shape, variance_scale=variance_scale)
    return _regression(
        "tone", _line, 2, concentration, coefficient_sd, variance_shape, variance_scale,
        _paired("tone", "stretchratio", "tuned"), "Tuned tones: two lines", TONE,
    )  # fmt: skip


@builder
def np_reg(*, concentration=1.0, coefficient_sd=20.0, variance_shape=2.0, variance_scale=5.0) -> Mixture:
    """Two parabolas, one of which is a line."""
    positive(concentration=concentration, coefficient_sd=coefficient_sd)
    positive(variance_shape=variance_shape, variance_scale=variance_scale)
    return _regression(
        "np_reg", _parabola, 3, concentration, coefficient_sd, variance_shape, variance_scale,
        _paired("np_reg", "x", "yn"), "A line and a parabola", NP_REG,
    )  # fmt: skip


def _regression(name, features, J, concentration, coefficient_sd, shape, scale, data, title, description) -> Mixture:
    """Two components x ~ Normal(coefficients[k] . features(c), sqrt(variances[k])), features(c) of shape (J,)."""

    @gen
    def prior():
        weights = dirichlet(np.full(2, concentration)) @ "weights"
        coefficients = normal(np.zeros((2, J)), coefficient_sd) @ "coefficients"
        variances = gx.inverse_gamma(concentration=np.full(2, shape), scale=scale) @ "variances"
        return {
            "weights": weights,
            "coefficients": coefficients,
            "variances": variances,
            "scales": jnp.sqrt(variances),
        }

    @gen
    def observation(params, c):
        z = gx.categorical(probs=params["weights"]) @ "z"
        return normal(params["coefficients"][z] @ features(c), params["scales"][z]) @ "x"

    def twin(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, concentration)))
        coefficients = numpyro.sample("coefficients", dist.Normal(np.zeros((2, J)), coefficient_sd).to_event(2))
        variances = numpyro.sample("variances", dist.InverseGamma(np.full(2, shape), scale).to_event(1))
        with numpyro.plate("rows", len(x["x"])):
            parts = dist.Categorical(probs=weights)
            curves = dist.Normal(features(x["covariates"]) @ coefficients.T, jnp.sqrt(variances))
            numpyro.sample("x", dist.MixtureSameFamily(parts, curves), obs=x["x"])

    return Mixture(
        name=name,
        num_components=2,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        data=data,
        family="regression",
        title=title,
        description=description,
        source=data.source,
        order_by="variances",
    )


@builder
def tone_experts(*, gate_sd=3.0, coefficient_sd=2.0, variance_shape=2.0, variance_scale=0.02, centre=2.0) -> Mixture:
    """Two lines for the tuned tones, whose weights depend on the stretch."""
    positive(gate_sd=gate_sd, coefficient_sd=coefficient_sd)
    positive(variance_shape=variance_shape, variance_scale=variance_scale)

    @gen
    def prior():
        gates = normal(np.zeros((2, 2)), gate_sd) @ "gates"
        coefficients = normal(np.zeros((2, 2)), coefficient_sd) @ "coefficients"
        variances = gx.inverse_gamma(concentration=np.full(2, variance_shape), scale=variance_scale) @ "variances"
        return {
            "gates": gates,
            "coefficients": coefficients,
            "variances": variances,
            "scales": jnp.sqrt(variances),
        }

    @gen
    def observation(params, c):
        z = gx.categorical(probs=jax.nn.softmax(params["gates"] @ _line(c - centre))) @ "z"
        return normal(params["coefficients"][z] @ _line(c), params["scales"][z]) @ "x"

    def twin(x):
        gates = numpyro.sample("gates", dist.Normal(np.zeros((2, 2)), gate_sd).to_event(2))
        coefficients = numpyro.sample("coefficients", dist.Normal(np.zeros((2, 2)), coefficient_sd).to_event(2))
        spread = dist.InverseGamma(np.full(2, variance_shape), variance_scale).to_event(1)
        variances = numpyro.sample("variances", spread)
        c = x["covariates"]
        with numpyro.plate("rows", len(x["x"])):
            parts = dist.Categorical(logits=_line(c - centre) @ gates.T)
            lines = dist.Normal(_line(c) @ coefficients.T, jnp.sqrt(variances))
            numpyro.sample("x", dist.MixtureSameFamily(parts, lines), obs=x["x"])

    data = _paired("tone", "stretchratio", "tuned")
    return Mixture(
        name="tone_experts",
        num_components=2,
        exchangeable=True,
        prior=prior,
        observation=observation,
        twin=twin,
        data=data,
        family="mixture of experts",
        title="Tuned tones: two lines whose weights depend on the stretch",
        description=EXPERTS,
        source=data.source,
        order_by="variances",
    )


def _paired(name, covariate, response) -> Dataset:
    """A shipped data set as response "x" and "covariates"."""
    table = shipped(name, (covariate, response))
    return Dataset(
        name=name,
        x={"x": table.x[:, 1], "covariates": table.x[:, 0]},
        units=table.units,
        labels=table.labels,
        source=table.source,
        licence=table.licence,
        categories=table.categories,
    )


MODELS = {"tone": tone, "np_reg": np_reg, "tone_experts": tone_experts}
