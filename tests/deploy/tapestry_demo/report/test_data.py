"""The figures of a run: read strictly, and what follows from them and what not."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tapestry_demo.report.data import (
    SUSPECT,
    LogFacts,
    RunFigures,
    UploadTest,
    release_number,
    writable,
)
from tests.support.report_pages import country_of, figures, round_of, run_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=3)
    ),
    max_leaves=8,
)
COUNTRIES = [country_of("italy"), country_of("spain")]


def _scored(**scores: Any) -> RunFigures:
    return run_of(countries=COUNTRIES, bits_per_byte=scores)


@given(JSON)
def test_whatever_a_figure_holds_can_be_written_and_read_again(value: object) -> None:
    text = json.dumps(writable(value), allow_nan=False, ensure_ascii=False)
    assert writable(json.loads(text.encode("utf-8"))) == writable(value)


def test_a_part_holds_nothing_that_no_file_can_hold() -> None:
    part = run_of(title="x\ud800", bits_per_byte={"\udc00": {"italy": math.nan}})
    assert part.title == "x\ufffd"
    assert part.bits_per_byte == {"\ufffd": {"italy": None}}


def test_what_no_file_can_hold_is_replaced_at_any_depth() -> None:
    value = {"a": [math.inf, -math.inf, math.nan, 1.5], 3: ("x\ud800", True)}
    assert writable(value) == {"a": [None, None, None, 1.5], "3": ["x\ufffd", True]}
    assert writable({"\udc00": 1}) == {"\ufffd": 1}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"title": None}, "title"),
        ({"countries": [country_of("italy"), {}]}, "countries.1.name"),
        ({"upload_test": {"uploads": 1}}, "upload_test.bytes"),
        ({"upload_test": {"uploads": 1, "bytes": 1, "p_value": math.nan}}, "p_value"),
        ({"bits_per_byte": {"given": {"italy": "low"}}}, "bits_per_byte.given.italy"),
        ({"rounds": "four"}, "rounds"),
        ({"measure": "taste"}, "measure"),
        ({"later": {"x": 1}}, "later"),
        ({"log": figures()["log"] | {"sise": 1}}, "log.sise"),
    ],
    ids=str,
)
def test_figures_of_the_wrong_shape_are_refused_by_their_place(
    changes: dict[str, Any], where: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        run_of(**changes)
    fault = caught.value.errors()[0]
    assert where in ".".join(map(str, fault["loc"]))


def test_figures_cannot_be_changed_after_they_were_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        run_of().title = "better"  # type: ignore[misc]  # that is what is tested


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("base-1", 1),
        ("base-010", 10),
        ("base-999999999", 999_999_999),
        ("base-1000000000", None),
        ("base-", None),
        ("base-1x", None),
        ("base-\u0661", None),
        ("adapter-1", None),
        ("given", None),
    ],
)
def test_a_release_is_known_by_its_number(name: str, number: int | None) -> None:
    assert release_number(name) == number


def test_the_newest_base_is_that_of_the_largest_number() -> None:
    models = ("base-2", "base-10", "given", "base-9x", "central")
    assert _scored(**{m: {} for m in models}).final_base == "base-10"


def test_models_stand_in_one_order_whatever_order_they_come_in() -> None:
    order = [
        *("given", "base-2", "base-10", "adapter-italy", "adapter-spain"),
        *("adapter-france", "central", "central-dp", "other"),
    ]
    run = _scored()
    assert run.in_order(reversed(order)) == order
    assert run.nodes(["x", "spain", "a", "italy"]) == ["italy", "spain", "a", "x"]


def test_a_gain_is_the_share_of_bits_saved() -> None:
    run = _scored(
        given={"italy": 2.0, "spain": 0.0},
        **{"base-1": {"italy": 1.5, "spain": 1.0, "france": 1.0}},
    )
    assert run.gain("base-1", "italy") == 0.25
    assert run.gain("given", "italy") == 0.0
    assert run.gain("base-1", "spain") is None  # nothing to save
    assert run.gain("base-1", "france") is None  # nothing to compare with
    assert run.gain(None, "italy") is run.gain("base-2", "italy") is None
    assert run.gains == {"italy": 0.25}


@pytest.mark.parametrize(
    ("after", "error", "clear", "change"),
    [
        (1.9, 0.04, True, "better"),
        (2.1, 0.04, True, "worse"),
        (1.75, 0.125, False, "not clearly changed"),  # two errors, not more
        (1.9, None, True, "better"),
        (1.9999, None, True, "not clearly changed"),  # it would read 0.0 %
        (None, 0.01, False, "not measured"),
    ],
)
def test_a_change_is_told_if_it_exceeds_two_standard_errors(
    after: float | None, error: float | None, clear: bool, change: str
) -> None:
    errors = {} if error is None else {"base-1": {"italy": error}}
    run = run_of(
        countries=[country_of("italy")],
        bits_per_byte={"given": {"italy": 2.0}, "base-1": {"italy": after}},
        bits_per_byte_se=errors,
    )
    assert run.is_clear("base-1", "italy") is clear
    assert run.change("italy") == change


def test_a_mean_needs_every_country_and_its_error_adds_as_independent_ones_do() -> None:
    run = run_of(
        countries=COUNTRIES,
        bits_per_byte={
            "given": {"italy": 2.0, "spain": 3.0},
            "base-1": {"italy": 2.0},
        },
        bits_per_byte_se={
            "given": {"italy": 0.3, "spain": 0.4},
            "base-1": {"italy": 0.3},
        },
    )
    assert run.mean_bits("given") == 2.5
    assert run.mean_error("given") == pytest.approx(0.25)
    assert run.mean_bits("base-1") is run.mean_error("base-1") is None
    assert run.mean_bits(None) is run.mean_error("other") is None


def test_a_node_spent_its_total() -> None:
    assert run_of(epsilon={"italy": {"total": 2.5}}).spent("italy") == 2.5
    assert run_of(epsilon={"italy": {"total": None}}).spent("italy") is None
    assert run_of(epsilon={"italy": {"total": 2.5}}).spent("spain") is None


def test_the_worst_loss_is_unknown_if_that_of_any_node_in_a_sum_is() -> None:
    rounds = [round_of(1, included=["italy", "spain"])]
    both = {"italy": {"total": 1.0}, "spain": {"total": 3.0}}
    assert run_of(epsilon=both, rounds=rounds).worst_epsilon == 3.0
    assert (
        run_of(epsilon={"italy": {"total": 1.0}}, rounds=rounds).worst_epsilon is None
    )
    assert run_of(epsilon={"italy": {"total": 1.0}}, rounds=[]).worst_epsilon == 1.0
    assert run_of(epsilon={}, rounds=[]).worst_epsilon is None


@pytest.mark.parametrize(
    ("p_value", "suspect"), [(SUSPECT, False), (SUSPECT / 2, True), (1.0, False)]
)
def test_uploads_in_doubt_leave_open_what_the_coordinator_did_not_see(
    p_value: float, suspect: bool
) -> None:
    test = UploadTest(uploads=1, bytes=1, p_value=p_value)
    assert test.is_suspect is suspect
    run = run_of(upload_test=test.model_dump())
    assert run.is_in_doubt is suspect
    seen = [s.seen for s in run.sights]
    before = [s.seen for s in run.coordinator_view]
    assert seen == ([s or None for s in before] if suspect else before)


def test_without_a_test_of_the_uploads_nothing_is_in_doubt() -> None:
    assert not run_of(upload_test=None).is_in_doubt


@pytest.mark.parametrize(
    ("signed", "quorum", "enough"),
    [(3, 3, True), (2, 3, False), (1, None, True), (0, None, False)],
)
def test_a_log_has_its_quorum_when_as_many_signed(
    signed: int, quorum: int | None, enough: bool
) -> None:
    known = figures()["log"] | {"cosignatures": ["x"] * signed, "quorum": quorum}
    facts = LogFacts.model_validate(known)
    assert facts.has_quorum is enough
