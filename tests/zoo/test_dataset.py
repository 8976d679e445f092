"""Data: checksums, and a user's file read or refused in one sentence."""

import numpy as np
import pytest

from zoo import MODELS, Dataset
from zoo.dataset import read


def test_shipped_data_are_what_their_models_say():
    assert MODELS["bento"].data.x[:3].tolist() == [498.0, 352.0, 501.0] and len(MODELS["bento"].data.x) == 20
    assert MODELS["bento_425"].data.x[-1] == 425.0
    assert len(MODELS["coffee"].data.x) == 30 and MODELS["coffee"].data.x[0] == 82.0
    points = MODELS["three_gaussians"].data
    assert points.sha256 == "df7945307c35c0b9fb3d0b5e15c9b74f51e503efb0a293f1b1b8fc9c97729c4b"
    assert np.bincount(points.labels).tolist() == [225, 675, 100]


def test_changed_data_are_refused_by_their_checksum():
    good = MODELS["bento"].data
    with pytest.raises(ValueError, match="checksum"):
        Dataset(name="bento", x=good.x + 1, sha256=good.sha256)


def test_a_csv_file_is_read_by_column(tmp_path):
    file = tmp_path / "lunch.csv"
    file.write_text("kind,grams\n1,498\n2,352.5\n\n1,501\n")
    data = read(file, ("grams",))
    assert data.x.tolist() == [498.0, 352.5, 501.0] and data.feature_names == ("grams",)
    bare = tmp_path / "bare.csv"
    bare.write_text("498\n352\n")
    assert read(bare).x.tolist() == [498.0, 352.0]


@pytest.mark.parametrize(
    "text, columns, sentence",
    [
        (None, (), "no data file"),
        ("", (), "is empty"),
        ("grams\n", (), "no rows of data"),
        ("grams\n498\nheavy\n", (), "'heavy', not a number"),
        ("grams\n498\nNaN\n", (), "remove or impute"),
        ("grams\n498\n\t\n352,\n", (), "2 fields"),
        ("grams\n498\ninf\n", (), "remove or impute"),
        ("a,b\n1,2\n", (), "2 columns"),
        ("a,b\n1,2\n", ("c",), "no column 'c'"),
        ("a,b\n1,2\n3\n", ("a",), "1 fields"),
        ("a,b\n1,\n3,4\n", ("b",), "remove or impute"),
    ],
)
def test_a_bad_file_is_refused_in_a_sentence(tmp_path, text, columns, sentence):
    file = tmp_path / "bad.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read(file, columns)
