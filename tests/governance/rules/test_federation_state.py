"""A state answers as a scan of its log would, and none changes after it was made."""

import dataclasses
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_type_hints

from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.errors import RuleError
from tapestry.protocol.stages import RoundStage
from tapestry_governance.events.envelope import Event, open_entry
from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.events.round_events import (
    ContributionCommitted,
    RoundAborted,
    RoundClosed,
    RoundOpened,
)
from tapestry_governance.rules.federation_state import (
    FederationState,
    Frequent,
    round_key,
)
from tapestry_governance.rules.replay import apply
from tests.support.log_world import EPSILON, NAMES, World, fake_digest, renamed
from tests.support.proposals import new_key, withdrawal

DEEDS = ("round", "abort", "late", "release", "adapter", "run", "declare")


class History:
    """A legal log that grows by what a test draws, with the state after each entry."""

    def __init__(self) -> None:
        self.world = World(rules={"bases": "any"}).found()
        self.run, self.number = "run-0", 0
        self.base = fake_digest("given")
        self.aborted: Any = None
        self.versions = 0
        self.states: list[FederationState] = []

    def do(self, deed: str, names: list[str]) -> None:
        match deed:
            case "round":
                self._round(names)
            case "abort":
                manifest = self._open()
                self._commit(manifest, names[0])
                self.world.add(
                    RoundAborted(
                        **_key(manifest),
                        stage=RoundStage.COLLECT_MASKED_INPUTS,
                        reason="quorum",
                        survivors=(),
                    )
                )
                self.aborted = manifest
            case "late" if self.aborted is not None:
                self._try(self._account(self.aborted), names[0], "node")
            case "release":
                self._try(self._release(), "coordinator", "coordinator")
            case "adapter":
                self._adapter(names[0])
            case "run":
                self.run, self.number = f"run-{len(self.world.entries)}", 0
            case _:
                self._try(self.world.declaration(names[0]), names[0], "node")

    def _open(self) -> Any:
        self.number += 1
        manifest = renamed(
            self.world.manifest(1),
            run_id=self.run,
            round_number=self.number,
            model_digest=self.base,
        )
        self.world.add(RoundOpened(manifest=manifest))
        return manifest

    def _commit(self, manifest: Any, name: str) -> int:
        self.world.add(self._account(manifest), name, "node")
        return self.world.add(self.world.commitment(name, manifest), name, "node")

    def _round(self, names: list[str]) -> None:
        manifest = self._open()
        commitments = {}
        for name in sorted(names):
            commitments[name] = self._commit(manifest, name)
        self.base = fake_digest(f"base after {len(self.world.entries)}")
        closing = self.world.closing(manifest, commitments)
        self.world.add(closing.model_copy(update={"base_after": self.base}))

    def _account(self, manifest: Any) -> DpAccounted:
        return self.world.account(manifest, epsilon=EPSILON[3])

    def _release(self) -> ReleasePublished:
        state = self.world.folded
        closed, last = state.last_closed, state.released.last
        return ReleasePublished(
            name=f"base-{len(state.releases) + 1}",
            model_digest=self.base,
            parameters_digest=fake_digest("values"),
            manifest_digest=fake_digest("files"),
            run_id=closed.run_id if closed else "none",
            round_number=closed.round_number if closed else 1,
            previous=last.name if last else None,
        )

    def _adapter(self, name: str) -> None:
        last = self.world.folded.released.last
        if last is None:
            return
        self.versions += 1
        adapter = f"{name}-culture"
        account = self.world.adapter_account(adapter)
        said = account.model_copy(
            update={"version": self.versions, "run_id": last.run_id}
        )
        self.world.add(said, name, "node")
        release = self.world.folded.releases[last.name]
        published = self.world.adapter(1).model_copy(
            update={
                "name": adapter,
                "version": self.versions,
                "base": release.name,
                "base_digest": release.parameters_digest,
            }
        )
        self.world.add(published, name, "community")

    def _try(self, body: Any, actor: str, role: Any) -> None:
        """Append what may be against the rules as things stand."""
        try:
            self.world.add(body, actor, role)
        except RuleError:
            return


def _key(manifest: Any) -> dict[str, Any]:
    run, number, attempt = round_key(manifest)
    return {"run_id": run, "round_number": number, "attempt": attempt}


@st.composite
def histories(draw: st.DrawFn) -> History:
    history = History()
    cohorts = st.lists(st.sampled_from(NAMES), min_size=3, max_size=4, unique=True)
    for _ in range(draw(st.integers(1, 9))):
        history.do(draw(st.sampled_from(DEEDS)), draw(cohorts))
    return history


def _events(world: World, size: int) -> Iterator[tuple[int, Event]]:
    for index, entry in enumerate(world.entries[:size]):
        yield index, open_entry(entry).event


def _scan(world: World, size: int) -> dict[str, Any]:
    """Answer every question by reading the whole log."""
    found: dict[str, Any] = {
        **{name: {} for name in ("seen", "runs", "newest", "accounted", "opened")},
        **{name: {} for name in ("published", "publishers", "spent", "uploads")},
        **{name: [] for name in ("closed", "released")},
    }
    for index, event in _events(world, size):
        if event.seen is not None:
            found["seen"][event.actor] = event.seen
        _scan_round(found, index, event)
        _scan_model(found, index, event)
    return found


def _scan_round(found: dict[str, Any], index: int, event: Event) -> None:
    match event.body:
        case RoundOpened(manifest=manifest):
            found["opened"][round_key(manifest)] = index
            found["runs"].setdefault(manifest.run_id, index)
        case ContributionCommitted() as body:
            runs = found["uploads"].setdefault(event.actor, {})
            number = max(runs.get(body.run_id, 0), body.round_number)
            runs[body.run_id] = number
        case RoundClosed() as body:
            opened = found["opened"][body.run_id, body.round_number, body.attempt]
            found["closed"].append((body.round_number, opened, index, body.run_id))


def _scan_model(found: dict[str, Any], index: int, event: Event) -> None:
    match event.body:
        case DpAccounted() as body:
            said = (index, body.run_id, body.adapter)
            found["spent"].setdefault(event.actor, []).append(said)
            found["newest"][event.actor] = max(
                body.number, found["newest"].get(event.actor, 0)
            )
            if body.round_number is not None:
                key = (body.run_id, body.round_number, body.attempt)
                found["accounted"].setdefault(key, set()).add(event.actor)
        case ReleasePublished() as body:
            row = (body.name, body.run_id, body.round_number, index)
            found["released"].append(row)
            found["published"][body.name] = index
        case AdapterPublished() as body:
            found["published"][body.name] = index
            found["publishers"][body.name] = event.actor


@settings(max_examples=25, deadline=None)
@given(history=histories(), data=st.data())
def test_indexes_answer_as_a_scan_of_the_log_does(
    history: History, data: st.DataObject
) -> None:
    world, state = history.world, history.world.folded
    found = _scan(world, state.size)
    assert state.seen == found["seen"]
    assert state.runs == found["runs"]
    newest = {name: each.number for name, each in state.newest_account.items()}
    assert newest == found["newest"]
    assert state.accounted == found["accounted"]
    assert state.published == found["published"]
    assert state.publishers == found["publishers"]
    assert {k: r.opened for k, r in state.rounds.items()} == found["opened"]
    assert [
        (c.round_number, c.opened, c.index, c.run_id) for c in state.closed
    ] == found["closed"]
    for name in NAMES:
        assert state.uploads_of(name) == found["uploads"].get(name, {})
        spent = found["spent"].get(name, [])
        said = state.spending_of(name)
        assert [(s.index, s.run_id, s.adapter) for s in said] == spent
    within = data.draw(st.integers(0, state.size))
    releases = state.releases_since(within)
    assert [(r.name, r.run_id, r.round_number, r.index) for r in releases] == [
        row for row in found["released"] if row[3] >= within
    ]
    for number in range(12):
        for run in found["runs"]:
            ends = [
                index
                for n, _, index, of_run in found["closed"]
                if (n, of_run) == (number, run) and index < within
            ]
            closed = state.closed_round(number, run, within=within)
            assert (closed and closed.index) == (ends[-1] if ends else None)
            rows = [r for r in found["released"] if r[1] == run]
            before = [r[2] for r in rows if r[3] < within]
            assert state.released_round(run, within=within) == max(before, default=0)
            names = [r[0] for r in rows if r[2] == number]
            release = state.release_of(run, number)
            assert (release and release.name) == (names[-1] if names else None)


@settings(max_examples=10, deadline=None)
@given(history=histories())
def test_states_are_not_changed_by_what_follows_them(history: History) -> None:
    entries = history.world.entries
    state: FederationState | None = None
    kept = []
    for index, entry in enumerate(entries):
        state = apply(state, entry, index)
        kept.append((state, _picture(state)))
    for state, before in kept:
        assert _picture(state) == before
    again: FederationState | None = None
    for index, entry in enumerate(entries):  # and each is what its prefix makes
        again = apply(again, entry, index)
        assert _picture(again) == kept[index][1]


def _picture(state: FederationState) -> dict[str, str]:
    return {
        field.name: repr(getattr(state, field.name))
        for field in fields(state)
        if field.name != "past"
    } | {"root": state.root.hex(), "ids": repr(state.past.ids)}


@settings(max_examples=10, deadline=None)
@given(history=histories(), data=st.data())
def test_an_entry_is_found_by_exactly_its_bytes(
    history: History, data: st.DataObject
) -> None:
    world, state = history.world, history.world.folded
    index = data.draw(st.integers(0, state.size - 1))
    signed = open_entry(world.entries[index])
    assert state.past.find(signed) == index
    absent = open_entry(world.entry(world.declaration("fr"), "fr", "node"))
    assert state.past.find(absent) is None
    update = {"id": signed.event.id, "actor": signed.event.actor}
    other = absent.event.model_copy(update=update)
    assert state.past.index_of(other) == index
    stranger = other.model_copy(update={"actor": "gb"})
    assert state.past.index_of(stranger) is None
    forged = type(signed)(
        entry=absent.entry, payload=b"", event=other, signatures=signed.signatures
    )
    assert state.past.find(forged) is None


def test_ended_rounds_of_one_plan_share_their_terms() -> None:
    world = World().found()
    for number in (1, 2, 3):
        world.run_round(number)
    records = list(world.folded.rounds.values())
    assert len(records) == 3
    assert len({id(record.terms) for record in records}) == 1
    assert world.folded.newest == world.manifest(3)


def test_a_fast_copy_changes_fields_of_the_state_alone() -> None:
    state = World().found().folded
    assert state.but(shown=7) == dataclasses.replace(state, shown=7)
    assert state.shown != 7
    types = get_type_hints(FederationState)
    assert get_type_hints(Frequent).items() <= types.items()


def test_a_count_starts_again_with_each_opening() -> None:
    world = World().found()
    counts = world.folded.declarations
    assert world.folded.counted(counts, "xx") == (0, 1)
    assert world.folded.counted(counts, "fr") == (0, 2)
    index = world.add(RoundOpened(manifest=world.manifest()))
    assert world.folded.counted(counts, "fr") == (index, 1)


def test_a_key_is_known_for_ever_by_its_half_and_its_id() -> None:
    state = World().found().folded
    key = new_key("fresh").verify_key
    assert state.owned(key) is None
    known = state.knowing([key])
    renamed_key = dataclasses.replace(key, name="other")
    assert known.owned(renamed_key) == key.keyid
    assert state.owned(key) is None


def test_files_are_withdrawn_under_one_name() -> None:
    world = World().grow()
    body = withdrawal(world, "base-2")
    world.decide(body, "de", "es", "fr")
    assert world.settled.is_withdrawn("base-2", body.subject)
    assert not world.settled.is_withdrawn("base-1", body.subject)
