"""Which prior site is conjugate to what, found from the declaration; and parameters integrated out by what was found.

A rule of `inference.conditionals` is found when the two distributions are of the right classes, the component's
argument *is* the site (checked at prior draws), and nothing else moves when the site does.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from inference.conditionals import (
    Rule,
    arrays,
    beta_probability,
    component_arguments,
    dirichlet_items,
    dirichlet_weights,
    finite,
    gamma_rate,
    multivariate_mean,
    normal_mean,
    normal_scale,
    normal_spread,
    scale_of,
    totals,
    wishart_precision,
)
from zoo.mixture import outside_traces
from zoo.probe import NUM_DRAWS, draw_observations

__all__ = ["Rule", "collapsible", "component_arguments", "integrable", "log_marginal", "rules", "totals"]

NUM_POINTS = 16  # prior draws at which a rule is probed
NUM_CHECKS = 50  # points at which log joint - log conditional must be the same ...
TOLERANCE = {"float64": 1e-8, "float32": 1e-3}  # ... relative to 1 + |log joint|, by precision
CHECK_ROWS = 6  # observations in that check


@functools.cache
def rules(model) -> tuple[Rule, ...]:
    """The rules that the declaration of `model` supports, in the order of its sites. Compiles one small program."""
    if not model.param_shapes or model.covariates_row is not None or set(model.observation_shapes) != {"x", "z"}:
        return ()
    probed = outside_traces(_probe, model)
    found = (_rule_for(model, name, probed) for name in model.param_shapes)
    return tuple(rule for rule in found if rule is not None)


# -- parameters integrated out --------------------------------------------------------------------------------


def log_marginal(model, assignments, x):
    """log p(assignments, x) with every parameter integrated out, a scalar: log joint - log conditional at one point.

    The identity p(z, x) = p(params, z, x) / p(params | z, x) holds at any params (Besag 1989, Biometrika 76, the
    candidate's formula); the point taken is the posterior's own. Raises ValueError where `collapsible` says why not.
    """
    reason = collapsible(model)
    if reason:
        raise ValueError(f"the parameters of {model.name} cannot be integrated out: {reason}")
    r = jax.nn.one_hot(jnp.asarray(assignments), model.num_components, dtype=jnp.result_type(float))
    sums = totals_of(model, x, r)
    params = point(model, sums)
    return model.log_joint(params, jnp.asarray(assignments), x) - log_conditional(model, params, sums).sum()


@functools.cache
def collapsible(model) -> str | None:
    """None where every parameter can be integrated out of p(params, assignments, x); else the sentence why not.

    Every site needs a rule, and log joint - log conditional must be one number at 50 points of all parameters: rules
    that hold only given each other (a mean and a variance independent a priori) do not make a joint one.
    """
    if not model.param_shapes:
        return "no unknown parameter"
    found = {rule.site for rule in rules(model) if rule.collapsed is not None}
    missing = [name for name in model.param_shapes if name not in found]
    shared = [rule.site for rule in rules(model) if rule.conditional is not None and rule.site in missing]
    if shared:
        return f"{', '.join(shared)} is shared by all components"
    if missing:
        return f"{', '.join(missing)} has no conjugate prior"
    if outside_traces(_largest_change, model) > TOLERANCE[jnp.result_type(float).name]:
        sites = ", ".join(rule.site for rule in integrable(model))
        return f"{sites} are conjugate one given the others, not together"
    return None


@functools.cache
def integrable(model) -> tuple[Rule, ...]:
    """The rules with a collapsed form; one that integrates another site out comes before that site's own."""
    found = [rule for rule in rules(model) if rule.collapsed is not None]
    return tuple(sorted(found, key=lambda rule: not (rule.collapsed and rule.collapsed.integrates)))


def totals_of(model, x, r):
    """Sums of the collapsed rules' statistics over each component: site -> leaves (K, ...)."""
    return {site: totals(each, r) for site, each in statistics_of(model, x).items()}


def statistics_of(model, x):
    """What one observation adds to the totals of its component: site -> leaves (N, 1, ...)."""
    params = somewhere(model)  # no collapsed statistic depends on parameters where `collapsible` is None
    return {rule.site: rule.collapsed.statistics(params, x) for rule in integrable(model)}


def point(model, sums):
    """Parameters near the centre of p(params | totals): each site at its mean, given the sites before it."""
    params = somewhere(model)
    for rule in integrable(model):
        params = {**params, rule.site: centre(rule.collapsed.posterior(params, sums[rule.site]))}
    return params


def draw(model, key, sums):
    """An exact draw from p(params | totals)."""
    params = somewhere(model)
    for i, rule in enumerate(integrable(model)):
        drawn = rule.collapsed.posterior(params, sums[rule.site]).sample(jax.random.fold_in(key, i))
        params = {**params, rule.site: drawn.astype(params[rule.site].dtype)}
    return params


def log_conditional(model, params, sums):
    """log p(params of component k | totals), (K,) or more entries; the weights' own, one entry, come last."""
    each = [rule.collapsed.posterior(params, sums[rule.site]).log_prob(params[rule.site]) for rule in integrable(model)]
    return jnp.concatenate([jnp.ravel(value) for value in each])


def centre(q):
    """A value well inside q, defined for every parameter of q."""
    return q.rate / (q.concentration + 1) if isinstance(q, dist.InverseGamma) else q.mean


def somewhere(model):
    """Parameters of the right shapes, with values of a right kind: the first prior draw."""
    return {name: jnp.asarray(leaf) for name, leaf in _first_draw(model).items()}


@functools.cache
def _first_draw(model):
    draws = outside_traces(lambda: jax.tree.map(np.asarray, model.prior_draws(jax.random.key(3), NUM_DRAWS)))
    return {name: leaf[0] for name, leaf in draws.items()}


def _largest_change(model):
    """How far log joint - log conditional is from one number, relative to 1 + |log joint|."""

    @jax.jit
    def program(draws, key):
        first = {name: leaf[0] for name, leaf in draws.items()}
        z, x = draw_observations(model, first, key, CHECK_ROWS)
        r = jax.nn.one_hot(z, model.num_components, dtype=jnp.result_type(float))

        def at(params):
            each = {rule.site: totals(rule.collapsed.statistics(params, x), r) for rule in integrable(model)}
            return model.log_joint(params, z, x), log_conditional(model, params, each).sum()

        return jax.vmap(at)({name: leaf[:NUM_CHECKS] for name, leaf in draws.items()})

    joint, conditional = map(np.asarray, program(model.prior_draws(jax.random.key(3), NUM_DRAWS), jax.random.key(17)))
    gap = joint - conditional
    return float(np.max(np.abs(gap - gap[0]) / (1 + np.abs(joint) + np.abs(joint[0]))))


# -- finding them -----------------------------------------------------------------------------------------


class _Probed(NamedTuple):
    families: dict  # "x", "z" and every prior site -> class name
    values: dict  # site -> (P, ...) at P prior draws
    arguments: dict  # "x" (leading axis K), "z", prior sites -> {argument: (P, ...)}
    moved: dict  # the same arguments with one site replaced: site -> like `arguments`


def _probe(model) -> _Probed:
    families = {}
    shape = model.observation_shapes["x"]

    def arguments(params):
        prior = model.prior_sites(params)
        observed = model.observation_sites(params, 0, {"x": jnp.zeros(shape.shape, shape.dtype)})
        families.update({name: site.family for name, site in {**prior, **observed}.items()})
        return {**{k: arrays(s) for k, s in prior.items()}, "z": arrays(observed["z"])} | {
            "x": component_arguments(model, params)
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


def _rule_for(model, name, probed) -> Rule | None:
    """The rule for one prior site, or None."""
    family, component, value = probed.families[name], probed.families["x"], probed.values[name]
    event = model.observation_shapes["x"].shape

    def enters(site, argument):
        return _same(probed.arguments[site], argument, value) and _only(probed, name, {(site, argument)})

    if family == "Categorical" and value.ndim == 1:
        return finite(model, name, next(iter(probed.arguments[name].values())).shape[-1])
    if family == "Dirichlet" and probed.families["z"] == "Categorical" and enters("z", "probs"):
        return dirichlet_weights(model, name)
    shared = _shared_rule(model, name, probed)
    if shared is not None:
        return shared
    if value.shape[1:2] != (model.num_components,):
        return None
    if component == "MultivariateNormalFullCovariance":
        return _multivariate_rule(model, name, probed)
    if family == "Dirichlet" and component == "Categorical" and enters("x", "probs"):
        return dirichlet_items(model, name)
    if value.shape[2:] != event:
        return None
    if component in ("Normal", "MultivariateNormalDiag"):
        return _normal_rule(model, name, probed)
    if family == "Gamma" and component in ("Poisson", "Exponential") and enters("x", "rate"):
        return gamma_rate(model, name, "Poisson" if component == "Poisson" else "exponential")
    if family == "Beta" and component in ("Bernoulli", "Binomial") and enters("x", "probs"):
        return beta_probability(model, name, component)
    return None


def _shared_rule(model, name, probed):
    """The rule of a spread that is one for all components, or None."""
    family, component, value, x = (
        probed.families[name],
        probed.families["x"],
        probed.values[name],
        probed.arguments["x"],
    )
    same = lambda argument: (
        argument.shape[:1] + argument.shape[2:] == value.shape and np.allclose(argument, value[:, None], rtol=1e-5)
    )
    if component in ("Normal", "MultivariateNormalDiag") and family in ("InverseGamma", "Gamma"):
        spread = scale_of(x) ** (2 if family == "InverseGamma" else -2)
        scale = "scale" if "scale" in x else "scale_diag"
        if same(spread) and _only(probed, name, {("x", scale)}):
            return normal_spread(model, name, family, shared=True)
    if component == "MultivariateNormalFullCovariance" and family == "WishartTriL":
        own = {("x", "covariance_matrix")}
        if same(np.linalg.inv(x["covariance_matrix"])) and _only(probed, name, own):
            return wishart_precision(model, name, shared=True)
    return None


def _normal_rule(model, name, probed):
    family, value, x = probed.families[name], probed.values[name], probed.arguments["x"]
    if _same(x, "loc", value):
        return normal_mean(model, name) if family == "Normal" and _only(probed, name, {("x", "loc")}) else None
    scale = "scale" if "scale" in x else "scale_diag"
    sd = scale_of(x)
    own = {("x", scale)}
    if family in ("InverseGamma", "Gamma") and _equal(sd ** (2 if family == "InverseGamma" else -2), value):
        if _only(probed, name, own):
            return normal_spread(model, name, family)
        for mean in probed.values:
            if mean != name and probed.families[mean] == "Normal" and _same(x, "loc", probed.values[mean]):
                worth = [a["x"][scale] ** 2 / a[mean]["scale"] ** 2 for a in (probed.arguments, probed.moved[name])]
                if _only(probed, name, own | {(mean, "scale")}) and _constant(worth):
                    return normal_spread(model, name, family, mean)
        return None
    return normal_scale(model, name) if _equal(sd, value) and _only(probed, name, own) else None


def _multivariate_rule(model, name, probed):
    family, value, x = probed.families[name], probed.values[name], probed.arguments["x"]
    if _same(x, "loc", value):
        normal = family in ("Normal", "MultivariateNormalDiag", "MultivariateNormalFullCovariance")
        return multivariate_mean(model, name) if normal and _only(probed, name, {("x", "loc")}) else None
    own = {("x", "covariance_matrix")}
    if family != "WishartTriL" or not _equal(np.linalg.inv(x["covariance_matrix"]), value, 1e-3):
        return None
    if _only(probed, name, own):
        return wishart_precision(model, name)
    for mean in probed.values:
        if probed.families[mean] == "MultivariateNormalFullCovariance" and _same(x, "loc", probed.values[mean]):
            key = "covariance_matrix"
            worth = [a["x"][key] / a[mean][key] for a in (probed.arguments, probed.moved[name])]
            if _only(probed, name, own | {(mean, key)}) and _constant(worth):
                return wishart_precision(model, name, mean)
    return None


def _same(arguments, name, value):
    return name in arguments and _equal(arguments[name], value)


def _equal(argument, value, rtol=1e-5):
    return argument.shape == value.shape and np.allclose(argument, value, rtol=rtol)


def _constant(ratios):
    """Whether the prior of the mean is worth the same number of observations at every draw."""
    ratios = np.concatenate(ratios)
    return bool(np.allclose(ratios, ratios[:1], rtol=1e-4))


def _only(probed, name, places):
    """Nothing but the arguments `places`, of (site, argument), moved when prior site `name` did."""
    for site, arguments in probed.arguments.items():
        for argument, before in arguments.items():
            if (site, argument) not in places and not np.array_equal(before, probed.moved[name][site][argument]):
                return False
    return True
