"""The posterior in a file that `zoo fit` or `zoo compare` left, and how to average over it.

C chains, S draws. A point (em) is one draw; nodes of a grid are (1, M) weighted draws.
"""

import ast
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from diagnostics.summaries import ROUNDING, carriers, chain_error, runs_mean, weighted_mean
from diagnostics.to_arviz import HELD, az, load, log_likelihood_held
from inference.importance import FEW_ESS, MIN_ESS
from zoo.dataset import checksum
from zoo.mixture import Mixture

NEGLIGIBLE = 1e-17  # of the largest weight


class Posterior(NamedTuple):
    """What predictions are averaged over."""

    model: Mixture
    x: Any  # the observations that the posterior is given
    params: dict[str, np.ndarray]  # leaves (C, S, ...); {} where nothing is unknown but the assignments
    share: np.ndarray  # (C, S): the mass of each draw, sums to 1
    kind: str  # "chains", "independent", "weighted", "runs", "nodes" or "point"
    error: float = 0.0  # nodes: that of their mass; draws resampled from weighted ones: their number over the ESS
    backend: str = ""
    said: dict[str, Any] = {}  # the attributes of the file
    warnings: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        return self.share.shape[0], self.share.shape[1]

    @property
    def estimate(self) -> Callable:
        """f (C, S) -> mean, Monte Carlo standard error, and how many draws the latter rests on."""
        return estimator(self.kind, self.share, self.error)


def estimator(kind: str, share, error: float = 0.0) -> Callable:
    """f (C, S) -> mean, standard error and carriers, by the kind of draws (see `summaries`)."""
    if kind == "weighted":
        return weighted_mean(share)
    if kind == "runs":
        return runs_mean(share)

    def mean(f):
        f = np.broadcast_to(f, share.shape)
        centre = float((share * f).sum())
        away = f - centre
        if kind == "nodes":
            sd = float(np.sqrt((share * away**2).sum()))
            return centre, error * sd + ROUNDING * (1 + abs(centre)), np.inf
        if kind == "point" or np.ptp(f) <= 0:
            return centre, 0.0, np.inf
        if kind == "chains":
            return centre, chain_error(f), carriers(away)
        return centre, float(f.std() * np.sqrt((1 + error) / max(f.size - 1, 1))), carriers(away)

    return mean


def read(path, model: Mixture | None = None) -> Posterior:
    """The posterior in the netCDF file `path`; `model` is needed where the zoo has none of the recorded name.

    ValueError with one sentence: no such file, not a result, no posterior in it, or another model's.
    """
    return of_data(load(path, "result"), model, str(path))


def of_data(data: az.InferenceData, model: Mixture | None = None, where: str = "the result") -> Posterior:
    """The posterior in InferenceData that `to_arviz` made."""
    groups = data.groups()
    first = next((data[name] for name in ("posterior", "point_estimates", "exact") if name in groups), None)
    said = dict(data.attrs) or dict(getattr(first, "attrs", {}))
    if first is None or not {"model", "backend", "data_sha256"} <= set(said) or "observed_data" not in groups:
        raise ValueError(f"{where} is not a result of zoo fit or zoo compare; give the .nc file that one of them left")
    model = rebuilt(said["model"], where) if model is None else model
    if model.name != said["model"]:
        raise ValueError(f"{where} is a result of {said['model']}, not of {model.name}; give that --model and --set")
    x = _observations(data, model, where)
    if checksum(x) != said["data_sha256"]:
        raise ValueError(f"{where}: its observations are not those that its checksum was made of; run it anew")
    posterior = _posterior(data, model, x, said, where)
    _hold(data, posterior, where)
    return posterior


def rebuilt(name: str, where: str = "the result") -> Mixture:
    """The zoo's model called `name`, constants included: `bento[scale=25.0]`."""
    import zoo

    bare, given = named(name, where)
    model = zoo.MODELS.builder(bare)(**given)
    if model.name != name:
        raise ValueError(
            f"{where} is a result of {name}, whose constants cannot be read off; give --model {bare} --set NAME=VALUE"
        )
    return model


def named(name: str, where: str) -> tuple[str, dict[str, Any]]:
    """`bento[scale=25.0]` -> ("bento", {"scale": 25.0}). ValueError where the zoo has no such model."""
    import zoo

    bare, bracket, constants = name.partition("[")
    if bare not in zoo.catalogue():
        raise ValueError(f"{where} is a result of {name}, which the zoo has not; give --model path/file.py:NAME")
    given = {}
    for key, text in re.findall(r"(\w+)=(\([^)]*\)|[^,]*)", constants.removesuffix("]")):
        try:
            given[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            given[key] = text
    return bare, given


def _observations(data, model, where):
    """The observations of the run, in the shape that the model takes."""
    names = [name for name in model.observation_shapes if name != "z"]
    if any(name not in data.observed_data for name in names):
        raise ValueError(
            f"{where} holds no observations of {', '.join(names)}; the model has changed since: run it anew"
        )
    observed: dict[str, Any] = {name: np.asarray(data.observed_data[name]) for name in names}
    if model.covariates_row is not None:
        rows, structure = jax.tree.flatten(model.covariates_row)
        leaves = [np.asarray(data.constant_data[f"covariates_{i}"]) for i in range(len(rows))]
        observed["covariates"] = jax.tree.unflatten(structure, leaves)
    return model.check(observed["x"] if set(observed) == {"x"} else observed)


def _posterior(data, model, x, said, where) -> Posterior:
    from inference import TABLE

    groups, backend = data.groups(), said["backend"]
    kind = TABLE[backend][1] if backend in TABLE else "mcmc"
    warnings = list(json.loads(said.get("warnings", "[]")))
    error = 0.0
    if not model.param_shapes:
        return Posterior(model, x, {}, np.ones((1, 1)), "point", 0.0, backend, said, tuple(warnings))
    if "weighted" in groups:
        params, log_weights = _leaves(data.weighted, model, 2, where), np.asarray(data.weighted["log_weights"], float)
        if not np.isfinite(log_weights).any():
            raise ValueError(f"{where}: no draw of {backend} has a finite weight, so there is nothing to predict from")
        share = np.exp(log_weights - log_weights.max())
        share /= share.sum()
        kind = "runs" if len(share) > 1 else "weighted"
        ess = 1 / np.square(share).sum()
        if kind == "weighted":
            kept = np.flatnonzero(share[0] > NEGLIGIBLE * share.max())
            share, params = share[:, kept] / share[:, kept].sum(), {k: v[:, kept] for k, v in params.items()}
        if kind == "weighted" and ess < MIN_ESS:
            grave = "have collapsed: nothing below is to be trusted" if ess < FEW_ESS else "are few: errors are rough"
            warnings.append(f"the weights of {backend} are worth {ess:.3g} draws and {grave}")
    elif "posterior" in groups:
        params = _leaves(data.posterior, model, 2, where)
        share = np.full(next(iter(params.values())).shape[:2], 1.0)
        share /= share.size
        kind = "chains" if kind == "mcmc" else "independent"
        if said.get("interrupted"):
            warnings.append(f"the run of {backend} was interrupted")
        if TABLE.get(backend, ("", ""))[1] == "approximate":
            warnings.append(f"{backend} approximates the posterior: the errors below are those of its draws alone")
    elif "point_estimates" in groups:
        best = int(np.argmax(np.asarray(data.point_estimates["admissible"])))  # sorted, best admissible first
        params = {k: v[best][None, None] for k, v in _leaves(data.point_estimates, model, 1, where).items()}
        share, kind = np.ones((1, 1)), "point"
        if not bool(data.point_estimates["admissible"][best]):
            warnings.append(f"no restart of {backend} ended at an admissible optimum; this is the first of them")
    elif "log_weights" in getattr(data, "exact", ()):
        log_weights = np.asarray(data.exact["log_weights"], float)
        kept = np.flatnonzero(log_weights > log_weights.max() + np.log(NEGLIGIBLE))
        params = {k: v[kept][None] for k, v in _leaves(data.exact, model, 1, where).items()}
        share = np.exp(log_weights[kept] - log_weights.max())[None]
        share /= share.sum()
        kind, error = "nodes", float(abs(said.get("log_evidence_se", 0.0)) + said.get("missed_mass", 0.0))
    else:
        raise ValueError(
            f"{where} has neither draws nor a point: {backend} kept none, so give a run of another back end"
        )
    return Posterior(model, x, params, share, kind, error, backend, said, tuple(warnings))


def _leaves(group, model, leading, where):
    """The model's parameters in a group, shapes held to the model's."""
    found = {}
    for name, shape in model.param_shapes.items():
        if name not in group or group[name].shape[leading:] != shape.shape:
            got = "is missing" if name not in group else f"has shape {group[name].shape[leading:]}"
            raise ValueError(f"{where}: {name} {got}, {model.name} has {shape.shape}; give the same --model and --set")
        found[name] = np.asarray(group[name], float if np.issubdtype(shape.dtype, np.floating) else shape.dtype)
        if not np.isfinite(found[name]).all():
            raise ValueError(f"{where}: {name} has draws that are NaN or infinite; run it anew")
    return found


def _hold(data, posterior, where):
    """ValueError where the model, as it is now, gives another density than the one recorded with the run."""
    then = json.loads(posterior.said.get(HELD, "[]"))  # nothing in files of earlier versions
    now = log_likelihood_held(data, posterior.model, posterior.x) if then else []
    tolerance = 1e-6 if posterior.said.get("precision") == "float64" else 1e-2
    if not np.allclose(now, then, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ValueError(
            f"{where}: {posterior.model.name} has another density now than when it ran (log p(x | params) was "
            f"{then[0]:.6g}, is {now[0]:.6g}); give the same --model file and --set constants"
        )
