"""What is shipped: the lock, which way the packages look, how light they are to import, and the wheel."""

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("zoo", "inference", "diagnostics")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text().splitlines()


def run(*command, cwd, **env):
    """Standard output of a command; its standard error is in the failure."""
    done = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))} gave {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def imports(source, package):
    """Every module or name that `source`, a file of `package`, imports anywhere, as dotted absolute names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = ".".join(filter(None, [package if node.level else "", node.module]))
            yield from (f"{home}.{alias.name}" for alias in node.names)


def crossings(package, forbidden):
    """["file imports name"] for every import in `package` of something under a `forbidden` dotted name."""
    found = []
    for file in sorted((ROOT / package).rglob("*.py")):
        for name in imports(file.read_text(), package):
            if any(f"{name}.".startswith(f"{root}.") for root in forbidden):
                found.append(f"{file.relative_to(ROOT)} imports {name}")
    return found


def test_the_lock_has_only_names_with_exact_versions():
    assert [line for line in LOCK if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line)] == []


def test_the_lock_names_each_distribution_once_and_not_the_project():
    names = [canonicalize_name(line.split("==")[0]) for line in LOCK]
    assert len(names) == len(set(names))
    assert PROJECT["name"] not in names


def test_the_lock_satisfies_what_the_project_and_its_tests_ask_for():
    locked = {canonicalize_name(name): version for name, version in (line.split("==") for line in LOCK)}
    for asked in map(Requirement, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]):
        assert asked.specifier.contains(locked[canonicalize_name(asked.name)]), asked


def test_the_version_is_the_same_wherever_it_is_written():
    import zoo

    assert zoo.__version__ == PROJECT["version"]
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_imports_are_seen_in_every_spelling():
    source = "import zoo.models.a\nfrom zoo import models\ndef f():\n    from zoo.models import b\nfrom .l import run"
    assert {*imports(source, "inference")} == {"zoo.models.a", "zoo.models", "zoo.models.b", "inference.l.run"}


def test_zoo_imports_neither_inference_nor_diagnostics():
    assert crossings("zoo", ["inference", "diagnostics"]) == []


def test_inference_imports_neither_diagnostics_nor_a_particular_model():
    assert crossings("inference", ["diagnostics", "zoo.models"]) == []


def test_importing_the_packages_loads_nothing_heavy():
    heavy = ["arviz", "genjax", "jax", "matplotlib", "numpy", "numpyro", "pandas", "scipy", "xarray"]
    code = f"import sys, zoo, inference, diagnostics; print(*[name for name in {heavy} if name in sys.modules])"
    assert run(sys.executable, "-c", code, cwd=ROOT).split() == []


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages_and_lists_the_zoo_from_another_folder(tmp_path):
    source, site, elsewhere = tmp_path / "source", tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for package in PACKAGES:  # a copy, so that no build folder is left behind and no earlier one is picked up
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)

    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source, cwd=elsewhere)
    (wheel,) = tmp_path.glob("*.whl")
    files = [file for package in PACKAGES for file in (source / package).rglob("*") if file.is_file()]
    assert {str(file.relative_to(source)) for file in files} - {*zipfile.ZipFile(wheel).namelist()} == set()

    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel, cwd=elsewhere)
    where = "import diagnostics; print(diagnostics.__file__)"
    assert run(sys.executable, "-c", where, cwd=elsewhere, PYTHONPATH=str(site)).startswith(str(site))
    assert "bento" in run(site / "bin" / "zoo", "list", cwd=elsewhere, PYTHONPATH=str(site))
