"""Tests of client: the refusals at each message, after which no state has changed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tapestry.errors import (
    BudgetExhausted,
    PolicyError,
    ProtocolError,
    QuorumError,
    TapestryError,
    VerificationError,
)
from tapestry.protocol.round_manifest import AdamStep, NesterovStep, RoundManifest
from tapestry.protocol.secagg_messages import (
    Ciphertexts,
    ConsentList,
    HeadList,
    KeyList,
    Survivor,
    SurvivorList,
)
from tapestry.secagg import client
from tapestry.secagg.requirements import Requirements, Reservation
from tapestry.vectors import Quantized
from tests.support.plans import DIGEST
from tests.support.refusals import refused
from tests.support.secagg_cohort import (
    Federation,
    MemoryMarks,
    manifest_for,
    members,
    terms_for,
)

OTHER = "sha256:" + "cd" * 32
STEP = {"learning_rate": "1", "max_norm": "10", "max_loss_increase": "1"}


def join(manifest: RoundManifest, index: int = 0, **changes: Any) -> None:
    identity = members(20)[index].identity
    client.advertise_keys(manifest, identity, terms=terms_for(manifest, **changes))


def broke(manifest: RoundManifest) -> None:
    raise BudgetExhausted(
        f"round {manifest.round_number} costs more than is left",
        code="budget-exhausted",
    )


@pytest.mark.parametrize(
    ("changes", "terms", "error", "code", "values"),
    [
        ({}, {"model_digest": OTHER}, ProtocolError, "base-differs", OTHER),
        ({}, {"highest_round": 1}, ProtocolError, "round-already-uploaded", "1"),
        (
            {"round_number": 3},
            {"highest_round": 5},
            ProtocolError,
            "round-already-uploaded",
            "3.* 5",
        ),
        ({}, {"roster_digest": OTHER}, ProtocolError, "roster-differs", OTHER),
        ({}, {"roster": {}}, ProtocolError, "participant-not-in-roster", "n0001"),
        ({}, {"min_cohort": 8}, PolicyError, "cohort-too-small", "7 .* 8"),
        ({"min_cohort": 8}, {}, PolicyError, "cohort-too-small", "7 .* 8"),
        ({}, {"min_colluding": 3}, PolicyError, "max-colluding-too-small", "2 .* 3"),
        ({"threshold": 4}, {}, ProtocolError, "threshold-out-of-range", "4 of 7 .*5"),
        ({"threshold": 8}, {}, ProtocolError, "threshold-out-of-range", "8 of 7"),
        (
            {"max_colluding": 6, "threshold": 7},
            {},
            ProtocolError,
            "honest-nodes-too-few",
            "7 .* 6 ",
        ),
        ({"clip_value": "10000"}, {}, ProtocolError, "sum-may-overflow", "7 nodes"),
        (
            {"clip_value": "0.000001"},
            {},
            ProtocolError,
            "clip-value-below-grid",
            "0.000001",
        ),
        ({}, {"afford": broke}, BudgetExhausted, "budget-exhausted", "round 1"),
    ],
)
def test_a_node_refuses_a_manifest_that_breaks_its_terms(
    changes: dict[str, Any],
    terms: dict[str, Any],
    error: type[TapestryError],
    code: str,
    values: str,
) -> None:
    with refused(error, code, match=values):
        join(manifest_for(members(7), **changes), **terms)


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_norm": "2"},
        {"clip_value": "0.25"},
        {"scale_bits": 12},
        {"length": 51},
        {"layout_digest": OTHER},
        {"outer": AdamStep(optimizer="adam", **STEP)},
        {"outer": NesterovStep(optimizer="nesterov", momentum="0.25", **STEP)},
        *(
            {"outer": manifest_for(members(7)).outer.model_copy(update=change)}
            for change in (
                {"learning_rate": "3"},
                {"max_norm": "1000"},
                {"max_loss_increase": "1000"},
            )
        ),
    ],
)
def test_a_node_refuses_a_manifest_that_differs_from_the_plan(
    changes: dict[str, Any],
) -> None:
    agreed = terms_for(manifest_for(members(7))).plan
    (name,) = changes
    with refused(ProtocolError, "run-plan-differs", match=f" in {name}$"):
        join(manifest_for(members(7), **changes), plan=agreed)


def test_a_node_refuses_a_round_that_it_is_not_in() -> None:
    with refused(ProtocolError, "node-not-in-cohort", match="n0010"):
        join(manifest_for(members(7)), 9)


def test_a_node_refuses_two_participants_with_one_key() -> None:
    manifest = manifest_for(members(7))
    first, second, *rest = manifest.participants
    twin = second.model_copy(update={"key": first.key})
    twins = manifest.model_copy(update={"participants": (first, twin, *rest)})
    with refused(ProtocolError, "identity-key-duplicated", match="7 .* 6 "):
        client.advertise_keys(twins, members(1)[0].identity, terms=terms_for(twins))


def test_a_cohort_of_four_with_a_floor_of_three_is_allowed() -> None:
    manifest = manifest_for(members(4))
    assert (manifest.max_colluding, manifest.threshold) == (1, 3)
    join(manifest, min_cohort=3, min_colluding=1)
    with refused(PolicyError, "cohort-too-small", match="4 .* 5"):
        join(manifest, min_cohort=5)


def refused_at(
    state: Any,
    step: Any,
    message: Any,
    *,
    error: type[TapestryError],
    code: str,
    values: str | None = None,
) -> None:
    """Expect a step to refuse a message and to leave the state where it was."""
    before = state.round.progress.step
    with refused(error, code, match=values):
        step(state, message)
    assert state.round.progress.step is before


@pytest.fixture
def advertised() -> Federation:
    federation = Federation.of(7)
    federation.run("advertise_keys")
    return federation


def share_refused(
    federation: Federation,
    entries: Any,
    error: type[TapestryError],
    code: str,
    values: str | None = None,
) -> None:
    state = federation.cohort[0].state
    message = KeyList.model_construct(advertisements=tuple(entries))
    refused_at(state, client.share_keys, message, error=error, code=code, values=values)


def test_a_swapped_key_is_refused_and_nothing_is_shared(advertised: Federation) -> None:
    entries = list(advertised.message.advertisements)
    for field in ("channel_key", "mask_key"):
        swapped = entries[3].model_copy(update={field: "11" * 32})
        changed = [*entries[:3], swapped, *entries[4:]]
        share_refused(
            advertised, changed, VerificationError, "signature-invalid", "n0004"
        )


def test_an_own_entry_that_changed_is_refused(advertised: Federation) -> None:
    entries = list(advertised.message.advertisements)
    swapped = entries[0].model_copy(update={"mask_key": "11" * 32})
    share_refused(
        advertised, [swapped, *entries[1:]], ProtocolError, "own-entry-differs", "n0001"
    )
    share_refused(advertised, entries[1:], ProtocolError, "own-entry-differs", "n0001")


def test_a_truncated_key_list_is_refused(advertised: Federation) -> None:
    entries = advertised.message.advertisements[:4]
    share_refused(advertised, entries, QuorumError, "cohort-too-small", "^4 .* 5$")


def test_a_stranger_in_the_key_list_is_refused(advertised: Federation) -> None:
    entries = list(advertised.message.advertisements)
    entries.append(entries[1].model_copy(update={"node": "sybil.example"}))
    share_refused(
        advertised, entries, ProtocolError, "node-not-listed", "sybil.example"
    )


def test_one_key_in_two_places_is_no_key_list(advertised: Federation) -> None:
    first, second, *rest = advertised.message.advertisements
    twin = second.model_copy(update={"mask_key": first.channel_key})
    body = KeyList.model_construct(advertisements=(first, twin, *rest)).encode()
    with refused(ProtocolError, "schema-violated", match="public key twice"):
        KeyList.decode(body)


def test_a_key_of_low_order_is_refused(advertised: Federation) -> None:
    state = advertised.cohort[0].state
    entries = list(advertised.message.advertisements)
    evil = entries[3].model_copy(update={"mask_key": "00" * 32})
    member = advertised.cohort[3]
    evil = evil.signed(state.round.cohort.context, member.identity)
    changed = [*entries[:3], evil, *entries[4:]]
    share_refused(advertised, changed, ProtocolError, "key-of-low-order", "00" * 32)


@pytest.fixture
def shared() -> Federation:
    federation = Federation.of(7)
    federation.run("share_keys")
    return federation


def receive_refused(
    federation: Federation,
    message: Ciphertexts,
    error: type[TapestryError],
    code: str,
    values: str | None = None,
) -> None:
    state = federation.cohort[0].state
    refused_at(
        state, client.receive_shares, message, error=error, code=code, values=values
    )


def with_heads(federation: Federation, heads: Any) -> Ciphertexts:
    """Message 4 for the first node, with other heads and what belongs to them."""
    boxes = federation.boxes(federation.names()[0])
    kept = [boxes[h.node] for h in heads if h.node in boxes]
    return Ciphertexts(heads=HeadList(heads=tuple(heads)), messages=b"".join(kept))


def test_a_list_of_shares_with_a_changed_head_is_refused(shared: Federation) -> None:
    message = shared.message[shared.names()[0]]
    own, other, *rest = message.heads.heads
    forged = other.model_copy(update={"commitment": "11" * 32})
    changed = with_heads(shared, [own, forged, *rest])
    receive_refused(shared, changed, VerificationError, "signature-invalid", "n0002")
    forged = own.model_copy(update={"commitment": "11" * 32})
    changed = with_heads(shared, [forged, other, *rest])
    receive_refused(shared, changed, ProtocolError, "own-entry-differs", "n0001")


def test_a_node_that_saw_another_key_list_is_noticed(shared: Federation) -> None:
    message = shared.message[shared.names()[0]]
    own, other, *rest = message.heads.heads
    member = shared.cohort[1]
    split = other.model_copy(update={"view": OTHER})
    split = split.signed(member.state.round.cohort.context, member.identity)
    changed = with_heads(shared, [own, split, *rest])
    receive_refused(shared, changed, VerificationError, "key-list-differs", "n0002")


def test_too_few_sharers_are_refused(shared: Federation) -> None:
    message = shared.message[shared.names()[0]]
    changed = with_heads(shared, message.heads.heads[:4])
    receive_refused(shared, changed, QuorumError, "cohort-too-small", "^4 .* 5$")


def test_a_ciphertext_that_was_tampered_with_is_refused(shared: Federation) -> None:
    name, other = shared.names()[:2]
    data = shared.boxes(name)[other]
    for at in (0, len(data) // 2, len(data) - 1):
        flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        changed = shared.with_box(name, other, flipped)
        receive_refused(shared, changed, ProtocolError, "ciphertext-invalid", other)
    elsewhere = shared.boxes(shared.names()[3])[other]
    assert len(elsewhere) == len(data)
    changed = shared.with_box(name, other, elsewhere)
    receive_refused(shared, changed, ProtocolError, "ciphertext-invalid", other)


def test_a_missing_ciphertext_is_refused(shared: Federation) -> None:
    message = shared.message[shared.names()[0]]
    for wrong in (message.messages[1170:], message.messages + b"0", b""):
        changed = replace(message, messages=wrong)
        said = f"^{len(wrong)} .* {len(message.messages)} .* 6 "
        receive_refused(shared, changed, ProtocolError, "ciphertext-size-invalid", said)


def test_there_is_no_upload_without_a_reservation_for_this_round() -> None:
    federation, other = Federation.of(4), Federation.of(4, round_number=2)
    federation.run("receive_shares")
    other.run("receive_shares")
    member, stranger = federation.cohort[0], other.cohort[0]
    update = Quantized(values=federation.draw(member.name))
    wrong = client.reserve(stranger.state, stranger.marks)
    with refused(ProtocolError, "reservation-differs", match="1"):
        client.mask_input(member.state, update, reservation=wrong)
    with pytest.raises(ValueError, match="high-water mark"):
        Reservation(member.state.round.cohort.context, issuer=object())
    right = client.reserve(member.state, member.marks)
    client.mask_input(member.state, update, reservation=right)
    with refused(ProtocolError, "step-out-of-order", match="is check_consistency"):
        client.mask_input(member.state, update, reservation=right)


def test_a_reservation_needs_a_mark_below_the_round() -> None:
    federation = Federation.of(4)
    federation.run("receive_shares")
    member = federation.cohort[0]
    member.marks.raise_to("run-1", 1)
    with refused(ProtocolError, "round-already-uploaded", match="1"):
        client.reserve(member.state, member.marks)


def test_an_update_of_another_length_raises_value_error_and_keeps_the_step() -> None:
    federation = Federation.of(4)
    federation.run("receive_shares")
    member = federation.cohort[0]
    reservation = client.reserve(member.state, member.marks)
    short = Quantized(values=np.zeros(49, dtype=np.uint32))
    with pytest.raises(ValueError, match="want 50"):
        client.mask_input(member.state, short, reservation=reservation)
    whole = Quantized(values=np.zeros(50, dtype=np.uint32))
    client.mask_input(member.state, whole, reservation=reservation)


@pytest.fixture
def uploaded() -> Federation:
    federation = Federation.of(7)
    federation.run("collect_masked_inputs")
    return federation


def consent_refused(
    federation: Federation,
    message: SurvivorList,
    error: type[TapestryError],
    code: str,
    values: str | None = None,
) -> None:
    state = federation.cohort[0].state
    refused_at(
        state, client.check_consistency, message, error=error, code=code, values=values
    )


def test_survivor_lists_that_break_a_rule_are_refused(uploaded: Federation) -> None:
    message = uploaded.message
    rows, view = message.survivors, message.view
    other = rows[1].model_copy(update={"root": OTHER})
    stranger = Survivor(node="zz.example", root=OTHER)
    own = rows[0].model_copy(update={"root": OTHER})

    def listed(*survivors: Survivor, view: str = view) -> SurvivorList:
        return SurvivorList(view=view, survivors=survivors)

    cases: list[tuple[SurvivorList, type[TapestryError], str, str]] = [
        (listed(*rows, view=OTHER), ProtocolError, "share-list-differs", OTHER),
        (listed(*rows[1:]), ProtocolError, "own-entry-differs", rows[0].root),
        (listed(own, *rows[1:]), ProtocolError, "own-entry-differs", rows[0].root),
        (listed(*rows[:4]), QuorumError, "cohort-too-small", "^4 .* 5$"),
        (listed(*rows, stranger), ProtocolError, "node-not-listed", "zz.example"),
    ]
    for changed, error, code, values in cases:
        consent_refused(uploaded, changed, error, code, values)
    swapped = SurvivorList(view=view, survivors=(rows[0], other, *rows[2:]))
    state = uploaded.cohort[0].state
    client.check_consistency(
        state, swapped
    )  # cannot know the others' roots, but binds them
    refused_at(
        state,
        client.check_consistency,
        message,
        error=ProtocolError,
        code="step-out-of-order",
        values="is unmask",
    )


@pytest.fixture
def consented() -> Federation:
    federation = Federation.of(7)
    federation.run("check_consistency")
    return federation


def too_few(state: Any, message: ConsentList) -> None:
    """Expect four valid consents to open nothing where five are needed."""
    refused_at(
        state,
        client.unmask,
        message,
        error=QuorumError,
        code="consents-too-few",
        values="^4 .* 5$",
    )


def test_too_few_valid_consents_open_nothing(consented: Federation) -> None:
    state = consented.cohort[0].state
    rows = consented.message.consents
    few = ConsentList(consents=rows[:4])
    too_few(state, few)
    bad = [c.model_copy(update={"signature": "00" * 64}) for c in rows[4:]]
    forged = ConsentList(consents=(*rows[:4], *bad))
    too_few(state, forged)
    other = [c.model_copy(update={"survivors": OTHER}) for c in rows[4:]]
    mixed = ConsentList(consents=(*rows[:4], *other))
    too_few(state, mixed)
    rounds = {each.state.round.node: each.state.round for each in consented.cohort}
    signed = [
        c.signed(rounds[c.node].cohort.context, rounds[c.node].identity) for c in other
    ]
    mixed = ConsentList(consents=(*rows[:4], *signed))
    too_few(state, mixed)
    stranger = rows[0].model_copy(update={"node": "zz.example"})
    more = ConsentList(consents=(*rows, stranger))
    refused_at(
        state,
        client.unmask,
        more,
        error=ProtocolError,
        code="node-not-listed",
        values="zz.example",
    )


def test_a_second_reveal_is_refused(consented: Federation) -> None:
    state = consented.cohort[0].state
    client.unmask(state, consented.message)
    refused_at(
        state,
        client.unmask,
        consented.message,
        error=ProtocolError,
        code="step-out-of-order",
        values="is none",
    )


def test_a_message_out_of_order_is_refused(advertised: Federation) -> None:
    state = advertised.cohort[0].state
    after, _ = client.share_keys(state, advertised.message)
    refused_at(
        state,
        client.share_keys,
        advertised.message,
        error=ProtocolError,
        code="step-out-of-order",
        values="receive_shares, not share_keys",
    )
    assert after.round.progress is state.round.progress


def test_requirements_have_no_defaults() -> None:
    manifest = manifest_for(members(4))
    terms = terms_for(manifest)
    assert replace(terms, min_cohort=3).min_cohort == 3
    with pytest.raises(TypeError):
        Requirements(model_digest=DIGEST)  # type: ignore[call-arg]  # that is the test
    assert MemoryMarks().highest("run-1") == 0
