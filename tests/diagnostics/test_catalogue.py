import json
import pathlib

import pytest

import zoo
from diagnostics import catalogue

FILE = pathlib.Path(zoo.__file__).with_name("catalogue.json")


@pytest.mark.parametrize(
    "name", ["bento", "tone", *(pytest.param(n, marks=pytest.mark.slow) for n in ("candy", "faithful"))]
)
def test_an_entry_of_the_committed_catalogue_is_what_the_model_and_the_back_ends_say(name):
    assert zoo.catalogue()[name] == catalogue.entry(name, zoo.MODELS.builder(name)), "run `make catalogue`"


def test_every_builder_of_the_models_is_in_the_committed_catalogue(monkeypatch):
    monkeypatch.setattr(catalogue, "entry", lambda name, build: {"name": name, "family": ""})
    assert {found["name"] for found in catalogue.catalogue()["models"]} == set(zoo.catalogue()), "run `make catalogue`"


@pytest.mark.slow
def test_the_committed_catalogue_is_what_the_models_and_back_ends_say():
    assert FILE.read_text() == catalogue.text(), "run `make catalogue`"


def test_every_entry_has_the_documented_keys_and_a_builder_that_makes_the_model():
    for name, entry in zoo.catalogue().items():
        assert set(entry) == {
            *("name", "title", "family", "num_components", "num_observations", "num_features", "exchangeable"),
            *("backends", "exact", "module", "data"),
        }
        assert zoo.MODELS[name].name == name
        assert entry["title"] and entry["backends"]


def test_two_models_of_one_name_are_refused(monkeypatch):
    from zoo.models import bento

    monkeypatch.setattr(catalogue, "entry", lambda name, build: {"name": "twice", "family": ""})
    monkeypatch.setattr(bento, "MODELS", {"a": bento.bento, "b": bento.bento})
    with pytest.raises(ValueError, match="two models have one name"):
        catalogue.catalogue()


def test_a_back_end_that_refuses_is_not_listed_as_serving():
    served = {entry["name"]: entry["backends"] for entry in json.loads(FILE.read_text())["models"]}
    assert "enumeration" in served["bento"] and "enumeration" not in served["three_gaussians"]
    assert "nuts" in served["bento"] and "nuts" not in served["bento_known"]
