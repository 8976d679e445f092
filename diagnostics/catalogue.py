"""zoo/catalogue.json: what `zoo list` shows and where every builder is, made from the models and the back ends.

`python -m diagnostics.catalogue` (or `make catalogue`) writes it; a test makes it again and compares.
"""

import importlib
import json
import pathlib
import pkgutil

SCHEMA = 1


def catalogue() -> dict:
    """The catalogue as it should be: models by family, then module, then the order of its MODELS."""
    import zoo.models

    entries = []
    for module_name in sorted(info.name for info in pkgutil.iter_modules(zoo.models.__path__, "zoo.models.")):
        builders = getattr(importlib.import_module(module_name), "MODELS", {})
        entries += [entry(name, build) for name, build in builders.items()]
    names = [found["name"] for found in entries]
    if len(set(names)) < len(names):
        raise ValueError(f"two models have one name: {sorted({n for n in names if names.count(n) > 1})}")
    return {"schema": SCHEMA, "models": sorted(entries, key=lambda found: found["family"])}


def entry(name: str, build) -> dict:
    """One model's line: its shape, and the back ends that serve it on its own data."""
    from inference import BACKENDS

    model = build()
    data, x = model.data, model.check(model.data.x)
    served = [backend for backend in BACKENDS if BACKENDS[backend].refuses(model, x) is None]
    return {
        "name": name,
        "title": model.title,
        "family": model.family,
        "num_components": model.num_components,
        "num_observations": data.num_observations,
        "num_features": data.num_features,
        "exchangeable": bool(model.exchangeable),
        "backends": served,
        "exact": any(BACKENDS[backend].kind == "exact" for backend in served),
        "module": f"{build.__module__}:{build.__name__}",
        "data": {
            "name": data.name,
            "variant": data.variant,
            "features": list(data.columns),
            "array": not isinstance(data.x, dict),
            "units": data.units,
            "standardized": data.standardized,
            "source": data.source,
            "licence": data.licence,
            "sha256": data.sha256,
        },
    }


def text() -> str:
    """The file's content."""
    return json.dumps(catalogue(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    import zoo

    path = pathlib.Path(zoo.__file__).with_name("catalogue.json")
    path.write_text(text())
    print(f"{path.name}: {len(json.loads(path.read_text())['models'])} models")


if __name__ == "__main__":
    from diagnostics.cli import prepare

    prepare("float64")
    main()
