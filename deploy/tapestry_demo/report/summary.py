"""From a finished demo's folder to the numbers of its report; nothing is made up."""

import importlib.metadata
import math
import platform
import resource
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tapestry import __version__
from tapestry.encoding import decode_decimal
from tapestry.software_digest import software_digest
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_demo.cross_evaluation import Matrix, errors, scores
from tapestry_demo.demo_run import DemoRun
from tapestry_demo.held_out_answers import HeldOutPrompt
from tapestry_demo.report.data import SUSPECT, read
from tapestry_demo.report.names import place
from tapestry_demo.report.overview import headline
from tapestry_demo.wire_tap import WireTap
from tapestry_governance.audit.privacy_statement import DEFINITION
from tapestry_governance.audit.verify import Audit
from tapestry_governance.events.envelope import Event, open_entry
from tapestry_governance.events.types import DpAccounted, RoundClosed, RoundOpened
from tapestry_governance.registry import read_base
from tapestry_node.node_state import NodeState
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


def summarize(
    demo: DemoRun,
    *,
    matrix: Matrix,
    samples: Sequence[HeldOutPrompt],
    tap: WireTap,
    audit: Audit,
) -> dict[str, Any]:
    """Collect the report's numbers; epsilon comes from the audit, not from the run."""
    settings = demo.settings
    events = [open_entry(entry).event for entry in audit.entries]
    bodies = [event.body for event in events]
    spent = [body for body in bodies if isinstance(body, DpAccounted)]
    closed = [body for body in bodies if isinstance(body, RoundClosed)]
    opened = [body.manifest for body in bodies if isinstance(body, RoundOpened)]
    batch = settings.training.batch_size * settings.training.steps
    gradients = batch * len(closed) * len(demo.members)
    found = {
        "title": "",
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "engine": demo.engine,
        "base": Path(demo.scale.base).name,  # where it lies is nobody's concern
        "model": _model(demo),
        "measure": "answers",
        "references": demo.record.references,
        "countries": _countries(demo, audit),
        "bits_per_byte": scores(matrix),
        "bits_per_byte_se": errors(matrix),
        "samples": [sample.to_json() for sample in samples],
        "rounds": [_round(body) for body in closed],
        "epsilon": _epsilon(audit),
        "epsilon_after_rounds": _after_rounds(events),
        "epsilon_limit": _limits(demo),
        "privacy": _privacy(settings, spent),
        "bytes_out": _bytes_out(demo),
        "seconds": {k: v for k, v in demo.seconds.items() if v >= 0.01},
        "peak_rss_mb": _peak_mb(),
        "log": _log(audit),
        "secagg": {
            "n": len(opened[-1].participants),
            "threshold": opened[-1].threshold,
            "max_colluding": opened[-1].max_colluding,
            "min_cohort": opened[-1].min_cohort,
            "length": opened[-1].length,
        },
        "coordinator_view": view(tap, is_private=bool(promise_in_words(spent))),
        "upload_test": _upload_test(tap),
        "private_text": {"searched": tap.searched, "found": tap.found},
        "budget": {
            "example_gradients_federated": gradients,
            "example_gradients_central": gradients if demo.record.references else None,
        },
        "software": _software(),
        "releases": _releases(audit),
        "adapters": _adapters(audit),
    }
    return found | {"title": headline(read(found))}


def _model(demo: DemoRun) -> dict[str, Any]:
    """Name the given base, and count its parameters in the first release."""
    shapes = read_base(next((demo.out / "releases").glob("base-*"))).shapes
    base = demo.scale.base
    known = _KNOWN.get(base, {"name": Path(base).name})
    return {**known, "parameters": sum(map(math.prod, shapes.values()))}


def _countries(demo: DemoRun, audit: Audit) -> list[dict[str, Any]]:
    rows = []
    for member in demo.members:
        declared = audit.state.data[member.name]
        language = declared.languages[0]
        row = {
            "name": member.name,
            "language": language,
            "language_name": _LANGUAGES.get(language, language),
            "institution": f"institution in {place(member.name)}",
            "records": declared.records,
            "licence": ", ".join(declared.licences),
        }
        rows.append(row)
    return rows


def _round(body: RoundClosed) -> dict[str, Any]:
    prefix = "bits_per_byte/"
    return {
        "number": body.round_number,
        "outcome": body.outcome,
        "included": list(body.included),
        "dropped": [{"name": d.name, "stage": d.stage} for d in body.dropped],
        "mean_norm": decode_decimal(body.metrics.get("mean_norm", "0")),
        "bits_per_byte": {
            name.removeprefix(prefix): decode_decimal(value)
            for name, value in body.metrics.items()
            if name.startswith(prefix)
        },
    }


def _epsilon(audit: Audit) -> dict[str, dict[str, float | None]]:
    """Epsilon per node and run, recomputed; ``total`` where a node has several runs."""
    found: dict[str, dict[str, float | None]] = {}
    for account in audit.accounts:
        runs = found.setdefault(account.node, {})
        runs[account.run_id or "total"] = account.recomputed
    return found


def _after_rounds(events: list[Event]) -> dict[str, float]:
    """What each node said it had spent on the rounds, before its adapter."""
    return {
        event.actor: decode_decimal(loss.epsilon_run)
        for event in events
        if isinstance(event.body, DpAccounted)
        and event.body.adapter is None
        and (loss := event.body.promise) is not None
    }


def _limits(demo: DemoRun) -> dict[str, float]:
    return {
        member.name: decode_decimal(
            _node_settings(demo, member.name).policy.epsilon_limit
        )
        for member in demo.members
    }


def _node_settings(demo: DemoRun, name: str) -> NodeSettings:
    return NodeSettings.read(demo.out / "nodes" / name / "node.toml")


def _privacy(
    settings: CoordinatorSettings, spent: Sequence[DpAccounted]
) -> dict[str, Any]:
    plan = settings.privacy
    if plan.noise == "none":
        return {"statement": promise_in_words(spent)}
    return {
        "unit": plan.unit,
        "adjacency": plan.adjacency,
        "delta": decode_decimal(plan.target_delta),
        "noise_multiplier": decode_decimal(plan.noise_multiplier),
        "clip_norm": decode_decimal(plan.clip_norm),
        "statement": promise_in_words(spent),
    }


def promise_in_words(spent: Sequence[DpAccounted]) -> str:
    """State the promise that the accounts of a log make; empty where they make none."""
    losses = [body.promise for body in spent]
    promises = [loss for loss in losses if loss is not None]
    if not promises or len(promises) < len(losses):
        return ""
    if all(loss.trust_model == "local" for loss in promises):
        trust = (
            "Each node adds all of the noise itself, so this holds whoever looks, other"
            " institutions and the coordinator included, and even if the secure"
            " aggregation failed."
        )
    else:
        trust = (
            "The nodes share the noise, so this holds while as many of them as are"
            " counted on add their part and keep it to themselves, and while the"
            " secure aggregation hides the single uploads."
        )
    return f"{DEFINITION} {trust}"


def _bytes_out(demo: DemoRun) -> dict[str, dict[str, int]]:
    """From the nodes' own egress receipts, whose chain is checked on the way."""
    found: dict[str, dict[str, int]] = {}
    for member in demo.members:
        store = NodeState(demo.out / "nodes" / member.name / "state.db")
        kinds = found.setdefault(member.name, {})
        for receipt in store.receipts():
            kinds[receipt.kind] = kinds.get(receipt.kind, 0) + receipt.bytes
        store.close()
    return found


def _peak_mb() -> float:
    """Peak resident memory of this process, or of its largest child."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(max(own, children) / 1024, 1)


def _log(audit: Audit) -> dict[str, Any]:
    checkpoint = audit.opened.checkpoint
    return {
        "origin": checkpoint.origin,
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
        "quorum": audit.trust.groups[0].threshold if audit.trust.groups else None,
        "cosignatures": sorted(c.witness for c in audit.opened.cosignatures),
        "verdict": audit.verdict.name.lower(),
    }


def view(tap: WireTap, *, is_private: bool) -> list[dict[str, Any]]:
    """What the coordinator saw, by what passed by and what messages can carry.

    Args:
        tap: What passed by.
        is_private: The log's accounts bound the privacy loss of every node.
    """
    rows: list[dict[str, Any]] = [
        {
            "item": "any private record",
            "seen": tap.found > 0,
            "detail": (
                "no message of the closed list has a place for a record; a publication"
                " carries an adapter's card, with public held-out text and what the"
                f" models answered to it{_searched(tap)}{_passed(tap)}"
            ),
        },
        {
            "item": "loss or gradient of any one institution",
            "seen": False,
            "detail": "no message of the closed list has a field for them",
        },
        {
            "item": "sum of the updates of a round",
            "seen": True,
            "detail": "this is what is aggregated"
            + (", with the noise of differential privacy" if is_private else ""),
        },
        {
            "item": "who took part, how many records each declared, when",
            "seen": True,
            "detail": "in the log, for everybody",
        },
    ]
    if tap.p_value is not None:
        rows.insert(
            1,
            {
                "item": "the update of any one institution",
                "seen": False if tap.p_value >= SUSPECT else None,
                "detail": (
                    f"{tap.uploads} uploads seen from the coordinator's place,"
                    f" {int(tap.counts.sum()):,} bytes; chi-squared test against"
                    f" uniform bytes: p = {tap.p_value:.3f}"
                ),
            },
        )
    return rows


def _upload_test(tap: WireTap) -> dict[str, Any] | None:
    if tap.p_value is None:
        return None
    size = int(tap.counts.sum())
    return {"uploads": tap.uploads, "bytes": size, "p_value": tap.p_value}


def _searched(tap: WireTap) -> str:
    """What came of looking for private text in all that passed by."""
    if not tap.searched:
        return ""
    times = "not once" if not tap.found else f"{tap.found} times"
    return (
        f"; {tap.searched} pieces of private text were looked for in all that was sent,"
        f" and found {times}"
    )


def _passed(tap: WireTap) -> str:
    """What kinds of message really passed by, if anybody listened."""
    if not tap.kinds:
        return ""
    return f"; seen were {', '.join(sorted(tap.kinds))}"


def _software() -> dict[str, str]:
    names = ("torch", "transformers", "peft", "opacus", "dp-accounting", "cryptography")
    versions = {name: importlib.metadata.version(name) for name in names}
    own = {"tapestry": __version__, "code": software_digest()}
    return {**own, "python": platform.python_version(), **versions}


def _releases(audit: Audit) -> list[dict[str, Any]]:
    return [
        {"name": r.name, "digest": r.parameters_digest, "round": r.round_number}
        for r in audit.state.releases.values()
    ]


def _adapters(audit: Audit) -> list[dict[str, Any]]:
    return [
        {
            "name": a.name,
            "country": a.country,
            "epsilon": None if a.epsilon is None else decode_decimal(a.epsilon),
            "digest": a.manifest_digest,
        }
        for a in audit.state.adapters.values()
    ]
