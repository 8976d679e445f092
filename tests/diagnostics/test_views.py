"""Pictures of a model before any fit: drawn for every kind of data, and true where the truth is known."""

import numpy as np
import pytest
from scipy import stats

from diagnostics import cli, views
from zoo import MODELS

KINDS = ("coffee", "london_deaths", "directions", "faithful", "scotch", "tone", "ais", "penguin_classes")


def test_densities_at_prior_draws_average_to_the_prior_predictive():
    """coffee: x ~ sum over k of 1/3 Normal((80, 120, 160)[k], sqrt(20^2 + 5^2))."""
    grid = np.linspace(60, 180, 25)
    curves = views._curves(MODELS["coffee"], grid)
    exact = stats.norm.pdf(grid[:, None], [80, 120, 160], np.hypot(20, 5)).mean(axis=1)
    z = (curves.mean(axis=0) - exact) / (curves.std(axis=0) / np.sqrt(len(curves)))
    assert np.all(np.abs(z) < 4.4)


def test_data_sets_simulated_at_prior_draws_follow_the_prior_predictive():
    """coffee: values of different data sets are independent draws of it."""
    z, simulated = views._simulate(MODELS["coffee"], 40, 50)
    first = simulated["x"][:, 0]
    cdf = lambda v: stats.norm.cdf(np.asarray(v)[:, None], [80, 120, 160], np.hypot(20, 5)).mean(axis=1)
    assert stats.kstest(first, cdf).pvalue > 1e-5
    assert z.shape == simulated["x"].shape == (40, 50)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in KINDS])
def test_a_picture_is_drawn_of_every_kind_of_data(name, tmp_path):
    for view in (views.prior_predictive, views.graph):
        view(MODELS[name]).savefig(tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_size > 5000


def test_axes_hold_the_data_and_say_how_much_of_the_prior_lies_beyond():
    axis = views.prior_predictive(MODELS["coffee"]).axes[0]
    low, high = axis.get_xlim()
    x = MODELS["coffee"].data.x
    assert low < x.min() and high > x.max()
    simulated = views._simulate(MODELS["coffee"], 40, 50)[1]["x"]
    beyond = np.mean((simulated < low) | (simulated > high))
    assert axis.get_title(loc="left").startswith(f"{beyond:.0%} of the prior predictive")
    assert axis.get_xlabel() == "caffeine (mg per cup)"


def test_limits_follow_the_prior_no_further_than_some_spans_of_the_data():
    x, wide = np.array([0.0, 1.0]), np.linspace(-1000, 1000, 101)
    low, high = views._limits(x, wide)
    assert -2 < low < -1.4 and 2.4 < high < 3
    assert views._limits(None, wide)[0] < -850


def test_show_leaves_its_pictures_and_names_them(tmp_path, capsys):
    assert cli.main(["show", "coffee", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"prior.png", "graph.png"}
    assert "prior.png, graph.png" in said and "<- means, z" in said


def test_a_picture_that_fails_is_a_sentence_and_status_1(tmp_path, capsys, monkeypatch):
    def broken(model):
        raise RuntimeError("no\nluck")

    monkeypatch.setattr(views, "prior_predictive", broken)
    assert cli.main(["show", "coffee", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.strip() == "zoo show: prior.png could not be drawn: RuntimeError: no luck"
    assert (tmp_path / "graph.png").exists()


@pytest.mark.parametrize(
    "out, sentence",
    [("", "zoo show: --out is empty; give a value or leave it out"), ("file/in", "cannot be written")],
)
def test_show_says_in_a_sentence_what_is_wrong_with_its_folder(out, sentence, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["show", "coffee", "--out", str(tmp_path / out) if out else ""]) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error and "\n" not in error
