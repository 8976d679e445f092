"""Data: checksums, and a user's file or pandas object read or refused in one sentence."""

import sys

import numpy as np
import pandas as pd
import pytest

from zoo import MODELS, Dataset
from zoo.dataset import checksum, of_table, read


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


def test_npz_and_npy_files_are_read_by_column_and_as_arrays(tmp_path):
    x = np.arange(6.0).reshape(3, 2)
    np.savez(tmp_path / "a.npz", x=x)
    np.save(tmp_path / "a.npy", x[:, 1])
    np.savez(tmp_path / "named.npz", waiting=[79, 54], eruptions=[3.6, 1.8])
    assert read(tmp_path / "a.npz", (), 2).x.tolist() == x.tolist()
    assert read(tmp_path / "a.npz", ("x[1]",)).x.tolist() == [1, 3, 5] == read(tmp_path / "a.npy").x.tolist()
    named = read(tmp_path / "named.npz", (), 2, names=("eruptions", "waiting"))
    assert named.x.tolist() == [[3.6, 79], [1.8, 54]] and named.feature_names == ("eruptions", "waiting")


def test_parquet_is_read_or_the_extra_is_named(tmp_path, monkeypatch):
    file = tmp_path / "lunch.parquet"
    file.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'mixture-zoo\[data\]'"):
        read(file)


def test_parquet_columns_are_the_frames(tmp_path):
    pytest.importorskip("pyarrow", exc_type=ImportError)
    file = tmp_path / "lunch.parquet"
    pd.DataFrame({"kind": ["a", "b"], "grams": [498, None]}).to_parquet(file)
    with pytest.raises(ValueError, match="data row 2 is 'nan'; remove or impute it"):
        read(file, ("grams",))
    pd.DataFrame({"kind": ["a", "b"], "grams": [498, 352]}).to_parquet(file)
    assert read(file, ("grams",)).x.tolist() == [498, 352]
    file.write_bytes(b"no Parquet at all")
    with pytest.raises(ValueError, match="cannot be read"):
        read(file)


def test_columns_are_found_by_the_models_names_whatever_their_order_and_capitals(tmp_path):
    file = tmp_path / "iris.csv"
    file.write_text("Petal.Width,kind,Sepal.Length\n0.2,setosa,5.1\n")
    assert read(file, (), 2, names=("sepal.length", "petal.width")).x.tolist() == [[5.1, 0.2]]
    with pytest.raises(ValueError, match="3 columns"):
        read(file, (), 2, names=("sepal.length", "petal.length"))


def test_a_frequency_column_repeats_the_rows(tmp_path):
    file = tmp_path / "fear.csv"
    file.write_text("count,freq\n0,2\n5,0\n3,1\n")
    data = read(file, frequency="freq")
    assert data.x.tolist() == [0, 0, 3] and data.variant == "a row per unit of freq"
    for bad, sentence in (("0.5", "a frequency is 0, 1, 2"), ("-1", "a frequency is 0, 1, 2"), ("0", "nothing left")):
        file.write_text(f"count,freq\n0,{bad}\n")
        with pytest.raises(ValueError, match=sentence):
            read(file, frequency="freq")
    with pytest.raises(ValueError, match="did you mean 'freq'"):
        read(file, frequency="frq")


def test_what_was_taken_out_is_of_a_column():
    with pytest.raises(ValueError, match="data set mine: standardized names 'y'"):
        Dataset(name="mine", x=np.zeros((3, 2)), feature_names=("a", "b"), standardized={"y": (0.0, 1.0)})


def test_standardising_records_the_mean_and_the_standard_deviation(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("a,b\n1,5\n3,9\n5,4\n")
    data = read(file, (), 2, standardize=True, units="g")
    assert data.units == "standardised, from g" and data.standardized["a"] == (3.0, np.std([1, 3, 5]))
    np.testing.assert_allclose(data.x.mean(axis=0), 0, atol=1e-15)
    np.testing.assert_allclose(data.x.std(axis=0), 1, rtol=1e-15)
    back = data.x * [sd for _, sd in data.standardized.values()] + [mean for mean, _ in data.standardized.values()]
    np.testing.assert_allclose(back, [[1, 5], [3, 9], [5, 4]], rtol=1e-15)
    file.write_text("a\n0.1\n0.1\n0.1\n")
    with pytest.raises(ValueError, match="0.1 in every row: it cannot be standardised"):
        read(file, standardize=True)
    assert read(file, units="g").units == "g"


def test_a_dict_is_gathered_from_columns_by_its_keys():
    table = {"y": np.arange(3.0), "covariates[0]": np.ones(3), "covariates[1]": np.zeros(3)}
    x = of_table(table, "mine", keys={"y": (), "covariates": (2,)}).x
    assert x["y"].tolist() == [0, 1, 2] and x["covariates"].tolist() == [[1, 0]] * 3
    data = Dataset(name="mine", x=x)
    assert list(data.columns) == list(table) and data.num_observations == 3
    with pytest.raises(
        ValueError, match=r"no column 'covariates': .* needs y, covariates, or --column with others in that"
    ):
        of_table(table, "mine", keys={"y": (), "covariates": ()})


def test_columns_under_other_names_are_taken_in_the_order_of_the_keys():
    table = {"age": np.array([1.0, 3.0]), "size": np.array([5.0, 7.0]), "more": np.zeros(2)}
    data = of_table(table, "mine", ("size", "age"), keys={"y": (), "covariates": ()}, standardize=True)
    assert data.x["y"].tolist() == data.x["covariates"].tolist() == [-1, 1]
    assert data.standardized == {"y": (6.0, 1.0), "covariates": (2.0, 1.0)}
    with pytest.raises(ValueError, match=r"1 columns are named \(size\); the model takes y, covariates"):
        of_table(table, "mine", ("size",), keys={"y": (), "covariates": ()})
    with pytest.raises(ValueError, match="no column 'sice': did you mean 'size'"):
        of_table(table, "mine", ("sice", "age"), keys={"y": (), "covariates": ()})
    with pytest.raises(ValueError, match="column 'age' is asked for twice"):
        of_table(table, "mine", ("age", "age"), keys={"y": (), "covariates": ()})


def test_the_words_of_a_category_stand_for_its_codes():
    model = MODELS["penguin_classes"]
    words = {"island": ["Biscoe", "torgersen", "0"], "sex": ["male", "FEMALE", "male"], "year": ["0", "1", "2"]}
    of = lambda table: of_table(table, "mine", keys=model.data_shapes, words=model.data.categories)
    x = of(words).x
    assert x["island"].tolist() == [0, 2, 0] and x["sex"].tolist() == [1, 0, 1] and x["year"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="data row 2 is 'Bali', not a number and none of Biscoe, Dream, Torgersen"):
        of({**words, "island": ["Dream", "Bali", "Dream"]})


def test_a_dict_within_a_dict_has_a_checksum_of_its_own():
    x = {"y": np.arange(3.0), "covariates": {"a": np.ones(3), "b": np.zeros(3)}}
    swapped = {**x, "covariates": {"a": np.zeros(3), "b": np.ones(3)}}
    assert checksum(x) != checksum(swapped) and checksum(x) == checksum({k: x[k] for k in reversed(x)})


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("bad.npz", b"no archive", "cannot be read as a NumPy file"),
        ("bad.csv", b"\xff\xfe\x00", "cannot be read as CSV"),
        ("bad.csv", b"a,a\n1,2\n", "two columns called 'a'"),
        ("bad.csv", b"grams\n498\nheavy\n352\n", "1 of 3 are text"),
        ("bad.csv", b"kind\na\nb\n", "all its entries are text, write codes 0, 1, ..."),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path / name)


def test_arrays_of_different_lengths_or_of_objects_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(3), b=np.ones(2))
    with pytest.raises(ValueError, match="one length N"):
        read(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", a=np.array([{}, None], dtype=object))
    with pytest.raises(ValueError, match="cannot be read as a NumPy file"):
        read(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", a=np.array(["1", "two"]))
    with pytest.raises(ValueError, match="'two', not a number"):
        read(tmp_path / "c.npz")


def test_pandas_objects_are_data_of_a_model():
    model = MODELS["bento"]
    frame = pd.DataFrame({"kind": ["a", "b", "a"], "Weight": [498, 352, 501]}, index=[7, 7, 9])
    assert model.check(frame).tolist() == [498, 352, 501] == model.check(frame["Weight"]).tolist()
    assert model.check(frame[["Weight"]].astype("Int64")).tolist() == [498, 352, 501]
    assert model.of_frame(frame).feature_names == ("Weight",)
    with pytest.raises(ValueError, match="x has 2 columns"):
        model.check(frame.rename(columns={"Weight": "grams"}))
    with pytest.raises(ValueError, match="data row 2 is '<NA>|nan'; remove or impute it"):
        model.check(pd.Series([498.0, None, 501.0]))
    with pytest.raises(ValueError, match="'b', not a number"):
        model.check(pd.Series([498.0, "b"]))
