"""Stages of a round: one vocabulary, wherever a stage is named."""

from pathlib import Path

from tapestry.protocol.messages import Kind
from tapestry.protocol.round_manifest import StageDeadlines
from tapestry.protocol.stages import SECAGG_STAGES, RoundStage
from tapestry.secagg.requirements import ClientStep
from tapestry_coordinator.settings import Deadlines
from tapestry_demo.report import names
from tapestry_governance.events.types import Dropped, RoundAborted

ROOT = Path(__file__).resolve().parents[3]


def test_the_stages_of_the_masked_sum_are_those_of_the_literature() -> None:
    assert [stage.value for stage in SECAGG_STAGES] == [
        "advertise_keys",
        "share_keys",
        "collect_masked_inputs",
        "check_consistency",
        "unmask",
    ]
    assert [stage for stage in RoundStage if stage in SECAGG_STAGES] == [*SECAGG_STAGES]


def test_a_manifest_has_a_deadline_for_each_stage_and_no_other() -> None:
    assert list(StageDeadlines.model_fields) == list(SECAGG_STAGES)
    seconds = {stage: n for n, stage in enumerate(SECAGG_STAGES, 1)}
    deadlines = StageDeadlines(**seconds)
    assert {stage: deadlines.of(stage) for stage in SECAGG_STAGES} == seconds


def test_settings_name_deadlines_by_kinds_of_requests() -> None:
    assert set(SECAGG_STAGES) < set(Deadlines.model_fields) < set(Kind)


def test_a_client_goes_through_stages_by_their_names() -> None:
    steps = [step.name.lower() for step in ClientStep]
    extra = ["receive_shares", "reserve", "mask_input", "none"]
    assert [s for s in steps if s not in extra] == [
        stage
        for stage in SECAGG_STAGES[1:]
        if stage is not RoundStage.COLLECT_MASKED_INPUTS
    ]


def test_the_log_names_where_a_node_or_a_round_was_lost_by_its_stage() -> None:
    assert Dropped.model_fields["stage"].annotation is RoundStage
    assert RoundAborted.model_fields["stage"].annotation == RoundStage | None


def test_the_report_has_words_for_every_stage() -> None:
    assert all(names.stage(stage) != stage for stage in RoundStage)
    assert all(names.lost_at(stage) != stage for stage in SECAGG_STAGES)


def test_the_pages_name_every_stage_as_the_program_does() -> None:
    for page in ("README.md", "ARCHITECTURE.md", "governance/EVENTS.md"):
        text = (ROOT / page).read_text("utf-8")
        assert [stage for stage in RoundStage if stage not in text] == [], page
    text = (ROOT / "governance" / "SECAGG.md").read_text("utf-8")
    assert [stage for stage in SECAGG_STAGES if f"`{stage}`" not in text] == []
