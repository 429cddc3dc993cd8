"""A federation is founded from bytes alone, by parties that hold their own keys."""

import re

import pytest

from tapestry.encoding import digest
from tapestry.keys import Algorithm, SigningKey
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance import founding
from tapestry_governance.rules.replay import apply_all
from tests.support.founders import NOW, asks, member_keys
from tests.support.log_world import World, fake_digest

NAMES = ("nordland", "ostrava", "sueden")


def test_three_institutions_found_a_federation() -> None:
    keys = {name: member_keys(name) for name in NAMES}
    log = SigningKey.generate("rivers.example/log")
    requests = {name: asks(name, own) for name, own in keys.items()}
    terms = founding.CharterTerms(
        federation="rivers",
        log=log.verify_key,
        address="rivers.example:443",
        authority=fake_digest("authority"),
        policy=World().policy(),
    )
    charter = founding.make_charter(
        terms,
        [each.request for each in reversed(requests.values())],
        author=SigningKey.generate("coordinator/author"),
        now=NOW,
    )
    acceptances = [
        founding.accept_charter(
            charter,
            requests[name],
            root=keys[name]["root"],
            readers=reversed([other for other in NAMES if other != name]),
            now=NOW,
        )
        for name in NAMES
    ]
    state = apply_all(None, [charter, *acceptances])
    assert state is not None
    assert state.is_founded
    assert state.genesis == digest(charter)
    assert {m.name: m.node for m in state.members.values()} == {
        name: str(keys[name]["node"].verify_key) for name in NAMES
    }
    trust = founding.trust_policy_of(
        log.verify_key,
        [each.request for each in requests.values()],
        state.policy,
    )
    assert TrustPolicy.parse(trust.encode()).encode() == trust.encode()
    assert {str(each.key) for each in trust.witnesses} == {
        member.witness for member in state.members.values()
    }


def test_keys_are_drawn_for_their_purpose() -> None:
    keys, again = member_keys("sueden"), member_keys("sueden")
    assert keys.keys() == {"root", "node", "witness", "community"}
    assert keys["witness"].verify_key.algorithm is Algorithm.COSIGNATURE
    both = [*keys.values(), *again.values()]
    assert len({key.verify_key.public for key in both}) == 8


@pytest.mark.parametrize(
    ("records", "said"),
    [(0, 0), (9, 0), (10, 10), (199, 190), (999, 990), (1234, 1200), (98_765, 98_000)],
)
def test_a_number_of_records_is_rounded_down(records: int, said: int) -> None:
    assert founding.rounded_down(records) == said
    assert said > 0.98 * records - 10


def test_a_fingerprint_is_ten_groups_of_four() -> None:
    found = {founding.fingerprint(fake_digest(str(n))) for n in range(100)}
    assert len(found) == 100
    for each in found:
        assert re.fullmatch("([A-Z2-7]{4}-){9}[A-Z2-7]{4}", each)
    known = founding.fingerprint("sha256:" + "0" * 64)
    assert known == "K6PR-7XLT-NQ2R-FLIL-LPQP-O2BO-SIWY-NQJU-V7PB-IOPH"
