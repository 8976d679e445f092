import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

import zoo
from diagnostics import arguments, cli, tables

ROOT = pathlib.Path(__file__).parents[2]
MODEL_FILE = """
import numpy as np
from genjax import categorical, gen, normal
from zoo.dataset import Dataset
from zoo.mixture import Mixture

@gen
def prior():
    means = normal(np.zeros(2), 5.0) @ "means"
    return {"means": means}

@gen
def observation(params):
    z = categorical(probs=np.array([0.5, 0.5])) @ "z"
    return normal(params["means"][z], 1.0) @ "x"

def mine(*, rows=4):
    data = Dataset(name="mine", x=np.arange(float(rows)))
    return Mixture(name="mine", num_components=2, exchangeable=True, prior=prior, observation=observation, data=data)

number = 3
"""


@pytest.fixture
def report(monkeypatch):
    """A report that is written at once: its own tests hold the real one."""
    module = types.ModuleType("diagnostics.report")
    module.write = lambda comparison, path: pathlib.Path(path).write_text(comparison.model.name)
    monkeypatch.setitem(sys.modules, "diagnostics.report", module)
    monkeypatch.setattr(sys.modules["diagnostics"], "report", module, raising=False)
    return module


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_help_and_list_load_neither_jax_nor_anything_slow():
    code = (
        "import sys\nfrom diagnostics import cli\n"
        "for argv in (['--help'], ['compare', '--help'], ['list'], ['list', '--json']): assert cli.main(argv) == 0\n"
        "heavy = ('jax', 'numpy', 'matplotlib', 'rich', 'arviz', 'genjax')\n"
        "print(*[name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.split() == [], done.stderr
    assert "bento" in done.stdout


def test_list_as_json_has_the_documented_keys(capsys):
    assert cli.main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    assert {"name", "title", "family", "num_components", "num_observations", "num_features", "exchangeable"} | {
        "backends",
        "exact",
    } == set(found["models"][0])


def test_list_says_which_back_ends_serve_each_model(capsys):
    assert cli.main(["list"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.split("each model:\n")[1].splitlines())
    assert lines["bento_known"] == "enumeration, gibbs, importance, importance_joint"
    assert lines["coffee"] == "all but enumeration"


COFFEE_ROW = {"model": "coffee", "backend": "gibbs", "kind": "mcmc", "failed": "", "seconds": 1.0}
BAD = [
    ("calibrate gibbs", "no model named 'gibbs'"),
    ("calibrate bento gibbs", "'gibbs' is one word too many"),
    ("calibrate bento --resume", "--resume goes on with the table of --out FILE.md, which is not given"),
    ("calibrate bento --resume --out {tmp}/coffee.md", "has rows of coffee, which would be lost; leave the model out"),
    ("calibrate bento --resume --out {tmp}/rowless.md", "is not the table of an earlier run; leave --resume out"),
    ("calibrate bento --resume --out {tmp}/table.md", "is not the table of an earlier run; leave --resume out"),
    ("calibrate bento --backends gibs", "no back end named 'gibs': did you mean 'gibbs'?"),
    ("calibrate bentoo", "no model named 'bentoo': did you mean 'bento'?"),
    ("calibrate --set scale=2", "--set changes a constant of MODEL, which is not given"),
    ("calibrate bento --backends em", "em returns no draws, so there is nothing to calibrate"),
    ("calibrate bento --out {tmp}/table.txt", "should be a Markdown file"),
    ("calibrate bento --out {tmp}/empty.csv/table.md", "cannot be written"),
    ("compare bento --option metropolis.moves='bogus'", "metropolis: moves has no 'bogus'"),
    ("compare bento --option metropolis.num_sites=3", "num_sites is for the move single"),
    ("compare bento --option smc.num_runs=2 --backends smc", "num_runs should be a whole number, 8 or more, got 2"),
    ("compare bento --option gibbs=2 --option gibbs.thin=3", "gibbs is a back end"),
    ("compare bento --data=", "--data is empty"),
    ("compare bento --data " + "a" * 5000, "cannot be read"),
    ("", "usage: zoo"),
    ("lst", "did you mean 'list'?"),
    ("compare", "no MODEL is given"),
    ("compare bentoo", "no model named 'bentoo': did you mean 'bento'?"),
    ("compare bento --backends gibs", "no back end named 'gibs': did you mean 'gibbs'?"),
    ("fit bento --backend nutz", "no back end named 'nutz': did you mean 'nuts'?"),
    ("compare bento --drows 5", "no option '--drows': did you mean '--draws'?"),
    ("compare bento coffee", "'coffee' is one word too many"),
    ("compare bento --draws -5", "should be a whole number, from 1 to 100000000, not '-5'"),
    ("compare bento --chains 0", "should be a whole number, from 1 to 10000, not '0'"),
    ("compare bento --warmup x", "should be a whole number, from 0 to 100000000, not 'x'"),
    ("compare bento --precision float16", "invalid choice: 'float16'"),
    ("compare bento --column a", "--column chooses columns of --data"),
    ("compare bento --standardize", "--standardize changes columns of --data"),
    ("compare bento --frequency n", "--frequency names a column of --data"),
    ("compare bento --data {tmp}/two.csv --column a --frequency c", "has no column 'c'"),
    ("compare bento --data {tmp}/two.csv --column a --standardize", "in every row: it cannot be standardised"),
    ("compare bento --data {tmp}/two.parquet", "Parquet"),
    ("compare bento --set scale", "--set takes NAME=VALUE, got 'scale'"),
    ("compare bento --set scale=wide", "is not a TOML value"),
    ("compare bento --set scal=2", "no constant 'scal': did you mean 'scale'?"),
    ("compare bento --set scale=-2", "scale should be positive, got -2.0"),
    ("compare bento --option gibs.thin=2", "no back end named 'gibs': did you mean 'gibbs'?"),
    ("compare bento --option nuts.permut=false", "nuts has no setting 'permut': did you mean 'permute'?"),
    ("compare bento --option permut=false", "has a setting 'permut': did you mean 'permute'?"),
    ("compare bento --backends gibbs --option nuts.permute=false", "'nuts', which is not a back end that runs"),
    ("compare bento --option gibbs.num_draws=-1", "num_draws should be a whole number, 1 or more, got -1"),
    ("compare bento --model x.py:y", "give one of them"),
    ("compare --model missing.py:y", "no file missing.py"),
    ("compare --model {tmp}/model.py:mein", "has no 'mein': did you mean 'mine'?"),
    ("compare --model {tmp}/model.py:number", "it should be a Mixture or a function that returns one"),
    ("compare --model {tmp}/model.py:mine --set row=3", "failed: TypeError"),
    ("compare bento --data {tmp}/missing.csv", "no data file"),
    ("compare bento --data {tmp}/empty.csv", "is empty"),
    ("compare bento --data {tmp}/header.csv", "has a header but no rows"),
    ("compare bento --data {tmp}/words.csv", "not a number"),
    ("compare bento --data {tmp}/nan.csv", "remove or impute it"),
    ("compare bento --data {tmp}/two.csv", "has 2 columns (a, b) but the model takes 1"),
    ("compare bento --data {tmp}/two.csv --column c", "has no column 'c'"),
    ("compare bento --data {tmp}/huge.csv", "rescale the data; rows count from 0, the header does not"),
    (
        "fit three_gaussians --backend em --option prior=false --data {tmp}/equal.csv",
        "needs at least 3 distinct points",
    ),
    ("compare bento --out {tmp}/empty.csv", "cannot be written"),
    ("compare bento --out {tmp}/empty.csv/below", "cannot be written"),
]


@pytest.mark.parametrize("line, sentence", BAD, ids=[line[:80] or "nothing" for line, _ in BAD])
def test_bad_input_gets_one_sentence_and_status_2(line, sentence, tmp_path, capsys):
    contents = {
        "empty.csv": "",
        "header.csv": "a\n",
        "words.csv": "a\n1\ntwo\n",
        "nan.csv": "a\n1\nnan\n",
        "two.csv": "a,b\n1,2\n",
        "two.parquet": "a,b\n1,2\n",
        "huge.csv": "a\n1e200\n",
        "equal.csv": "a\n1\n1\n2\n",
        "model.py": MODEL_FILE,
        "rowless.json": '{"seed": 0, "quick": false}',
        "coffee.json": json.dumps({"seed": 0, "quick": False, "rows": [COFFEE_ROW]}),
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    assert cli.main(line.format(tmp=tmp_path).split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and sentence in err and "Traceback" not in err
    assert len(err.strip().splitlines()) == 1 or line == ""


def test_fit_by_em_prints_standard_errors_and_how_the_restarts_ended(capsys):
    assert cli.main("fit bento --backend em".split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["parameter", "value", "standard", "error"] for line in lines)
    assert sum(line.split()[:1] in (["means[0]"], ["means[1]"]) and len(line.split()) == 3 for line in lines) == 2
    assert [line.split()[0::2][:2] for line in lines if "converged" in line] == [["converged", "32"]]


def test_compare_leaves_its_files_and_its_json(report, tmp_path, capsys):
    line = f"compare bento --backends enumeration,gibbs --draws 60 --warmup 20 --chains 2 --json --out {tmp_path}/new"
    assert cli.main(line.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["gibbs"]["num_draws"] == 60 and found["settings"]["gibbs"]["num_chains"] == 2
    assert found["reference"]["log_evidence"] == pytest.approx(-65.31374998980641, abs=1e-8)
    assert files(tmp_path / "new") == [
        *("comparison.csv", "comparison.json", "enumeration.nc", "gibbs.nc", "report.html")
    ]
    assert json.loads((tmp_path / "new" / "comparison.json").read_text()) == found


def test_compare_prints_a_table_a_verdict_per_back_end_and_the_variants_whole_name(capsys):
    assert cli.main("compare bento --set scale=25 --backends enumeration".split()) == 0
    out = capsys.readouterr().out
    assert out.startswith("bento[scale=25.0], data bento: N = 20, D = 1\nReference: exact, enumeration; log evidence")
    assert "sorted_means[0]" in out and "exact, the reference of this comparison" in out


def test_a_named_back_end_that_refuses_gives_status_1_and_a_default_one_does_not(monkeypatch, capsys):
    assert cli.main("compare bento_known --backends nuts,enumeration --quiet".split()) == 1
    assert "refused: no unknown parameter" in capsys.readouterr().out
    monkeypatch.setattr("inference.TABLE", {"nuts": ("inference.nuts", "mcmc", True)})
    assert cli.main("compare bento_known --quiet".split()) == 0


def test_a_refusal_names_the_back_ends_that_serve_and_an_option_that_none_has_is_an_error(capsys):
    assert cli.main("fit bento_known --backend nuts --quiet".split()) == 1
    assert "enumeration, gibbs, importance, importance_joint serve it" in capsys.readouterr().err
    assert cli.main("fit bento --backend em --draws 7 --quiet".split()) == 2
    assert "--draws means nothing to em; leave it out" in capsys.readouterr().err


def test_a_back_end_that_fails_gives_status_1_and_the_others_are_kept(monkeypatch, report, tmp_path, capsys):
    module = types.ModuleType("broken_back_end")
    module.refuses = lambda model, x: None

    def broken(model, x, key, *, progress=None):
        raise RuntimeError("out of luck")

    module.broken = broken
    monkeypatch.setitem(sys.modules, "broken_back_end", module)
    table = {"broken": ("broken_back_end", "mcmc", True), "enumeration": ("inference.enumeration", "exact", True)}
    monkeypatch.setattr("inference.TABLE", table)
    assert cli.main(f"compare bento --quiet --out {tmp_path}".split()) == 1
    assert "failed: RuntimeError: out of luck" in capsys.readouterr().out
    assert "enumeration.nc" in files(tmp_path) and "broken.nc" not in files(tmp_path)


def test_a_report_that_fails_loses_no_results(report, tmp_path, capsys):
    def write(comparison, path):
        raise RuntimeError("no ink")

    report.write = write
    assert cli.main(f"compare bento_known --backends enumeration --quiet --out {tmp_path}".split()) == 1
    assert "the report could not be written: RuntimeError: no ink" in capsys.readouterr().err
    assert files(tmp_path) == ["comparison.csv", "comparison.json", "enumeration.nc"]


def test_fit_prints_a_summary_and_leaves_one_file(tmp_path, capsys):
    (tmp_path / "own.csv").write_text("grams,note\n" + "\n".join(f"{350 + 150 * (i % 2)},{i}" for i in range(8)))
    line = f"fit bento --draws 50 --warmup 20 --chains 2 --data {tmp_path}/own.csv --column grams --out {tmp_path}/out"
    assert cli.main(line.split()) == 0
    out = capsys.readouterr().out
    assert "bento by gibbs" in out and "sorted_means[0]" in out and "mixed" in out
    assert files(tmp_path / "out") == ["gibbs.nc"]


def test_how_a_users_file_was_read_is_in_the_result(tmp_path, capsys):
    (tmp_path / "own.csv").write_text("note,kilos,times\n" + "x,0.35,3\ny,0.5,4\n")
    line = f"compare bento --backends enumeration --json --data {tmp_path}/own.csv --column kilos --frequency times"
    assert cli.main(f"{line} --units kg".split()) == 0
    found = json.loads(capsys.readouterr().out)["data"]
    assert (found["name"], found["N"], found["units"], found["columns"]) == ("own", 7, "kg", ["kilos"])
    assert found["variant"] == "a row per unit of times" and found["standardized"] == {}
    assert cli.main(f"{line} --standardize".split()) == 0
    found = json.loads(capsys.readouterr().out)["data"]
    mean, sd = (3 * 0.35 + 4 * 0.5) / 7, 0.15 * np.sqrt(12) / 7
    assert found["units"] == "standardised"
    assert found["standardized"] == {"kilos": {"mean": pytest.approx(mean), "sd": pytest.approx(sd)}}


@pytest.mark.slow
def test_a_users_file_is_standardised_as_the_models_own_data_are_or_it_is_asked_for(tmp_path, capsys):
    own = tmp_path / "geyser.csv"
    assert cli.main(["data", "faithful", "--out", str(own)]) == 0
    line = f"fit faithful_spherical --backend em --json --option num_restarts=4 --data {own}"
    capsys.readouterr()
    assert cli.main(line.split()) == 0
    found = json.loads(capsys.readouterr().out)
    scales = zoo.MODELS["faithful_spherical"].data.standardized
    assert found["data"]["standardized"] == {name: {"mean": m, "sd": sd} for name, (m, sd) in scales.items()}
    own.write_text(own.read_text().replace("eruptions", "minutes"))
    assert cli.main(line.split()) == 2
    err = capsys.readouterr().err
    assert "the priors of faithful_spherical are for standardised columns, eruptions, waiting in this order, and" in err
    assert cli.parse([*line.split(), "--no-standardize"]).standardize is False


def test_a_model_from_a_file_is_compared_like_the_zoos(tmp_path, capsys):
    (tmp_path / "model.py").write_text(MODEL_FILE)
    line = f"compare --model {tmp_path}/model.py:mine --set rows=5 --backends enumeration --json"
    assert cli.main(line.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "mine" and found["data"]["N"] == 5


def test_show_writes_the_declaration_as_maths(capsys):
    assert cli.main(["show", "bento_full"]) == 0
    out = capsys.readouterr().out
    for line in [
        "weights ~ Dirichlet(concentration=[1, 1])",
        "means ~ Normal(loc=[400, 400], scale=50)",
        "variances ~ InverseGamma(concentration=[3, 3], scale=8)",
        "z ~ Categorical(probs=weights)",
        "x | z = k ~ Normal(loc=means[k], scale=scales[k])",
        "quadrature: refuses, ",
        "variances: InverseGamma variance; gives an exact draw, a closed M-step, a closed variational update",
        "gibbs: serves it",
        "exchangeable, relabelling changes nothing; a relabelling exists",
    ]:
        assert line in out


def test_show_as_json_names_every_back_end_and_the_data(capsys):
    assert cli.main("show bento_known --json".split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prior"] == [] and found["observation"][1] == "x | z = k ~ Normal(loc=[500, 350][k], scale=2)"
    assert found["backends"]["nuts"] == "no unknown parameter" and found["backends"]["gibbs"] is None
    assert found["data"]["sha256"] and found["relabels"] is False and found["conjugate"] == {}


def test_options_reach_their_back_end_in_toml_syntax():
    args = cli.parse("compare bento --option nuts.permute=false --option num_draws=7 --set weights=[.5,.5]".split())
    assert arguments.settings_of(args) == {"nuts": {"permute": False}, "num_draws": 7}
    with pytest.raises(ValueError, match="not a TOML value"):
        arguments.constants_of(args)  # .5 is no TOML number
    args = cli.parse(["compare", "bento", "--set", "weights=[0.3, 0.7]"])
    assert arguments.constants_of(args) == {"weights": [0.3, 0.7]}


def test_the_older_runtime_is_never_switched_on_and_warned_about(monkeypatch, capsys):
    monkeypatch.setitem(os.environ, "JAX_ENABLE_X64", "0")
    monkeypatch.setitem(os.environ, "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    cli.prepare("float64")
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=false"
    assert os.environ["JAX_ENABLE_X64"] == "1" and capsys.readouterr().err == ""
    monkeypatch.setitem(os.environ, "XLA_FLAGS", "--xla_cpu_use_thunk_runtime=false")
    cli.prepare("float64")
    assert "measured to sample wrongly" in capsys.readouterr().err


def test_progress_has_a_bar_per_back_end_on_a_terminal_only(monkeypatch):
    with tables.progress_bars(True) as progress:
        assert progress is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with tables.progress_bars(True) as progress:
        progress("gibbs", 0, 1)
        progress("gibbs", 1, 1)
    with tables.progress_bars(False) as progress:
        assert progress is None


def test_without_a_reference_the_table_holds_means_and_says_there_is_none(capsys):
    from diagnostics.compare import compare
    from zoo.models.bento import bento

    comparison = compare(bento(), ["enumeration"], reference="none")
    tables.print_tables(tables.console(), comparison)
    out = capsys.readouterr().out
    assert "Reference: none" in out and "Posterior means" in out
    assert np.isfinite(comparison.reference.log_evidence)


@pytest.mark.slow
def test_calibrate_tests_one_back_end_and_writes_the_table(tmp_path, capsys):
    path = tmp_path / "table.md"
    assert cli.main(["calibrate", "bento", "--backends", "gibbs", "--quick", "--json", "--out", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["rows"]
    assert found["ok"] and found["seed"] == 0 and found["quick"] and row["backend"] == "gibbs"
    assert row["joint"]["passed"] and row["joint"]["moved"]["means"] > 0.9
    assert row["sbc"]["verdict"] == "passed" and row["sbc"]["num_datasets"] == 40
    text = path.read_text()
    assert (
        f"`zoo calibrate bento --backends gibbs --quick --json --out {path}`" in text and "seed 0; mixture-zoo" in text
    )
    assert "| bento[scale=40.0] | gibbs | passed" in text and "| bento[scale=40.0] | means |" in text


def test_calibrate_says_in_a_sentence_what_a_back_end_refuses(capsys):
    assert cli.main(["calibrate", "bento_known", "--backends", "nuts"]) == 1
    assert "nuts refuses bento_known" in capsys.readouterr().err
