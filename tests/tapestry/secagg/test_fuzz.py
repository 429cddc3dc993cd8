"""Random and mutated messages: one typed error, no other, and nothing changes."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.encoding import canonical_json
from tapestry.errors import ProtocolError, TapestryError
from tapestry.protocol.secagg_messages import (
    Advertisement,
    Ciphertexts,
    Consent,
    ConsentList,
    HeadList,
    KeyList,
    Result,
    Reveal,
    ShareHead,
    ShareMessage,
    SurvivorList,
    Upload,
    UploadHead,
)
from tapestry.schema import Strict
from tapestry.secagg import client
from tapestry.secagg.client_states import KeysShared
from tapestry.secagg.requirements import ClientProgress, ClientStep
from tapestry.secagg.server import AdvertiseKeysStage
from tapestry.secagg.transcript import SumChecker, check_own
from tests.support.secagg_cohort import Federation

TO_NODE: dict[str, tuple[type[Strict], Callable[[Any, Any], Any]]] = {
    "keys": (KeyList, client.share_keys),
    "ciphertexts": (HeadList, client.receive_shares),
    "survivors": (SurvivorList, client.check_consistency),
    "consents": (ConsentList, client.unmask),
    "result": (Result, check_own),
}
TO_COORDINATOR: dict[str, type[Strict]] = {
    "advertisement": Advertisement,
    "shares": ShareHead,
    "upload": UploadHead,
    "consent": Consent,
    "reveal": Reveal,
}


class World:
    """One honest round of four nodes; keeps all that the first node saw and sent."""

    def __init__(self) -> None:
        self.f = f = Federation.of(4, length=8)
        self.me = f.cohort[0]
        self.bodies: dict[str, bytes] = {}
        self.states: dict[str, Any] = {}
        self.collectors: dict[str, Any] = {
            "advertisement": AdvertiseKeysStage(f.manifest)
        }
        f.advertise_keys()
        self._sent("advertisement", self.me.state.advertisement)
        self._asked("keys", f.message, "shares")
        state, message = client.share_keys(self.fresh("keys"), f.message)
        self._sent("shares", message.head)
        self.sealed = {"shares": message.messages}  # beside the bodies of 3 and 4
        f.share_keys()
        self.states["ciphertexts"] = self.me.state
        self.bodies["ciphertexts"] = f.message[self.me.name].heads.encode()
        self.sealed["ciphertexts"] = f.message[self.me.name].messages
        f.receive_shares()
        self.collectors["upload"] = self.snapshot(f.stage)
        f.collect_masked_inputs()
        self._sent("upload", f.uploads[self.me.name].head)
        self._asked("survivors", f.message, "consent")
        _, consent = client.check_consistency(self.fresh("survivors"), f.message)
        self._sent("consent", consent)
        f.check_consistency()
        self._asked("consents", f.message, "reveal")
        _, reveal = client.unmask(self.fresh("consents"), f.message)
        self._sent("reveal", reveal)
        unmasked = f.unmask()
        self.states["result"] = self.me.state
        self.bodies["result"] = f.result(unmasked).encode()
        assert isinstance(state, KeysShared)

    def _asked(self, kind: str, message: Any, reply: str) -> None:
        self.states[kind] = self.me.state
        self.bodies[kind] = message.encode()
        self.collectors[reply] = self.snapshot(self.f.stage)

    def _sent(self, kind: str, message: Any) -> None:
        self.bodies[kind] = message.encode()

    def fresh(self, kind: str) -> Any:
        """The node's state when that message came, as often as needed."""
        state = self.states[kind]
        steps = {"keys": 1, "ciphertexts": 2, "survivors": 5, "consents": 6}
        step = ClientStep(steps.get(kind, 7))
        fixed = replace(state.round, progress=ClientProgress(step=step))
        return replace(state, round=fixed)

    @staticmethod
    def snapshot(stage: Any) -> Any:
        twin = copy.copy(stage)
        twin.kept = dict(stage.kept)
        for part in ("total", "taken"):
            if hasattr(twin, part):
                setattr(twin, part, getattr(stage, part).copy())
        return twin


@cache
def world() -> World:
    return World()


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.text(max_size=5),
    st.sampled_from(["00" * 32, "ff" * 64, "sha256:" + "00" * 32, "n0002.example"]),
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def mutations(draw: st.DrawFn, body: bytes) -> bytes:
    """Change the bytes, or the JSON that they spell."""
    how = draw(st.sampled_from(["flip", "cut", "random", "value", "drop", "twice"]))
    if how == "random":
        return draw(st.binary(max_size=200))
    at = draw(st.integers(0, len(body) - 1))
    if how == "flip":
        return (
            body[:at] + bytes([body[at] ^ draw(st.integers(1, 255))]) + body[at + 1 :]
        )
    if how == "cut":
        return body[:at] + body[at + draw(st.integers(1, 40)) :]
    value = json.loads(body)
    _mutate(draw, value, how)
    try:
        return canonical_json(value)
    except TapestryError:
        return json.dumps(value).encode()


def _mutate(draw: st.DrawFn, value: Any, how: str) -> None:
    """Walk to some place in the tree and change it there."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        child = value[key]
        if isinstance(child, (dict, list)) and child and draw(st.integers(0, 3)):
            value = child
            continue
        if how == "drop":
            del value[key]
        elif how == "twice" and isinstance(value, list):
            value.append(child)
        elif isinstance(child, str) and len(child) > 4 and draw(st.booleans()):
            value[key] = ("0" if child[0] != "0" else "1") + child[1:]
        else:
            value[key] = draw(values)
        return


@st.composite
def byte_mutations(draw: st.DrawFn, good: bytes) -> bytes:
    """Change one byte, or leave out or add some."""
    how = draw(st.sampled_from(["flip", "cut", "more"]))
    at = draw(st.integers(0, len(good) - 1))
    if how == "flip":
        changed = good[at] ^ draw(st.integers(1, 255))
        return good[:at] + bytes([changed]) + good[at + 1 :]
    if how == "cut":
        return good[:at] + good[at + draw(st.integers(1, 1300)) :]
    return good[:at] + draw(st.binary(min_size=1, max_size=40)) + good[at:]


def with_sealed(kind: str, message: Any, sealed: bytes) -> Any:
    """What a party makes of the body of a message, and of the bytes beside it."""
    if kind == "shares":
        return ShareMessage(head=message, messages=sealed)
    if kind == "ciphertexts":
        return Ciphertexts(heads=message, messages=sealed)
    return message


@pytest.mark.parametrize("kind", list(TO_NODE))
@given(data=st.data())
def test_a_node_answers_a_bad_message_with_one_typed_error(
    kind: str, data: st.DataObject
) -> None:
    w = world()
    message_type, step = TO_NODE[kind]
    body, good = data.draw(mutations(w.bodies[kind])), w.sealed.get(kind, b"")
    sealed = good
    if good and data.draw(st.booleans()):
        body, sealed = w.bodies[kind], data.draw(byte_mutations(good))
    state = w.fresh(kind)
    before = state.round.progress.step
    try:
        step(state, with_sealed(kind, message_type.decode(body), sealed))
    except TapestryError:
        assert state.round.progress.step is before
        if kind != "result":  # the good one still works
            body = w.bodies[kind]
            step(state, with_sealed(kind, message_type.decode(body), good))


@pytest.mark.parametrize("kind", list(TO_COORDINATOR))
@given(data=st.data())
def test_the_coordinator_answers_a_bad_message_with_one_typed_error(
    kind: str, data: st.DataObject
) -> None:
    w = world()
    stage = w.snapshot(w.collectors[kind])
    body = data.draw(mutations(w.bodies[kind]))
    before = stage.missing
    total = stage.total.copy() if kind == "upload" else None
    chunks: list[bytes | memoryview] = list(w.f.uploads[w.me.name].chunks)
    if kind == "upload" and data.draw(st.booleans()):
        body = w.bodies[kind]
        chunks = [*data.draw(st.lists(st.binary(max_size=40), max_size=3))]
    sealed = w.sealed.get(kind, b"")
    if sealed and data.draw(st.booleans()):
        body, sealed = w.bodies[kind], data.draw(byte_mutations(sealed))

    def wrap(message: Any) -> Any:
        if kind == "upload":
            return Upload(head=message, chunks=chunks)
        return with_sealed(kind, message, sealed)

    message_type = TO_COORDINATOR[kind]
    try:
        stage.accept(w.me.name, wrap(message_type.decode(body)))
    except TapestryError:
        assert stage.missing == before
        if total is not None:
            assert np.array_equal(stage.total, total)
        chunks = list(w.f.uploads[w.me.name].chunks)
        sealed = w.sealed.get(kind, b"")
        stage.accept(w.me.name, wrap(message_type.decode(w.bodies[kind])))


@given(data=st.data())
def test_an_auditor_answers_a_bad_result_with_one_typed_error(
    data: st.DataObject,
) -> None:
    w = world()
    body = data.draw(mutations(w.bodies["result"]))
    try:
        result = Result.decode(body)
        SumChecker(w.f.manifest, result)
    except TapestryError:
        return
    original = Result.decode(w.bodies["result"])
    assert result.transcript.survivors == original.transcript.survivors
    assert result.transcript.self_seeds == original.transcript.self_seeds
    assert result.transcript.roots == original.transcript.roots


def test_no_message_is_taken_for_another() -> None:
    w = world()
    kinds = {kind: row[0] for kind, row in TO_NODE.items()} | TO_COORDINATOR
    for kind, body in w.bodies.items():
        for other, message_type in kinds.items():
            if other != kind:
                with pytest.raises(ProtocolError):
                    message_type.decode(body)
