"""The table of how each back end ends on each model."""

import json
import pathlib
import subprocess
from types import SimpleNamespace

from diagnostics import cells
from zoo import MODELS

COST = {"compile_seconds": 1.0, "run_seconds": 2.0}


def ends(usable, verdict, status="ok"):
    return {"status": status, "usable": usable, "verdict": verdict, "reason": verdict, "cost": COST}


def chains(**ended):
    return {name: ended.get(name, ends(False, "no rule | here", "refused")) for name in cells.CHAINS}


FOUND = {
    "bento": chains(gibbs=ends(True, "mixed")),
    "coffee": chains(gibbs=ends(True, "mixed"), nuts=ends(False, "not mixed: R-hat 1.2")),
    "candy": chains(),
}


def stand_in(monkeypatch):
    reference = SimpleNamespace(kind="exact", source="quadrature", values={"means": 1.0})

    def compare(model, backends, seed):
        return SimpleNamespace(backends={b: FOUND[model.name][b] for b in backends}, reference=reference)

    monkeypatch.setattr(cells, "compare", compare)
    monkeypatch.setattr(cells, "commit", lambda: "abc")


def test_the_page_says_which_models_mix_and_what_was_not_run(monkeypatch):
    stand_in(monkeypatch)
    first, _, last = map(cells.markdown, cells.grown({}, list(FOUND), list(cells.CHAINS)))
    assert "coffee (enumeration" in first and "## coffee" not in first and "bento (enumeration" in last
    assert "serves them** (1): bento." in last and "Not mixed somewhere (1), the reasons below: coffee (nuts)." in last
    assert "| collapsed |  | refused: no rule / here | abc |" in last and "| gibbs | 1.0 + 2.0 | mixed | abc |" in last
    assert "Reference: exact, quadrature." in last


def test_a_call_replaces_the_rows_it_runs_and_keeps_the_others(monkeypatch, tmp_path):
    stand_in(monkeypatch)
    file = tmp_path / "table.json"
    (table,) = cells.grown({}, ["coffee"], list(cells.CHAINS))
    file.write_text(json.dumps(table))
    monkeypatch.setitem(FOUND["coffee"], "nuts", ends(True, "mixed"))
    cells.main(["--backends", "nuts", "--file", str(file), "coffee"])
    after = json.loads(file.read_text())
    assert cells.not_mixed(table["coffee"]["cells"]) == ["nuts"] and cells.not_mixed(after["coffee"]["cells"]) == []
    assert after["coffee"]["cells"]["gibbs"] == table["coffee"]["cells"]["gibbs"]
    assert "serves them** (1): coffee." in file.with_suffix(".md").read_text()


def test_a_model_some_of_whose_chains_were_not_run_is_on_neither_list(monkeypatch):
    stand_in(monkeypatch)
    (table,) = cells.grown({}, ["bento"], ["gibbs"])
    assert cells.not_mixed(table["bento"]["cells"]) is None and "(0): none." in cells.markdown(table)


def test_a_cell_that_does_not_end_in_its_time_is_a_row_that_says_so(monkeypatch, tmp_path):
    stand_in(monkeypatch)

    def run(command, check, timeout):
        arguments = dict(zip(command[3:-1:2], command[4:-1:2], strict=True))
        if arguments["--backends"] == "nuts":
            raise subprocess.TimeoutExpired(command, timeout)
        if arguments["--backends"] == "smc":
            raise subprocess.CalledProcessError(-9, command)
        cells.main(command[3:])

    monkeypatch.setattr(subprocess, "run", run)
    file = tmp_path / "table.json"
    cells.main(["--backends", "gibbs,smc,nuts", "--minutes", "25", "--file", str(file), "coffee"])
    ended = json.loads(file.read_text())["coffee"]["cells"]
    assert ended["gibbs"]["says"] == "mixed" and ended["nuts"]["status"] == "stopped"
    assert cells.not_mixed(ended) == ["nuts"] and ended["smc"]["status"] == "failed"
    assert ended["smc"]["says"] == "died with <Signals.SIGKILL: 9>."
    assert "| nuts |  | stopped: did not end in 25 minutes | abc |" in file.with_suffix(".md").read_text()


def test_the_page_in_the_repository_has_fifteen_models_mixed_and_names_the_others():
    table = json.loads((pathlib.Path(cells.__file__).parents[1] / "docs" / "backends.json").read_text())
    ended = {name: cells.not_mixed(table[name]["cells"]) for name in table}
    assert sum(missed == [] for missed in ended.values()) >= 15
    assert sorted(ended) == sorted(MODELS) and None not in ended.values(), "each is mixed, or not mixed somewhere"
