"""The figures of a report are those of the log, the receipts and the wire."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tapestry.protocol.stages import RoundStage
from tapestry.workloads.ratio_score import RatioScore
from tapestry_demo.demo_run import DemoRun
from tapestry_demo.held_out_answers import HeldOutPrompt
from tapestry_demo.report.data import RunFigures
from tapestry_demo.report.page import write_report
from tapestry_demo.report.summary import (
    adapters,
    decisions,
    epsilon_after_rounds,
    log_facts,
    releases,
    round_figures,
    summarize,
    upload_test,
)
from tapestry_demo.scenario import RUN, DemoMember
from tapestry_demo.wire_tap import WireTap
from tapestry_governance.audit.verify import Audit, verify
from tapestry_governance.events.envelope import Event, open_entry
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.registry import read_base
from tapestry_node.node_state import NodeState
from tests.support.audit_bundles import bundle_of, released
from tests.support.demo_folders import demo_run
from tests.support.federation import NAMES, Base, Federation
from tests.support.log_world import World, without_noise


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """The audit of a log of two rounds, a release and an adapter."""
    folder = tmp_path_factory.mktemp("audited")
    world, base = released(folder / "releases")
    bundle_of(world, folder, artifacts={"base-2": base})
    return verify(folder / "bundle", trust=world.trust.encode())


def test_the_facts_of_the_log_are_those_of_its_cosigned_checkpoint(
    audit: Audit,
) -> None:
    facts = log_facts(audit)
    assert facts.size == len(audit.entries) > 10
    assert facts.root == audit.opened.checkpoint.root.hex()
    assert facts.origin == "tapestry.example/log"
    assert facts.has_quorum
    assert facts.quorum == 3
    assert facts.cosignatures == sorted(facts.cosignatures)
    assert facts.cosignatures[0].endswith("/witness")
    assert facts.verdict == audit.verdict.name.lower()


def test_releases_and_adapters_are_those_of_the_log(audit: Audit) -> None:
    (base,) = releases(audit)
    assert (base.name, base.round) == ("base-2", 2)
    assert base.digest == audit.state.releases["base-2"].model_digest
    (adapter,) = adapters(audit)
    assert (adapter.name, adapter.country) == ("fr-culture", "France")
    assert adapter.epsilon == 2.9
    assert adapter.digest == audit.state.adapters["fr-culture"].manifest_digest


def test_decisions_are_those_of_the_log_with_their_votes(audit: Audit) -> None:
    (release,) = decisions(audit)
    assert (release.what, release.standing) == ("base-2", "approved")
    assert (release.yes, release.needed) == (3, 3)
    assert set(release.votes.values()) == {"yes"}
    (ballot,) = audit.state.ballots.values()
    assert release.decided == ballot.decided is not None


def reported(events: list[Event]) -> dict[str, float]:
    """The last account that each node gave of the rounds, without its adapter."""
    found = {}
    for event in events:
        body = event.body
        if isinstance(body, DpAccounted) and body.adapter is None:
            assert body.promise is not None
            found[event.actor] = float(body.promise.epsilon)
    assert set(found) == {"de", "es", "fr", "id"}
    return found


def test_the_loss_after_the_rounds_is_the_last_that_a_node_reported(
    audit: Audit,
) -> None:
    events = [open_entry(entry).event for entry in audit.entries]
    found = epsilon_after_rounds(events)
    assert found == reported(events)
    accounts = [event for event in events if isinstance(event.body, DpAccounted)]
    assert reported(accounts[:4]) != found  # the second round costs more
    without = [
        event.model_copy(update={"body": without_noise(event.body)})
        for event in accounts
        if isinstance(event.body, DpAccounted)
    ]
    assert epsilon_after_rounds(without) == {}


def test_a_round_has_the_measures_of_its_closing_event() -> None:
    world = World().found()
    manifest = world.run_round(1)
    body = world.closing(manifest, {"de": 1, "es": 2, "fr": 3}).model_copy(
        update={"metrics": {"mean_norm": "1.5", "bits_per_byte/fr": "3.25", "x": "9"}}
    )
    figures = round_figures(body)
    assert (figures.number, figures.outcome) == (1, "applied")
    assert figures.included == ["de", "es", "fr"]
    assert [(d.name, d.stage) for d in figures.dropped] == [
        ("id", RoundStage.COLLECT_MASKED_INPUTS)
    ]
    assert figures.mean_norm == 1.5
    assert figures.bits_per_byte == {"fr": 3.25}


def test_uploads_are_tested_only_where_some_were_seen() -> None:
    assert upload_test(WireTap()) is None
    assert upload_test(WireTap(uploads=2)) is None  # of no byte
    uneven = np.full(256, 1000)
    uneven[0] = 3000
    found = upload_test(WireTap(counts=uneven, uploads=4))
    assert found is not None
    assert (found.uploads, found.bytes) == (4, 258_000)
    assert found.is_suspect


@pytest.fixture(scope="module")
def finished(
    base: Base, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DemoRun, Audit]:
    """A demo whose rounds a simulated federation ran, with made-up updates."""
    tmp_path = tmp_path_factory.mktemp("finished")
    federation = Federation(tmp_path / "federation", base, coordinator={"run_id": RUN})
    federation.run()
    federation.close()
    federation.bundle()
    shutil.copytree(
        federation.coordinator / "releases", federation.directory / "releases"
    )
    demo = demo_run(federation.directory, references=True)
    demo.members = [
        DemoMember(name=name, country=name, data=tmp_path, records=1) for name in NAMES
    ]
    demo.record.seconds.update(rounds=2.0, start=0.001)
    return demo, federation.audit()


@pytest.fixture(scope="module")
def figures(finished: tuple[DemoRun, Audit]) -> RunFigures:
    """The figures of that demo, with evaluations and answers that were made up."""
    demo, audit = finished
    one = RatioScore(amounts=(16.0, 24.0), sizes=(8, 8))
    two = replace(one, amounts=(8.0, 24.0))
    sample = HeldOutPrompt(country="fi", prompt="a", reference="b")
    sample.answers["given"] = "c"
    return summarize(
        demo,
        matrix={"given": {"fi": one}, "base-1": {"fi": two}},
        samples=[sample],
        tap=WireTap(searched=3),
        audit=audit,
    )


@pytest.mark.slow
def test_a_summary_has_the_figures_of_the_demos_log(
    figures: RunFigures, finished: tuple[DemoRun, Audit]
) -> None:
    _, audit = finished
    assert [c.name for c in figures.countries] == list(NAMES)
    assert [c.language for c in figures.countries] == list(NAMES)
    assert {c.licence for c in figures.countries} == {"CC0-1.0"}
    assert [(r.number, r.outcome) for r in figures.rounds] == [(1, "applied")]
    accounts = {a.node: a.epsilon for a in audit.accounts}
    assert {n: figures.spent(n) for n in sorted(NAMES)} == accounts
    assert (figures.secagg.n, figures.secagg.min_cohort) == (4, 3)
    assert figures.privacy.statement
    # six examples a step, one step, one round, four nodes
    assert figures.budget.example_gradients_federated == 24
    assert figures.budget.example_gradients_central == 24


@pytest.mark.slow
def test_a_summary_has_the_figures_of_the_demos_folder(
    figures: RunFigures, finished: tuple[DemoRun, Audit]
) -> None:
    demo, _ = finished
    assert figures.epsilon_limit == dict.fromkeys(NAMES, 20.0)
    assert figures.privacy.noise_multiplier == 1.0
    assert figures.seconds == {"rounds": 2.0}
    shapes = read_base(demo.out / "releases" / "base-1").shapes
    assert figures.model.parameters == sum(map(math.prod, shapes.values())) > 1000
    store = NodeState(demo.out / "nodes" / "fi" / "node.db")
    sent = sum(receipt.bytes for receipt in store.receipts())
    store.close()
    assert sum(figures.bytes_out["fi"].values()) == sent > 0


@pytest.mark.slow
def test_a_summary_has_what_was_measured_and_seen_on_the_way(
    figures: RunFigures,
) -> None:
    assert figures.bits_per_byte == {"given": {"fi": 2.5}, "base-1": {"fi": 2.0}}
    assert set(figures.bits_per_byte_se) == {"base-1"}
    assert figures.samples[0].answers == {"given": "c"}
    assert figures.private_text.searched == 3
    assert figures.upload_test is None
    assert [s.seen for s in figures.coordinator_view] == [False, False, True, True]


@pytest.mark.slow
def test_a_summary_is_written_and_drawn_as_it_is(
    figures: RunFigures, tmp_path: Path
) -> None:
    assert figures.title.startswith("Four institutions trained one language model")
    write_report(figures, tmp_path)
    written = (tmp_path / "report.json").read_text("utf-8")
    assert RunFigures.model_validate_json(written) == figures
    assert figures.title in (tmp_path / "report.html").read_text("utf-8")
