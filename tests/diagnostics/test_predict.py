"""`zoo predict`: from a saved result and a file of new rows to a table, CSV files and JSON; and what is refused."""

import csv
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import zoo
from diagnostics import cli, saved
from diagnostics.to_arviz import to_arviz, write
from inference.results import Cost, Draws, PointMass
from tests.diagnostics.test_prediction import bentos, density, eruptions
from zoo.models.overfitted import galaxy_finite_mixtures

MODEL_FILE = """
import numpy as np
from genjax import categorical, gen, normal
from zoo.mixture import Mixture

@gen
def prior():
    return {"means": normal(np.zeros(2), 5.0) @ "means"}

@gen
def observation(params):
    z = categorical(probs=np.array([0.5, 0.5])) @ "z"
    return normal(params["means"][z], SCALE) @ "x"

mine = Mixture(name="mine", num_components=2, exchangeable=True, prior=prior, observation=observation)
"""


def result(model, params, path, x=None, **more):
    """A file as `zoo fit` leaves it, of made-up draws."""
    x = model.data.x if x is None else x
    N = len(next(iter(x.values())) if isinstance(x, dict) else x)
    shape = np.shape(next(iter(params.values())))[:2] if params else (2, 4)
    assignments = np.zeros((*shape, N), np.int32)
    return str(write(to_arviz(Draws(params, assignments, Cost()), model, x, backend="gibbs", seed=0, **more), path))


def table(path, header, *rows):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    faithful = {name: np.tile(leaf, (2, 2, *[1] * (leaf.ndim - 2)))[:, :4] for name, leaf in eruptions(4).items()}
    (folder / "text.nc").write_text("no result")
    (folder / "broken.py").write_text("def mine():\n    return 1 / 0\n")
    return {
        "folder": folder,
        "broken": folder / "broken.py",
        "known": result(zoo.MODELS["bento_known"], {}, folder / "known.nc"),
        "full": result(zoo.MODELS["bento_full"], bentos(20), folder / "full.nc"),
        "faithful": result(zoo.MODELS["faithful"], faithful, folder / "faithful.nc"),
        "text": str(folder / "text.nc"),
        "grams": table(folder / "grams.csv", "weight", "500", "351", "425"),
        "pairs": table(folder / "pairs.csv", "waiting,eruptions", "55,2", ",4.5", "80,"),
        "words": table(folder / "words.csv", "weight", "heavy", "351"),
        "gone": table(folder / "gone.csv", "weight", "500", "NA"),
        "other": table(folder / "other.csv", "a,b", "1,2"),
    }


def run(line, capsys, status=0):
    assert cli.main(f"predict {line}".split()) == status
    return capsys.readouterr()


def test_json_has_the_closed_forms_of_known_parameters(files, capsys):
    found = json.loads(run(f"{files['known']} --data {files['grams']} --json", capsys).out)
    joint = np.array([0.7, 0.3]) * stats.norm.pdf(np.array([500.0, 351.0, 425.0])[:, None], (500, 350), 2)
    assert (found["schema"], found["command"], found["model"], found["backend"]) == (
        1,
        "predict",
        "bento_known",
        "gibbs",
    )
    rows = found["rows"]
    np.testing.assert_allclose([row["log_density"] for row in rows], np.log(joint.sum(axis=1)), rtol=1e-9)
    np.testing.assert_allclose([row["probability[0]"] for row in rows], joint[:, 0] / joint.sum(axis=1), atol=1e-9)
    assert [row["component"] for row in rows] == [0, 1, 0] and rows[2]["tail_probability"] == 0
    assert [row["weight"] for row in rows] == [500, 351, 425]


def test_a_folder_gets_predictions_and_the_density_on_a_grid(files, capsys):
    out = run(f"{files['full']} --data {files['grams']} --out {files['folder']}/left --draws 30", capsys).out
    assert "after relabelling" in out and "predictions.csv, density.csv, draws.csv" in out
    with open(files["folder"] / "left" / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    truth = np.log(density(bentos(20), [500.0, 351.0, 425.0]).mean(axis=(0, 1)))
    np.testing.assert_allclose([float(row["log_density"]) for row in rows], truth, rtol=1e-9)
    assert [row["component"] for row in rows[:2]] == ["1", "0"]
    with open(files["folder"] / "left" / "density.csv") as file:
        assert len(list(csv.DictReader(file))) == 200
    with open(files["folder"] / "left" / "draws.csv") as file:
        drawn = list(csv.DictReader(file))
    assert len(drawn) == 30 and all((float(r["weight"]) > 425) == (r["component"] == "1") for r in drawn)


@pytest.mark.slow
def test_missing_entries_are_filled_in_by_mean_and_sd(files, capsys):
    out = run(f"{files['faithful']} --data {files['pairs']} --missing marginalize --json", capsys).out
    rows = json.loads(out)["rows"]
    assert "mean[waiting]" not in rows[0] and 70 < rows[1]["mean[waiting]"] < 95 and rows[1]["waiting"] is None
    assert 3 < rows[2]["mean[eruptions]"] < 6 and rows[2]["sd[eruptions]"] > 0 and rows[2]["log_density"] < 0


@pytest.mark.slow
def test_a_missing_count_of_fewer_trials_than_the_runs_first_is_integrated_out(files, capsys):
    model = zoo.MODELS["betablocker"]
    assert model.data.x["x"][0] > 2
    params = {"weights": np.full((2, 4, 3), 1 / 3), "probs": np.tile([0.05, 0.1, 0.2], (2, 4, 1))}
    path = result(model, params, files["folder"] / "arms.nc")
    new = table(files["folder"] / "arms.csv", "x,covariates", ",2", "1,10")
    first, _ = json.loads(run(f"{path} --data {new} --missing marginalize --json", capsys).out)["rows"]
    assert first["mean[x]"] == pytest.approx(2 * 0.35 / 3) and first["probability[0]"] == pytest.approx(1 / 3)


def test_rows_of_a_standardised_run_are_standardised_too(files, capsys):
    model = zoo.MODELS.builder("bento_known")(means=(0.7, -0.8), scales=(0.02, 0.02))
    x = (zoo.MODELS["bento"].data.x - 430) / 100
    said = {"columns": ["weight"], "standardized": {"weight": {"mean": 430.0, "sd": 100.0}}}
    path = result(model, {}, files["folder"] / "scaled.nc", x, data=said)
    assert saved.read(path).model is model, "not rebuilt from its name"
    found = json.loads(run(f"{path} --data {files['grams']} --json", capsys).out)
    truth = 0.7 * stats.norm.pdf([500, 351, 425], 500, 2) + 0.3 * stats.norm.pdf([500, 351, 425], 350, 2)
    np.testing.assert_allclose([row["log_density"] for row in found["rows"]], np.log(truth), rtol=1e-9)
    assert found["standardized"] == said["standardized"]
    at = np.array(found["grid"]["x"])
    truth = 0.7 * stats.norm.pdf(at, 500, 2) + 0.3 * stats.norm.pdf(at, 350, 2)
    np.testing.assert_allclose(np.exp(found["grid"]["log_density"]), truth, rtol=1e-9, atol=1e-12)
    assert at.min() < 351 and at.max() > 499 and truth.max() > 0.1


@pytest.mark.slow
def test_missing_entries_of_a_standardised_run_are_those_of_the_run_in_the_units_of_the_file(files, capsys):
    model, mean, sd = zoo.MODELS["faithful"], np.array([3.5, 71.0]), np.array([1.1, 13.5])
    raw = {name: np.tile(leaf, (2, 2, *[1] * (leaf.ndim - 2)))[:, :4] for name, leaf in eruptions(4).items()}
    scaled = raw | {"means": (raw["means"] - mean) / sd, "precisions": raw["precisions"] * np.outer(sd, sd)}
    said = {name: {"mean": m, "sd": s} for name, m, s in zip(("eruptions", "waiting"), mean, sd, strict=True)}
    more = {"data": {"columns": list(said), "standardized": said}}
    path = result(model, scaled, files["folder"] / "scaled.nc", (model.data.x - mean) / sd, **more)
    lines = [f"{one} --data {files['pairs']} --missing marginalize --json" for one in (path, files["faithful"])]
    found, truth = (json.loads(run(line, capsys).out)["rows"] for line in lines)
    assert truth[1]["sd[waiting]"] > 1 and truth[2]["mean[eruptions]"] > 1
    for one, other in zip(found, truth, strict=True):
        assert set(one) == set(other)
        for name in [name for name in one if name.startswith(("log_", "mean", "sd", "probability[")) and one[name]]:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-8, err_msg=name)


def test_a_model_of_a_file_is_named_again_and_held_to_its_run(files, capsys):
    from zoo.load import load

    path = files["folder"] / "mine.py"
    path.write_text(MODEL_FILE.replace("SCALE", "1.0"))
    x = np.array([-3.0, -2.5, 2.0, 3.0])
    means = np.random.default_rng(0).normal((-2.75, 2.5), 0.3, (2, 20, 2))
    kept = result(load(f"{path}:mine"), {"means": means}, files["folder"] / "mine.nc", x)
    new = table(files["folder"] / "new.csv", "value", "2.2", "0")
    assert "give --model" in run(f"{kept} --data {new}", capsys, 2).err
    rows = json.loads(run(f"{kept} --data {new} --model {path}:mine --json", capsys).out)["rows"]
    assert rows[0]["component"] == 1 and rows[0]["probability[1]"] > 0.99
    other = files["folder"] / "other.py"
    other.write_text(MODEL_FILE.replace("SCALE", "2.0"))
    assert "another density now" in run(f"{kept} --data {new} --model {other}:mine", capsys, 2).err
    ones = np.ones(1)
    point = PointMass({"means": np.array([[-2.75, 2.5]])}, -ones, ones, ones > 0, ones > 0, 0 * ones, Cost())
    kept = write(to_arviz(point, load(f"{path}:mine"), x, backend="em"), files["folder"] / "point.nc")
    run(f"{kept} --data {new} --model {path}:mine", capsys)
    assert "another density now" in run(f"{kept} --data {new} --model {other}:mine", capsys, 2).err


def test_a_point_of_em_predicts_too(files, capsys):
    model = zoo.MODELS["bento_full"]
    params = {"weights": [[0.6, 0.4]], "means": [[500.0, 350.0]], "variances": [[4.0, 4.0]]}
    ones = np.ones(1)
    point = PointMass({k: np.array(v) for k, v in params.items()}, -ones, ones, ones > 0, ones > 0, 0 * ones, Cost())
    path = write(to_arviz(point, model, model.data.x, backend="em", seed=0), files["folder"] / "em.nc")
    found = json.loads(run(f"{path} --data {files['grams']} --json", capsys).out)
    assert [row["component"] for row in found["rows"][:2]] == [1, 0] and "point estimate" in found["classification"]
    assert found["rows"][0]["log_density_error"] == 0


def test_class_probabilities_that_rest_on_few_draws_are_told(files, capsys):
    params = bentos(20)
    params["variances"][0, 0, 0] = 5000.0  # two draws alone know of a point between the kinds,
    params["variances"][1, 0, 1] = 5000.0  # and one takes it for the lighter kind, one for the heavier
    path = result(zoo.MODELS["bento_full"], params, files["folder"] / "few.nc")
    new = table(files["folder"] / "between.csv", "weight", "425")
    found = json.loads(run(f"{path} --data {new} --json", capsys).out)
    assert any(said.startswith("the class probabilities of 1 rows rest on few draws") for said in found["warnings"])


def test_a_single_chain_is_told_to_show_nothing_of_mixing(files, capsys):
    params = {name: leaf[:1] for name, leaf in bentos(20).items()}
    path = result(zoo.MODELS["bento_full"], params, files["folder"] / "one.nc")
    new = table(files["folder"] / "one.csv", "weight", "425")
    found = json.loads(run(f"{path} --data {new} --json", capsys).out)
    assert "a single chain cannot show that it has mixed: run two or more" in found["warnings"]


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("{folder}/none.nc --data {grams}", "no file"),
        ("{known} --data {folder}/none.csv", "no file"),
        ("{text} --data {grams}", "cannot be read as a result"),
        ("{grams} --data {grams}", "cannot be read as a result"),
        ("{known} --data {gone}", "data row 2 has a missing entry; give --missing marginalize"),
        ("{known} --data {words}", "data row 1 is 'heavy', not a number"),
        ("{known} --data {other}", "choose with --column"),
        ("{known} --data {other} --column c", "no column 'c'"),
        ("{faithful} --data {other}", "has the columns a, b, the run had eruptions, waiting; say which is which"),
        ("{faithful} --data {pairs} --column waiting,waiting", "column 'waiting' is asked for twice"),
        ("{known} --data {grams} --set a=1", "--set changes a constant of --model"),
        ("{known} --data {grams} --model nothing.py:mine", "no file nothing.py"),
        ("{known} --data {grams} --model {broken}:mine", "broken.py:mine failed: ZeroDivisionError: division by zero"),
        ("{known} --data {grams} --column=", "--column is empty"),
        ("{known} --data {grams} --out {folder}/x.txt", "should be a folder or a CSV file"),
        ("{known} --data {grams} --draws 5", "give --out FOLDER"),
        ("{known} --data {grams} --missing impute", "invalid choice"),
        ("{known}", "--data"),
    ],
)
def test_bad_input_is_one_sentence(line, sentence, files, capsys):
    said = run(line.format(**files), capsys, 2)
    assert sentence in said.err and said.err.count("\n") == 1 and not said.out


@pytest.mark.slow
def test_a_result_with_a_discrete_parameter_predicts(tmp_path, capsys):
    model = galaxy_finite_mixtures(num_components=3)
    drawn = model.prior_draws(jax.random.key(2), 256)
    params = {name: np.asarray(leaf)[:8].reshape(2, 4, *leaf.shape[1:]) for name, leaf in drawn.items()}
    path = result(model, params, tmp_path / "finite.nc")
    new = table(tmp_path / "new.csv", "velocity", "21.0")
    file = f"{pathlib.Path(zoo.__file__).parent / 'models' / 'overfitted.py'}:galaxy_finite_mixtures"
    words = ["predict", path, "--data", new, "--model", file, "--set", "num_components=3", "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    flat = {name: jnp.asarray(leaf).reshape(8, *leaf.shape[2:]) for name, leaf in params.items()}
    each = jax.vmap(lambda p: model.pointwise_log_likelihood(p, jnp.array([21.0]))[0])(flat)
    assert np.isclose(found["rows"][0]["log_density"], float(jax.nn.logsumexp(each) - np.log(8)), rtol=1e-10)
