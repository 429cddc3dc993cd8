"""The messages of TSA-1: signed for one stage, one round and one node, in one order."""

from collections.abc import Callable
from typing import Any

import pytest

from tapestry.errors import ProtocolError, VerificationError
from tapestry.keys import SigningKey
from tapestry.protocol.messages import Kind
from tapestry.protocol.secagg_messages import (
    SHARE_BYTES,
    Advertisement,
    ConsentList,
    HeadList,
    KeyList,
    Reveal,
    SurvivorList,
    require_subset,
    statement,
)
from tapestry.protocol.stages import SECAGG_STAGES, RoundStage
from tapestry.secagg.shamir import PRIME
from tests.support.message_samples import sample_bodies
from tests.support.refusals import refused

SAMPLES: dict[Kind, Any] = dict(sample_bodies())
KEY = SigningKey.generate("fr/node")
CONTEXT = bytes(range(32))
SIGNED = {
    RoundStage.ADVERTISE_KEYS: SAMPLES[Kind.ADVERTISED_KEYS],
    RoundStage.SHARE_KEYS: SAMPLES[Kind.SHARED_KEYS],
    RoundStage.COLLECT_MASKED_INPUTS: SAMPLES[Kind.MASKED_INPUT],
    RoundStage.CHECK_CONSISTENCY: SAMPLES[Kind.CONSENT],
    RoundStage.UNMASK: SAMPLES[Kind.UNMASKING_SHARES],
}


def test_every_stage_has_a_message_that_its_node_signs() -> None:
    assert list(SIGNED) == list(SECAGG_STAGES)


@pytest.mark.parametrize("stage", SECAGG_STAGES, ids=str)
def test_a_signature_holds_for_one_node_and_one_round(stage: RoundStage) -> None:
    signed = SIGNED[stage].signed(CONTEXT, KEY)
    signed.verify(CONTEXT, KEY.verify_key)
    with refused(VerificationError, "signature-invalid"):
        signed.verify(bytes(32), KEY.verify_key)
    with refused(VerificationError, "signature-invalid"):
        signed.verify(CONTEXT, SigningKey.generate("fr/node").verify_key)
    other = signed.model_copy(update={"node": "zz.example"})
    with refused(VerificationError, "signature-invalid"):
        other.verify(CONTEXT, KEY.verify_key)


@pytest.mark.parametrize("stage", SECAGG_STAGES, ids=str)
def test_what_is_signed_begins_with_the_protocol_and_the_stage(
    stage: RoundStage,
) -> None:
    said = SIGNED[stage].signed_bytes(CONTEXT)
    head = f"tapestry-secagg/2\n{stage.value}\n{said_by(stage)}\n".encode()
    assert said.startswith(head + CONTEXT)
    assert (len(said) - len(head)) % 32 == 0
    assert statement(stage, CONTEXT, node="a", parts=[b"1" * 32]) == (
        f"tapestry-secagg/2\n{stage.value}\na\n".encode() + CONTEXT + b"1" * 32
    )


def said_by(stage: RoundStage) -> str:
    node: str = SIGNED[stage].node
    return node


LISTS: list[tuple[type[Any], str, Any]] = [
    (KeyList, "advertisements", SAMPLES[Kind.SHARE_KEYS].advertisements),
    (HeadList, "heads", SAMPLES[Kind.COLLECT_MASKED_INPUTS].heads),
    (ConsentList, "consents", SAMPLES[Kind.UNMASK].consents),
]


@pytest.mark.parametrize(("kind", "field", "rows"), LISTS, ids=["keys", "heads", "ok"])
@pytest.mark.parametrize(
    "change",
    [lambda rows: rows[::-1], lambda rows: (rows[0], *rows)],
    ids=["out of order", "twice"],
)
def test_a_list_out_of_order_or_with_a_node_twice_is_refused(
    kind: type[Any], field: str, rows: Any, change: Callable[[Any], Any]
) -> None:
    assert kind(**{field: rows})
    with pytest.raises(ValueError, match="out of order or appears twice"):
        kind(**{field: change(rows)})


def test_a_survivor_list_out_of_order_is_refused() -> None:
    good = SAMPLES[Kind.CHECK_CONSISTENCY]
    with pytest.raises(ValueError, match="out of order"):
        SurvivorList(view=good.view, survivors=good.survivors[::-1])


def test_a_key_that_two_nodes_advertise_is_refused() -> None:
    first, second, *_ = SAMPLES[Kind.SHARE_KEYS].advertisements
    stolen = second.model_copy(update={"mask_key": first.mask_key})
    with pytest.raises(ValueError, match="the same public key twice"):
        KeyList(advertisements=(first, stolen))


def test_a_reveal_of_both_secrets_of_a_node_is_refused() -> None:
    good = SAMPLES[Kind.UNMASKING_SHARES]
    both = {**good.root_shares, **good.self_shares}
    with pytest.raises(ValueError, match="both secrets of one node"):
        Reveal.model_validate({**good.model_dump(), "root_shares": both})


def test_a_share_has_room_for_every_number_below_the_prime() -> None:
    assert (PRIME - 1).bit_length() <= 8 * SHARE_BYTES < (PRIME - 1).bit_length() + 8


def test_names_that_are_not_allowed_are_named() -> None:
    require_subset(["a"], ["a", "b"], rule="in the cohort")
    with refused(ProtocolError, "node-not-listed", match="'c' is not in the cohort"):
        require_subset(["a", "c"], ["a", "b"], rule="in the cohort")


def test_the_first_duplicate_or_misplaced_node_is_named() -> None:
    good = SAMPLES[Kind.CHECK_CONSISTENCY]
    first, second, *_ = good.survivors
    for rows, named in (((first, first), first), ((second, first), first)):
        with pytest.raises(ValueError, match=f"'{named.node}' is out of order"):
            SurvivorList(view=good.view, survivors=rows)


def test_an_advertisement_without_a_signature_is_not_signed() -> None:
    unsigned: Advertisement = SIGNED[RoundStage.ADVERTISE_KEYS]
    with refused(VerificationError, "signature-invalid"):
        unsigned.model_copy(update={"signature": "0" * 128}).verify(
            CONTEXT, KEY.verify_key
        )
