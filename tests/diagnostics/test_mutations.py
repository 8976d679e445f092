"""Mistakes planted in the samplers: every one is caught."""

import math

import pytest

from diagnostics import mutations

QUICK = (
    "wrong posterior variance: sd of a mean times 1.1",
    "off-by-one assignment",
    "parameters permuted, assignments not",
)


def cases():
    for mutation in mutations.mutations():
        quick = mutation.name in QUICK and mutation.backend == "gibbs"
        name = f"{mutation.name}, {mutation.backend}"
        yield pytest.param(mutation, id=name, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("mutation", list(cases()))
def test_joint_test_catches(mutation):
    found = mutations.joint(mutation)
    assert found.fails, found


def rules():
    for mutation in mutations.mutations():
        if mutation.site:
            marks = () if mutation.name in QUICK else pytest.mark.slow
            yield pytest.param(mutation, id=mutation.name, marks=marks)


@pytest.mark.parametrize("mutation", list(rules()))
def test_ratio_test_catches(mutation):
    assert mutations.ratio(mutation).value > 1e-4
    assert not mutations.ratio(mutation, planted=False).fails


def test_enumeration_catches_log_factorials_missing_and_doubled():
    right = mutations.evidence()
    assert not right.fails and right.value < mutations.EVIDENCE
    for name in mutations.EVIDENCE_MUTATIONS:
        assert mutations.evidence(name).fails


@pytest.mark.slow
def test_tempered_weights_are_seen_in_the_evidence_of_smc():
    assert mutations.path_evidence().fails
    assert not mutations.path_evidence(planted=False).fails


def test_every_mistake_that_the_house_knows_is_planted():
    names = {mutation.name for mutation in mutations.mutations()} | set(mutations.EVIDENCE_MUTATIONS)
    known = (
        "variance",
        "Dirichlet count",
        "Jacobian",
        "Hastings ratio",
        "stale table",
        "off-by-one",
        "without its ratio",
    )
    known += ("weights not", "assignments not", "complete-data joint", "before the permutation", "tempered")
    known += ("data-dependent prior", "K! missing", "K! doubled")
    assert all(any(word in name for name in names) for word in known)


def test_a_test_that_gives_no_number_is_not_a_pass():
    assert mutations.Found("joint test", math.nan, 3.0).fails


def test_a_mistake_that_the_right_code_shares_is_not_caught():
    fails, passes = mutations.Found("joint test", 4.7, 3.4), mutations.Found("joint test", 2.0, 3.4)
    caught = [mutations.Row("m", "gibbs", "bento", *pair).caught for pair in ((fails, passes), (fails, fails))]
    assert caught == [True, False]
    page = mutations.markdown([mutations.Row("m", "gibbs", "bento", fails, fails)], 60.0)
    assert "NOT CAUGHT by joint test, the right code fails too" in page
