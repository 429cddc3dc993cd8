"""A turn of the witnesses: both sets must have cosigned."""

from collections.abc import Sequence

import pytest

from tapestry.errors import ProtocolError, QuorumError, TapestryError, VerificationError
from tapestry.keys import Algorithm, SigningKey
from tapestry.tlog.checkpoint import Checkpoint
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry.tlog.turn import Turn, spelled_for, turn_to
from tests.support.cosigning import signing_key
from tests.support.refusals import refused

TIME = 1_800_000_000
LOG = signing_key("log.example/gov")
KEYS = {
    name: signing_key(f"{name}.example/w", Algorithm.COSIGNATURE)
    for name in ("de", "es", "fr", "id", "pl", "ro")
}
CHECKPOINT = Checkpoint(origin="log.example/gov", size=7, root=bytes(32))


def policy(*names: str, log: SigningKey = LOG) -> TrustPolicy:
    return TrustPolicy.of_members(
        log.verify_key, [KEYS[name].verify_key for name in names]
    )


OLD, NEW = policy("de", "es", "fr", "id"), policy("fr", "id", "pl", "ro")
TURN = Turn(before=OLD, now=NEW)


def note(names: Sequence[str], *, log: SigningKey = LOG) -> bytes:
    lines = [CHECKPOINT.cosign(KEYS[name], time=TIME) for name in names]
    return CHECKPOINT.sign(log) + b"".join(lines)


def test_a_checkpoint_of_a_turn_has_a_quorum_of_both_sets() -> None:
    both = ("fr", "id", "pl", "de")
    opened = TURN.open(note(both))
    assert opened.checkpoint == CHECKPOINT
    assert TURN.open_published(note(both)) == opened
    assert {c.witness for c in opened.cosignatures} == {
        f"{name}.example/w" for name in ("fr", "id", "pl")
    }


@pytest.mark.parametrize(
    "names",
    [
        ("fr", "id", "pl", "ro"),  # all of the new
        ("de", "es", "fr", "id"),  # all of the old
        ("fr", "id"),  # who is in both
        (),
    ],
)
def test_one_set_alone_is_not_enough(names: tuple[str, ...]) -> None:
    with refused(QuorumError, "quorum-not-reached"):
        TURN.open(note(names))
    with refused(QuorumError, "quorum-not-reached"):
        TURN.open_published(note(names))


def test_the_new_log_key_signs_and_the_old_one_counts_no_more() -> None:
    other = SigningKey(name=LOG.name, algorithm=Algorithm.SIGNATURE, seed=bytes(32))
    turn = Turn(before=OLD, now=policy("fr", "id", "pl", "ro", log=other))
    names = ("fr", "id", "pl", "de")
    assert turn.open(note(names, log=other)).checkpoint == CHECKPOINT
    assert turn.open_pending(note((), log=other)).checkpoint == CHECKPOINT
    with refused(VerificationError, "log-signature-missing"):
        turn.open(note(names))
    assert turn.logs == turn.now.logs


def test_lines_stand_in_one_order_the_new_witnesses_first() -> None:
    assert [w.name.split(".")[0] for w in TURN.witnesses] == [
        *("fr", "id", "pl", "ro"), *("de", "es")
    ]  # fmt: skip
    with refused(VerificationError, "checkpoint-respelled"):
        TURN.open_published(note(("de", "fr", "id", "pl")))
    stranger = signing_key("xx.example/w", Algorithm.COSIGNATURE)
    line = CHECKPOINT.cosign(stranger, time=TIME)
    with refused(VerificationError, "checkpoint-respelled"):
        TURN.open_published(note(("fr", "id", "pl", "de")) + line)


def test_a_line_of_either_set_is_kept_and_no_other() -> None:
    for name in ("ro", "de", "fr"):
        line = CHECKPOINT.cosign(KEYS[name], time=TIME)
        assert TURN.open_cosignature(CHECKPOINT, line).key == KEYS[name].verify_key
    stranger = signing_key("xx.example/w", Algorithm.COSIGNATURE)
    bad = CHECKPOINT.cosign(KEYS["ro"], time=TIME).replace(b"A", b"B")
    for line in (CHECKPOINT.cosign(stranger, time=TIME), bad):
        with pytest.raises(TapestryError):
            TURN.open_cosignature(CHECKPOINT, line)
    with refused(ProtocolError, "signature-line-malformed"):
        TURN.open_cosignature(CHECKPOINT, b"no line")


def test_without_a_change_there_is_no_turn() -> None:
    assert turn_to(OLD, before=OLD) is OLD
    assert turn_to(NEW, before=OLD) == TURN


def test_a_quorum_of_a_turn_is_one_of_both() -> None:
    def named(*names: str) -> set[str]:
        return {KEYS[name].verify_key.keyid for name in names}

    assert TURN.is_quorum_of(named("fr", "id", "pl", "de"))
    assert not TURN.is_quorum_of(named("fr", "id", "pl", "ro"))
    assert not TURN.is_quorum_of(named("fr", "id", "de", "es"))


def test_a_proof_under_one_set_has_the_lines_of_that_set_alone() -> None:
    both = note(("fr", "id", "pl", "de"))
    for trust, count in ((NEW, 3), (OLD, 3)):
        opened = trust.open_published(spelled_for(trust, both))
        assert len(opened.cosignatures) == count
    assert spelled_for(NEW, note(("fr", "id", "pl"))) == note(("fr", "id", "pl"))
