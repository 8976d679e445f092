"""A saved run of a Markov chain back end, read back so that it can go on: `zoo fit --resume run.nc`.

A run goes on only where it would give the same bits as one without a break: the same model, data, back end, seed,
settings, precision and versions. Each mismatch is one sentence.
"""

import json
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diagnostics.to_arviz import load, versions
from inference.results import Cost, Draws
from zoo.dataset import checksum

SAME_VERSIONS = ("mixture-zoo", "jax", "jaxlib", "genjax", "numpyro", "tensorflow-probability", "numpy")


class Saved(NamedTuple):
    """What a file says of its run."""

    draws: Draws
    backend: str
    model: str
    seed: int
    settings: dict[str, Any]


def read(path, model, x) -> Saved:
    """The run in the netCDF file `path`, for `model` and checked observations `x`.

    ValueError with one sentence: no such file, no chains in it, or a run of another model, data, precision or version.
    """
    data, said = _of_chains(path)
    _check(path, said, model, x)
    stats = {name: np.asarray(leaf) for name, leaf in data.sample_stats.data_vars.items()}
    return Saved(
        Draws(
            params={name: np.asarray(data.posterior[name]) for name in model.param_shapes},
            assignments=np.asarray(data.posterior["assignments"]),
            cost=Cost(**json.loads(said["cost"])),
            stats=stats,
            state={name: np.asarray(leaf) for name, leaf in data.sampler_state.data_vars.items()},
            num_done=int(said["num_done"]),
        ),
        said["backend"],
        said["model"],
        int(said["seed"]),
        json.loads(said["settings"]),
    )


def origin(path) -> tuple[str, str]:
    """The names of the model, constants included, and of the back end of the run in the file `path`."""
    _, said = _of_chains(path)
    return said["model"], said["backend"]


def _of_chains(path):
    """What is in the file of a run of chains, and what it says of it."""
    data = load(path, "run", "--resume: ")
    said = dict(data.attrs) or dict(getattr(data, "posterior", data).attrs)
    if "sampler_state" not in data.groups() or "assignments" not in data.posterior:
        raise ValueError(f"--resume: {path} has no chains with their state and assignments; run it anew")
    return data, said


def settings(saved: Saved, given: dict[str, Any]) -> dict[str, Any]:
    """The settings to go on with: the saved ones, with a new num_draws where one is given."""
    for name, value in given.items():
        if name != "num_draws" and value != saved.settings.get(name):
            raise ValueError(
                f"--resume: the saved run has {name} = {saved.settings.get(name)}, not {value}; leave it out"
            )
    kept = saved.draws.assignments.shape[1]
    if given.get("num_draws", kept) < kept:
        raise ValueError(f"--resume: the saved run has {kept} draws per chain already; give more --draws")
    return saved.settings | {k: v for k, v in given.items() if k == "num_draws"}


def _check(path, said, model, x):
    precision = "float64" if jnp.result_type(float) == np.float64 else "float32"
    if said["model"] != model.name:
        raise ValueError(f"--resume: {path} is a run of {said['model']}, not of {model.name}")
    if said["data_sha256"] != checksum(x):
        raise ValueError(f"--resume: {path} is a run on other data; give the same --data")
    if said["precision"] != precision:
        raise ValueError(f"--resume: {path} is a {said['precision']} run; give --precision {said['precision']}")
    then, now = json.loads(said["versions"]), versions()
    other = [f"{name} {then.get(name)}, now {now[name]}" for name in SAME_VERSIONS if then.get(name) != now[name]]
    if other:
        raise ValueError(f"--resume: {path} was made with other versions ({'; '.join(other)}): its draws would differ")
