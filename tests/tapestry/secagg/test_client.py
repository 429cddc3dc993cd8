"""The node's half: what it refuses at each message, and that it stays as it was."""

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
from tests.support.secagg_cohort import (
    DIGEST,
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
    raise BudgetExhausted(f"round {manifest.round_number} costs more than is left")


@pytest.mark.parametrize(
    ("changes", "terms", "error", "rule"),
    [
        ({}, {"model_digest": OTHER}, ProtocolError, "for model"),
        ({}, {"highest_round": 1}, ProtocolError, "uploaded for round 1"),
        ({"round_number": 3}, {"highest_round": 5}, ProtocolError, "uploaded"),
        ({}, {"roster_digest": OTHER}, ProtocolError, "another roster"),
        ({}, {"roster": {}}, ProtocolError, "not in the roster"),
        ({}, {"min_cohort": 8}, PolicyError, "want at least 8"),
        ({"min_cohort": 8}, {}, PolicyError, "want at least 8"),
        ({}, {"min_colluding": 3}, PolicyError, "own policy 3"),
        ({"threshold": 4}, {}, ProtocolError, "want at least 5"),
        ({"threshold": 8}, {}, ProtocolError, "threshold 8 of 7"),
        ({"max_colluding": 6, "threshold": 7}, {}, ProtocolError, "honest"),
        ({"clip_value": "10000"}, {}, ProtocolError, "31 bits"),
        ({"clip_value": "0.000001"}, {}, ProtocolError, "one grid step"),
        ({}, {"afford": broke}, BudgetExhausted, "costs more"),
    ],
)
def test_a_node_refuses_a_manifest_that_breaks_its_terms(
    changes: dict[str, Any], terms: dict[str, Any], error: type[Exception], rule: str
) -> None:
    with pytest.raises(error, match=rule):
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
    with pytest.raises(ProtocolError, match="plan of the run"):
        join(manifest_for(members(7), **changes), plan=agreed)


def test_a_node_refuses_a_round_that_it_is_not_in() -> None:
    with pytest.raises(ProtocolError, match="not in the cohort"):
        join(manifest_for(members(7)), 9)


def test_a_node_refuses_two_participants_with_one_key() -> None:
    manifest = manifest_for(members(7))
    first, second, *rest = manifest.participants
    twin = second.model_copy(update={"key": first.key})
    twins = manifest.model_copy(update={"participants": (first, twin, *rest)})
    with pytest.raises(ProtocolError, match="share an identity key"):
        client.advertise_keys(twins, members(1)[0].identity, terms=terms_for(twins))


def test_a_cohort_of_four_with_a_floor_of_three_is_allowed() -> None:
    manifest = manifest_for(members(4))
    assert (manifest.max_colluding, manifest.threshold) == (1, 3)
    join(manifest, min_cohort=3, min_colluding=1)
    with pytest.raises(PolicyError):
        join(manifest, min_cohort=5)


def refused(
    state: Any, step: Any, message: Any, *, error: type[TapestryError], rule: str
) -> None:
    before = state.round.progress.step
    with pytest.raises(error, match=rule):
        step(state, message)
    assert state.round.progress.step is before


@pytest.fixture
def advertised() -> Federation:
    federation = Federation.of(7)
    federation.run("advertise")
    return federation


def share_refused(
    federation: Federation, entries: Any, error: type[TapestryError], rule: str
) -> None:
    state = federation.cohort[0].state
    message = KeyList.model_construct(advertisements=tuple(entries))
    refused(state, client.share_keys, message, error=error, rule=rule)


def test_a_swapped_key_is_refused_and_nothing_is_shared(advertised: Federation) -> None:
    entries = list(advertised.message.advertisements)
    for field in ("channel_key", "mask_key"):
        swapped = entries[3].model_copy(update={field: "11" * 32})
        changed = [*entries[:3], swapped, *entries[4:]]
        share_refused(advertised, changed, VerificationError, "bad signature")


def test_an_own_entry_that_changed_is_refused(advertised: Federation) -> None:
    entries = list(advertised.message.advertisements)
    swapped = entries[0].model_copy(update={"mask_key": "11" * 32})
    share_refused(advertised, [swapped, *entries[1:]], ProtocolError, "own keys")
    share_refused(advertised, entries[1:], ProtocolError, "own keys")


def test_a_truncated_key_list_is_refused(advertised: Federation) -> None:
    entries = advertised.message.advertisements[:4]
    share_refused(advertised, entries, QuorumError, "4 advertised keys, want")


def test_a_stranger_in_the_key_list_is_refused(advertised: Federation) -> None:
    entries = list(advertised.message.advertisements)
    entries.append(entries[1].model_copy(update={"node": "sybil.example"}))
    share_refused(advertised, entries, ProtocolError, "'sybil.example' is not in")


def test_one_key_in_two_places_is_no_key_list(advertised: Federation) -> None:
    first, second, *rest = advertised.message.advertisements
    twin = second.model_copy(update={"mask_key": first.channel_key})
    body = KeyList.model_construct(advertisements=(first, twin, *rest)).encode()
    with pytest.raises(ProtocolError, match="the same public key twice"):
        KeyList.decode(body)


def test_a_key_of_low_order_is_refused(advertised: Federation) -> None:
    state = advertised.cohort[0].state
    entries = list(advertised.message.advertisements)
    evil = entries[3].model_copy(update={"mask_key": "00" * 32})
    member = advertised.cohort[3]
    evil = evil.signed(state.round.cohort.context, member.identity)
    changed = [*entries[:3], evil, *entries[4:]]
    share_refused(advertised, changed, ProtocolError, "low order")


@pytest.fixture
def shared() -> Federation:
    federation = Federation.of(7)
    federation.run("share")
    return federation


def receive_refused(
    federation: Federation, message: Ciphertexts, error: type[TapestryError], rule: str
) -> None:
    state = federation.cohort[0].state
    refused(state, client.receive_shares, message, error=error, rule=rule)


def with_heads(message: Ciphertexts, heads: Any) -> Ciphertexts:
    kept = {h.node for h in heads}
    return Ciphertexts(
        heads=HeadList(heads=tuple(heads)),
        ciphertexts={n: c for n, c in message.ciphertexts.items() if n in kept},
    )


def test_a_list_of_shares_with_a_changed_head_is_refused(shared: Federation) -> None:
    message = shared.message[shared.names()[0]]
    own, other, *rest = message.heads.heads
    forged = other.model_copy(update={"commitment": "11" * 32})
    changed = with_heads(message, [own, forged, *rest])
    receive_refused(shared, changed, VerificationError, "bad signature")
    forged = own.model_copy(update={"commitment": "11" * 32})
    changed = with_heads(message, [forged, other, *rest])
    receive_refused(shared, changed, ProtocolError, "lacks this node's own")


def test_a_node_that_saw_another_key_list_is_noticed(shared: Federation) -> None:
    message = shared.message[shared.names()[0]]
    own, other, *rest = message.heads.heads
    member = shared.cohort[1]
    split = other.model_copy(update={"view": OTHER})
    split = split.signed(member.state.round.cohort.context, member.identity)
    changed = with_heads(message, [own, split, *rest])
    receive_refused(shared, changed, VerificationError, "saw another key list")


def test_too_few_sharers_are_refused(shared: Federation) -> None:
    message = shared.message[shared.names()[0]]
    changed = with_heads(message, message.heads.heads[:4])
    receive_refused(shared, changed, QuorumError, "4 nodes that shared")


def test_a_ciphertext_that_was_tampered_with_is_refused(shared: Federation) -> None:
    name, other = shared.names()[:2]
    message = shared.message[name]
    text = message.ciphertexts[other]
    flipped = ("1" if text[0] == "0" else "0") + text[1:]
    changed = Ciphertexts(
        heads=message.heads, ciphertexts={**message.ciphertexts, other: flipped}
    )
    receive_refused(shared, changed, ProtocolError, f"'{other}' does not open")
    elsewhere = shared.message[shared.names()[2]].ciphertexts[other]
    changed = Ciphertexts(
        heads=message.heads, ciphertexts={**message.ciphertexts, other: elsewhere}
    )
    receive_refused(shared, changed, ProtocolError, f"'{other}' does not open")


def test_a_missing_ciphertext_is_refused(shared: Federation) -> None:
    message = shared.message[shared.names()[0]]
    fewer = dict(list(message.ciphertexts.items())[1:])
    changed = Ciphertexts(heads=message.heads, ciphertexts=fewer)
    receive_refused(shared, changed, ProtocolError, "not one ciphertext from each")


def test_there_is_no_upload_without_a_reservation_for_this_round() -> None:
    federation, other = Federation.of(4), Federation.of(4, round_number=2)
    federation.run("receive")
    other.run("receive")
    member, stranger = federation.cohort[0], other.cohort[0]
    update = Quantized(values=federation.draw(member.name))
    wrong = client.reserve(stranger.state, stranger.marks)
    with pytest.raises(ProtocolError, match="another round"):
        client.mask_input(member.state, update, reservation=wrong)
    with pytest.raises(ValueError, match="high-water mark"):
        Reservation(member.state.round.cohort.context, issuer=object())
    right = client.reserve(member.state, member.marks)
    client.mask_input(member.state, update, reservation=right)
    with pytest.raises(
        ProtocolError, match="the next step of the round is check_consistency"
    ):
        client.mask_input(member.state, update, reservation=right)


def test_a_reservation_needs_a_mark_below_the_round() -> None:
    federation = Federation.of(4)
    federation.run("receive")
    member = federation.cohort[0]
    member.marks.raise_to("run-1", 1)
    with pytest.raises(ProtocolError, match="already"):
        client.reserve(member.state, member.marks)


def test_an_update_of_another_length_is_a_bug_and_costs_nothing() -> None:
    federation = Federation.of(4)
    federation.run("receive")
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
    federation.run("upload")
    return federation


def consent_refused(
    federation: Federation, message: SurvivorList, error: type[TapestryError], rule: str
) -> None:
    state = federation.cohort[0].state
    refused(state, client.check_consistency, message, error=error, rule=rule)


def test_survivor_lists_that_break_a_rule_are_refused(uploaded: Federation) -> None:
    message = uploaded.message
    rows, view = message.survivors, message.view
    other = rows[1].model_copy(update={"root": OTHER})
    stranger = Survivor(node="zz.example", root=OTHER)
    own = rows[0].model_copy(update={"root": OTHER})
    cases = [
        (SurvivorList(view=OTHER, survivors=rows), ProtocolError, "another set"),
        (SurvivorList(view=view, survivors=rows[1:]), ProtocolError, "lacks"),
        (SurvivorList(view=view, survivors=(own, *rows[1:])), ProtocolError, "lacks"),
        (SurvivorList(view=view, survivors=rows[:4]), QuorumError, "4 survivors"),
        (
            SurvivorList(view=view, survivors=(*rows, stranger)),
            ProtocolError,
            "'zz.example' is not among",
        ),
    ]
    for changed, error, rule in cases:
        consent_refused(uploaded, changed, error, rule)
    swapped = SurvivorList(view=view, survivors=(rows[0], other, *rows[2:]))
    state = uploaded.cohort[0].state
    client.check_consistency(
        state, swapped
    )  # cannot know the others' roots, but binds them
    refused(
        state,
        client.check_consistency,
        message,
        error=ProtocolError,
        rule="the next step of the round is unmask",
    )


@pytest.fixture
def consented() -> Federation:
    federation = Federation.of(7)
    federation.run("consent")
    return federation


def test_too_few_valid_consents_open_nothing(consented: Federation) -> None:
    state = consented.cohort[0].state
    rows = consented.message.consents
    few = ConsentList(consents=rows[:4])
    refused(state, client.unmask, few, error=QuorumError, rule="4 valid consents")
    bad = [c.model_copy(update={"signature": "00" * 64}) for c in rows[4:]]
    forged = ConsentList(consents=(*rows[:4], *bad))
    refused(state, client.unmask, forged, error=QuorumError, rule="4 valid consents")
    other = [c.model_copy(update={"survivors": OTHER}) for c in rows[4:]]
    mixed = ConsentList(consents=(*rows[:4], *other))
    refused(state, client.unmask, mixed, error=QuorumError, rule="4 valid consents")
    rounds = {each.state.round.node: each.state.round for each in consented.cohort}
    signed = [
        c.signed(rounds[c.node].cohort.context, rounds[c.node].identity) for c in other
    ]
    mixed = ConsentList(consents=(*rows[:4], *signed))
    refused(state, client.unmask, mixed, error=QuorumError, rule="4 valid consents")
    stranger = rows[0].model_copy(update={"node": "zz.example"})
    more = ConsentList(consents=(*rows, stranger))
    refused(state, client.unmask, more, error=ProtocolError, rule="'zz.example'")


def test_a_second_reveal_is_refused(consented: Federation) -> None:
    state = consented.cohort[0].state
    client.unmask(state, consented.message)
    refused(
        state,
        client.unmask,
        consented.message,
        error=ProtocolError,
        rule="the next step of the round is none",
    )


def test_a_message_out_of_order_is_refused(advertised: Federation) -> None:
    state = advertised.cohort[0].state
    after, _ = client.share_keys(state, advertised.message)
    refused(
        state,
        client.share_keys,
        advertised.message,
        error=ProtocolError,
        rule="the next step of the round is receive_shares, not share_keys",
    )
    assert after.round.progress is state.round.progress


def test_states_do_not_print_their_secrets() -> None:
    federation = Federation.of(4)
    federation.run("advertise")
    state = federation.cohort[0].state
    drawn = state.secrets
    for secret in (drawn.seed, drawn.mask, drawn.channel):
        assert repr(secret) not in repr(state)
        assert secret.hex() not in repr(drawn)
    federation.share()
    federation.receive()
    state = federation.cohort[0].state
    assert all(repr(mask.key) not in repr(state) for mask in state.masks)


def test_secrets_are_gone_with_the_stage_that_needs_them() -> None:
    federation = Federation.of(4)
    federation.run("consent")
    state = federation.cohort[0].state
    assert not hasattr(state, "secrets")
    assert not hasattr(state, "masks")
    done, _ = client.unmask(state, federation.message)
    assert not hasattr(done, "held")


def test_terms_have_no_default() -> None:
    manifest = manifest_for(members(4))
    terms = terms_for(manifest)
    assert replace(terms, min_cohort=3).min_cohort == 3
    with pytest.raises(TypeError):
        Requirements(model_digest=DIGEST)  # type: ignore[call-arg]  # that is the test
    assert MemoryMarks().highest("run-1") == 0
