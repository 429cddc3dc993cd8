"""Versions of data: growth, returns, withdrawals, and ways to cheat the accounting."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapestry.errors import ConfigError, VerificationError
from tapestry.protocol.secagg_messages import PROTOCOL
from tapestry_governance.events.privacy_events import MAX_BLOCKS
from tapestry_node.data import data_versions, withdrawal
from tapestry_node.data.data_version import INTERVAL
from tapestry_node.data.data_versions import DataSource, Holdings, declared_count
from tapestry_node.node_state import NodeState
from tests.support.refusals import refused

NOW = datetime(2026, 12, 1, tzinfo=UTC)
WEEK = INTERVAL
PEOPLE = {f"person-{number}": f"row {number}" for number in range(40)}


def digest_of(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def persons(rows: Mapping[str, str]) -> DataSource:
    """The records of a folder of persons."""
    return DataSource(
        unit="person",
        place="the folder",
        description={"licence": "CC0-1.0"},
        keys=tuple(rows),
        digests=b"".join(map(digest_of, rows.values())),
    )


def records(*texts: str) -> DataSource:
    """The records of a folder without keys."""
    keys = (None,) * len(texts)
    spelled = b"".join(map(digest_of, texts))
    return replace(persons({}), unit="record", keys=keys, digests=spelled)


class Institution:
    """A node's state over the weeks; blocks pay as long as a test says."""

    def __init__(self, path: Path) -> None:
        self.now, self.logged, self.spent = NOW, 0, set[int]()
        self.most = 1000  # units of a block
        self.state = NodeState(path / "node.db", clock=lambda: self.now)

    def check(self, largest: int) -> None:
        if largest > self.most:
            raise ConfigError(f"{largest} units", code="delta-too-large")

    def start(self, source: DataSource, *, after: timedelta = WEEK) -> Holdings:
        """Start the node on a folder, some time after the last start."""
        self.now += after

        def paying(blocks: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(block for block in blocks if block not in self.spent)

        found = data_versions.take_in(
            source,
            self.state,
            now=self.now,
            logged=self.logged,
            paying=paying,
            check=self.check,
        )
        self.logged = found.version.version
        if self.state.reading().terms is None:
            with self.state.writing() as writing:
                terms = {"unit": source.unit, "delta": "0.1", "adjacency": "add-remove"}
                writing.append({"type": "open", **terms})
        return found


@pytest.fixture
def institution(tmp_path: Path) -> Institution:
    return Institution(tmp_path)


def test_what_came_since_is_the_next_block_once_a_week(
    institution: Institution,
) -> None:
    first = institution.start(persons(PEOPLE))
    assert first.version.body() | {"dataset": "", "register": ""} == {
        "version": 1,
        "block": 1,
        "records": 40,
        "withdrawn": 0,
        "trains": [1],
        "dataset": "",
        "register": "",
    }
    more = {**PEOPLE, **{f"new-{number}": "row" for number in range(11)}}
    early = institution.start(persons(more), after=WEEK - timedelta(seconds=1))
    assert early.version == first.version
    assert early.changes.new == 11
    assert early.blocks.tolist() == [1] * 40 + [0] * 11
    second = institution.start(persons(more), after=timedelta(seconds=1)).version
    assert (second.version, second.block, second.trains) == (2, 2, (1, 2))
    assert second.records == 50  # of 51: the log rounds down
    assert second.dataset != first.version.dataset


def test_data_that_stay_as_they_are_make_no_version(institution: Institution) -> None:
    first = institution.start(persons(PEOPLE))
    assert institution.start(persons(PEOPLE)).version == first.version
    assert len(institution.state.reading().data) == 1


def test_old_units_that_are_declared_again_stay_in_their_block(
    institution: Institution,
) -> None:
    """Cheat: the persons leave for a version, and come again as if they were new."""
    institution.start(persons(PEOPLE))
    few = dict(list(PEOPLE.items())[:15])
    gone = institution.start(persons({**few, "new": "row"}))
    assert (gone.version.block, gone.version.withdrawn) == (2, 20)  # of 25
    back = institution.start(persons({"new": "row", **PEOPLE}))
    assert back.version.block == 2
    assert back.blocks.tolist() == [2] + [1] * 40


def test_a_changed_record_keeps_the_budget_of_its_person(
    institution: Institution,
) -> None:
    """Cheat: a row is edited, so that it looks like another one."""
    institution.start(persons(PEOPLE))
    edited = {key: text + "." for key, text in PEOPLE.items()}
    early = institution.start(persons(edited), after=timedelta())
    assert not early.blocks.any()  # it waits, as what was declared is another text
    later = institution.start(persons(edited))
    assert (later.version.version, later.version.block) == (2, 1)
    assert later.blocks.tolist() == [1] * 40


def test_a_person_is_not_split_over_blocks(institution: Institution) -> None:
    """Cheat: new rows of an old person come in the file of new persons."""
    institution.start(persons({"ann": "old row", **PEOPLE}))
    rows = {"ann": "old row\nnew row", **PEOPLE, "new": "row"}
    found = institution.start(persons(rows))
    assert found.blocks.tolist() == [1] * 41 + [2]


@pytest.mark.parametrize(
    "now",
    [("one", "two", "edited"), ("one", "two", "three", "more"), ("one", "one", "two")],
    ids=["edited", "added", "copied"],
)
def test_single_records_never_grow(
    institution: Institution, now: tuple[str, ...]
) -> None:
    """Cheat: without a key, an edited byte would make a record with a fresh budget."""
    institution.start(records("one", "two", "three"))
    for after in (timedelta(), WEEK):
        with refused(ConfigError, "dataset-differs", match="1 of its records are new"):
            institution.start(records(*now), after=after)
    with refused(ConfigError, "dataset-differs"):
        data_versions.look(records(*now), institution.state)


def test_single_records_may_become_fewer(institution: Institution) -> None:
    institution.start(records(*PEOPLE.values()))
    kept = records(*list(PEOPLE.values())[:22])
    early = institution.start(kept, after=timedelta())
    assert (early.version.version, early.blocks.tolist()) == (1, [1] * 22)
    later = institution.start(kept).version
    assert (later.version, later.block, later.records) == (2, 1, 20)
    assert later.withdrawn == 10  # of 18
    back = institution.start(records(*PEOPLE.values()))  # into the same block
    assert (back.version.block, back.version.records) == (1, 40)


def test_a_spent_block_retires_and_new_data_go_on(institution: Institution) -> None:
    institution.start(persons(PEOPLE))
    institution.spent = {1}
    more = {**PEOPLE, **{f"new-{number}": "row" for number in range(20)}}
    found = institution.start(persons(more))
    assert (found.version.block, found.version.trains) == (2, (2,))
    assert found.version.records == 20  # by which the sampling rate is counted
    assert len(found.select(found.version.trains)) == 20


def test_a_version_follows_when_a_block_is_spent_though_nobody_came(
    institution: Institution,
) -> None:
    institution.start(persons(PEOPLE))
    more = {**PEOPLE, **{f"new-{number}": "row" for number in range(20)}}
    institution.start(persons(more))
    institution.spent = {1}
    found = institution.start(persons(more)).version
    assert (found.version, found.block, found.trains, found.records) == (3, 2, (2,), 20)


def test_withdrawn_persons_never_train_again(institution: Institution) -> None:
    found = institution.start(persons(PEOPLE))
    assert withdrawal.withdraw(institution.state, ["person-0", "person-1"]) == 2
    assert withdrawal.withdraw(institution.state, ["person-1", "person-2"]) == 1
    with refused(ConfigError, "unit-unknown", match="key 2 of the list"):
        withdrawal.withdraw(institution.state, ["person-9", "who-waits"])
    gone = institution.state.reading().withdrawn
    assert found.without(gone).blocks.tolist() == [0] * 3 + [1] * 37
    early = institution.start(persons(PEOPLE), after=timedelta())  # rows still there
    assert early.blocks.tolist() == [0] * 3 + [1] * 37
    assert early.version.version == 1
    later = institution.start(persons(PEOPLE))
    assert (later.version.version, later.version.records) == (2, 30)  # of 37
    assert later.blocks.tolist() == [0] * 3 + [1] * 37
    assert institution.start(persons(PEOPLE)).version == later.version


@pytest.mark.parametrize("logged", [1, 2])
def test_a_state_older_than_the_log_is_refused(
    institution: Institution, logged: int
) -> None:
    """Cheat: the state is put back, so that the persons of a version are new again."""
    institution.start(persons(PEOPLE))
    institution.logged = 1 + logged
    with refused(VerificationError, "data-version-restored", match="who is new"):
        institution.start(persons(PEOPLE))


def test_charges_without_a_version_are_refused(institution: Institution) -> None:
    from tests.node.budget.test_log_accounts import CHARGE

    with institution.state.writing() as writing:
        writing.append({"type": "reserve", **CHARGE.body()})
    with refused(VerificationError, "data-version-missing"):
        institution.start(persons(PEOPLE))


def test_no_version_is_made_while_a_round_is_under_way(
    institution: Institution, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tapestry_node.state_entries import StateReplay

    institution.start(persons(PEOPLE))
    replay = institution.state.reading()
    monkeypatch.setattr(replay, "session", PROTOCOL)
    assert isinstance(replay, StateReplay)
    more = {**PEOPLE, "new": "row"}
    assert institution.start(persons(more)).version.version == 1


@pytest.mark.parametrize("count", [0, 9])
def test_a_first_version_has_ten_persons(institution: Institution, count: int) -> None:
    """The number of fewer would tell about each of them."""
    few = dict(list(PEOPLE.items())[:count])
    with refused(ConfigError, "records-missing", match=f"{count} persons"):
        institution.start(persons(few))
    with refused(ConfigError, "records-missing", match="0 records"):
        institution.start(records())
    assert institution.state.reading().data == []


def test_a_node_starts_when_all_who_could_pay_have_left(
    institution: Institution,
) -> None:
    """It trains nothing, and can still cosign and leave."""
    institution.start(persons(PEOPLE))
    withdrawal.withdraw(institution.state, list(PEOPLE))
    found = institution.start(persons(PEOPLE))
    assert (found.version.version, len(found.select((1,)))) == (1, 0)
    found = institution.start(persons({}))
    assert (found.version.version, len(found.blocks)) == (1, 0)


def test_no_version_has_fewer_than_ten_persons(institution: Institution) -> None:
    institution.start(persons(PEOPLE))
    institution.spent = {1}
    more = {**PEOPLE, **{f"new-{number}": "row" for number in range(9)}}
    assert institution.start(persons(more)).version.version == 1
    found = institution.start(persons({**more, "new-9": "row"})).version
    assert (found.version, found.trains, found.records) == (2, (2,), 10)


def test_a_block_that_delta_is_too_large_for_is_not_written(
    institution: Institution,
) -> None:
    institution.start(persons(PEOPLE))
    institution.most = 40
    many = {**PEOPLE, **{f"new-{number}": "row" for number in range(41)}}
    with refused(ConfigError, "delta-too-large"):
        institution.start(persons(many))
    fewer = dict(list(many.items())[:80])
    assert institution.start(persons(fewer)).version.block == 2


def test_persons_who_are_all_others_are_asked_about(institution: Institution) -> None:
    """Cheat, or an export under other pseudonyms: everybody would have a new budget."""
    institution.start(persons(PEOPLE))
    others = {f"pseudonym-{key}": text for key, text in PEOPLE.items()}
    early = institution.start(persons(others), after=timedelta())
    assert not early.blocks.any()
    with refused(ConfigError, "units-exchanged", match="lacks 40 of 40"):
        institution.start(persons(others))
    few = dict(list(others.items())[:19])
    few |= dict(list(PEOPLE.items())[:21])
    assert institution.start(persons(few)).version.version == 2
    with refused(ConfigError, "units-exchanged"):
        institution.start(persons(others))
    with institution.state.writing() as writing:
        writing.append({"type": "exchanged"})
    found = institution.start(persons(others)).version
    assert (found.version, found.block) == (3, 3)
    assert not institution.state.reading().exchanged


def test_a_restored_state_makes_no_version_before_it_is_settled(
    institution: Institution,
) -> None:
    """It cannot know who came with the versions that it has forgotten."""
    institution.start(persons(PEOPLE))
    institution.state.mark_restored(since=0)
    more = {**PEOPLE, **{f"new-{number}": "row" for number in range(20)}}
    assert institution.start(persons(more)).version.version == 1
    with institution.state.writing() as writing:
        writing.append({"type": "settled", "size": 0})
    assert institution.start(persons(more)).version.version == 2


def test_records_without_keys_are_no_persons(institution: Institution) -> None:
    source = replace(persons(PEOPLE), keys=())
    with refused(ConfigError, "unit-unsupported", match='write unit = "record"'):
        institution.start(source)


def test_the_last_block_takes_in_who_comes_later(institution: Institution) -> None:
    """It is charged for more than was spent on them, which is safe."""
    found = institution.start(persons(PEOPLE))
    for number in range(1, MAX_BLOCKS + 2):
        rows = {**PEOPLE, **{f"later-{each}": "row" for each in range(number)}}
        found = institution.start(persons(rows))
    assert found.version.block == MAX_BLOCKS
    assert np.count_nonzero(found.blocks == MAX_BLOCKS) == 3


def test_a_look_writes_nothing(institution: Institution) -> None:
    source = persons(PEOPLE)
    before = data_versions.look(source, institution.state)
    assert (before.version.records, before.blocks.tolist()) == (40, [1] * 40)
    assert institution.state.reading().number == 0
    made = institution.start(source)
    entries = institution.state.reading().number
    seen: Any = data_versions.look(persons({**PEOPLE, "new": "r"}), institution.state)
    assert seen.version == made.version
    assert seen.changes.new == 1
    assert institution.state.reading().number == entries


@pytest.mark.parametrize(
    ("units", "declared"),
    [(1, 1), (9, 9), (10, 10), (19, 10), (149, 140), (1299, 1200)],
)
def test_counts_are_rounded_down(units: int, declared: int) -> None:
    assert declared_count(units) == declared
