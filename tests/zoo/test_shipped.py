"""Shipped data: every file is the recorded one, read as its provenance says."""

import csv
import hashlib

import numpy as np
import pytest
from numpy.testing import assert_allclose

from zoo import dataset
from zoo.dataset import Dataset, provenance, shipped
from zoo.models.latent_class import digits

NAMES = list(provenance())
MAY_BE_EMPTY = {"variant", "labels", "frequency", "note"}


def test_every_data_file_has_one_row_of_provenance_and_every_row_a_file():
    with (dataset.FOLDER / "PROVENANCE.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = {path.name for path in dataset.FOLDER.iterdir() if path.suffix == ".csv"} - {"PROVENANCE.csv"}
    assert len(rows) == len(files) == 21 and {row["file"] for row in rows} == files
    assert all(None not in row and None not in row.values() for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_row_of_provenance_is_complete(name):
    assert [key for key, cell in provenance()[name].items() if not cell.strip() and key not in MAY_BE_EMPTY] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_the_recorded_one(name):
    recorded = provenance()[name]
    assert hashlib.sha256((dataset.FOLDER / recorded["file"]).read_bytes()).hexdigest() == recorded["sha256"]


@pytest.mark.parametrize("name", NAMES)
def test_the_data_set_has_the_recorded_shape_and_says_where_it_comes_from(name):
    data, recorded = shipped(name), provenance()[name]
    assert (data.num_observations, data.num_features) == (int(recorded["N"]), int(recorded["D"]))
    assert np.ndim(data.x) == (1 if data.num_features == 1 else 2) and data.x.dtype == np.float64
    assert len(data.feature_names) == data.num_features
    assert data.units and data.source and data.licence and data.variant == recorded["variant"]
    if recorded["labels"]:
        words = data.categories[recorded["labels"]]
        assert data.labels.shape == (data.num_observations,) and set(data.labels) == set(range(len(words)))
    else:
        assert data.labels is None
    assert np.isfinite(data.x).all() == (name != "penguins")


def test_a_changed_byte_is_an_error_that_names_the_file_and_both_sums(tmp_path, monkeypatch):
    for path in dataset.FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = (tmp_path / "acidity.csv").read_bytes()
    (tmp_path / "acidity.csv").write_bytes(content.replace(b"3.910021", b"3.910022"))
    monkeypatch.setattr(dataset, "FOLDER", tmp_path)
    dataset._shipped.cache_clear()
    with pytest.raises(ValueError) as error:
        shipped("acidity")
    assert "acidity.csv" in str(error.value) and provenance()["acidity"]["sha256"] in str(error.value)
    assert hashlib.sha256((tmp_path / "acidity.csv").read_bytes()).hexdigest() in str(error.value)
    assert shipped("faithful").num_observations == 272


def test_galaxy_has_the_corrected_value_and_galaxy_misprint_the_other():
    right, wrong = shipped("galaxy"), shipped("galaxy_misprint")
    assert (right.variant, wrong.variant) == ("corrected", "misprint")
    (row,) = np.flatnonzero(right.x != wrong.x)
    assert (row, right.x[row], wrong.x[row]) == (77, 26.960, 26.690)
    assert right.sha256 != wrong.sha256


def test_a_table_of_frequencies_becomes_a_row_per_unit():
    deaths, candy = shipped("london_deaths").x, shipped("candy").x
    assert np.bincount(deaths.astype(int)).tolist() == [162, 267, 271, 185, 111, 61, 27, 8, 3, 1]
    assert (candy == 0).sum() == 102 and candy.max() == 20


def test_digits_are_the_1797_of_the_repositorys_test_set():
    data = shipped("digits")
    assert np.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert set(np.unique(data.x)) == set(range(17)) and data.feature_names[9] == "pixel_1_1"
    inked = digits().data
    assert set(np.unique(inked.x)) == {0.0, 1.0} and (inked.x == (data.x > 7.5)).all()
    assert digits(threshold=4).data.x.mean() > inked.x.mean() and digits(threshold=4).data.sha256 != inked.sha256
    with pytest.raises(ValueError, match="threshold should be 0 or more and below 16, got 16"):
        digits(threshold=16)


def test_text_is_coded_in_alphabetical_order_and_missing_values_are_nan():
    data = shipped("penguins", ("island", "sex", "year", "body_mass_g"))
    assert data.categories["island"] == ("Biscoe", "Dream", "Torgersen")
    assert data.categories["sex"] == ("female", "male")
    assert data.x[0].tolist() == [2, 1, 2007, 3750] and data.x[1, 1] == 0
    assert np.isnan(data.x).sum(axis=0).tolist() == [0, 11, 0, 2]
    assert data.units == "island: code; sex: code; year: calendar year; body_mass_g: g"
    assert data.categories["species"] == ("Adelie", "Chinstrap", "Gentoo")
    assert np.bincount(data.labels).tolist() == [152, 68, 124]


def test_complete_rows_are_taken_with_their_labels_and_said():
    data = shipped("penguins").complete()
    assert data.x.shape == (342, 4) and data.labels.shape == (342,) and np.isfinite(data.x).all()
    assert data.variant == "342 complete rows of 344"
    assert shipped("iris").complete() is shipped("iris")


def test_columns_are_chosen_in_the_order_asked_for():
    assert shipped("faithful", ("waiting",)).x[:2].tolist() == [79, 54]
    both = shipped("faithful", ["waiting", "eruptions"])
    assert both.x[0].tolist() == [79, 3.6] and both.feature_names == ("waiting", "eruptions")
    assert shipped("iris").labels.tolist() == sorted(shipped("iris").labels)


def test_a_shipped_array_is_cached_and_cannot_be_changed():
    assert shipped("galaxy") is shipped("galaxy")
    with pytest.raises(ValueError, match="read-only"):
        shipped("galaxy").x[0] = 0


@pytest.mark.parametrize(
    "name, columns, sentence",
    [
        ("galaxie", None, "did you mean 'galaxy'"),
        ("faithful", ("waitin",), "did you mean 'waiting'"),
        ("faithful", (), "columns is empty"),
        ("faithful", "waiting", "tuple of names"),
    ],
)
def test_an_unknown_name_or_column_is_refused_in_a_sentence(name, columns, sentence):
    with pytest.raises(ValueError, match=sentence):
        shipped(name, columns)


def test_standardised_data_have_mean_0_and_sd_1_and_remember_what_they_were():
    plain = shipped("faithful")
    data = plain.standardised()
    assert_allclose(data.x.mean(axis=0), 0, atol=1e-13)
    assert_allclose(data.x.std(axis=0), 1, rtol=1e-13)
    means, sds = np.array(list(data.standardized.values())).T
    assert list(data.standardized) == ["eruptions", "waiting"] and data.units == "standardised"
    assert_allclose(data.x * sds + means, plain.x, rtol=1e-13)
    assert data.sha256 != plain.sha256
    with pytest.raises(ValueError, match="not standardised a second time"):
        data.standardised()
    with pytest.raises(ValueError, match="column 'x' cannot be standardised: its sd is 0"):
        Dataset(name="flat", x=np.ones(3), feature_names=("x",)).standardised()
