"""Back ends that find the posterior of a mixture; each is a function of (model, x, key).

`BACKENDS["gibbs"]` is a `Backend`; `fit(model, "gibbs")` checks the input and runs one.
"""

import importlib
from collections.abc import Iterator, Mapping

__all__ = ["BACKENDS", "Refused", "check_settings", "fit", "serving"]

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


def _settings_of(run) -> dict:
    """Every setting of a back end's function: name -> its `inspect.Parameter`."""
    import inspect

    parameters = inspect.signature(run).parameters.values()
    known = {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    return {name: p for name, p in known.items() if name not in ("progress", "resume")}


def check_settings(backend: str, settings: dict, run=None) -> None:
    """ValueError with one sentence for a setting that `backend` does not have, of the wrong type or out of range."""
    import typing

    from zoo import nearest

    known = _settings_of(BACKENDS[backend].run if run is None else run)
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"{backend} has no setting {name!r}: {nearest(name, known)}")
        annotation = known[name].annotation
        if typing.get_origin(annotation) is typing.Literal:
            wanted = _not_among(value, typing.get_args(annotation))
        else:
            wanted = _unlike(name, value, known[name].default)
        if wanted:
            raise ValueError(f"{backend}: {name} should be {wanted}, got {_short(value)}")
    own = getattr(importlib.import_module(TABLE[backend][0]), "check_settings", None)
    if own is not None:
        own(settings)


def _short(value) -> str:
    said = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of more than 30 digits"
    return said if len(said) <= 80 else said[:79] + "…"


def _not_among(value, choices) -> str | None:
    return None if isinstance(value, str) and value in choices else " or ".join(map(repr, choices))


# numbers with other bounds than "above 0", for numbers, and "1 or more", for whole ones
LEAST = {"num_warmup": 0, "num_resampled": 0, "num_checks": 1000, "num_runs": 8}
MOST = {"max_tree_depth": 20}  # a tree of depth 20 has a million leaves, each a gradient
LARGEST = 2**31 - 1  # steps and particles are counted in 32 bits


def _unlike(name, value, default) -> str | None:
    """What a setting should be, where `value` is not that."""
    import sys

    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, str):
        return None if isinstance(value, str) else f"text like {default!r}"
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if isinstance(default, float):
        if name in ("target_accept", "tolerance"):
            return None if number and 0 < value < 1 else "a number between 0 and 1"
        if name == "annealing":
            return None if number and 0 < value <= 1 else "a number above 0, 1 at most"
        if name == "floor":
            return None if number and value >= 0 else "a number, 0 or more"
        return None if number and value > 0 else "a number above 0"
    if value is None and default is None:
        return None
    least, most = LEAST.get(name, 1), MOST.get(name, LARGEST)
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return None
    above = isinstance(value, int) and not isinstance(value, bool) and value > most
    return f"a whole number, {most} at most" if above else f"a whole number, {least} or more"


def fit(model, backend: str = "gibbs", x=None, seed: int = 0, *, progress=None, resume=None, **settings):
    """One posterior by one back end: Draws, PointMass or Exact (`inference.results`).

    `x` defaults to the model's own data. Every back end has a key of its own from the one seed.
    progress(steps_done, steps_total) is called as it runs. `resume`: Draws of an earlier run with the same model, data,
    seed and settings, interrupted or with fewer draws, that a back end of kind mcmc goes on from; the result is bit for
    bit that of one run without a break. Raises Refused when the back end cannot serve the model,
    ValueError for bad data or settings, before anything compiles.
    """
    import time
    import zlib

    import jax

    from inference import loop, proper, space
    from inference.results import Cost
    from zoo.dataset import checksum
    from zoo.dependent import Dependent

    _check_call(model, backend, progress, resume)
    dependent = isinstance(model, Dependent)
    entry = _of_dependent(model, backend, resume) if dependent else BACKENDS[backend]
    x = model.check(_data_of(model) if x is None else x)
    check_settings(backend, settings, entry.run)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed should be a whole number from 0 to 2**63 - 1, got {seed!r}")
    reason = entry.refuses(model, x)
    if reason:
        raise Refused(f"{backend} refuses {model.name}: {reason}" + ("" if dependent else f"; {serving(model, x)}"))
    # what the run is of; only the number of draws may be another when it goes on
    origin = {"backend": backend, "model": model.name, "seed": seed, "precision": jax.numpy.result_type(float).name}
    origin |= {name: p.default for name, p in _settings_of(entry.run).items()} | settings
    origin.pop("num_draws", None)
    origin["checksum of x"] = checksum(x)
    if resume is not None:
        if entry.kind != "mcmc":
            raise ValueError(f"resume goes on with Markov chains, and {backend} has none")
        _check_origin(resume.origin, origin)
        settings["resume"] = resume
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(backend.encode()))
    with loop.one_blas_thread():
        began = time.perf_counter()
        if not dependent:
            space.check_density(model, x)
        said = proper.check_proper(model, x) if entry.kind != "point" and not dependent else ()
        checking = Cost(time.perf_counter() - began)  # next to nothing but compiling
        try:
            result = entry.run(model, x, key, progress=progress, **settings)
        except KeyboardInterrupt as stop:
            why = str(stop) or f"interrupted: nothing of an unfinished {backend} run is kept"
            raise KeyboardInterrupt(why) from None
    result = result._replace(cost=result.cost + checking, warnings=(*said, *result.warnings))
    return result._replace(origin=origin) if entry.kind == "mcmc" else result


def _of_dependent(model, backend, resume):
    """The back end of that name for a function whose rows depend on each other, or Refused."""
    from inference import scan

    if backend not in scan.BACKENDS:
        BACKENDS[backend]  # KeyError for a name that there is not
        raise Refused(
            f"{backend} refuses {model.name}: its pairs (z_n, x_n) depend on each other given the parameters; "
            f"{', '.join(scan.BACKENDS)} serve it"
        )
    if resume is not None:
        raise ValueError(f"resume goes on with a run of a Mixture, and {model.name} is none; run it for longer")
    return scan.BACKENDS[backend]


def serving(model, x) -> str:
    """A sentence with the back ends that serve this model and data."""
    names = [name for name in BACKENDS if not BACKENDS[name].refuses(model, x)]
    return f"{', '.join(names)} serve{'s' * (len(names) == 1)} it" if names else "no back end serves it"


def _check_call(model, backend, progress, resume):
    from inference.results import Draws
    from zoo.dependent import Dependent
    from zoo.mixture import Mixture

    if not isinstance(model, Mixture | Dependent):
        raise ValueError(f"model should be a Mixture, such as zoo.MODELS['bento'], got {_short(model)}")
    if not isinstance(backend, str):
        raise ValueError(f"backend should be a name, such as 'gibbs', got {_short(backend)}")
    if progress is not None and not callable(progress):
        raise ValueError(f"progress should be a function of (steps_done, steps_total), got {_short(progress)}")
    if resume is not None and not isinstance(resume, Draws):
        raise ValueError(f"resume should be the Draws that an earlier fit returned, got {type(resume).__name__}")


def _check_origin(earlier: dict, origin: dict) -> None:
    """ValueError where the earlier run was made otherwise; Draws from a file say nothing here, their reader checks."""
    for name, value in origin.items():
        if name in earlier and earlier[name] != value:
            raise ValueError(
                f"resume: the earlier run has {name} = {earlier[name]!r}, this one {value!r}; they should be the same"
            )


def _data_of(model):
    if model.data is None:
        raise ValueError(f"{model.name} has no data of its own; give x")
    return model.data.x


def __getattr__(name: str):
    if name in {"Draws", "PointMass", "Exact", "Cost", "Backend"}:
        return getattr(importlib.import_module("inference.results"), name)
    raise AttributeError(f"module 'inference' has no attribute {name!r}")
