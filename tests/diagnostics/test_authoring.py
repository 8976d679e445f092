"""`zoo new`, `zoo check`, `zoo simulate`: what a writer of a model meets first."""

import json

import jax
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from diagnostics import authoring, contract
from diagnostics.cli import main
from zoo import MODELS
from zoo.load import load

GOOD = """
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from genjax import categorical, gen, half_normal, normal
from zoo import Dataset, Mixture

P = np.array([0.3, 0.7])

@gen
def prior():
    means = normal(np.zeros(2), 3.0) @ "means"
    return {"means": means}

@gen
def observation(params):
    z = categorical(probs=P) @ "z"
    return normal(params["means"][z], 1.0) @ "x"

def twin(x):
    means = numpyro.sample("means", dist.Normal(np.zeros(2), 3.0).to_event(1))
    parts = dist.Normal(means, 1.0)
    with numpyro.plate("n", len(x)):
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(probs=jnp.asarray(P)), parts), obs=x)

model = Mixture(name="mine", num_components=2, exchangeable=False, prior=prior, observation=observation, twin=twin,
                data=Dataset(name="mine", x=np.array([0.5, -1.0, 2.0])))
"""

MISTAKES = {
    "categorical(probs=P)": ("categorical(P)", "assignment_has_k_values", "write categorical(probs=p)"),
    "num_components=2": ("num_components=3", "assignment_has_k_values", "z has 2 values but num_components is 3"),
    "dist.Normal(np.zeros(2), 3.0)": ("dist.Normal(np.zeros(2), 4.0)", "twin_equals_table", "in the prior of means"),
    "dist.Normal(np.zeros(2), 3.0).to_event(1)": (
        "dist.HalfNormal(3.0).expand([2]).to_event(1)",
        "twin_equals_table",
        "in the prior of means",
    ),
    "parts = dist.Normal(means, 1.0)": ("parts = dist.Normal(means, 2.0)", "twin_equals_table", "they differ in x"),
    'sample("means"': ('sample("mu"', "twin_equals_table", "means"),
    "exchangeable=False": ("exchangeable=True", "exchangeable_as_declared", "permuting changed the density"),
    "[0.5, -1.0, 2.0]": ("[0.5, np.nan, 2.0]", "own_data_are_served", "row 1"),
    'normal(params["means"][z], 1.0) @ "x"': (
        'half_normal(1.0 + params["means"][z] ** 2) @ "x"',
        "own_data_are_served",
        "row 1 is -1.0, outside the support of mine",
    ),
    'normal(params["means"][z], 1.0)': (
        'normal(params["means"][z], -1.0)',
        "densities_are_finite",
        "scale of x is -1; it should",
    ),
}


def checked(tmp_path, text, capsys):
    file = tmp_path / "mine.py"
    file.write_text(text)
    status = main(["check", "--model", f"{file}:model", "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_a_right_model_holds_and_its_back_ends_are_named(tmp_path, capsys):
    status, found = checked(tmp_path, GOOD, capsys)
    assert status == 0 and all(one["holds"] for one in found["contract"].values()), found
    assert found["backends"]["nuts"] is None and found["backends"]["quadrature"] is None


@pytest.mark.parametrize("right", MISTAKES)
def test_a_mistake_is_told_where_it_is(tmp_path, right):
    wrong, identity, words = MISTAKES[right]
    assert right in GOOD
    file = tmp_path / "mine.py"
    file.write_text(GOOD.replace(right, wrong))
    model = load(f"{file}:model")
    try:
        found = contract.IDENTITIES[identity](model)
    except ValueError as error:  # as `contract.check` has it
        found = contract.Finding(False, str(error))
    assert not found.holds and words in found.detail, found


@pytest.mark.slow
def test_a_mistake_makes_the_command_fail(tmp_path, capsys):
    status, found = checked(tmp_path, GOOD.replace("num_components=2", "num_components=3"), capsys)
    assert status == 1 and not found["contract"]["assignment_has_k_values"]["holds"]


@pytest.mark.parametrize(
    "right, wrong, words",
    [
        (' @ "z"', "", 'write distribution(...) @ "name"'),
        (' @ "means"', "", 'write distribution(...) @ "name"'),
        ("categorical(probs=P)", "normal(0.0, 1.0)", "by a value that is no whole number; write z = categorical"),
        (
            'categorical(probs=P) @ "z"\n    return normal(params["means"][z]',
            'normal(np.zeros(()), 1.0) @ "z"\n    return normal(params["means"][0] * z',
            "the assignment z is of type float64, drawn by Normal; write z = categorical",
        ),
        (' @ "x"', "", 'write distribution(...) @ "x"'),
        ("def observation(params)", "def observation(params, covariates)", "it takes covariates; give Mixture data="),
    ],
)
def test_a_forgotten_address_is_told_in_a_sentence(tmp_path, capsys, right, wrong, words):
    file = tmp_path / "mine.py"
    file.write_text(GOOD.replace(right, wrong))
    assert main(["check", f"{file}:model"]) == 2  # MODEL may be FILE.py:NAME, as --model
    assert words in capsys.readouterr().err


def test_a_file_that_exits_is_told_and_one_may_import_its_neighbour(tmp_path):
    (tmp_path / "stops.py").write_text("raise SystemExit('bye')")
    with pytest.raises(ValueError, match="stops.py failed to import: SystemExit: bye"):
        load(f"{tmp_path / 'stops.py'}:model")
    (tmp_path / "neighbour_of_mine.py").write_text("DATA = [0.5, -1.0, 2.0]")
    (tmp_path / "mine.py").write_text("from neighbour_of_mine import DATA\n" + GOOD.replace("[0.5, -1.0, 2.0]", "DATA"))
    assert load(f"{tmp_path / 'mine.py'}:model").name == "mine"


NAMES = """
import dataclasses
import zoo
own = zoo.MODELS['bento']
wide = zoo.MODELS.builder('bento')(scale=25)
changed = dataclasses.replace(own, observation=observation)
disguised = dataclasses.replace(wide, prior=prior)
"""


def test_a_model_of_ones_own_with_a_name_of_the_zoo_is_refused_and_the_zoos_own_is_not(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(GOOD.replace('name="mine"', 'name="bento"') + NAMES)
    with pytest.raises(ValueError, match="the zoo has a model named 'bento'; a name keeps its density"):
        load(f"{file}:model")
    for other in ("changed", "disguised"):
        with pytest.raises(ValueError, match="the zoo has a model named 'bento"):
            load(f"{file}:{other}")
    assert load(f"{file}:own").name == "bento" and load(f"{file}:wide").name == "bento[scale=25.0]"


def test_every_identity_has_its_sentence():
    assert set(authoring.SENTENCES) == set(contract.IDENTITIES)


def test_a_new_model_runs_as_it_stands_and_replaces_nothing(tmp_path, capsys):
    assert main(["new", "mine", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [str(tmp_path / "mine.py"), str(tmp_path / "test_mine.py")]
    assert main(["check", "--model", f"{tmp_path / 'mine.py'}:mine"]) == 0
    assert "the contract holds" in capsys.readouterr().out
    assert "def test_mine_keeps_its_contract" in (tmp_path / "test_mine.py").read_text()
    assert main(["new", "mine", "--out", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["new", "2queues"]) == 2


GAMMA = {
    "from genjax import categorical, dirichlet, gen, half_normal, normal": (
        "from genjax import categorical, dirichlet, gamma, gen, half_normal"
    ),
    'means = normal(np.zeros(K), 10.0) @ "means"': 'means = gamma(np.full(K, 2.0), 0.05) @ "means"',
    'scales = half_normal(np.full(K, 5.0)) @ "scales"': 'shapes = gamma(np.full(K, 2.0), 0.1) @ "shapes"',
    '"scales": scales}': '"shapes": shapes}',
    'normal(params["means"][z], params["scales"][z])': (
        'gamma(params["shapes"][z], params["shapes"][z] / params["means"][z])'
    ),
    'family="gaussian"': 'family="gamma"',
    "np.array([-1.9, -2.3, 1.7, 2.4, 2.1, -1.6])": (
        "np.r_[np.random.default_rng(0).gamma(9, 2, 30), np.random.default_rng(1).gamma(40, 2, 20)]"
    ),
}


@pytest.mark.slow
def test_a_new_file_filled_in_with_gamma_densities_runs_everywhere_without_another_edit(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "waits"]) == 0
    text = (tmp_path / "waits.py").read_text()
    for old, new in GAMMA.items():
        assert old in text
        text = text.replace(old, new)
    assert sum(bool(line.strip()) for line in text.splitlines()) <= 40
    (tmp_path / "waits.py").write_text(text)
    assert main(["check", "waits.py:waits"]) == 0
    assert pytest.main(["-q", "-p", "no:cacheprovider", str(tmp_path / "test_waits.py")]) == 0
    short = "--chains 2 --warmup 100 --draws 200 --quiet --out found".split()
    assert main(["compare", "waits.py:waits", "--backends", "gibbs,em,nuts", *short]) == 0
    (tmp_path / "new.csv").write_text("x\n20.0\n75.0\n")
    capsys.readouterr()
    assert main(["predict", "found/gibbs.nc", "--model", "waits.py:waits", "--data", "new.csv", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 2 and all(np.isfinite(row["log_density"]) for row in rows)


def test_covariates_of_the_data_serve_a_simulation(capsys):
    assert main(["simulate", "tone", "-n", "200", "--seed", "1"]) == 0
    head, *rows = capsys.readouterr().out.split()
    assert head == "covariates,x,assignment" and len(rows) == 200
    assert [float(row.split(",")[0]) for row in rows] == np.resize(MODELS["tone"].data.x["covariates"], 200).tolist()


def test_simulated_columns_are_in_the_units_of_the_file_that_the_models_data_were_read_from(tmp_path, capsys):
    path, model = tmp_path / "x.csv", MODELS["faithful_spherical"]
    assert main(["simulate", "faithful_spherical", "-n", "40", "--seed", "3", "--out", str(path)]) == 0
    assert "eruptions, waiting from faithful_spherical; params of the standardised columns" in capsys.readouterr().out
    drawn = model.simulate(jax.random.key(3), 40)[2]
    back = model.of_frame(pd.read_csv(path)[["waiting", "eruptions"]])
    assert_allclose(back.x, drawn, rtol=1e-12)
    means, sds = np.array(list(model.data.standardized.values())).T
    assert_allclose(pd.read_csv(path)[["eruptions", "waiting"]], drawn * sds + means, rtol=1e-12)


def test_simulated_data_come_back_with_their_assignments(tmp_path, capsys):
    path = tmp_path / "x.csv"
    assert main(["simulate", "coffee", "-n", "50", "--seed", "3", "--out", str(path)]) == 0
    rows = np.genfromtxt(path, delimiter=",", names=True)
    assert rows.dtype.names == ("caffeine", "assignment") and len(rows) == 50
    assert set(rows["assignment"]) <= {0.0, 1.0, 2.0}
    first = path.read_text()
    main(["simulate", "coffee", "-n", "50", "--seed", "3", "--out", str(path)])
    assert path.read_text() == first
