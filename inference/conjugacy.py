"""Which prior site is conjugate to what, found from the declaration, and its conditional given responsibilities.

A rule is found when the two distributions are of the right classes, the component's argument *is* the site (checked
at prior draws), and nothing else moves when the site does. One definition serves every user: r (N, K) one-hot gives
the Gibbs conditional, r = responsibilities with the mode taken the M-step. Gelman et al. 2013, Bayesian Data
Analysis, sections 2.5 (Normal mean), 2.6 (Normal variance) and 3.4 (Dirichlet).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from zoo.probe import NUM_DRAWS

NUM_POINTS = 3  # prior draws at which a rule is probed


class Rule(NamedTuple):
    """How one prior site is updated given everything else."""

    site: str
    name: str  # as `zoo show` prints it
    conditional: Callable | None  # (params, r, x) -> NumPyro distribution of the site; None: M-step only
    mode: Callable | None  # (params, r, x, prior) -> the maximiser, prior=False for maximum likelihood


@functools.cache
def rules(model) -> tuple[Rule, ...]:
    """The rules that the declaration of `model` supports, in the order of its sites. Compiles one small program."""
    if not model.param_shapes or model.covariates_row is not None or set(model.observation_shapes) != {"x", "z"}:
        return ()
    if model.observation_shapes["x"].shape:  # the rules are for one number per observation
        return ()
    probed = _probe(model)
    found = (_rule_for(model, name, probed) for name in model.param_shapes)
    return tuple(rule for rule in found if rule is not None)


# -- the table of rules -----------------------------------------------------------------------------------


def normal_mean(model, site):
    """means[k] ~ Normal(m, s), x | z=k ~ Normal(means[k], sd[k]):
    precision = 1/s^2 + n_k/sd[k]^2, mean = (m/s^2 + sum_n r_nk x_n/sd[k]^2) / precision."""

    def conditional(params, r, x):
        m, s = _prior_arguments(model, params, site, "loc", "scale")
        sd = component_arguments(model, params, x)["scale"]
        precision = s**-2 + r.sum(0) * sd**-2
        return dist.Normal((m * s**-2 + (r.T @ x) * sd**-2) / precision, precision**-0.5)

    def mode(params, r, x, prior):
        if prior:
            return conditional(params, r, x).loc
        n = r.sum(0)
        return jnp.where(n > 0, (r.T @ x) / jnp.where(n > 0, n, 1.0), params[site])

    return Rule(site, "Normal mean", conditional, mode)


def inverse_gamma_variance(model, site):
    """variances[k] ~ InverseGamma(a, b), x | z=k ~ Normal(means[k], sqrt(variances[k])):
    InverseGamma(a + n_k/2, b + sum_n r_nk (x_n - means[k])^2 / 2), whose mode is scale/(shape + 1)."""

    def conditional(params, r, x):
        a, b = _prior_arguments(model, params, site, "concentration", "scale")
        return dist.InverseGamma(a + r.sum(0) / 2, b + _squares(model, params, r, x) / 2)

    def mode(params, r, x, prior):
        if prior:
            q = conditional(params, r, x)
            return q.rate / (q.concentration + 1)
        return _weighted(_squares(model, params, r, x), r, params[site])

    return Rule(site, "InverseGamma variance", conditional, mode)


def dirichlet_weights(model, site):
    """weights ~ Dirichlet(alpha), z ~ Categorical(weights): Dirichlet(alpha + n), mode proportional to that - 1."""

    def conditional(params, r, x):
        (alpha,) = _prior_arguments(model, params, site, "concentration")
        return dist.Dirichlet(alpha + r.sum(0))

    def mode(params, r, x, prior):
        counts = conditional(params, r, x).concentration - 1 if prior else r.sum(0)
        counts = jnp.maximum(counts, 0.0)  # below 1 the density rises to the border: stay on it
        return counts / counts.sum()

    return Rule(site, "Dirichlet weights", conditional, mode)


def gamma(model, site, likelihood):
    """rates[k] ~ Gamma(a, b): Gamma(a + c_k, b + t_k), mode (a + c_k - 1) / (b + t_k), maximum likelihood c_k / t_k.

    c_k and t_k by the likelihood (Gelman et al. 2013, sections 2.6 and 2.7):
    "Poisson"      x | z=k ~ Poisson(rates[k]):                 sum_n r_nk x_n and n_k;
    "exponential"  x | z=k ~ Exponential(rates[k]):             n_k and sum_n r_nk x_n;
    "precision"    x | z=k ~ Normal(means[k], rates[k]^-1/2):   n_k/2 and sum_n r_nk (x_n - means[k])^2 / 2.
    """

    def statistics(params, r, x):
        if likelihood == "precision":
            return r.sum(0) / 2, _squares(model, params, r, x) / 2
        return (r.T @ x, r.sum(0)) if likelihood == "Poisson" else (r.sum(0), r.T @ x)

    def conditional(params, r, x):
        a, b = _prior_arguments(model, params, site, "concentration", "rate")
        c, t = statistics(params, r, x)
        return dist.Gamma(a + c, b + t)

    def mode(params, r, x, prior):
        if prior:
            q = conditional(params, r, x)
            c, t = q.concentration - 1, q.rate
        else:
            c, t = statistics(params, r, x)
        inside = (c > 0) & (t > 0)  # else the density rises to the border: stay
        return jnp.where(inside, c / jnp.where(inside, t, 1.0), params[site])

    return Rule(site, f"Gamma {'precision' if likelihood == 'precision' else f'rate, {likelihood}'}", conditional, mode)


def normal_scale(model, site):
    """x | z=k ~ Normal(means[k], scales[k]) under any prior of the scale: the maximum likelihood M-step alone,
    scales[k]^2 = sum_n r_nk (x_n - means[k])^2 / n_k."""

    def mode(params, r, x, prior):
        return jnp.sqrt(_weighted(_squares(model, params, r, x), r, params[site] ** 2))

    return Rule(site, "Normal scale, maximum likelihood only", None, mode)


def _squares(model, params, r, x):
    loc = component_arguments(model, params, x)["loc"]
    return jnp.sum(r * (x[:, None] - loc) ** 2, axis=0)


def _weighted(total, r, otherwise):
    n = r.sum(0)
    return jnp.where(n > 0, total / jnp.where(n > 0, n, 1.0), otherwise)


def _prior_arguments(model, params, site, *names):
    arguments = model.prior_sites(params)[site].parameters
    return tuple(jnp.asarray(arguments[name]) for name in names)


def component_arguments(model, params, x):
    """Arguments by name of the distribution of x given z = k, each with leading axis K."""

    def one(k):
        return _arrays(model.observation_sites(params, k, {"x": x[0]})["x"])

    return jax.vmap(one)(jnp.arange(model.num_components, dtype=jnp.int32))


# -- finding them -----------------------------------------------------------------------------------------


class _Probed(NamedTuple):
    families: dict  # "x", "z" and every prior site -> class name
    values: dict  # site -> (P, ...) at P prior draws
    arguments: dict  # "x" (leading axis K), "z", prior sites -> {argument: (P, ...)}
    moved: dict  # the same arguments with one site replaced: site -> like `arguments`


def _probe(model) -> _Probed:
    families = {}

    def arguments(params):
        prior = model.prior_sites(params)
        x = jnp.zeros(1)
        observed = model.observation_sites(params, 0, {"x": x[0]})
        families.update({name: site.family for name, site in {**prior, **observed}.items()})
        return {**{k: _arrays(s) for k, s in prior.items()}, "z": _arrays(observed["z"])} | {
            "x": component_arguments(model, params, x)
        }

    @jax.jit
    def program(draws):
        here = {name: leaf[:NUM_POINTS] for name, leaf in draws.items()}
        there = {name: leaf[NUM_POINTS : 2 * NUM_POINTS] for name, leaf in draws.items()}
        tries = [here, *({**here, name: there[name]} for name in here)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tries)
        return here, jax.vmap(jax.vmap(arguments))(stacked)

    values, every = jax.tree.map(np.asarray, program(model.prior_draws(jax.random.key(3), NUM_DRAWS)))
    at = lambda i: jax.tree.map(lambda leaf: leaf[i], every)
    return _Probed(families, values, at(0), {name: at(1 + i) for i, name in enumerate(values)})


def _arrays(site):
    return {name: jnp.asarray(v) for name, v in site.parameters.items()}


def _rule_for(model, name, probed):
    """The rule for one prior site, or None."""
    family, component = probed.families[name], probed.families["x"]
    value = probed.values[name]
    x_arguments, z_arguments = probed.arguments["x"], probed.arguments["z"]

    def is_site(argument):
        return argument is not None and argument.shape == value.shape and np.allclose(argument, value, rtol=1e-5)

    if component == "Normal" and value.shape[1:] == (model.num_components,):
        if family == "Normal" and is_site(x_arguments["loc"]) and _alone(probed, name, "x", "loc"):
            return normal_mean(model, name)
        if family == "InverseGamma" and is_site(x_arguments["scale"] ** 2) and _alone(probed, name, "x", "scale"):
            return inverse_gamma_variance(model, name)
        if family == "Gamma" and is_site(x_arguments["scale"] ** -2) and _alone(probed, name, "x", "scale"):
            return gamma(model, name, "precision")
        if is_site(x_arguments["scale"]) and _alone(probed, name, "x", "scale"):
            return normal_scale(model, name)
    if family == "Gamma" and component in ("Poisson", "Exponential") and value.shape[1:] == (model.num_components,):
        if is_site(x_arguments.get("rate")) and _alone(probed, name, "x", "rate"):
            return gamma(model, name, "Poisson" if component == "Poisson" else "exponential")
    if family == "Dirichlet" and probed.families["z"] == "Categorical":
        if is_site(z_arguments.get("probs")) and _alone(probed, name, "z", "probs"):
            return dirichlet_weights(model, name)
    return None


def _alone(probed, name, site, argument):
    """Nothing but `argument` of `site` moved when prior site `name` did."""
    for other, arguments in probed.arguments.items():
        for key, before in arguments.items():
            if (other, key) != (site, argument) and not np.array_equal(before, probed.moved[name][other][key]):
                return False
    return True
