"""The page of how each back end ends on each model."""

from types import SimpleNamespace

from diagnostics import cells

COST = {"compile_seconds": 1.0, "run_seconds": 2.0}


def ends(usable, verdict, status="ok"):
    return {"status": status, "usable": usable, "verdict": verdict, "reason": verdict, "cost": COST}


def test_the_page_says_which_models_mix_and_grows_model_by_model(monkeypatch):
    found = {
        "bento": {"gibbs": ends(True, "mixed"), "nuts": ends(False, "no twin | here", "refused")},
        "coffee": {"gibbs": ends(True, "mixed"), "nuts": ends(False, "not mixed: R-hat 1.2")},
        "candy": {"gibbs": ends(False, "no rule", "refused"), "nuts": ends(False, "no twin", "refused")},
    }
    reference = SimpleNamespace(kind="exact", source="quadrature", values={"means": 1.0})
    of = lambda model, backends, seed: SimpleNamespace(backends=found[model.name], reference=reference)
    monkeypatch.setattr(cells, "compare", of)
    first, second, last = cells.pages(list(found), "the command", ["gibbs", "nuts"])
    assert "Unfinished: 1 of 3 models." in first and "coffee" not in first and "Unfinished" not in last
    assert "serves them** (1): bento." in last and "Not mixed somewhere (1), the reasons below: coffee (nuts)." in last
    assert "| nuts |  | refused: no twin / here |" in second and "| gibbs | 1.0 + 2.0 | mixed |" in second
    assert "Reference: exact, quadrature." in last and "Made by `the command`" in last
