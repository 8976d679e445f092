"""`zoo data`: what it lists, shows and exports."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import zoo
from diagnostics import cli
from diagnostics.data import datasets
from zoo.dataset import provenance, read, shipped

ROOT = pathlib.Path(__file__).parents[2]


def test_the_list_has_the_shipped_sets_and_those_of_the_models_with_every_fact():
    found = datasets()
    assert set(found) == set(provenance()) | {entry["data"]["name"] for entry in zoo.catalogue().values()}
    assert {"bento", "bento_425", "coffee", "three_gaussians", "galaxy", "galaxy_misprint"} <= set(found)
    for about in found.values():
        assert all(about[key] for key in ("name", "N", "D", "what", "licence", "carrier", "origin", "sha256")), about
    assert found["galaxy"]["variant"] == "corrected" and found["galaxy_misprint"]["variant"] == "misprint"
    assert {"bento", "bento_full"} <= set(found["bento"]["models"])
    assert {name for about in found.values() for name in about["models"]} == set(zoo.catalogue())


def test_list_show_and_export_of_shipped_data_load_no_jax(tmp_path):
    lines = ["data"], ["data", "--json"], ["data", "iris"], ["data", "galaxy", "--out", f"{tmp_path}/g.csv"]
    code = (
        f"import sys\nfrom diagnostics import cli\nfor argv in {lines}: assert cli.main(argv) == 0\n"
        "print(*[name for name in ('jax', 'genjax', 'pandas', 'arviz') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.split() == [], done.stderr
    assert "galaxy_misprint" in done.stdout and "Fisher 1936" in done.stdout and "versicolor 50" in done.stdout


def test_what_is_exported_is_read_back_number_by_number(tmp_path, capsys):
    assert cli.main(["data", "penguins", "--column", "body_mass_g,island", "--out", f"{tmp_path}/p.csv"]) == 0
    assert "344 rows of body_mass_g, island, species" in capsys.readouterr().out
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[:2] == ["body_mass_g,island,species", "3750,2,Adelie"] and lines[4] == ",2,Adelie"
    for name in ("wreath", "iris", "london_deaths"):
        assert cli.main(["data", name, "--out", f"{tmp_path}/{name}.csv"]) == 0
        names = shipped(name).feature_names
        assert np.array_equal(read(tmp_path / f"{name}.csv", names, len(names)).x, shipped(name).x)


def test_one_data_set_as_json(capsys):
    assert cli.main(["data", "crabs", "--column", "sex,fl", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["D"] == 2 and found["columns"]["sex"]["categories"] == ["F", "M"]
    assert (
        found["classes"] == {"column": "sp", "sizes": {"B": 100, "O": 100}}
        and found["units"] == "sex: code; others: mm"
    )


def test_data_written_in_a_models_file_are_shown_too(capsys):
    assert cli.main(["data", "three_gaussians"]) == 0
    assert "0 225, 1 675, 2 100" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("data galaxie", "no data set named 'galaxie': did you mean 'galaxy'?"),
        ("data --out x.csv", "--out is for one data set: give NAME too"),
        ("data iris --column sepal", "did you mean 'sepal."),
        ("data iris --out iris.txt", "should be a CSV file"),
        ("data iris --out missing/iris.csv", "cannot be written: No such file"),
        ("data bento --column weight", "--column chooses columns of a shipped data set"),
    ],
)
def test_bad_input_gets_one_sentence(line, sentence, capsys):
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and sentence in err and len(err.strip().splitlines()) == 1
