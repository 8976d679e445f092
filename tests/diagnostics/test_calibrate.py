"""The table of proofs: what counts as failing, what is run again, and how it is written."""

import concurrent.futures
import json
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

from diagnostics import calibrate, calibration, sbc
from zoo import MODELS


def calibrated(p=0.5, num_dropped=0, autocorrelation=0.0, conjugacy_error=0.0, num_simulated=200):
    ranks = np.zeros((num_simulated - num_dropped, 1), int)
    return sbc.Calibration(
        ("log prior",), np.array([p]), ranks, num_simulated, num_dropped, autocorrelation, conjugacy_error, 1e-4
    )


def joint(z=1.0, moved=0.9):
    return calibration.JointTest(("log joint",), np.array([z]), {"means": moved}, 100, 0.01)


CELL = calibrate.Cell("gibbs", "", True, 3, False, 100, 1e-4, 1e-4, "")


def row(**parts):
    return calibrate.Row("bento", parts.pop("backend", "gibbs"), parts.pop("kind", "mcmc"), **parts)


@pytest.mark.parametrize(
    "parts, verdict",
    [
        (dict(), "passed"),
        (dict(p=1e-5), "FAILED"),
        (dict(num_dropped=4), "passed"),
        (dict(num_dropped=5), "not established"),
        (dict(p=1e-5, num_dropped=5), "not established"),
        (dict(autocorrelation=0.06), "not established"),
        (dict(conjugacy_error=1e-3), "FAILED"),
    ],
)
def test_verdict_of_a_calibration(parts, verdict):
    assert calibrated(**parts).verdict == verdict


@pytest.mark.parametrize(
    "parts, ok",
    [
        (dict(joint=joint(), sbc=calibrated()), True),
        (dict(joint=joint(z=5.0), sbc=calibrated()), False),
        (dict(joint=joint(moved=0.1), sbc=calibrated()), False),
        (dict(sbc=calibrated(p=1e-6)), False),
        (dict(sbc=calibrated(p=1e-6), kind="approximate"), True),
        (dict(sbc=calibrated(num_dropped=50)), True),
        (dict(failed="RuntimeError: no"), False),
    ],
)
def test_only_what_disproves_a_back_end_fails_the_table(parts, ok):
    assert row(**parts).ok == ok


@pytest.mark.parametrize("second, expected", [(0.5, "passed"), (1e-6, "FAILED")])
def test_a_failing_cell_is_run_again_with_a_new_seed_and_four_times_the_data_sets(monkeypatch, second, expected):
    asked = []

    def fake(model, backend, seed, *, num_datasets, level, progress):
        asked.append((seed, num_datasets))
        return calibrated(p=1e-6 if len(asked) == 1 else second)

    monkeypatch.setattr(sbc, "sbc", fake)
    assert calibrate._calibrated(None, CELL, None).verdict == expected
    assert asked == [(3, 100), (4, 400)]


def test_a_mended_conjugate_draw_gets_no_second_run(monkeypatch):
    monkeypatch.setattr(sbc, "sbc", lambda *args, **kwargs: calibrated(conjugacy_error=0.1))
    assert calibrate._calibrated(None, CELL, None).verdict == "FAILED"


def test_the_page_names_command_seed_versions_and_every_cell():
    rows = [
        row(joint=joint(), sbc=calibrated(), seconds=120.0),
        row(joint=joint(moved=0.1), sbc=calibrated(num_dropped=50)),
        row(backend="cavi", kind="approximate", sbc=calibrated(p=1e-6)),
        row(backend="nuts", failed="RuntimeError: no"),
    ]
    table = calibrate.Table({"bento": {"means": 3e-16}}, rows, 7, False, 4)
    text = calibrate.markdown(table, "zoo calibrate --out x.md --seed 7")
    for words in (
        "Made by `zoo calibrate --out x.md --seed 7` in 2 minutes; seed 7; mixture-zoo",
        "| bento | gibbs | passed, 1.0 (2.6) | passed, 0.5 (0.0001) | 200 (0) |",
        "FAILED, 1.0 (2.6), still: means | not established, 0.5 (0.0001) | 200 (50) |",
        "| bento | cavi |  | fails, as an approximation may, 1e-06 (0.0001) | 200 (0) |",
        "FAILED: RuntimeError: no",
        "| bento | means | 3.0e-16 |",
    ):
        assert words in text, text
    assert "Unfinished" not in text and "Rows by commit: one before commits were kept (4)." in text
    assert "Unfinished: 4 of 9 cells." in calibrate.markdown(table._replace(num_cells=9), "zoo calibrate")
    assert calibrate.as_json(table)["ok"] is False and len(calibrate.as_json(table)["rows"]) == 4


def test_rows_come_back_from_their_json_and_bounds_follow_the_table():
    rows = [row(joint=joint(), sbc=calibrated()), row(backend="nuts", failed="RuntimeError: no")]
    document = json.loads(json.dumps(calibrate.as_json(calibrate.Table({}, rows, 0, False, 2))))
    (back,) = calibrate.rows_of(document)  # what failed is measured again
    assert back.joint.names == rows[0].joint.names and back.joint.z.tolist() == [1.0] and back.ok
    assert back.sbc.verdict == "passed" and back.sbc.worst == rows[0].sbc.worst
    assert not back.at(0.9, 1e-4).ok and not back.at(0.01, 0.9).ok


def test_what_is_not_finite_is_null_in_the_json_and_still_fails_when_read_back():
    lost = joint()._replace(z=np.array([np.inf]))
    rows = [row(joint=lost, sbc=calibrated(conjugacy_error=np.inf))]
    text = json.dumps(
        calibrate.as_json(calibrate.Table({"bento": {"means": np.inf}}, rows, 0, False, 1)), allow_nan=False
    )
    (back,) = calibrate.rows_of(json.loads(text))
    assert not back.joint.passed and back.sbc.verdict == "FAILED"


def test_kept_rows_are_not_measured_again(monkeypatch):
    monkeypatch.setattr(sbc, "sbc", lambda *args, **kwargs: calibrated())
    monkeypatch.setattr(calibration, "joint_test", lambda *args, **kwargs: joint())
    model = calibration.wide("bento_known")
    first = calibrate.calibrate([model], ["gibbs"])
    assert [(r.model, r.backend) for r in first.rows] == [(model.name, "gibbs")]
    monkeypatch.setattr(calibration, "joint_test", lambda *args, **kwargs: pytest.fail("measured again"))
    table = calibrate.calibrate([model], ["importance"], kept=first.rows)
    assert [r.backend for r in table.rows] == ["gibbs", "importance"] and table.num_cells == 2
    written = []  # whatever is interrupted leaves the kept rows that were to come
    calibrate.calibrate([model], kept=table.rows, on_row=lambda table: written.append([r.backend for r in table.rows]))
    assert written[0][0] == "enumeration" and all({"gibbs", "importance"} <= set(names) for names in written)


@pytest.mark.slow
def test_processes_change_no_figure():
    model = calibration.wide("bento_known")
    how = dict(quick=True, num_datasets=20)
    one, two = (
        calibrate.as_json(calibrate.calibrate([model], ["gibbs", "importance"], processes=count, **how))["rows"]
        for count in (1, 2)
    )
    assert [row["backend"] for row in two] == ["gibbs", "importance"] and all(row["seconds"] > 0 for row in two)
    assert [row | {"seconds": 0} for row in two] == [row | {"seconds": 0} for row in one]
    assert one[0]["joint"]["z"] and one[0]["sbc"]["p"] and not one[0]["failed"]


def test_a_process_that_is_killed_ends_the_table_in_a_sentence(monkeypatch):
    class Killed(concurrent.futures.ThreadPoolExecutor):
        def __init__(self, processes, **how):
            super().__init__(processes)

        def submit(self, *args):
            future = concurrent.futures.Future()
            future.set_exception(BrokenProcessPool("a process was terminated abruptly"))
            return future

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Killed)
    with pytest.raises(ValueError, match="a process ended in the middle of a cell.* --resume"):
        list(calibrate._side_by_side([(MODELS["bento"], CELL)], 2, None))


def test_the_table_covers_every_model():
    names = [model.name for model in calibrate.ranked_models()]
    ranked = (*calibration.NAMED, calibrate.UNKNOWN)
    assert len(set(names)) == len(names) == len(ranked) + 1
    assert all(any(name.startswith(model) for name in names) for model in ranked)
    others = [model.name.partition("[")[0] for model in calibrate.other_models()]
    assert {*others, *ranked} == set(MODELS) and len(others) + len(ranked) == len(MODELS)


def test_kernels_of_other_models_have_joint_tests_and_no_ranks(monkeypatch):
    monkeypatch.setattr(sbc, "sbc", lambda *args, **kwargs: calibrated())
    monkeypatch.setattr(calibration, "joint_test", lambda *args, **kwargs: joint())
    ranked, other = calibration.wide("bento_known"), calibration.wide("bento_known", weights=(0.6, 0.4))
    table = calibrate.calibrate([ranked], ["gibbs", "importance"], joint_only=[other])
    cells = [(r.model, r.backend, r.joint is None, r.sbc is None) for r in table.rows]
    assert cells == [
        (ranked.name, "gibbs", False, False),
        (ranked.name, "importance", True, False),
        (other.name, "gibbs", False, True),
    ]
    assert all(r.commit == calibrate.commit() for r in table.rows)
