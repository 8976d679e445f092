"""`zoo fit --resume`: through the file, in another process, to the same bits; and what is refused."""

import os
import signal
import subprocess
import sys
import time

import arviz as az
import numpy as np
import pytest

from diagnostics import cli, resume
from diagnostics.to_arviz import versions

COMMON = "--chains 2 --warmup 20 --quiet"


def fit(line):
    return cli.main(f"fit coffee {line} --quiet".split())


@pytest.mark.parametrize(
    "backend", ["metropolis", *(pytest.param(n, marks=pytest.mark.slow) for n in ("gibbs", "collapsed", "nuts"))]
)
def test_a_run_that_goes_on_from_its_file_has_the_draws_of_one_without_a_break(backend, tmp_path):
    how = f"--backend {backend} --seed 3 {COMMON}"
    assert fit(f"{how} --draws 15 --out {tmp_path}/short") == 0
    assert fit(f"{how} --draws 40 --out {tmp_path}/whole") == 0
    again = f"fit --resume {tmp_path}/short/{backend}.nc --draws 40 --out {tmp_path}/again --quiet"
    assert cli.main(again.split()) == 0
    one, two = (az.from_netcdf(f"{tmp_path}/{name}/{backend}.nc") for name in ("whole", "again"))
    assert one.groups() == two.groups() and one.posterior.sizes["draw"] == 40
    for group in ("posterior", "sample_stats", "sampler_state", "log_likelihood", "posterior_predictive"):
        assert set(one[group].data_vars) == set(two[group].data_vars)
        for name, leaf in one[group].data_vars.items():
            np.testing.assert_array_equal(leaf, two[group][name])
            assert leaf.dtype == two[group][name].dtype
    assert one.attrs["settings"] == two.attrs["settings"] and one.attrs["seed"] == two.attrs["seed"] == 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    assert fit(f"--backend gibbs --seed 3 {COMMON} --draws 15 --out {folder}") == 0
    (folder / "text.nc").write_text("no run")
    return folder


def test_the_file_says_which_model_with_which_constants_it_is_of(tmp_path):
    how = ["--set", "scale=25", "--set", "weights=[0.7, 0.3]", "--chains", "2", "--warmup", "2", "--draws", "4"]
    assert cli.main(["fit", "bento", *how, "--quiet", "--out", f"{tmp_path}/short"]) == 0
    assert cli.main(f"fit --resume {tmp_path}/short/gibbs.nc --draws 6 --quiet --out {tmp_path}/again".split()) == 0
    again = az.from_netcdf(f"{tmp_path}/again/gibbs.nc")
    assert again.attrs["model"] == "bento[scale=25.0,weights=(0.7,0.3)]" and again.posterior.sizes["draw"] == 6


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("coffee --resume {0}/nothing.nc", "no file"),
        ("--resume {0}/text.nc", "cannot be read as a run"),
        ("--set scale=6 --resume {0}/gibbs.nc", "--set changes a MODEL, and none is given"),
        ("coffee --resume {0}/text.nc", "cannot be read as a run"),
        ("bento --resume {0}/gibbs.nc", "a run of coffee, not of bento"),
        ("coffee --set scale=6 --resume {0}/gibbs.nc", "a run of coffee, not of coffee[scale=6.0]"),
        ("coffee --backend nuts --resume {0}/gibbs.nc", "give --backend gibbs"),
        ("coffee --backend em --resume {0}/gibbs.nc", "em has none"),
        ("--backend nuts --resume {0}/gibbs.nc", "give --backend gibbs"),
        ("coffee --resume {0}/gibbs.nc --seed 4", "has seed 3, not 4"),
        ("coffee --resume {0}/gibbs.nc --seed 0", "has seed 3, not 0"),
        ("coffee --resume {0}/gibbs.nc --option thin=2", "has thin = 5, not 2"),
        ("coffee --resume {0}/gibbs.nc --warmup 30", "has num_warmup = 20, not 30"),
        ("coffee --resume {0}/gibbs.nc --draws 10", "has 15 draws per chain already"),
    ],
)
def test_a_run_that_the_file_does_not_begin_is_refused_in_a_sentence(saved, capsys, line, sentence):
    assert cli.main(["fit", *line.format(saved).split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and sentence in err and len(err.strip().splitlines()) == 1


def test_other_versions_are_refused_since_their_draws_would_differ(saved, capsys, monkeypatch):
    monkeypatch.setattr(resume, "versions", lambda: versions() | {"jax": "0.0.1"})
    assert cli.main(["fit", "coffee", "--resume", f"{saved}/gibbs.nc"]) == 2
    assert "now 0.0.1" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_leaves_the_finished_part_and_says_how_to_go_on(tmp_path):
    line = f"fit bento --backend gibbs --chains 2 --warmup 20 --draws 2000000 --out {tmp_path} --quiet"
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    run = subprocess.Popen(
        [sys.executable, "-m", "diagnostics.cli", *line.split()],
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background run of the tests ignores it
    )
    time.sleep(25)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 1 and "--resume" in err and "Traceback" not in err
    data = az.from_netcdf(tmp_path / "gibbs.nc")
    assert data.attrs["interrupted"] == 1 and 0 < data.posterior.sizes["draw"] < 2_000_000
