"""What data a model takes: the support of each family of distributions, and the sentence for what lies outside it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zoo import introspect, tables
from zoo.probe import NUM_DRAWS, NUM_ROWS, outside_traces

COUNTS = {"Poisson", "Binomial", "BetaBinomial", "NegativeBinomial", "Bernoulli", "Categorical", "Geometric"}
_POSITIVE = {"LogNormal", "InverseGamma"}
_NONNEGATIVE = {"Exponential", "Gamma", "Weibull"}
_UNIT = {"Beta", "Kumaraswamy", "LogitNormal"}
_SAYS = (
    ({"Bernoulli"}, "its values are 0 and 1"),
    (COUNTS, "counts are 0, 1, 2, ..."),
    (_NONNEGATIVE, "its values are 0 or more"),
    (_POSITIVE, "its values are above 0"),
    (_UNIT, "its values lie between 0 and 1"),
    ({"VonMises"}, "angles are radians from -pi to pi"),
)
# families with a support of their own, whatever the parameters, that the density itself is asked about
_ASKED = {"Chi2", "Gamma", "HalfCauchy", "HalfNormal", "HalfStudentT", "Weibull"}
_LINE = {"Cauchy", "Laplace", "Logistic", "MultivariateNormalDiag", "MultivariateNormalFullCovariance", "Normal"}
_KNOWN = COUNTS | _POSITIVE | _NONNEGATIVE | _UNIT | _ASKED | _LINE | {"StudentT", "VonMises"}
_SUMMED = {"Multinomial", "DirichletMultinomial"}  # whose counts sum to the number of trials
OUT_OF_TRIALS = {"Binomial", "BetaBinomial"}
_WITH_TRIALS = _SUMMED | OUT_OF_TRIALS


class Shape(NamedTuple):
    """A site of the observation: shape and dtype of its value, its distribution's class name, its L if categorical."""

    shape: tuple[int, ...]
    dtype: Any
    family: str
    num_categories: int | None = None


def inside(family, value):
    """A draw of shares of `family`, moved off the border of its support, where underflow or rounding may put it and its
    density is 0 or infinite: to the nearest number of its precision inside. Under Dirichlet(.01, .01) one weight in
    2,400 is below every float64."""
    if family == "Dirichlet":
        return jnp.maximum(value, jnp.finfo(value.dtype).tiny)
    if family == "Beta":
        return jnp.clip(value, jnp.finfo(value.dtype).tiny, 1 - jnp.finfo(value.dtype).epsneg)
    return value


def num_categories(site) -> int | None:
    tables = [site.parameters[k] for k in ("probs", "logits") if k in site.parameters]
    return int(np.shape(tables[0])[-1]) if site.family == "Categorical" and tables else None


def check(model, x, name: str = "x") -> Any:
    """`x` as arrays of the model's shape, or ValueError with one sentence: what `Mixture.check` does."""
    if tables.is_frame(x):
        x = model.of_frame(x, name).x
    names, choices = model.observation_names, model.num_assignments
    if choices not in (None, model.num_components):
        raise ValueError(
            f"{model.name}: num_components is {model.num_components}, but its assignment z is one of {choices}; "
            "the two should be the same"
        )
    if set(names) == {"x"} and model.covariates_row is None and not isinstance(x, dict):
        return _check_density(model, _check_leaf(model, x, "x", name), name)
    expected = [*names, *(["covariates"] if model.covariates_row is not None else [])]
    if not isinstance(x, dict):
        raise ValueError(f"{name} should be a dict with the keys {', '.join(expected)}, got {type(x).__name__}")
    if sorted(x) != sorted(expected):
        raise ValueError(f"{name} should have the keys {', '.join(expected)}, got {', '.join(map(str, x))}")
    checked = {k: _check_leaf(model, x[k], k, f"{name}[{k!r}]") for k in names}
    if "covariates" in x:
        checked["covariates"] = _check_covariates(model, x["covariates"], f"{name}['covariates']")
    lengths = {k: len(leaf) for k, leaf in checked.items() if k != "covariates"}
    covariates = jax.tree.leaves(checked.get("covariates", []))
    lengths |= {f"covariates[{i}]": len(leaf) for i, leaf in enumerate(covariates)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the entries of {name} should have one length N, got {lengths}")
    return _check_density(model, checked, name)


def _check_covariates(model, covariates, name):
    """`covariates` as arrays whose rows are like those of the model's data, finite; ValueError otherwise."""
    rows, structure = jax.tree.flatten(model.covariates_row)
    leaves, given = jax.tree.flatten(covariates, is_leaf=lambda leaf: not isinstance(leaf, dict))
    if given != structure:
        raise ValueError(f"{name} should be built like those of {model.name}'s own data, {structure}; got {given}")
    checked = []
    for leaf, row in zip(leaves, rows, strict=True):
        array = np.asarray(leaf)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} should be numbers, got values of type {array.dtype}")
        if array.shape[1:] != np.shape(row) or array.ndim == 0:
            wanted = ", ".join(["N", *map(str, np.shape(row))])
            raise ValueError(f"{name} should have shape ({wanted}) for {model.name}, got {array.shape}")
        bad = np.flatnonzero(~np.isfinite(array.astype(float)).reshape(len(array), -1).all(axis=1))
        if len(bad):
            raise ValueError(f"{name} row {bad[0]} is NaN or infinite; remove or impute it")
        checked.append(array)
    return jax.tree.unflatten(structure, checked)


def _check_density(model, x, name):
    """`x`, or ValueError for a row that no component can produce; asked where values alone do not tell."""
    families = {shape.family for address, shape in model.observation_shapes.items() if address != "z"}
    if families & _WITH_TRIALS:
        _check_trials(model, x, name)
    if families & _ASKED:
        wrong = np.flatnonzero(~outside_traces(_possible, model, x))
        if len(wrong):
            raise ValueError(f"{_row(name, x, wrong[0])}, outside the support of {model.name}")
    return x


def _check_trials(model, x, name):
    """ValueError for numbers of trials that are none, and for counts that do not fit them."""
    for address, trials in outside_traces(_trials, model, x).items():
        inner = tuple(range(2, trials.ndim))
        none = (trials < 0) | (trials != np.floor(trials))
        wrong = np.flatnonzero(none.any(axis=(1, *inner)))
        if len(wrong):
            says = f"has {trials[none][0]:.10g} trials of {address}; trials are 0, 1, 2, ..."
            raise ValueError(f"{_row(name, x, wrong[0])}, which {says}")
        counts = np.asarray(x[address] if isinstance(x, dict) else x)[:, None].astype(trials.dtype)
        summed = model.observation_shapes[address].family in _SUMMED
        fits = counts.sum(axis=-1) == trials if summed else counts <= trials
        wrong = np.flatnonzero(~fits.all(axis=inner).any(axis=1))
        if len(wrong):
            must = "counts of a row sum to" if summed else "a count is from 0 to"
            most = f"{trials[wrong[0]].max():.10g}"
            says = f"outside the support of {model.name}: {must} its number of trials, {most}"
            raise ValueError(f"{_row(name, x, wrong[0])}, {says}")


def _check_leaf(model, values, address, name):
    floats = numbers(values, model.observation_shapes[address].shape, name, model.name)
    wrong = outside(model, floats, address)
    if not len(wrong) and address in (least := _whole_sites(model)):
        below = (floats < 0) & (least[address] >= 0)
        wrong = np.flatnonzero((below | (floats != np.floor(floats))).reshape(len(floats), -1).any(axis=1))
    if len(wrong):
        says = f"{name} row {wrong[0]} is {np.asarray(values)[wrong[0]]}, outside the support of {model.name}"
        raise ValueError(f"{says}: {_needs(model, address)}")
    return floats


def outside(model, values, address="x"):
    """Indices of the rows of float `values` (N, ...) that the family of the site `address` cannot produce.

    Host side; families that are not listed here have no such rows (`check` asks them by `_whole_sites`).
    """
    family, num_categories = model.observation_shapes[address][2:]
    if family == "Bernoulli":
        return np.flatnonzero(((values != 0) & (values != 1)).reshape(len(values), -1).any(axis=1))
    if family in COUNTS:
        wrong = (values < 0) | (values != np.floor(values)) | (values >= (num_categories or np.inf))
        return np.flatnonzero(wrong.reshape(len(values), -1).any(axis=1))
    if family == "VonMises":  # float32 rounds pi up
        return np.flatnonzero((np.abs(values) > np.pi * (1 + 1e-6)).reshape(len(values), -1).any(axis=1))
    if family in _NONNEGATIVE:
        return np.flatnonzero((values < 0).reshape(len(values), -1).any(axis=1))
    if family in _POSITIVE:
        return np.flatnonzero((values <= 0).reshape(len(values), -1).any(axis=1))
    if family in _UNIT:
        return np.flatnonzero(((values <= 0) | (values >= 1)).reshape(len(values), -1).any(axis=1))
    return np.array([], int)


def _needs(model, address) -> str:
    """What the values of the site `address` are, for a reader who gave others."""
    family, num_categories = model.observation_shapes[address][2:]
    if family == "Categorical" and num_categories is not None:
        return f"its {num_categories} categories are 0, ..., {num_categories - 1}"
    for families, says in _SAYS:
        if family in families:
            return says
    return "its values are whole numbers"


def numbers(values, event, name, model) -> np.ndarray:
    """`values` as finite float64 numbers (N, *event), or ValueError with one sentence; `model` is a name."""
    try:
        values = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} has rows of different lengths; give an array of one shape") from None
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} should be numbers, got values of type {values.dtype}")
    if values.ndim != 1 + len(event) or values.shape[1:] != event:
        wanted = ", ".join(["N", *map(str, event)]) + ("," if not event else "")
        hint = f"; use {name}[:, 0]?" if not event and values.ndim == 2 else ""
        raise ValueError(f"{name} should have shape ({wanted}) for {model}, got {values.shape}{hint}")
    if len(values) == 0:
        raise ValueError(f"{name} has no rows; give at least one observation")
    floats = values.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(floats).reshape(len(values), -1).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{name} has {len(bad)} rows with NaN or infinite values (first: row {bad[0]}); remove or impute them"
        )
    huge = np.flatnonzero((np.abs(floats) > 1e100).reshape(len(values), -1).any(axis=1))
    if len(huge):
        raise ValueError(f"{name} row {huge[0]} is {values[huge[0]]}: its density underflows; rescale the data")
    return floats


# -- what the declaration is asked ------------------------------------------------------------------------


def _possible(model, x):
    """Whether some component gives row n a positive density at some of 16 prior draws, (N,) bool."""
    draws = {name: leaf[:16] for name, leaf in model.prior_draws(jax.random.key(5), NUM_DRAWS).items()}
    return np.asarray(_possible_program(model)(draws, jax.tree.map(jnp.asarray, x)))


@functools.cache
def _possible_program(model):
    def program(draws, x):
        one = lambda params: jnp.isfinite(model.log_components(params, x)).any(axis=1)
        return jax.vmap(one)(draws).any(axis=0) if draws else one({})

    return jax.jit(program)


@functools.cache
def _whole_sites(model) -> dict[str, float]:
    """The sites that take whole numbers, and the least met: probed where a family is not known here."""
    families = {shape.family for address, shape in model.observation_shapes.items() if address != "z"}
    return {} if families <= _KNOWN else outside_traces(_probe_whole, model)


def _probe_whole(model):
    """The sites of the observation whose every value is a whole number, and the least of these: at each of 16 prior
    draws 4 observations of every component.

    Values that are all alike say nothing: a density may underflow to 0. Compiles one small program.
    """
    draws = {name: leaf[:16] for name, leaf in model.prior_draws(jax.random.key(5), NUM_DRAWS).items()}

    @jax.jit
    @jax.vmap
    def program(params, key):
        covariates = jax.tree.map(jnp.asarray, model.covariates(NUM_ROWS))

        def one(key, k, c_n):
            found = {}

            def visit(name, site, args):
                if name == "z":
                    return k.astype(model.assignment_dtype)
                found[name] = site.simulate(jax.random.fold_in(key, len(found)), args).get_retval()
                return found[name]

            introspect.walk(model.observation, model._arguments(params, c_n), visit)
            return found

        rows = jax.vmap(one, in_axes=(0, None, 0))
        every = jax.vmap(rows, in_axes=(None, 0, None))
        return every(jax.random.split(key, NUM_ROWS), jnp.arange(model.num_components), covariates)

    drawn = program(draws, jax.random.split(jax.random.key(17), 16))
    values = {name: np.asarray(leaf, float) for name, leaf in drawn.items()}
    whole = lambda leaf: np.array_equal(leaf, np.floor(leaf)) and np.abs(leaf).max() < 2**20 and np.ptp(leaf) > 0
    return {name: float(leaf.min()) for name, leaf in values.items() if whole(leaf)}


def _trials(model, x) -> dict[str, np.ndarray]:
    """Site -> the numbers of trials that row n has in component k, where parameters have no say: (N, K), and the axes
    of the event, without the last where counts sum to it."""
    draws = {name: leaf[:2] for name, leaf in model.prior_draws(jax.random.key(5), NUM_DRAWS).items()}
    given = x if isinstance(x, dict) else {"x": x}
    observed = {name: jnp.asarray(leaf) for name, leaf in given.items() if name != "covariates"}
    covariates = jax.tree.map(jnp.asarray, given.get("covariates"))
    found = jax.tree.map(np.asarray, _trials_program(model)(draws, observed, covariates))
    return {name: pair[0] for name, pair in found.items() if np.array_equal(pair[0], pair[-1])}


@functools.cache
def _trials_program(model):
    def cell(params, k, x_n, c_n):
        found = {}
        for name, site in model.observation_sites(params, k, x_n, c_n).items():
            if site.family in _WITH_TRIALS:
                event = jnp.shape(x_n[name])
                shape = event[:-1] if site.family in _SUMMED else event
                found[name] = jnp.broadcast_to(site.parameters["total_count"], shape)
        return found

    rows = jax.vmap(cell, in_axes=(None, None, 0, 0))
    table = jax.vmap(rows, in_axes=(None, 0, None, None), out_axes=1)

    def program(draws, observed, covariates):
        components = jnp.arange(model.num_components)
        if not draws:
            return jax.tree.map(lambda leaf: leaf[None], table({}, components, observed, covariates))
        return jax.vmap(table, in_axes=(0, None, None, None))(draws, components, observed, covariates)

    return jax.jit(program)


def _row(name, x, n) -> str:
    """Row n of `x`, the first being row 0, as a sentence begins."""
    return f"{name} row {n} is {jax.tree.map(lambda leaf: np.asarray(leaf)[n], x)}"
