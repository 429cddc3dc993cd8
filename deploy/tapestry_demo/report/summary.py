"""The figures of a report, from a finished demo's folder and the audit of its log."""

import importlib.metadata
import math
import platform
import resource
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tapestry import __version__
from tapestry.encoding import decode_decimal
from tapestry.software_digest import software_digest
from tapestry_demo.cross_evaluation import Matrix, errors, scores
from tapestry_demo.demo_run import DemoRun
from tapestry_demo.held_out_answers import HeldOutPrompt
from tapestry_demo.report.assurance import coordinator_view
from tapestry_demo.report.data import (
    AdapterFigures,
    Budget,
    Country,
    Decision,
    DroppedNode,
    LogFacts,
    Model,
    Privacy,
    PromptAnswers,
    Release,
    RoundFigures,
    RunFigures,
    Search,
    SecAgg,
    UploadTest,
)
from tapestry_demo.report.names import place
from tapestry_demo.report.overview import headline
from tapestry_demo.report.privacy_section import promise_in_words
from tapestry_demo.wire_tap import WireTap
from tapestry_governance.audit.verify import Audit
from tapestry_governance.events.envelope import Event, open_entry
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.events.round_events import RoundClosed, RoundOpened
from tapestry_governance.registry import read_base
from tapestry_governance.rules.settlement import settle
from tapestry_governance.vote_count import count_ballots
from tapestry_node.node_state import DATABASE, NodeState
from tapestry_node.settings import NodeSettings

_LANGUAGES = {
    "it": "Italian",
    "es": "Spanish",
    "pt-BR": "Portuguese",
    "nl": "Dutch",
}
_KNOWN = {
    "smollm2": {"name": "SmolLM2-135M-Instruct", "licence": "Apache-2.0"},
    "tiny": {"name": "Tiny (random parameters)"},
}
_PACKAGES = ("torch", "transformers", "peft", "opacus", "cryptography")


def summarize(
    demo: DemoRun,
    *,
    matrix: Matrix,
    samples: Sequence[HeldOutPrompt],
    tap: WireTap,
    audit: Audit,
) -> RunFigures:
    """Collect the figures of a finished demo.

    Guarantees:
        Each epsilon is the one that the audit recomputed from the log, not the one
        that a node reported, except in ``epsilon_after_rounds``.
    """
    events = [open_entry(entry).event for entry in audit.entries]
    bodies = [event.body for event in events]
    spent = [body for body in bodies if isinstance(body, DpAccounted)]
    closed = [body for body in bodies if isinstance(body, RoundClosed)]
    opened = [body.manifest for body in bodies if isinstance(body, RoundOpened)]
    promise = promise_in_words(spent)
    figures = RunFigures(
        title="",  # follows from the other figures, below
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        engine=demo.engine,
        base=Path(demo.scale.base).name,  # its folder on this machine is not published
        model=_model(demo),
        measure="answers",
        references=demo.record.references,
        countries=_countries(demo, audit),
        bits_per_byte=scores(matrix),
        bits_per_byte_se=errors(matrix),
        samples=[PromptAnswers(**asdict(each)) for each in samples],
        rounds=[round_figures(body) for body in closed],
        epsilon=_epsilon(audit),
        epsilon_after_rounds=epsilon_after_rounds(events),
        epsilon_limit=_limits(demo),
        privacy=_privacy(demo, promise),
        bytes_out=_bytes_out(demo),
        seconds={k: v for k, v in demo.seconds.items() if v >= 0.01},
        peak_rss_mb=_peak_mb(),
        log=log_facts(audit),
        secagg=SecAgg(
            n=len(opened[-1].participants),
            threshold=opened[-1].threshold,
            max_colluding=opened[-1].max_colluding,
            min_cohort=opened[-1].min_cohort,
            length=opened[-1].length,
        ),
        coordinator_view=coordinator_view(tap, is_private=bool(promise)),
        upload_test=upload_test(tap),
        private_text=Search(searched=tap.searched, found=tap.found),
        budget=_budget(demo, rounds=len(closed)),
        software=_software(),
        releases=releases(audit),
        adapters=adapters(audit),
        decisions=decisions(audit),
    )
    return figures.model_copy(update={"title": headline(figures)})


def _model(demo: DemoRun) -> Model:
    """Name the given base, and count its parameters in the first release."""
    shapes = read_base(next((demo.out / "releases").glob("base-*"))).shapes
    base = demo.scale.base
    known = _KNOWN.get(base, {"name": Path(base).name})
    count = sum(map(math.prod, shapes.values()))
    return Model.model_validate({**known, "parameters": count})


def _countries(demo: DemoRun, audit: Audit) -> list[Country]:
    rows = []
    for member in demo.members:
        declared = audit.state.data[member.name]
        language = declared.languages[0]
        row = Country(
            name=member.name,
            language=language,
            language_name=_LANGUAGES.get(language, language),
            institution=f"institution in {place(member.name)}",
            records=declared.records,
            licence=", ".join(declared.licences),
        )
        rows.append(row)
    return rows


def round_figures(body: RoundClosed) -> RoundFigures:
    """Read the figures of one round from the event that closed it."""
    prefix = "bits_per_byte/"
    return RoundFigures(
        number=body.round_number,
        outcome=body.outcome,
        included=list(body.included),
        dropped=[DroppedNode(name=d.name, stage=d.stage) for d in body.dropped],
        mean_norm=decode_decimal(body.metrics.get("mean_norm", "0")),
        bits_per_byte={
            name.removeprefix(prefix): decode_decimal(value)
            for name, value in body.metrics.items()
            if name.startswith(prefix)
        },
    )


def _epsilon(audit: Audit) -> dict[str, dict[str, float | None]]:
    """Return the epsilon of each node over all runs, as the audit states it."""
    return {each.node: {"total": each.epsilon} for each in audit.accounts}


def epsilon_after_rounds(events: Iterable[Event]) -> dict[str, float | None]:
    """Return the loss that each node reported after the rounds, before its adapter."""
    return {
        event.actor: decode_decimal(loss.epsilon)
        for event in events
        if isinstance(event.body, DpAccounted)
        and event.body.adapter is None
        and (loss := event.body.promise) is not None
    }


def _limits(demo: DemoRun) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for member in demo.members:
        settings = NodeSettings.read(demo.out / "nodes" / member.name / "node.toml")
        found[member.name] = decode_decimal(settings.policy.epsilon_limit)
    return found


def _privacy(demo: DemoRun, promise: str) -> Privacy:
    plan = demo.settings.privacy
    if plan.noise == "none":
        return Privacy(statement=promise)
    return Privacy(
        unit=plan.unit,
        adjacency=plan.adjacency,
        delta=decode_decimal(plan.target_delta),
        noise_multiplier=decode_decimal(plan.noise_multiplier),
        clip_norm=decode_decimal(plan.clip_norm),
        statement=promise,
    )


def _budget(demo: DemoRun, *, rounds: int) -> Budget:
    """Count the gradients of single examples; the central run takes as many."""
    training = demo.settings.training
    count = training.batch_size * training.steps * rounds * len(demo.members)
    return Budget(
        example_gradients_federated=count,
        example_gradients_central=count if demo.record.references else None,
    )


def _bytes_out(demo: DemoRun) -> dict[str, dict[str, int]]:
    """Sum the nodes' own egress receipts, whose chain is checked on the way."""
    found: dict[str, dict[str, int]] = {}
    for member in demo.members:
        store = NodeState(demo.out / "nodes" / member.name / DATABASE)
        kinds = found.setdefault(member.name, {})
        for receipt in store.receipts():
            kinds[receipt.kind] = kinds.get(receipt.kind, 0) + receipt.bytes
        store.close()
    return found


def _peak_mb() -> float:
    """Return the peak memory of this process or its largest child, in mebibytes."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(max(own, children) / 1024, 1)


def log_facts(audit: Audit) -> LogFacts:
    """Return the size, root and signers of the log as it was audited."""
    checkpoint = audit.opened.checkpoint
    return LogFacts(
        origin=checkpoint.origin,
        size=checkpoint.size,
        root=checkpoint.root.hex(),
        quorum=audit.trust.groups[0].threshold if audit.trust.groups else None,
        cosignatures=sorted(c.witness for c in audit.opened.cosignatures),
        verdict=audit.verdict.name.lower(),
    )


def upload_test(tap: WireTap) -> UploadTest | None:
    """Return the test of the uploads; None where the tap saw none."""
    if tap.p_value is None:
        return None
    size = int(tap.counts.sum())
    return UploadTest(uploads=tap.uploads, bytes=size, p_value=tap.p_value)


def _software() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    own = {"tapestry": __version__, "code": software_digest()}
    return {**own, "python": platform.python_version(), **versions}


def releases(audit: Audit) -> list[Release]:
    """Return the bases that the log says were released."""
    return [
        Release(name=r.name, digest=r.model_digest, round=r.round_number)
        for r in audit.state.releases.values()
    ]


def adapters(audit: Audit) -> list[AdapterFigures]:
    """Return the adapters that the log says were published."""
    return [
        AdapterFigures(
            name=a.name,
            country=a.country,
            epsilon=None if a.epsilon is None else decode_decimal(a.epsilon),
            digest=a.manifest_digest,
        )
        for a in audit.state.adapters.values()
    ]


def decisions(audit: Audit) -> list[Decision]:
    """Return the releases and proposals, as the audited checkpoint shows the votes."""
    return [
        Decision(
            what=each.what,
            standing=each.standing,
            yes=each.yes,
            needed=each.needed,
            votes=dict(each.votes),
            decided=each.decided,
        )
        for each in count_ballots(settle(audit.state, seen=audit.state.size))
    ]
