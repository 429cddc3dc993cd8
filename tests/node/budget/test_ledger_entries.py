"""Charges as entries: named once, and read back as they were written."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.node.budget.test_ledger import TERMS, charge, open_ledger, shared


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


def test_a_charge_is_named_by_purpose_run_and_number() -> None:
    first = charge(1)
    assert first.key == ("round", "run-1", 1)
    assert first.title == "round 1 of 'run-1'"
    assert charge(1, steps=99).key == first.key
    others = [charge(2), charge(1, run="b"), replace(first, purpose="adapter")]
    assert first.key not in {each.key for each in others}


def test_the_fallback_of_a_charge_is_by_the_nodes_own_noise_alone() -> None:
    assert charge(1).fallback == charge(1).steps
    found = shared(1, own=0.25)
    assert found.fallback == replace(found.steps, noise_multiplier=0.25)


def test_every_field_of_a_charge_is_read_back_as_it_was_written(path: Path) -> None:
    charges = [charge(1), shared(2), replace(charge(3), purpose="evaluation")]
    ledger = open_ledger(path, TERMS)
    for each in charges:
        ledger.reserve(each)
    assert [row.charge for row in open_ledger(path, TERMS).rows()] == charges
