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
    coefficients[k, j] ~ Normal(0, 2)                  height at a stretch of 2, and slope
    variances[k]       ~ InverseGamma(2, 0.02)
    z[n]               ~ Categorical(weights)
    x[n]               ~ Normal(coefficients[z[n]] . (1, c), sd[z[n]]),  c = covariates[n] - 2

What makes it hard: one rule follows the stretch (slope 1), the other stays at the octave (slope 0), and the
lines cross at 2, so that points there belong to either. One component is narrow beside the other, and the likelihood
unbounded, with maxima on a few collinear points. One wide line through all points is a mode of its own, far below the
other, where a chain that starts there may stay.

Data: Cohen 1980. Model: De Veaux 1989, Computational Statistics & Data Analysis 8.
"""

NP_REG = """Simulated regression of two classes: a line, 5 t, and a parabola, 15 + 10 t - t^2, for t in 0 to 10.

    weights            ~ Dirichlet(1, 1)
    coefficients[k, j] ~ Normal(0, 30)                 true: (25, 25, 0) and (40, 0, -25)
    variances[k]       ~ InverseGamma(2, 5)
    z[n]               ~ Categorical(weights)
    x[n]               ~ Normal(coefficients[z[n]] . (1, c, c^2), sd[z[n]]),  c = covariates[n] / 5 - 1

What makes it hard: line and parabola cross within the range, where the points belong to either, and one wide curve
through all points is a mode of its own, which a sampler that starts there leaves late. The published classes (`labels`)
are nearly recovered.

Data: Leisch 2004, Journal of Statistical Software 11(8).
"""

EXPERTS = """Tones that a musician tuned 150 times: two lines, and which is followed depends on the stretch.

    gates[k, j]        ~ Normal(0, 3)
    coefficients[k, j] ~ Normal(0, 2)                  height at a stretch of 2, and slope
    variances[k]       ~ InverseGamma(2, 0.02)
    z[n]               ~ Categorical(softmax over k of gates[k] . (1, c)),  c = covariates[n] - 2
    x[n]               ~ Normal(coefficients[z[n]] . (1, c), sd[z[n]])

What makes it hard: what the lines of `tone` do, and the weights differ from row to row: there is no one vector of
mixing weights. The gates have a row per component, and only their differences matter to the likelihood: the prior alone
holds their sum. Relabelling exchanges the rows of all three parameters.

Data: Cohen 1980. Model: Jacobs, Jordan, Nowlan & Hinton 1991, Neural Computation 3 (mixtures of experts).
"""


def _line(stretch):
    """(1, c) in the last axis, c 0 where the lines cross."""
    c = stretch - 2.0
    return jnp.stack([jnp.ones_like(c), c], axis=-1)


def _parabola(t):
    """(1, c, c^2) in the last axis, c in [-1, 1]: of powers of t itself the coefficients are all but collinear."""
    c = t / 5.0 - 1.0
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
def np_reg(*, concentration=1.0, coefficient_sd=30.0, variance_shape=2.0, variance_scale=5.0) -> Mixture:
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
            "slopes": coefficients[:, 1],
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
        order_by="slopes",
    )


@builder
def tone_experts(*, gate_sd=3.0, coefficient_sd=2.0, variance_shape=2.0, variance_scale=0.02) -> Mixture:
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
            "slopes": coefficients[:, 1],
            "scales": jnp.sqrt(variances),
        }

    @gen
    def observation(params, c):
        z = gx.categorical(probs=jax.nn.softmax(params["gates"] @ _line(c))) @ "z"
        return normal(params["coefficients"][z] @ _line(c), params["scales"][z]) @ "x"

    def twin(x):
        gates = numpyro.sample("gates", dist.Normal(np.zeros((2, 2)), gate_sd).to_event(2))
        coefficients = numpyro.sample("coefficients", dist.Normal(np.zeros((2, 2)), coefficient_sd).to_event(2))
        spread = dist.InverseGamma(np.full(2, variance_shape), variance_scale).to_event(1)
        variances = numpyro.sample("variances", spread)
        c = x["covariates"]
        with numpyro.plate("rows", len(x["x"])):
            parts = dist.Categorical(logits=_line(c) @ gates.T)
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
        order_by="slopes",
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
