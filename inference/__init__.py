"""Back ends that find the posterior of a mixture; each is a function of (model, x, key).

`BACKENDS["gibbs"]` is a `Backend`; `fit(model, "gibbs")` checks the input and runs one.
"""

import importlib
from collections.abc import Iterator, Mapping

__all__ = ["BACKENDS", "Refused", "check_settings", "fit"]

# name -> (module with the function of the same name and `refuses`, kind, part of a default comparison)
TABLE = {
    "enumeration": ("inference.enumeration", "exact", True),
    "quadrature": ("inference.quadrature", "exact", True),
    "gibbs": ("inference.gibbs", "mcmc", True),
    "collapsed": ("inference.collapsed", "mcmc", False),
    "metropolis": ("inference.metropolis", "mcmc", True),
    "nuts": ("inference.nuts", "mcmc", True),
    "em": ("inference.em", "point", True),
    "importance": ("inference.importance", "weighted", True),
    "importance_joint": ("inference.importance", "weighted", True),
    "importance_modes": ("inference.importance_modes", "weighted", True),
    "smc": ("inference.smc", "weighted", False),
    "cavi": ("inference.cavi", "approximate", False),
    "advi": ("inference.advi", "approximate", False),
}


class _Backends(Mapping):
    """name -> Backend, imported when first asked for."""

    def __getitem__(self, name: str):
        from inference.results import Backend

        if name not in TABLE:
            from zoo import nearest

            raise KeyError(f"no back end named {name!r}: {nearest(name, TABLE)}")
        module_name, kind, default = TABLE[name]
        module = importlib.import_module(module_name)
        return Backend(run=getattr(module, name), refuses=module.refuses, kind=kind, default=default)

    def __iter__(self) -> Iterator[str]:
        return iter(TABLE)

    def __len__(self) -> int:
        return len(TABLE)


BACKENDS = _Backends()


class Refused(ValueError):
    """A back end cannot serve this model and data; the message says why."""


def check_settings(backend: str, settings: dict) -> None:
    """ValueError with one sentence for a setting that `backend` does not have, of the wrong type or out of range."""
    import inspect
    import typing

    from zoo import nearest

    parameters = inspect.signature(BACKENDS[backend].run).parameters.values()
    known = {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    known = {name: p for name, p in known.items() if name not in ("progress", "resume")}
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"{backend} has no setting {name!r}: {nearest(name, known)}")
        annotation = known[name].annotation
        if typing.get_origin(annotation) is typing.Literal:
            wanted = _not_among(value, typing.get_args(annotation))
        else:
            wanted = _unlike(name, value, known[name].default)
        if wanted:
            raise ValueError(f"{backend}: {name} should be {wanted}, got {value!r}")


def _not_among(value, choices) -> str | None:
    return None if value in choices else " or ".join(map(repr, choices))


def _unlike(name, value, default) -> str | None:
    """What a setting should be, where `value` is not that."""
    import math

    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, str):
        return None if isinstance(value, str) else f"text like {default!r}"
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(default, float):
        if name == "target_accept":
            return None if number and 0 < value < 1 else "a number between 0 and 1"
        if name == "annealing":
            return None if number and 0 < value <= 1 else "a number above 0, 1 at most"
        if name == "floor":
            return None if number and value >= 0 else "a number, 0 or more"
        return None if number and value > 0 else "a number above 0"
    if value is None and default is None:
        return None
    least = 0 if name in ("num_warmup", "num_resampled") else 1
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    return None if whole else f"a whole number, {least} or more"


def fit(model, backend: str = "gibbs", x=None, seed: int = 0, *, progress=None, resume=None, **settings):
    """One posterior by one back end: Draws, PointMass or Exact (`inference.results`).

    `x` defaults to the model's own data. Every back end has a key of its own from the one seed.
    progress(steps_done, steps_total) is called as it runs. `resume`: Draws of an earlier run with the same model, data,
    seed and settings, interrupted or with fewer draws, that a back end of kind mcmc goes on from; the result is bit for
    bit that of one run without a break. Raises Refused when the back end cannot serve the model,
    ValueError for bad data or settings, before anything compiles.
    """
    import zlib

    import jax

    entry = BACKENDS[backend]
    x = model.check(_data_of(model) if x is None else x)
    check_settings(backend, settings)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed should be a whole number from 0 to 2**63 - 1, got {seed!r}")
    reason = entry.refuses(model, x)
    if reason:
        raise Refused(f"{backend} refuses {model.name}: {reason}")
    if resume is not None:
        if entry.kind != "mcmc":
            raise ValueError(f"resume goes on with Markov chains, and {backend} has none")
        settings["resume"] = resume
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(backend.encode()))
    return entry.run(model, x, key, progress=progress, **settings)


def _data_of(model):
    if model.data is None:
        raise ValueError(f"{model.name} has no data of its own; give x")
    return model.data.x


def __getattr__(name: str):
    if name in {"Draws", "PointMass", "Exact", "Cost", "Backend"}:
        return getattr(importlib.import_module("inference.results"), name)
    raise AttributeError(f"module 'inference' has no attribute {name!r}")
