"""The two ways to run a federation of one folder: in this process, or over Flower."""

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w

from tapestry.cli.progress import Progress, ProgressEvent
from tapestry.encrypted_keys import load_key
from tapestry.errors import ResourceError
from tapestry.evaluation.scorer import KnownScores
from tapestry.inputs.setting_values import to_toml
from tapestry.model.replica import Replica
from tapestry.settings import Settings
from tapestry.storage import durable_files
from tapestry.tlog.checkpoint import read_claim
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry.workloads.base import Workload
from tapestry_coordinator import run, service
from tapestry_coordinator.grid import LocalGrid
from tapestry_coordinator.inbox import Inbox
from tapestry_coordinator.log_reader import read_log
from tapestry_coordinator.run_folders import PROGRESS, run_folder
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_coordinator.superlink.outcome import read_outcome
from tapestry_coordinator.superlink.processes import ChildGroup
from tapestry_demo.scenario import RUN
from tapestry_demo.wire_tap import WireTap
from tapestry_governance.ballot_paper import cast, make_paper, open_paper
from tapestry_governance.log.tile_writer import CHECKPOINT
from tapestry_governance.member_view import MemberView, view_of
from tapestry_node.node import Node
from tapestry_node.settings import NodeSettings

_VOTE_SECONDS = 120.0
_TICK = 0.2  # seconds between looks at files and processes
_FIELDS = frozenset(ProgressEvent.__required_keys__ | ProgressEvent.__optional_keys__)


class StageTimer:
    """Pass events on to the view, and add up the time between them by stage."""

    def __init__(self, progress: Progress, seconds: MutableMapping[str, float]) -> None:
        self._progress, self._seconds = progress, seconds
        self._stage, self._since = "start", time.monotonic()
        self._rounds = 0

    def __call__(self, event: dict[str, Any]) -> None:
        """Pass on an event of a run or node, and book the time before it."""
        self.enter(str(event.get("round_stage", event["stage"])))
        shown = {key: value for key, value in event.items() if key in _FIELDS}
        scores = event.get("scores")
        if isinstance(scores, dict):
            shown["score"] = sum(scores.values()) / max(len(scores), 1)
        if shown["stage"] == "round" and "round" in shown:
            self._count(shown)
        self._progress(shown)  # type: ignore[arg-type]  # the view checks the words

    def _count(self, shown: dict[str, Any]) -> None:
        """Add the number of all rounds, also to events of nodes, which lack it.

        Aborted rounds are counted as well, so the number can exceed the plan's.
        """
        self._rounds = max(shown["round"], shown.get("of", 0), self._rounds)
        shown["of"] = self._rounds

    def enter(self, stage: str) -> None:
        """Book the time since the last event on the stage that it began."""
        now = time.monotonic()
        spent = self._seconds.get(self._stage, 0.0) + now - self._since
        self._seconds[self._stage] = spent
        self._stage, self._since = stage, now


def run_in_process(
    out: Path,
    *,
    workload: Workload,
    given: Replica,
    tap: WireTap,
    seconds: MutableMapping[str, float],
    notify: Progress,
) -> None:
    """Run coordinator and nodes in this process, with the messages of a network."""
    logging.getLogger("tapestry_node").addHandler(logging.NullHandler())
    clock = StageTimer(notify, seconds)
    known: KnownScores = {}
    nodes = [
        Node(folder, workload=workload, replica=given, notify=clock)
        for folder in sorted((out / "nodes").iterdir())
    ]
    for node in nodes:
        node.share_scores(known)
    handlers = {node.name: partial(node.handle, connection=node.name) for node in nodes}
    try:
        run.main(
            out / "coordinator",
            tap.listen(LocalGrid(handlers)),
            workload=workload,
            replica=given,
            known_scores=known,
            notify=clock,
        )
        submit_votes(out)
        service.cosign_once(out / "coordinator", LocalGrid(handlers))
    finally:
        clock.enter("end")
        for node in nodes:
            node.close()


def run_flower(
    out: Path, *, seconds: MutableMapping[str, float], notify: Progress
) -> None:
    """Run each party's command as a process, until the run has ended.

    Raises:
        TapestryError: The run ended with this error.
        ResourceError: A command ended by itself; its last words say why.
    """
    coordinator, place = out / "coordinator", run_folder(out / "coordinator", RUN)
    clock = StageTimer(notify, seconds)
    tail = EventTail(place / PROGRESS, clock)
    home = out / "logs"
    durable_files.make_folders(home)
    nodes = sorted((out / "nodes").iterdir())
    _choose_port(coordinator, nodes)
    with ChildGroup(home) as group:
        _start(group, "coordinator", "coordinator", "run", str(coordinator))
        for folder in nodes:
            _start(group, folder.name, "node", "run", str(folder))
        while (outcome := read_outcome(place)) is None:
            tail.read()
            for name in group.pids:
                if (group[name].status or 0) > 0:
                    said = f"{group[name].last_words}; see {group[name].log}"
                    raise ResourceError(f"{name} ended: {said}", code="process-ended")
            group.tend()
            time.sleep(_TICK)
        tail.read()
        outcome.require_success()
        submit_votes(out)
        _await_votes(coordinator, group)
    clock.enter("end")
    outcome.require_success()


def submit_votes(out: Path) -> None:
    """Have each institution approve the releases, with its root key.

    The votes go the way of all votes: a ballot, an entry by the root key, the inbox.
    """
    view, inbox = _published_view(out / "coordinator"), Inbox(out / "coordinator")
    for folder in sorted((out / "nodes").iterdir()):
        root = load_key(folder / "keys" / "root.key", passphrase=None)
        for ballot in view.state.ballots.values():
            is_open = ballot.outcome in {"open", "decided"}
            if ballot.release and is_open and folder.name not in ballot.votes:
                paper = open_paper(make_paper(view, ballot.index))
                now = datetime.now(UTC)
                inbox.put(cast(paper, "yes", root=root, reasons=None, now=now))


def _published_view(coordinator: Path) -> MemberView:
    """Read the log up to its public checkpoint, as a member would."""
    note = (coordinator / "log" / "public" / CHECKPOINT).read_bytes()
    founding = TrustPolicy.parse((coordinator / "trust-policy.txt").read_bytes())
    entries = read_log(coordinator)[1][: read_claim(note).size]
    return view_of(entries, note=note, founding=founding)


def _await_votes(coordinator: Path, group: ChildGroup) -> None:
    """Wait until the votes are in the log, and cosigned.

    Raises:
        ResourceError: That takes too long.
    """
    end = time.monotonic() + _VOTE_SECONDS
    while Inbox(coordinator).waiting() or not _is_cosigned(coordinator):
        if time.monotonic() > end:
            raise ResourceError(
                f"{coordinator}: the votes were not cosigned in {_VOTE_SECONDS:g} s",
                code="process-ended",
            )
        group.tend()
        time.sleep(_TICK)


def _is_cosigned(coordinator: Path) -> bool:
    """Return whether the public checkpoint covers all entries of the log."""
    note = (coordinator / "log" / "public" / CHECKPOINT).read_bytes()
    return read_claim(note).size == len(read_log(coordinator)[1])


def _start(group: ChildGroup, name: str, *command: str) -> None:
    words = [sys.executable, "-m", "tapestry", *command]
    group.start(name, words, {"OMP_NUM_THREADS": "1", **os.environ})


def _choose_port(coordinator: Path, nodes: Sequence[Path]) -> None:
    """Have the coordinator listen on a free port, and tell it to the nodes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listen = {"listen": {"superlink": f"127.0.0.1:{port}"}}
    _change(coordinator / "coordinator.toml", CoordinatorSettings, listen)
    for folder in nodes:
        transport = {
            "superlink": f"localhost:{port}",
            "root_certificates": "authority.pem",
            "auth_key": "keys/transport",
            "poll_seconds": "0.1",
        }
        _change(folder / "node.toml", NodeSettings, {"transport": transport})


def _change(path: Path, kind: type[Settings], changes: Mapping[str, object]) -> None:
    settings = {**kind.read(path).model_dump(), **changes}
    text = tomli_w.dumps(to_toml(settings, kind))
    durable_files.replace_file(path, text.encode())


class EventTail:
    """Follow the events that a coordinator in another process writes from now on."""

    def __init__(self, path: Path, notify: Callable[[dict[str, Any]], None]) -> None:
        self._path, self._notify = path, notify
        self._position = path.stat().st_size if path.exists() else 0

    def read(self) -> None:
        """Report the whole lines that were added since the last call."""
        if not self._path.exists():
            return
        with self._path.open("r", encoding="utf-8") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith("\n"):
                    break
                self._position += len(line.encode())
                self._notify(json.loads(line))
