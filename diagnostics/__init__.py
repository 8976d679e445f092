"""Comparing posteriors: functionals that labels cannot change, against the best reference there is."""

import importlib
import sys
import types

__all__ = ["Comparison", "compare", "functionals", "to_arviz"]


def _exported(home: str, name: str) -> property:
    return property(
        lambda package: getattr(importlib.import_module(home), name),
        lambda package, submodule: None,  # the import system's own assignment
    )


class _Package(types.ModuleType):
    """The package itself: `diagnostics.compare` is the function, though its file has the same name.

    Importing a submodule would set the attribute to the module: these stay what they are. Loaded on use.
    """

    Comparison = _exported("diagnostics.compare", "Comparison")
    compare = _exported("diagnostics.compare", "compare")
    functionals = _exported("diagnostics.functionals", "functionals")
    to_arviz = _exported("diagnostics.to_arviz", "to_arviz")


sys.modules[__name__].__class__ = _Package
