"""Comparing posteriors: functionals that labels cannot change, against the best reference there is."""

import importlib

__all__ = ["Comparison", "compare", "functionals", "to_arviz"]

_HOMES = {
    "Comparison": "diagnostics.compare",
    "compare": "diagnostics.compare",
    "functionals": "diagnostics.functionals",
    "to_arviz": "diagnostics.to_arviz",
}


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'diagnostics' has no attribute {name!r}")
