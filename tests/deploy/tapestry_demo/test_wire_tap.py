"""What a coordinator could see: bytes of uploads, kinds, and text if it leaked."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ConfigError
from tapestry.protocol.messages import Kind, Message
from tapestry_coordinator.grid import LocalGrid
from tapestry_demo.wire_tap import WireTap
from tests.support.refusals import refused

ENTRIES = [b"entry one", b"entry two"]


def _upload(*chunks: bytes) -> Message:
    return Message(kind=Kind.MASKED_INPUT, attachments=[*ENTRIES, *chunks])


def _heard(*replies: Message, wanted: tuple[bytes, ...] = ()) -> WireTap:
    tap = WireTap(wanted=wanted)
    for reply in replies:
        tap.take(reply)
    return tap


def test_chunks_of_an_upload_are_counted_byte_by_byte_and_its_entries_are_not() -> None:
    tap = _heard(_upload(b"\x00\x00\xff", b"\x07"), _upload(b"\x00"))
    assert tap.uploads == 2
    assert tap.counts.sum() == 5
    assert (tap.counts[0], tap.counts[7], tap.counts[255]) == (3, 1, 1)


def test_another_message_than_an_upload_counts_no_byte() -> None:
    tap = _heard(Message(kind=Kind.PUBLICATION, attachments=[b"a", b"b", b"ccc"]))
    assert (tap.uploads, int(tap.counts.sum())) == (0, 0)
    assert tap.kinds == {Kind.PUBLICATION.value}
    assert tap.p_value is None


def test_uniform_bytes_pass_the_test_and_floats_do_not() -> None:
    generator = np.random.default_rng(3)
    uniform = _heard(_upload(generator.bytes(1 << 18)))
    assert uniform.p_value is not None
    assert uniform.p_value > 1e-3
    bare = generator.standard_normal(1 << 16).astype("<f4").tobytes()
    found = _heard(_upload(bare)).p_value
    assert found is not None
    assert found < 1e-6


def test_private_text_is_found_wherever_it_stands_and_as_often() -> None:
    secret = b"the secret"
    replies = [
        _upload(b"..the secret.."),
        Message(kind=Kind.RECEIPT, body=b'{"x":"the secret"}'),
        Message(kind=Kind.PUBLICATION, attachments=[memoryview(b"the secret")]),
        Message(kind=Kind.RECEIPT, body=b"the secre", attachments=[b"t"]),
    ]
    tap = _heard(*replies, wanted=(secret, b"nothing of it"))
    assert (tap.searched, tap.found) == (2, 3)


@given(st.integers(0, 99), st.integers(0, 9), st.integers(0, 9))
def test_the_counts_survive_a_restart(seed: int, uploads: int, found: int) -> None:
    counts = np.random.default_rng(seed).integers(1, 1 << 40, 256)
    tap = WireTap(
        counts=counts,
        uploads=uploads,
        kinds={"masked_input"},
        searched=9,
        found=found,
    )
    again = WireTap.restore(json.loads(json.dumps(tap.state())))
    assert again.state() == tap.state()
    assert again.p_value == tap.p_value


def test_the_largest_number_of_pieces_looked_for_is_kept() -> None:
    tap = WireTap.restore(_heard(_upload(), wanted=(b"a",) * 3).state())
    tap.wanted = (b"a",)
    tap.take(_upload())
    assert tap.searched == 3


def test_an_empty_state_is_that_of_a_new_tap() -> None:
    assert WireTap.restore({}).state() == WireTap().state()


@pytest.mark.parametrize(
    "change",
    [
        {"counts": [1, 2]},
        {"counts": "many"},
        {"counts": [1 << 80] * 256},
        {"uploads": "x"},
        {"kinds": 3},
        {"found": None},
        {"searched": []},
        {"counts": None},
    ],
    ids=str,
)
def test_a_damaged_state_is_refused(change: dict[str, Any]) -> None:
    with refused(ConfigError, "demo-record-invalid"):
        WireTap.restore(WireTap().state() | change)
    state = WireTap().state()
    del state[next(iter(change))]
    with refused(ConfigError, "demo-record-invalid"):
        WireTap.restore(state)


def test_a_tapped_grid_passes_all_replies_on() -> None:
    def handle(message: Message) -> Message:
        return Message(kind=Kind.IDENTITY, body=message.body[::-1])

    tap = WireTap()
    grid = tap.listen(LocalGrid({"b": handle, "a": handle}))
    assert grid.nodes() == ["a", "b"]
    requests = {name: Message(kind=Kind.HELLO, body=b"12") for name in ("a", "b")}
    replies = list(grid.exchange(requests, deadline=5))
    assert [(name, reply.body) for name, reply in replies] == [
        ("a", b"21"),
        ("b", b"21"),
    ]
    assert tap.kinds == {"identity"}
