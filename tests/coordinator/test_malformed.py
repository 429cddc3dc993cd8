"""A reply of any shape, at any stage, ends no run; it goes on without that node.

One federation lives through all examples: each lets ``fr`` answer one kind of request
with something else than a node would, and asks for one more round.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tapestry.encoding import canonical_json, decode_json
from tapestry.protocol.messages import BODY_LIMIT, Kind, Message
from tapestry_coordinator import adapter_collector
from tapestry_coordinator import run as driver
from tapestry_coordinator.settings import RunSettings
from tests.coordinator.conftest import Found
from tests.support.federation import NAMES, Deliver, Federation, lost
from tests.support.settings_files import change_settings

OTHERS = {name for name in NAMES if name != "fr"}
STAGES = [
    *(
        Kind.HELLO,
        Kind.COSIGN,
        Kind.ADVERTISE_KEYS,
        Kind.SHARE_KEYS,
        Kind.COLLECT_MASKED_INPUTS,
    ),
    *(Kind.CHECK_CONSISTENCY, Kind.UNMASK, Kind.APPLY_RESULT, Kind.CHECK_CHUNK),
]
Change = Callable[[Message], Any]

VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2**53 - 1, "", "x", "5", "é", "0" * 64, "f" * 66),
    *([], {}, [1], {"a": []}, "fi", "x" * 10_000),
]
BODIES: list[Any] = [
    *(b"", b"\xff", b"[]", b"{}", b"null", b'"x"', b"9" * 5000, b'{"size":1e999}'),
    *(b'{"size":-1,"size":-1}', b"[" * 50_000, b'{"name":"\\ud800"}', b"{}" * 99_999),
    *(None, "{}", 5, bytearray(b"{}"), {}),
]
ITEMS: list[Any] = [
    *(b"", b"{}", b"\xff" * 100, b"0" * 100_000, b"[" * 40_000),
    *(None, 5, "x", [b"x"], memoryview(b"abcd")[::2]),
]


def _walk(value: Any) -> list[tuple[Any, Any]]:
    """Every place of a JSON value where something else could be."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value))
    places = [(value, key) for key in keys]
    return places + [place for key in keys for place in _walk(value[key])]


def _with_value(at: int, junk: Any, how: str) -> Change:
    def change(reply: Message) -> Any:
        body = copy.deepcopy(decode_json(reply.body, limit=BODY_LIMIT))
        places = _walk(body)
        if not places or how == "add":
            return dataclasses.replace(reply, body=canonical_json({"extra": junk}))
        holder, key = places[at % len(places)]
        if how == "delete":
            del holder[key]
        else:
            holder[key] = junk
        return dataclasses.replace(reply, body=canonical_json(body))

    return change


def _with_body(junk: Any) -> Change:
    return lambda reply: dataclasses.replace(reply, body=junk)


def _with_kind(kind: Any) -> Change:
    return lambda reply: dataclasses.replace(reply, kind=kind)


def _with_items(at: int, junk: Any, how: str) -> Change:
    def change(reply: Message) -> Any:
        items: Any = list(reply.attachments)
        place = at % (len(items) + 1)
        match how:
            case "insert":
                items.insert(place, junk)
            case "replace":
                items[place : place + 1] = [junk]
            case "drop":
                del items[place:]
            case "many":
                items += [junk] * 500
            case _:
                items = junk
        return dataclasses.replace(reply, attachments=items)

    return change


PLACES = st.integers(0, 200)
CHANGES = st.one_of(
    st.builds(
        _with_value,
        PLACES,
        st.sampled_from(VALUES),
        st.sampled_from(["replace", "delete", "add"]),
    ),
    st.builds(_with_body, st.sampled_from(BODIES)),
    st.builds(_with_kind, st.sampled_from([*Kind, "identity", "upload", None, 5])),
    st.builds(
        _with_items,
        PLACES,
        st.sampled_from(ITEMS),
        st.sampled_from(["insert", "replace", "drop", "many", "instead"]),
    ),
    st.sampled_from(["nonsense", 7, b"", ()]).map(lambda junk: lambda _: junk),
)
BOUNDED = settings(
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def _rounds(federation: Federation, count: int) -> None:
    """Let the next run of the coordinator go on to so many rounds."""
    path = federation.run_folder / "run.toml"
    change_settings(path, RunSettings, {"rounds": count})


def _lying(change: Change) -> Callable[[str, Message, Deliver], Any]:
    return lambda _name, request, deliver: change(deliver(request))


def _lenient(found: Found, **plan: Any) -> Federation:
    """Budgets for as many rounds as a test has examples."""
    return found(
        coordinator={"release_every": 1000, **plan},
        policy={"epsilon_cap": "1000"},
        institution={
            "policy": {"epsilon_limit": "1000"},
            "adapter": {"epsilon": "4"},
        },
    )


def _goes_on(
    federation: Federation,
    log: pytest.LogCaptureFixture,
    *,
    kind: Kind,
    change: Change,
) -> None:
    log.clear()
    before = len(federation.closed())
    federation.wire.faults.clear()
    federation.wire.on("fr", kind, _lying(change))
    _rounds(federation, before + 1)
    federation.run()
    assert len(federation.closed()) == before + 1
    included = set(federation.closed()[-1].included)
    assert included >= OTHERS
    lines = [r.getMessage() for r in log.records if r.name.startswith("tapestry_coord")]
    assert "fr" in included or any("node fr" in line for line in lines)
    assert not federation.aborted()


@pytest.mark.slow
def test_no_shape_of_a_reply_ends_the_run(
    found: Found, caplog: pytest.LogCaptureFixture
) -> None:
    federation = _lenient(found)

    @settings(BOUNDED, max_examples=2)
    @given(kind=st.sampled_from(STAGES), change=CHANGES)
    def check(kind: Kind, change: Change) -> None:
        _goes_on(federation, caplog, kind=kind, change=change)

    check()


@pytest.mark.slow
def test_no_shape_of_a_reply_ends_the_run_however_often(
    found: Found, caplog: pytest.LogCaptureFixture
) -> None:
    federation = _lenient(found)

    @settings(BOUNDED, max_examples=30)
    @given(kind=st.sampled_from(STAGES), change=CHANGES)
    def check(kind: Kind, change: Change) -> None:
        _goes_on(federation, caplog, kind=kind, change=change)

    check()


IDENTITIES: list[dict[str, Any]] = [
    {"size": -1},
    {"size": "5"},
    {"size": True},
    {"size": 2**53 - 1},
    {"lacks": {"run_id": "run", "round_number": 0}},
    {"lacks": {"run_id": "../run", "round_number": 1}},
    {"checkpoint": 5},
    {"checkpoint": "x"},
    {"name": "fi"},
    {"asks": [{"round_number": 1, "chunk": -1}]},
    {"extra": 1},
]


@pytest.mark.slow
def test_a_node_that_misstates_where_it_is_is_left_out(
    found: Found, caplog: pytest.LogCaptureFixture
) -> None:
    rounds = len(IDENTITIES) - 1  # who is too far ahead is here, and asked twice
    federation = _lenient(found, rounds=rounds)
    federation.wire.on("fr", Kind.HELLO, _lying(lambda reply: reply))  # has a name
    for said in IDENTITIES:
        federation.wire.on("fr", Kind.HELLO, _lying(_with_fields(said)))
    federation.run()
    assert not federation.aborted()
    assert [set(c.included) for c in federation.closed()] == [OTHERS] * rounds
    lines = [line for line in caplog.messages if line.startswith("leaving node fr")]
    assert len(lines) == len(IDENTITIES) - 1  # one size is only too large
    assert "leaving node fr out, bad hello: Identity size: Input should be" in lines[0]
    federation.run()  # a coordinator that starts again shows it what it missed
    assert set(federation.digests().values()) == {federation.closed()[-1].base_after}


def _with_fields(fields: dict[str, Any]) -> Change:
    def change(reply: Message) -> Message:
        return dataclasses.replace(
            reply,
            body=canonical_json(decode_json(reply.body, limit=BODY_LIMIT) | fields),
        )

    return change


def _or_nothing(change: Change) -> Change:
    """What a change leaves as it is would be published, and be the end of it."""

    def changed(reply: Message) -> Any:
        said = change(reply)
        return None if said == reply else said

    return changed


@pytest.mark.slow
def test_no_shape_of_a_publication_ends_the_run(found: Found) -> None:
    federation = _lenient(found, adapters=True)
    federation.wire.on("fr", Kind.PUBLISH_ADAPTER, lost)
    federation.run()
    run = driver.Run(
        federation.coordinator,
        federation.wire,
        settings=RunSettings.read(federation.run_folder / "run.toml"),
        workload=federation.base.workload,
        notify=federation.events.append,
    )

    @settings(BOUNDED, max_examples=12)
    @given(change=CHANGES)
    def check(change: Change) -> None:
        federation.wire.on("fr", Kind.PUBLISH_ADAPTER, _lying(_or_nothing(change)))
        here = run.context.tracker.wait_for_nodes()
        adapter_collector.collect_adapters(run.context, here, asked=here)
        assert not federation.wire.faults["fr", Kind.PUBLISH_ADAPTER]

    try:
        check()
    finally:
        run.close()
    federation.bundle()
