"""No file of the repository calls a GenJAX distribution in a form that reads as another one."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = ("zoo", "inference", "diagnostics", "tests", "examples", "benchmarks", "docs")
# how many arguments may be positional: of the first two a bare one means logits, others have another order elsewhere
ALLOWED = {
    "categorical": 0,
    "bernoulli": 0,
    "geometric": 0,
    "binomial": 1,
    "negative_binomial": 1,
    "multinomial": 1,
    "beta_binomial": 0,
    "weibull": 0,
    "half_cauchy": 0,
}


def bare_calls(source: str) -> list[str]:
    """ "line: name" of every call with more positional arguments than `ALLOWED`, of names that come from genjax."""
    tree = ast.parse(source)
    names, modules = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "genjax":
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name for alias in node.names if alias.name.split(".")[0] == "genjax"}

    def called(function):
        if isinstance(function, ast.Name):
            return names.get(function.id)
        if isinstance(function, ast.Attribute) and ast.unparse(function.value).split(".")[0] in modules:
            return function.attr
        return None

    calls = [(node, called(node.func)) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [f"{c.lineno}: {name}" for c, name in calls if name in ALLOWED and len(c.args) > ALLOWED[name]]


def test_no_file_calls_a_distribution_by_position_where_that_is_a_trap():
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    files += (ROOT / "diagnostics" / "templates").glob("*.py.txt")
    assert len(files) > 50
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 1
    sources |= {f"README.md, block {i}": block for i, block in enumerate(blocks)}
    found = {path: bare_calls(source) for path, source in sources.items()}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "source, calls",
    [
        ("from genjax import categorical\ncategorical(p)", ["2: categorical"]),
        ("from genjax import categorical as c\nc(p) @ 'z'", ["2: categorical"]),
        ("import genjax\ngenjax.bernoulli(p)", ["2: bernoulli"]),
        ("import genjax as g\ng.binomial(10, p)", ["2: binomial"]),
        ("from genjax import negative_binomial\nnegative_binomial(3.0, *p)", ["2: negative_binomial"]),
        ("from genjax import categorical, binomial\ncategorical(probs=p), binomial(10, probs=p)", []),
        ("import jax\njax.random.categorical(key, p)", []),
        ("from numpyro.distributions import Categorical as categorical\ncategorical(p)", []),
    ],
)
def test_bare_forms_are_found_under_any_name_and_others_left_alone(source, calls):
    assert bare_calls(source) == calls
