"""Back ends that find the posterior of a mixture; each is a function of (model, x, key).

`BACKENDS["gibbs"]` is a `Backend`; `fit(model, "gibbs")` checks the input and runs one.
"""

import importlib
from collections.abc import Iterator, Mapping

__all__ = ["BACKENDS", "fit"]

# name -> (module with the function of the same name and `refuses`, kind, part of a default comparison)
TABLE = {
    "enumeration": ("inference.enumeration", "exact", True),
    "quadrature": ("inference.quadrature", "exact", True),
    "gibbs": ("inference.gibbs", "mcmc", True),
    "metropolis": ("inference.metropolis", "mcmc", True),
    "nuts": ("inference.nuts", "mcmc", True),
    "em": ("inference.em", "point", True),
    "importance": ("inference.importance", "weighted", True),
    "importance_joint": ("inference.importance", "weighted", True),
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


def fit(model, backend: str = "gibbs", x=None, seed: int = 0, **settings):
    """One posterior by one back end: Draws, PointMass or Exact (`inference.results`).

    `x` defaults to the model's own data. Back ends and models get independent keys from one seed. Raises Refused
    when the back end cannot serve the model, ValueError for bad data or settings, before anything compiles.
    """
    import inspect
    import zlib

    import jax

    from zoo import nearest

    entry = BACKENDS[backend]
    x = model.check(_data_of(model) if x is None else x)
    accepted = [
        name for name, p in inspect.signature(entry.run).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for name, value in settings.items():
        if name not in accepted:
            raise ValueError(f"{backend} has no setting {name!r}: {nearest(name, accepted)}")
        if name.startswith("num_") and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise ValueError(f"{backend}: {name} should be a whole number, 0 or more, got {value!r}")
        if name in ("num_chains", "num_draws", "num_particles", "num_restarts") and value < 1:
            raise ValueError(f"{backend}: {name} should be at least 1, got {value}")
    reason = entry.refuses(model, x)
    if reason:
        raise Refused(f"{backend} refuses {model.name}: {reason}")
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(backend.encode()))
    return entry.run(model, x, key, **settings)


def _data_of(model):
    if model.data is None:
        raise ValueError(f"{model.name} has no data of its own; give x")
    return model.data.x


def __getattr__(name: str):
    if name in {"Draws", "PointMass", "Exact", "Cost", "Backend"}:
        return getattr(importlib.import_module("inference.results"), name)
    raise AttributeError(f"module 'inference' has no attribute {name!r}")
