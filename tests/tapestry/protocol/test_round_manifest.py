"""The round manifest: strict, of one spelling, bound to its round."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import ProtocolError
from tapestry.protocol.round_manifest import (
    MAX_HYBRID_COHORT,
    Participant,
    RoundManifest,
    StageDeadlines,
    TrainingPlan,
    recommended_threshold,
)
from tapestry.protocol.stages import SECAGG_STAGES
from tests.support.log_world import World, renamed
from tests.support.plans import round_manifest
from tests.support.refusals import refused

DEADLINES = {stage.value: 60 for stage in SECAGG_STAGES}
MANIFEST = World().found().manifest()


def test_a_manifest_is_read_as_it_was_printed() -> None:
    assert RoundManifest.decode(MANIFEST.encode()) == MANIFEST
    assert RoundManifest.decode(MANIFEST.encode()).digest == MANIFEST.digest


def _changed(**changes: Any) -> bytes:
    return canonical_json({**decode_json(MANIFEST.encode()), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"protocol": "tapestry-secagg/1"},
        {"round_number": 0},
        {"round_number": "1"},
        {"round_number": True},
        {"attempt": 0},
        {"model_digest": "sha256:ABC"},
        {"participants": []},
        {"participants": [{"name": "de", "key": "x"}]},
        {
            "participants": [
                {"name": "es", "key": "x"},
                {"name": "de", "key": "y"},
            ]
        },
        {
            "participants": [
                {"name": "de", "key": "x"},
                {"name": "de", "key": "y"},
            ]
        },
        {"min_cohort": 1},
        {"threshold": 1},
        {"max_colluding": -1},
        {"ring_bits": 64},
        {"length": 0},
        {"clip_norm": "0"},
        {"clip_norm": "-1"},
        {"clip_value": "1e3"},
        {"clip_value": "1.0"},
        {"scale_bits": 31},
        {"weighting": "uniform"},
        {"weights": [2, 1, 1, 1]},
        {"deadlines": {**DEADLINES, "unmask": 0}},
        {"deadlines": {**DEADLINES, "offer": 1}},
        {"deadlines": dict.fromkeys(SECAGG_STAGES[1:], 60)},
        {"post_quantum": "soon"},
        {"post_quantum": None},
        {"federation": "../x"},
        {"run_id": ""},
    ],
    ids=str,
)
def test_a_manifest_that_breaks_a_rule_is_refused(changes: dict[str, Any]) -> None:
    with refused(ProtocolError, "schema-violated"):
        RoundManifest.decode(_changed(**changes))


@pytest.mark.parametrize("name", sorted(RoundManifest.model_fields))
def test_nothing_in_a_manifest_has_a_default(name: str) -> None:
    fields = decode_json(MANIFEST.encode())
    del fields[name]
    with refused(ProtocolError, "schema-violated", match=f"RoundManifest {name}"):
        RoundManifest.decode(canonical_json(fields))


def test_a_refusal_of_a_manifest_repeats_no_value() -> None:
    with refused(ProtocolError, "schema-violated", match="run_id") as caught:
        RoundManifest.decode(_changed(run_id="SECRET TEXT"))
    assert "SECRET" not in str(caught.value)


def test_the_context_is_bound_to_every_field() -> None:
    contexts = {
        MANIFEST.context,
        renamed(MANIFEST, round_number=2).context,
        renamed(MANIFEST, attempt=2).context,
        renamed(MANIFEST, threshold=4).context,
        renamed(MANIFEST, scale_bits=19).context,
        renamed(MANIFEST, clip_norm="3").context,
        renamed(
            MANIFEST, deadlines=StageDeadlines(**{**DEADLINES, "unmask": 61})
        ).context,
    }
    assert len(contexts) == 7
    assert all(len(context) == 32 for context in contexts)


def test_a_round_with_ml_kem_has_as_many_nodes_as_its_transcript_has_room_for() -> None:
    key = MANIFEST.participants[0].key
    names = [f"n{place:04d}" for place in range(MAX_HYBRID_COHORT + 1)]
    rows = [Participant(name=name, key=key) for name in names]
    round_manifest(rows[1:], post_quantum="mlkem768")
    round_manifest(rows, post_quantum="none")
    with pytest.raises(ValueError, match="at most 550 nodes; a larger one takes"):
        round_manifest(rows, post_quantum="mlkem768")


def test_a_participant_twice_or_out_of_order_is_refused() -> None:
    first, second, *rest = MANIFEST.participants
    for changed in ((second, first, *rest), (first, first, *rest)):
        manifest = MANIFEST.model_copy(update={"participants": changed})
        with refused(ProtocolError, "schema-violated", match="RoundManifest"):
            RoundManifest.decode(manifest.encode())


@given(st.integers(2, 1000), st.integers(0, 400))
def test_two_survivor_lists_cannot_both_reach_the_threshold(n: int, bad: int) -> None:
    """Honest nodes sign one list; colluders sign both."""
    t = recommended_threshold(n, max_colluding=bad)
    assert 2 * t > n + bad
    assert 2 * (t - 1) <= n + bad


@pytest.mark.parametrize(
    "option",
    [True, None, 1.5, {"a": 1}, [[1]], [True], 2**53, "x" * 201],
    ids=lambda option: repr(option)[:20],
)
def test_an_option_is_a_whole_number_a_text_or_a_list_of_them(option: Any) -> None:
    plain = MANIFEST.training.model_dump(mode="json")
    plain["options"] = {"some_option": option}
    with pytest.raises(ValueError, match=r"options\.some_option"):
        TrainingPlan.model_validate_json(json.dumps(plain))


def test_options_of_any_workload_are_kept_as_they_were_signed() -> None:
    options = {"window": 4, "beta": "0.5", "tags": ("flow", 7)}
    changes = {"workload": "world-model", "options": options}
    plan = MANIFEST.training.model_copy(update=changes)
    assert TrainingPlan.decode(plan.encode()) == plan
    for name in ("Window", "1st", "a-b", "x" * 41, ""):
        with refused(ProtocolError, "schema-violated"):
            TrainingPlan.decode(plan.model_copy(update={"options": {name: 1}}).encode())
