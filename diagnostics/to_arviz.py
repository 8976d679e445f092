"""Results as ArviZ InferenceData; the only file that builds it. Dims: chain, draw, component, feature, observation."""

import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diagnostics.functionals import fixed_pairs, fixed_points, in_blocks, pointwise_log_likelihoods
from inference.importance import no_evidence, weight_ess
from inference.loop import state_leaves
from inference.results import Draws, Exact, PointMass
from zoo import introspect
from zoo.dataset import checksum
from zoo.mixture import num_observations

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # ArviZ announces its own refactoring at every import
    import arviz as az
    import xarray as xr

MAX_ENTRIES = 5e7  # assignments and pointwise log likelihoods are kept when C S N is at most this
NUM_REPLICATES = 200  # draws with a posterior predictive data set, all chains together
MAX_REPLICATED = 5e6  # simulated observations in all
NUM_RESAMPLED = 1000
HELD, NUM_HELD = "log_likelihood_held", 8  # attribute of a file, and of how many observations
PACKAGES = ("jax", "jaxlib", "genjax", "numpyro", "tensorflow-probability", "numpy", "scipy", "arviz")


def to_arviz(result, model, x, *, backend="", settings=None, seed=None, data=None) -> az.InferenceData:
    """Draws, PointMass or Exact as InferenceData.

    Chains: `posterior`. Weighted draws: `weighted` with `log_weights`, and `posterior` of equal-weight draws resampled
    from them, which are for pictures and predictions, never for an effective sample size. Points: `point_estimates`
    with dim restart, no posterior. Exact: `posterior` when there are independent draws, and `exact` with the
    probabilities and the nodes. With a posterior come `sample_stats`, `log_likelihood` (pointwise, assignments summed
    out) and `posterior_predictive`; always `observed_data` and `constant_data`. Assignments and pointwise log
    likelihoods are left out above C S N = 5e7; the attributes of the group say so. `data`: what `Comparison.data` says
    of a user's own observations; their columns, and the mean and sd taken out of each, are kept for predictions.
    """
    x = model.check(x)
    groups = {"observed_data": _observed(x, model), "constant_data": _constants(x, model)}
    if isinstance(result, PointMass):
        groups["point_estimates"] = _points(result, model, x)
    if isinstance(result, Exact):
        groups["exact"] = _exact(result, model, x)
    draws = result.draws if isinstance(result, Exact) else result
    if isinstance(draws, Draws):
        if draws.log_weights is not None:
            groups["weighted"] = _weighted(draws, model, x)
            draws = draws.resampled if draws.resampled is not None else resample(draws, seed or 0)
        groups |= _posterior(draws, model, x, seed or 0)
    features = _features(model, x, data)
    groups = {
        name: group.assign_coords(feature=np.asarray(features))
        if len(features) == group.sizes.get("feature")
        else group
        for name, group in groups.items()
    }
    attributes = _attributes(result, model, x, backend, settings, seed, data)
    attributes[HELD] = json.dumps(log_likelihood_held(groups, model, x))
    for name in ("posterior", "weighted", "point_estimates", "exact"):
        if name in groups:
            groups[name].attrs |= attributes
    return az.InferenceData(attrs=attributes, warn_on_custom_groups=False, **groups)


def log_likelihood_held(groups, model, x) -> list[float]:
    """log p(x_n | params) of the first rows at the first draw, point or node: who reads the file compares them, so that
    a model that has changed since is noticed. [] where the result keeps no parameters."""
    kept = (name for name in ("weighted", "posterior", "point_estimates", "exact") if name in groups)
    group = next((groups[name] for name in kept if set(model.param_shapes) <= set(groups[name])), None)
    if group is None:
        return []
    shapes = model.param_shapes.items()
    first = {name: np.asarray(group[name]).reshape(-1, *shape.shape)[0] for name, shape in shapes}
    params = {name: jnp.asarray(first[name], shape.dtype) for name, shape in shapes}
    rows = jax.tree.map(lambda leaf: jnp.asarray(leaf[:NUM_HELD]), x)
    return [float(value) for value in model.pointwise_log_likelihood(params, rows)]


def write(data: az.InferenceData, path) -> pathlib.Path:
    """`data` as a netCDF file, by h5netcdf."""
    path = pathlib.Path(path)
    beside = path.with_name(path.name + ".part")  # an older run of this name is lost only once the new one is whole
    data.to_netcdf(str(beside), engine="h5netcdf")
    os.replace(beside, path)
    return path


def load(path, kind: str, asked: str = "") -> Any:  # InferenceData, whose groups are attributes made as it is read
    """What `write` left in the file `path`, in memory; ValueError with one sentence, behind `asked`, for a file that is
    missing or no `kind`."""
    left = "give a .nc file that `zoo fit --out` left"
    if not pathlib.Path(path).is_file():
        raise ValueError(f"{asked}no file {path}; {left}")
    try:
        data = az.from_netcdf(str(path), engine="h5netcdf")
        data.load()
    except Exception as error:
        raise ValueError(f"{asked}{path} cannot be read as a {kind} ({type(error).__name__}); {left}") from None
    return data


def resample(draws: Draws, seed: int, num: int = NUM_RESAMPLED) -> Draws:
    """Equal-weight draws (1, num, ...) from weighted ones, by systematic resampling."""
    log_weights = np.asarray(draws.log_weights).ravel()
    w = np.exp(log_weights - log_weights.max())
    u = (np.random.default_rng(seed).random() + np.arange(num)) / num
    index = np.minimum(np.searchsorted(np.cumsum(w) / w.sum(), u), len(w) - 1)
    take = lambda leaf: np.asarray(leaf).reshape(len(w), *np.shape(leaf)[2:])[index][None]
    assignments = None if draws.assignments is None else take(draws.assignments)
    return draws._replace(
        params={name: take(leaf) for name, leaf in draws.params.items()},
        assignments=assignments,
        log_weights=None,
        stats={},
    )


def versions() -> dict[str, str]:
    """What produced a result: Python, this package, and the libraries whose version can change a number."""
    import zoo

    found = {"python": platform.python_version(), "mixture-zoo": zoo.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def derived(model, params, shape):
    """What the prior returns beside its choices, for leaves of `params` with the two leading axes `shape`."""
    if not jax.eval_shape(model.derived, model.param_shapes):
        return {}
    return in_blocks(_derived_program(model), params, shape, model, np.zeros(1))


# -- groups -------------------------------------------------------------------------------------------------------


def _posterior(draws, model, x, seed):
    C, S = _shape(draws)
    N = num_observations(x)
    values = {**draws.params, **derived(model, draws.params, (C, S))}
    variables = {name: _variable(name, leaf, ("chain", "draw"), model, x) for name, leaf in values.items()}
    notes, small = {}, C * S * N <= MAX_ENTRIES
    if draws.assignments is not None and small:
        variables["assignments"] = (("chain", "draw", "observation"), np.asarray(draws.assignments))
    elif draws.assignments is not None:
        notes["assignments"] = f"left out: chains x draws x observations = {C * S * N} is above {MAX_ENTRIES:.0e}"
    groups = {"posterior": _dataset(variables, notes)}
    stats = {name: (("chain", "draw"), np.asarray(s)) for name, s in draws.stats.items() if np.shape(s) == (C, S)}
    if stats:
        groups["sample_stats"] = _dataset(stats)
    groups["log_likelihood"] = _log_likelihood(draws, model, x, small)
    groups["posterior_predictive"] = _replicates(draws, model, x, seed)
    state = _flat(draws.state, C)
    if state:
        groups["sampler_state"] = xr.Dataset(state)
    return groups


def _log_likelihood(draws, model, x, small):
    shape = _shape(draws)
    if small:
        pointwise = pointwise_log_likelihoods(model, draws.params, x)
        pointwise = np.broadcast_to(pointwise, (*shape, pointwise.shape[-1]))
        return _dataset({"x": (("chain", "draw", "observation"), pointwise)})
    total, log_mean = [], np.full(num_observations(x), -np.inf)
    for c, s in np.ndindex(shape):  # one draw at a time: the whole is what does not fit
        params = {name: np.asarray(leaf)[c : c + 1, s : s + 1] for name, leaf in draws.params.items()}
        one = pointwise_log_likelihoods(model, params, x)
        total.append(one.sum())
        log_mean = np.logaddexp(log_mean, one[0, 0] - np.log(np.prod(shape)))
    summary = {
        "log_likelihood": (("chain", "draw"), np.reshape(total, shape)),
        "log_mean_density": (("observation",), log_mean),
    }
    return _dataset(summary, {"x": "left out: too many entries; log_mean_density is log E[p(x_n | params)]"})


def _replicates(draws, model, x, seed):
    """New data sets of the observed size, for draws spread evenly over each chain."""
    C, S = _shape(draws)
    N = num_observations(x)
    num = int(np.clip(min(NUM_REPLICATES, MAX_REPLICATED / N) // C, 1, S))
    chosen = np.arange(num) * S // num
    params = {name: np.asarray(leaf)[:, chosen] for name, leaf in draws.params.items()}
    simulated = in_blocks(_replicate_program(model, N), params, (C, num), model, x, jnp.asarray(seed))
    variables = {
        name: (("chain", "draw", "observation", *_event_dims(name, leaf.shape[3:], model, x)), leaf)
        for name, leaf in simulated.items()
    }
    return _dataset(variables).assign_coords(draw=chosen)


def _weighted(draws, model, x):
    values = {**draws.params, **derived(model, draws.params, _shape(draws))}
    variables = {name: _variable(name, leaf, ("chain", "draw"), model, x) for name, leaf in values.items()}
    variables["log_weights"] = (("chain", "draw"), np.asarray(draws.log_weights))
    return _dataset(variables)


def _points(result, model, x):
    R = len(np.asarray(result.log_density))
    stacked = {name: np.asarray(leaf)[None] for name, leaf in result.params.items()}
    values = {**stacked, **derived(model, stacked, (1, R))}
    variables = {name: _variable(name, np.asarray(leaf)[0], ("restart",), model, x) for name, leaf in values.items()}
    for name in ("log_density", "num_steps", "converged", "admissible", "gradient_norm"):
        variables[name] = (("restart",), np.asarray(getattr(result, name)))
    for name, leaf in (result.standard_errors or {}).items():
        dims, leaf = _variable(name, leaf, (), model, x)
        variables[f"standard_error_{name}"] = (dims, leaf)
    attributes = {"prior": int(result.prior), "floor": float(result.floor), "ended": json.dumps(list(result.ended))}
    return _dataset(variables, attributes)


def _exact(result, model, x):
    variables = {}
    if result.assignment_probabilities is not None:
        probabilities = np.asarray(result.assignment_probabilities)
        variables["assignment_probabilities"] = (("observation", "component"), probabilities)
    if result.co_clustering is not None:
        variables["co_clustering"] = (("observation", "other_observation"), np.asarray(result.co_clustering))
    if result.log_weights is not None:
        variables["log_weights"] = (("node",), np.asarray(result.log_weights))
        for name, leaf in (result.nodes or {}).items():
            variables[name] = _variable(name, leaf, ("node",), model, x)
    return _dataset(variables)


def _observed(x, model):
    leaves = {k: v for k, v in x.items() if k != "covariates"} if isinstance(x, dict) else {"x": x}
    variables = {name: _variable(name, leaf, ("observation",), model, x) for name, leaf in leaves.items()}
    return _dataset(variables)


def _constants(x, model):
    """Covariates, published labels, and the points and pairs that the functionals speak of."""
    pairs = fixed_pairs(x)
    variables = {"fixed_points": (("point",), fixed_points(x)), "fixed_pairs": (("pair", "end"), pairs)}
    if isinstance(x, dict) and "covariates" in x:
        for i, leaf in enumerate(jax.tree.leaves(x["covariates"])):
            dims = tuple(f"covariates_{i}_dim_{d}" for d in range(1, np.ndim(leaf)))
            variables[f"covariates_{i}"] = (("observation", *dims), np.asarray(leaf))
    if model.data is not None and model.data.labels is not None and model.data.sha256 == checksum(x):
        variables["labels"] = (("observation",), np.asarray(model.data.labels))
    return _dataset(variables)


def _flat(state, num_chains):
    """Every array of the sampler's last state under a plain name, dims chain and its own."""
    variables = {}
    for name, leaf in state_leaves(state).items():
        first = ("chain",) if leaf.shape[:1] == (num_chains,) else ()
        dims = first + tuple(f"{name}_dim_{i}" for i in range(leaf.ndim - len(first)))
        variables[name] = (dims, leaf)
    return variables


# -- names of axes ------------------------------------------------------------------------------------------------


def _variable(name, leaf, leading, model, x):
    leaf = np.asarray(leaf)
    return (*leading, *_event_dims(name, leaf.shape[len(leading) :], model, x)), leaf


def _event_dims(name, shape, model, x):
    """Axis names after the leading ones: component for a parameter's first axis K, feature for size D, else its own."""
    observed = set(x) if isinstance(x, dict) else {"x"}
    D = _num_features(x)
    dims: list[str] = []
    for i, size in enumerate(shape):
        own = f"{name}_dim_{i}"
        if i == 0 and size == model.num_components and name not in observed:
            dims.append("component")
        else:
            dims.append("feature" if size == D and "feature" not in dims else own)
    return tuple(dims)


def _dataset(variables, attributes=None) -> xr.Dataset:
    used = {dim: np.shape(array)[i] for dims, array in variables.values() for i, dim in enumerate(dims)}
    return xr.Dataset(variables, coords={dim: np.arange(size) for dim, size in used.items()}, attrs=attributes or {})


def _features(model, x, data) -> tuple[str, ...]:
    """The names of the columns of x: those that `data` gives, else the model's where these are its data."""
    if data is not None:
        return tuple(data.get("columns", ()))
    own = model.data is not None and model.data.sha256 == checksum(x)
    return tuple(model.data.feature_names) if own else ()


def _num_features(x):
    leaves = [v for k, v in x.items() if k != "covariates"] if isinstance(x, dict) else [x]
    return sum(int(np.prod(np.shape(leaf)[1:], dtype=int)) for leaf in leaves)


def _shape(draws):
    first = next(iter(draws.params.values())) if draws.params else draws.assignments
    if first is None:
        first = draws.log_weights
    return tuple(np.shape(first)[:2])


def _attributes(result, model, x, backend, settings, seed, data):
    sha256 = checksum(x)
    same = model.data is not None and model.data.sha256 == sha256
    draws = result.draws if isinstance(result, Exact) and result.draws is not None else result
    evidence = {
        name: float(getattr(result, name))
        for name in ("log_evidence", "log_evidence_se", "missed_mass")
        if getattr(result, name, None) is not None and not _no_evidence(draws)
    }
    return evidence | {
        "backend": backend,
        "model": model.name,
        "settings": json.dumps(settings or {}, default=str),
        "seed": -1 if seed is None else int(seed),
        "versions": json.dumps(versions()),
        "data_name": model.data.name if same else "",
        "data_variant": model.data.variant if same else "",
        "data_sha256": sha256,
        "data_columns": json.dumps(list((data or {}).get("columns", ()))),
        "data_standardized": json.dumps((data or {}).get("standardized", {})),
        "cost": json.dumps(result.cost._asdict(), default=float),
        "warnings": json.dumps(list(result.warnings)),
        "interrupted": int(getattr(draws, "interrupted", False)),
        "num_done": int(getattr(draws, "num_done", 0)),
        "precision": "float64" if jnp.result_type(float) == np.float64 else "float32",
    }


def _no_evidence(draws) -> bool:
    """Whether weighted draws give no estimate of the log evidence (`importance.no_evidence`); of runs whose particles
    share a weight, whether the particles are worth too few."""
    if getattr(draws, "log_weights", None) is None:
        return False
    from diagnostics.summaries import tail_shape

    return no_evidence(weight_ess(draws.log_weights), tail_shape(draws) if len(draws.log_weights) == 1 else 0.0)


# -- programs -----------------------------------------------------------------------------------------------------


@functools.cache
def _derived_program(model):
    return jax.jit(jax.vmap(lambda _, params, x: model.derived(params), in_axes=(0, 0, None)))


@functools.cache
def _replicate_program(model, num_observations):
    def one(index, params, x, seed):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), index), num_observations)
        returned = model.prior_return(params)
        if isinstance(x, dict) and "covariates" in x:
            draw = lambda key, row: introspect.sample(model.observation, (returned, row), key)[0]
            drawn = jax.vmap(draw)(keys, x["covariates"])
        else:
            drawn = jax.vmap(lambda key: introspect.sample(model.observation, (returned,), key)[0])(keys)
        return {name: leaf for name, leaf in drawn.items() if name != "z"}

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None, None)))
