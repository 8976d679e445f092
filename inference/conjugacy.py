"""Which prior site is conjugate to what, found from the declaration.

A rule of `inference.conditionals` is found when the two distributions are of the right classes, the component's
argument *is* the site (checked at prior draws), and nothing else moves when the site does. Where a look at arguments
does not see everything (a density of the user's own, a distribution inside another), log joint must change with the
site as log conditional does.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from inference.conditionals import (
    Rule,
    arrays,
    beta_probability,
    design,
    dirichlet_items,
    dirichlet_weights,
    filled,
    finite,
    first_row,
    gamma_rate,
    multivariate_mean,
    normal_coefficients,
    normal_mean,
    normal_scale,
    normal_spread,
    row_arguments,
    scale_of,
    wishart_precision,
)
from zoo.mixture import split
from zoo.probe import NUM_DRAWS, draw_observations, outside_traces

NUM_POINTS = 16  # prior draws at which a rule is probed
TOLERANCE = {"float64": 1e-8, "float32": 1e-3}  # of log joint - log conditional, relative to 1 + |log joint|
CHECK_ROWS = 6  # observations in the check that log joint changes as log conditional does
PROBE_ROWS = 33  # rows of data beside every prior draw, where arguments may differ from row to row
# arguments that the rules take of a prior: a Gamma of log_rate, or a normal without a location, finds none
GIVEN = {
    "Gamma": ("concentration", "rate"),
    "MultivariateNormalDiag": ("loc", "scale_diag"),
    "MultivariateNormalFullCovariance": ("loc", "covariance_matrix"),
}


@functools.cache
def rules(model) -> tuple[Rule, ...]:
    """The rules that the declaration of `model` supports, in the order of its sites. Compiles one small program."""
    if not model.param_shapes:
        return ()
    probed = outside_traces(_probe, model)
    found = [rule for name in model.param_shapes if (rule := _rule_for(model, name, probed)) is not None]
    drawn = tuple(rule for rule in found if rule.conditional is not None)
    if not drawn or not probed.opaque:
        return tuple(found)
    errors = outside_traces(_errors, model, drawn)
    return tuple(rule for rule in found if errors.get(rule.site, 0.0) <= TOLERANCE[jnp.result_type(float).name])


# -- finding them -----------------------------------------------------------------------------------------


class _Probed(NamedTuple):
    """The declaration at P points: prior draws, each beside every one of a few rows of data."""

    families: tuple  # of the sites of the prior, of those of the observation: name -> class name
    values: dict  # site of the prior -> (P, ...)
    prior: dict  # its arguments: site -> {argument: (P, ...)}
    observed: dict  # those of the observation: site -> {argument: (P, K, ...)}, "z" (P, ...)
    moved: dict  # site replaced -> (`prior`, `observed`) then
    opaque: bool  # whether a density may depend on more than the arguments say


@functools.cache
def _probe(model) -> _Probed:
    prior_families, families, opaque = {}, {}, []

    def arguments(params, rows):
        prior = model.prior_sites(params)
        observed = model.observation_sites(params, 0, *jax.tree.map(lambda leaf: leaf[0], split(rows)))
        prior_families.update({name: site.family for name, site in prior.items()})
        families.update({name: site.family for name, site in observed.items()})
        opaque.extend(map(_opaque, [*prior.values(), *observed.values()]))
        of_rows = {name: row_arguments(model, params, rows, name) for name in observed}
        of_rows["z"] = {argument: leaf[:, 0] for argument, leaf in of_rows["z"].items()}
        num_rows = len(next(iter(of_rows["z"].values()), [0]))
        repeated = {k: {a: jnp.stack([leaf] * num_rows) for a, leaf in arrays(s).items()} for k, s in prior.items()}
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * num_rows), params), repeated, of_rows

    @jax.jit
    def program(draws, rows):
        here = {name: leaf[:NUM_POINTS] for name, leaf in draws.items()}
        there = {name: leaf[NUM_POINTS : 2 * NUM_POINTS] for name, leaf in draws.items()}
        tries = [here, *({**here, name: there[name]} for name in here)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tries)
        found = jax.vmap(jax.vmap(lambda params: arguments(params, rows)))(stacked)
        return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[:1] + (-1,) + leaf.shape[3:]), found)

    every = jax.tree.map(np.asarray, program(model.prior_draws(jax.random.key(3), NUM_DRAWS), _some_rows(model)))
    at = lambda i: jax.tree.map(lambda leaf: leaf[i], every)
    values, prior, observed = at(0)
    moved = {name: at(1 + i)[1:] for i, name in enumerate(values)}
    return _Probed((prior_families, families), values, prior, observed, moved, any(opaque))


def _opaque(site):
    plain = bool | int | float | str | np.generic | np.ndarray | np.dtype | type | jax.Array | None
    return site.distribution is None or any(not isinstance(v, plain) for v in site.distribution.parameters.values())


def _some_rows(model):
    """Rows on which arguments may depend beside the parameters: the row of `component_arguments`, and such that every
    column runs through its values in the data (or in a few drawn observations), spread evenly where they are many, and
    one on either side of them (other data may have it), each in an order of its own."""
    x = few_drawn(model)[1] if model.data is None else model.data.x
    if not isinstance(x, dict):
        return x[:1]
    rng = np.random.default_rng(0)

    def column(values):
        found = np.unique(values[np.isfinite(values)])
        spread = found[np.linspace(0, len(found) - 1, PROBE_ROWS - 2).round().astype(int)]
        beyond = found[-1] - found[0] + 1
        return rng.permutation([found[0] - beyond, *spread, found[-1] + beyond])

    def rows(leaf, first):
        leaf = np.asarray(leaf)
        columns = np.asarray(leaf, float).reshape(len(leaf), -1).T
        found = np.stack(list(map(column, columns)), axis=1).reshape(-1, *leaf.shape[1:])
        return np.concatenate([first, found.astype(first.dtype)])

    return jax.tree.map(rows, dict(x), first_row(model))


def _errors(model, found):
    """site -> how far log p(params, z, x) - log q(site | the rest) is from the same with another value of the site,
    relative to 1 + |log joint|; infinite where the joint density is 0 at one of them alone, no matter where at both."""

    @jax.jit
    def program(draws, z, x):
        r = jax.nn.one_hot(z, model.num_components, dtype=jnp.result_type(float))
        here, there = ({k: leaf[i : i + NUM_POINTS] for k, leaf in draws.items()} for i in (0, NUM_POINTS))
        tries = {rule.site: {**here, rule.site: there[rule.site]} for rule in found}
        joint = jax.vmap(lambda params: model.log_joint(params, z, x))
        before, errors = joint(here), {}
        for rule in found:

            def change(params, moved, rule=rule):
                q = rule.conditional(params, r, x)
                return q.log_prob(moved[rule.site]).sum() - q.log_prob(params[rule.site]).sum()

            after = joint(tries[rule.site])
            gap = jnp.abs(after - before - jax.vmap(change)(here, tries[rule.site]))
            error = jnp.where(jnp.isfinite(before + after), gap / (1 + jnp.abs(before) + jnp.abs(after)), jnp.inf)
            errors[rule.site] = jnp.where((before == -jnp.inf) & (after == -jnp.inf), 0.0, error).max()
        return errors

    errors = program(model.prior_draws(jax.random.key(3), NUM_DRAWS), *few_drawn(model))
    return {site: float(error) for site, error in errors.items()}


def somewhere(model):
    """Parameters of the right shapes, with values of a right kind: the first prior draw."""
    return {name: jnp.asarray(leaf) for name, leaf in _first_draw(model).items()}


@functools.cache
def _first_draw(model):
    draws = outside_traces(lambda: jax.tree.map(np.asarray, model.prior_draws(jax.random.key(3), NUM_DRAWS)))
    return {name: leaf[0] for name, leaf in draws.items()}


@functools.cache
def few_drawn(model):
    """A few assignments and observations, at the first prior draw."""
    draw = jax.jit(lambda key: draw_observations(model, somewhere(model), key, CHECK_ROWS))
    return jax.tree.map(np.asarray, draw(jax.random.key(17)))


def _rule_for(model, name, probed) -> Rule | None:
    """The rule for one prior site, or None."""
    family, value = probed.families[0][name], probed.values[name]
    if family == "Categorical" and value.ndim == 1:
        return finite(model, name, next(iter(probed.prior[name].values())).shape[-1])
    if any(argument not in probed.prior[name] for argument in GIVEN.get(family, ())):
        return None
    if family == "Dirichlet" and probed.families[1]["z"] == "Categorical" and _enters(probed, name, "z", "probs"):
        return dirichlet_weights(model, name)
    found = (_rule_of(model, name, of, probed) for of in probed.observed if of != "z")
    return next((rule for rule in found if rule is not None), None)


def _rule_of(model, name, of, probed) -> Rule | None:
    """The rule for a prior site that is, or makes, an argument of the observation's site `of`; or None."""
    family, component, value = probed.families[0][name], probed.families[1][of], probed.values[name]
    shared = _shared_rule(model, name, of, probed)
    if shared is not None:
        return shared
    if value.shape[1:2] != (model.num_components,):
        return None
    if component == "MultivariateNormalFullCovariance":
        return _multivariate_rule(model, name, of, probed)
    if family == "Dirichlet" and component == "Categorical" and _enters(probed, name, of, "probs"):
        return dirichlet_items(model, name, of)
    if component == "Normal" and family == "Normal" and value.ndim == 3 and _linear(model, name, of, probed):
        return normal_coefficients(model, name, of)
    if value.shape[2:] != model.observation_shapes[of].shape:
        return None
    if component in ("Normal", "MultivariateNormalDiag"):
        return _normal_rule(model, name, of, probed)
    if family == "Gamma" and component in ("Poisson", "Exponential") and _enters(probed, name, of, "rate"):
        return gamma_rate(model, name, of, "Poisson" if component == "Poisson" else "exponential")
    if family == "Beta" and component in ("Bernoulli", "Binomial") and _enters(probed, name, of, "probs"):
        return beta_probability(model, name, of, component)
    return None


def _shared_rule(model, name, of, probed):
    """The rule of a spread that is one for all components, or None."""
    family, component = probed.families[0][name], probed.families[1][of]
    value, x = probed.values[name], probed.observed[of]
    same = lambda argument: (
        argument.shape[:1] + argument.shape[2:] == value.shape and np.allclose(argument, value[:, None], rtol=1e-5)
    )
    normal = component in ("Normal", "MultivariateNormalDiag") and scale_of(x) is not None
    if normal and family in ("InverseGamma", "Gamma") and value.shape[1:] == model.observation_shapes[of].shape:
        spread = scale_of(x) ** (2 if family == "InverseGamma" else -2)
        if same(spread) and _only(probed, name, (of, _scale(x))):
            return normal_spread(model, name, of, family, shared=True)
    if component == "MultivariateNormalFullCovariance" and family == "WishartTriL":
        if same(np.linalg.inv(x["covariance_matrix"])) and _only(probed, name, (of, "covariance_matrix")):
            return wishart_precision(model, name, of, shared=True)
    return None


def _normal_rule(model, name, of, probed):
    family, value, x = probed.families[0][name], probed.values[name], probed.observed[of]
    if scale_of(x) is None:
        return None
    sd, own = scale_of(x), (of, _scale(x))
    if _same(x, "loc", value):
        found = family == "Normal" and _enters(probed, name, of, "loc") and _same_in_rows(probed, sd)
        return normal_mean(model, name, of) if found else None
    if family in ("InverseGamma", "Gamma") and _equal(sd ** (2 if family == "InverseGamma" else -2), value):
        if _only(probed, name, own):
            return normal_spread(model, name, of, family)
        for mean in probed.values:
            if mean != name and probed.families[0][mean] == "Normal" and _same(x, "loc", probed.values[mean]):
                worth = lambda prior, observed: _ratio(observed[of][_scale(x)] ** 2, prior[mean]["scale"] ** 2)  # noqa: B023
                if _only(probed, name, own, (mean, "scale")) and _constant(probed, name, worth):
                    return normal_spread(model, name, of, family, mean)
        return None
    return normal_scale(model, name, of) if _equal(sd, value) and _only(probed, name, own) else None


def _multivariate_rule(model, name, of, probed):
    family, value, x = probed.families[0][name], probed.values[name], probed.observed[of]
    key = "covariance_matrix"
    if _same(x, "loc", value):
        normal = family in ("Normal", "MultivariateNormalDiag", "MultivariateNormalFullCovariance")
        found = normal and _enters(probed, name, of, "loc") and _same_in_rows(probed, x[key])
        return multivariate_mean(model, name, of) if found else None
    if family != "WishartTriL" or not _equal(np.linalg.inv(x[key]), value, 1e-3):
        return None
    if _only(probed, name, (of, key)):
        return wishart_precision(model, name, of)
    for mean in probed.values:
        if probed.families[0][mean] == "MultivariateNormalFullCovariance" and _same(x, "loc", probed.values[mean]):
            worth = lambda prior, observed: _ratio(observed[of][key], prior[mean][key])  # noqa: B023
            if _only(probed, name, (of, key), (mean, key)) and _constant(probed, name, worth):
                return wishart_precision(model, name, of, mean)
    return None


def _enters(probed, name, of, argument):
    """Whether site `name` is that argument of the observation's site `of`, and nothing else."""
    return _same(probed.observed[of], argument, probed.values[name]) and _only(probed, name, (of, argument))


def _same_in_rows(probed, argument):
    """Whether an argument (P, K, ...) is the same in every row of data; points are draws beside rows."""
    by_draw = argument.reshape(NUM_POINTS, -1, *argument.shape[1:])
    return bool(np.all(by_draw == by_draw[:, :1]))


def _linear(model, name, of, probed):
    """Whether the site is in the location of `of` alone, and there row k linearly in that of component k."""
    if model.observation_shapes[of].shape or not _only(probed, name, (of, "loc")):
        return False
    rows = _some_rows(model)

    def gap(params):
        loc = row_arguments(model, params, rows, of)["loc"]
        features, offset = design(model, params, rows, name, of)
        terms = features * params[name]
        return jnp.abs(loc - offset - terms.sum(-1)) / (1 + jnp.abs(loc) + jnp.abs(offset) + jnp.abs(terms).sum(-1))

    draws = model.prior_draws(jax.random.key(3), NUM_DRAWS)
    largest = jax.jit(jax.vmap(gap))({k: leaf[:NUM_POINTS] for k, leaf in draws.items()}).max()
    return bool(largest <= 64 * jnp.finfo(jnp.result_type(float)).eps)


def _scale(arguments):
    return "scale" if "scale" in arguments else "scale_diag"


def _same(arguments, name, value):
    """Whether the argument is the value: a location exactly, since a shift counts in units of the component's sd."""
    exact = name == "loc"
    return name in arguments and (np.array_equal if exact else _equal)(arguments[name], value)


def _equal(argument, value, rtol=1e-5):
    return argument.shape == value.shape and np.allclose(argument, value, rtol=rtol)


def _ratio(argument, prior):
    return argument / np.asarray(filled(prior, argument))


def _constant(probed, name, worth):
    """Whether the prior of the mean is worth the same number of observations at every draw, `name` moved or not."""
    ratios = np.concatenate([worth(probed.prior, probed.observed), worth(*probed.moved[name])])
    return bool(np.allclose(ratios, ratios[:1], rtol=1e-4))


def _only(probed, name, in_observed, in_prior=None):
    """Nothing but the argument `in_observed` (and `in_prior`), of (site, argument), moved when site `name` did."""
    prior, observed = probed.moved[name]
    for before, after, place in ((probed.prior, prior, in_prior), (probed.observed, observed, in_observed)):
        for site, arguments in before.items():
            for argument, value in arguments.items():
                if (site, argument) != place and not np.array_equal(value, after[site][argument]):
                    return False
    return True
