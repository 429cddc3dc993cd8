"""States that are saved and restored are the same, at the same place in the order."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import ProtocolError
from tapestry.keys import SigningKey
from tapestry.protocol.stages import SECAGG_STAGES
from tapestry.secagg import client
from tapestry.secagg.saved_states import (
    SavedState,
    restore_state,
    save_state,
    stage_of,
)
from tests.support.refusals import refused
from tests.support.secagg_cohort import Federation, Member

FORMS: TypeAdapter[SavedState] = TypeAdapter(SavedState)


def through_json(federation: Federation, member: Member) -> Any:
    """Save a member's state, print it, and restore it as another process would."""
    printed = save_state(member.state).encode()
    saved = FORMS.validate_json(printed)
    assert saved.encode() == printed
    return restore_state(
        saved,
        federation.manifest,
        member.identity,
        min_cohort=member.state.round.min_cohort,
    )


@pytest.mark.parametrize("post_quantum", ["mlkem768", "none"])
@pytest.mark.parametrize("stage", SECAGG_STAGES)
def test_a_round_goes_on_from_saved_states(stage: str, post_quantum: str) -> None:
    federation = Federation.of(4, post_quantum=post_quantum)
    unmasked: Any = None
    for step in (*SECAGG_STAGES[:2], "receive_shares", *SECAGG_STAGES[2:]):
        unmasked = getattr(federation, step)()
        for member in federation.cohort if step == stage else ():
            before, member.state = member.state, through_json(federation, member)
            assert stage_of(member.state) == stage
            for field in fields(before):
                if field.name != "round":
                    here = getattr(member.state, field.name)
                    assert here == getattr(before, field.name)
            assert member.state.round.progress.step is before.round.progress.step
            assert member.state.round.node == member.name
    assert np.array_equal(unmasked.values, federation.expected(federation.names()))


def test_a_round_with_a_lost_node_goes_on_from_saved_states() -> None:
    federation = Federation.of(5)
    federation.run("receive_shares")
    survivors = federation.names()[:-1]
    federation.collect_masked_inputs(survivors)
    federation.check_consistency()
    for name in survivors:
        member = federation.member(name)
        member.state = through_json(federation, member)
    unmasked = federation.unmask()
    assert np.array_equal(unmasked.values, federation.expected(survivors))


def test_a_restored_state_takes_no_step_twice() -> None:
    federation = Federation.of(4)
    federation.run("share_keys")
    member = federation.cohort[0]
    restored, keys = through_json(federation, member), federation.keys
    with refused(ProtocolError, "step-out-of-order"):
        restored.round.progress.advance(type(restored.round.progress.step).SHARE_KEYS)
    ready = client.receive_shares(restored, federation.message[member.name])
    with refused(ProtocolError, "step-out-of-order"):
        client.receive_shares(restored, federation.message[member.name])
    assert ready.view != keys.digest


def test_secrets_are_not_printed_and_no_error_quotes_them() -> None:
    federation = Federation.of(4)
    federation.run("share_keys")
    saved = save_state(federation.cohort[0].state)
    drawn = federation.cohort[0].state.secrets
    for secret in (drawn.seed, drawn.root, drawn.channel, *drawn.polynomials):
        assert repr(secret) not in repr(saved)
        assert secret.hex() in saved.encode().decode()
        fields_ = decode_json(saved.encode(), limit=1 << 20)
        fields_["secrets"]["seed"] += "zz"
        with refused(ProtocolError, "schema-violated") as caught:
            type(saved).decode(canonical_json(fields_))
        assert secret.hex()[:16] not in str(caught.value)


def test_a_state_of_another_cohort_is_not_restored() -> None:
    federation = Federation.of(4)
    federation.run("advertise_keys")
    saved = save_state(federation.cohort[0].state)
    with refused(ProtocolError, "node-not-in-cohort"):
        restore_state(
            saved, federation.manifest, SigningKey.generate("other/node"), min_cohort=3
        )
