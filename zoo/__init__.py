"""A zoo of finite mixture models, each declared once as GenJAX `@gen` functions, with a NumPyro twin and data.

`MODELS["bento"]` is a `Mixture`; building it imports GenJAX, listing the names does not.
"""

import difflib
import functools
import importlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping

__all__ = ["MODELS", "Dataset", "Mixture", "catalogue", "from_unrolled", "nearest"]
__version__ = "0.1.0"


@functools.cache
def catalogue() -> dict[str, dict]:
    """name -> what `zoo list` shows of it and where its builder is ("module:function"); loads no JAX."""
    path = pathlib.Path(__file__).with_name("catalogue.json")
    return {entry["name"]: entry for entry in json.loads(path.read_text())["models"]}


def nearest(name: str, names: Iterable[str]) -> str:
    """ "; did you mean 'bento'?" when a close name exists, else the list of names."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"


class _Models(Mapping):
    """name -> Mixture, built with its default constants when first asked for."""

    def builder(self, name: str):
        """The function that builds `name`; its keyword arguments are the model's constants."""
        if name not in catalogue():
            raise KeyError(f"no model named {name!r}: {nearest(name, catalogue())}")
        module, function = catalogue()[name]["module"].split(":")
        return getattr(importlib.import_module(module), function)

    def __getitem__(self, name: str):
        return self.builder(name)()

    def __iter__(self) -> Iterator[str]:
        return iter(catalogue())

    def __len__(self) -> int:
        return len(catalogue())


MODELS = _Models()


def __getattr__(name: str):
    homes = {"Mixture": "zoo.mixture", "Dataset": "zoo.dataset", "from_unrolled": "zoo.unrolled"}
    if name in homes:
        return getattr(importlib.import_module(homes[name]), name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
