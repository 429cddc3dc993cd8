"""Shares travel under both kinds of secret; contributions open under the root alone."""

from dataclasses import replace
from typing import Any

import pytest

from tapestry.errors import ProtocolError
from tapestry.secagg.client_states import Cohort
from tapestry.secagg.share_channel import ShareChannel, is_root, own_keys
from tests.support.refusals import refused
from tests.support.secagg_cohort import Federation, manifest_for, members

SHARES = (b"\0" + bytes(range(32)), b"\0" + bytes(range(1, 33)))
SECRET, ROOT, OTHER_ROOT, VIEW = (bytes([n]) * 32 for n in range(1, 5))


def channel(sender: int, receiver: int, **changes: Any) -> ShareChannel:
    names = [m.name for m in members(4)]
    cohort = Cohort.of(manifest_for(members(4), **changes))
    return ShareChannel(
        cohort=cohort, sender=names[sender], receiver=names[receiver], view=VIEW
    )


def sealed(one: ShareChannel) -> bytes:
    kem = own_keys(OTHER_ROOT, one.cohort, node=one.receiver).kem
    key = None if kem is None else kem.public.hex()
    return one.seal(SHARES, shared=SECRET, kem_key=key, root=ROOT)


@pytest.mark.parametrize(("sender", "receiver"), [(0, 1), (1, 0)])
@pytest.mark.parametrize("post_quantum", ["mlkem768", "none"])
def test_what_was_sealed_opens_and_needs_every_secret(
    sender: int, receiver: int, post_quantum: str
) -> None:
    one = channel(sender, receiver, post_quantum=post_quantum)
    keys = own_keys(OTHER_ROOT, one.cohort, node=one.receiver)
    data = sealed(one)
    found = one.open(data, shared=SECRET, kem=keys.kem)
    assert (found.seed, found.root) == SHARES
    assert found.contributed == one.own_contribution(ROOT)
    wrong = own_keys(ROOT, one.cohort, node=one.receiver).kem
    cases = [(ROOT, keys.kem)]
    if post_quantum == "mlkem768":
        cases += [(SECRET, wrong), (SECRET, None)]
    for shared, kem in cases:
        with refused(ProtocolError, "ciphertext-invalid", match=one.sender):
            one.open(data, shared=shared, kem=kem)
    for at in (0, len(data) // 2, len(data) - 1):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with refused(ProtocolError, "ciphertext-invalid"):
            one.open(changed, shared=SECRET, kem=keys.kem)
    with refused(ProtocolError, "ciphertext-invalid"):
        replace(one, view=ROOT).open(data, shared=SECRET, kem=keys.kem)


def test_a_root_opens_contributions_but_no_shares() -> None:
    one = channel(0, 1)
    keys = own_keys(OTHER_ROOT, one.cohort, node=one.receiver)
    data = sealed(one)
    own = one.own_contribution(ROOT)
    assert own == one.recover_contribution(data, keys)
    assert one.has_committed(own, data)
    assert not one.has_committed(ROOT, data)
    wrong = own_keys(ROOT, one.cohort, node=one.receiver)
    assert one.recover_contribution(data, wrong) is None


def test_a_root_is_told_by_both_public_keys() -> None:
    federation = Federation.of(4)
    federation.run("advertise_keys")
    cohort = Cohort.of(federation.manifest)
    state = federation.cohort[0].state
    first, second = federation.keys.advertisements[:2]
    assert is_root(state.secrets.root, cohort, first)
    assert not is_root(state.secrets.seed, cohort, first)
    for field in ("kem_key", "mask_key"):
        mixed = first.model_copy(update={field: getattr(second, field)})
        assert not is_root(state.secrets.root, cohort, mixed)
