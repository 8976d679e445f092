"""A model from a stranger's file: `path/file.py:NAME`, where NAME is a Mixture or a function that returns one."""

import importlib.util
import inspect
import pathlib
import sys

from zoo import catalogue, nearest
from zoo.introspect import function_of


def load(spec: str, **constants):
    """The Mixture that `spec` names. Raises ValueError with one sentence that carries the file's own error."""
    path, _, name = spec.rpartition(":")
    file = pathlib.Path(path)
    if not path or not name:
        raise ValueError(f"--model should be path/file.py:NAME, got {spec!r}")
    if not file.is_file():
        raise ValueError(f"--model: no file {file}; give path/file.py:NAME")
    module = _import(file.resolve())
    from zoo.dependent import FIT_ALONE, Dependent
    from zoo.mixture import Mixture

    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise ValueError(f"{file} has no {name!r}: {nearest(name, public)}")
    found = getattr(module, name)
    if isinstance(found, Mixture):
        if constants:
            raise ValueError(f"{spec} is a Mixture, not a builder: --set has no constants to change")
        return _described(found, spec)
    model = found(**constants) if callable(found) else found
    if isinstance(model, Dependent):
        raise ValueError(f"{spec} is no mixture{FIT_ALONE}")
    if not callable(found):
        raise ValueError(f"{spec} is a {type(found).__name__}; it should be a Mixture or a function that returns one")
    if not isinstance(model, Mixture):
        raise ValueError(f"{spec} returned a {type(model).__name__}; it should return a Mixture")
    return _described(model, spec)


def _described(model, spec):
    """The model, once its two functions were traced: a stranger's mistake in them is told here, in one sentence."""
    for part, look in (("prior", lambda: model.param_shapes), ("observation", lambda: model.observation_shapes)):
        try:
            look()
        except Exception as error:
            text = str(error).strip().splitlines()
            says = f"{type(error).__name__}: {text[0] if text else ''}"
            if "GenerativeFunctionClosure" in str(error):
                says = 'a choice in it, or in what it receives, has no address; write distribution(...) @ "name"'
            elif part == "observation" and "Indexer must have integer" in str(error):
                says = 'it picks a component by a value that is no whole number; write z = categorical(probs=...) @ "z"'
            elif part == "observation" and "missing 1 required positional argument" in str(error):
                says = "it takes covariates; give Mixture data=Dataset(...) with x = {'x': ..., 'covariates': ...}"
            raise ValueError(f"{spec}: the {part} function cannot be traced: {says}") from None
    if "z" not in model.observation_shapes:
        sites = ", ".join(model.observation_shapes) or "none"
        raise ValueError(f"{spec}: the observation function needs a site 'z' for the assignment; its sites are {sites}")
    z = model.observation_shapes["z"]
    if not str(z.dtype).startswith(("int", "bool")):
        raise ValueError(
            f"{spec}: the assignment z is of type {z.dtype}, drawn by {z.family or 'a density of its own'}; "
            'write z = categorical(probs=...) @ "z"'
        )
    if len(model.observation_shapes) == 1:
        raise ValueError(f'{spec}: the observation function has no site for the value; write distribution(...) @ "x"')
    if model.name.partition("[")[0] in catalogue() and not _of_the_zoo(model):
        raise ValueError(f"{spec}: the zoo has a model named {model.name!r}; a name keeps its density, so take another")
    return model


def _of_the_zoo(model) -> bool:
    """Whether the two functions of a model with a name of the zoo are those that the zoo has under that name."""
    import zoo

    return _written_at(model) == _written_at(zoo.MODELS[model.name.partition("[")[0]])


def _written_at(model) -> list:
    """File and line of its two functions; None for one that is not of Python."""
    functions = (inspect.unwrap(function_of(part) or print) for part in (model.prior, model.observation))
    codes = [getattr(function, "__code__", None) for function in functions]
    return [code and (pathlib.Path(code.co_filename).resolve(), code.co_firstlineno) for code in codes]


def _import(file: pathlib.Path):
    module_name = f"_zoo_user_{file.stem}_{abs(hash(str(file)))}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    module_spec = importlib.util.spec_from_file_location(module_name, file)
    if module_spec is None or module_spec.loader is None:
        raise ValueError(f"{file} is not a Python file; give path/file.py:NAME")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module
    beside = str(file.resolve().parent)  # the file may import its neighbours
    sys.path.insert(0, beside)
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise ValueError(f"{file} failed to import: {type(error).__name__}: {error}") from None
    finally:
        sys.path.remove(beside)
    return module
