"""A log goes on from entries and checkpoints that another key signed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.errors import InconsistentLog, VerificationError
from tapestry.keys import Algorithm, SigningKey
from tapestry.tlog.proof import Proof
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance.log.writer import Log
from tests.support.cosigning import LOG_KEY, TIME, TRUST, WITNESSES, entry, publish
from tests.support.refusals import refused

_NEW_KEY = SigningKey(name=LOG_KEY.name, algorithm=Algorithm.SIGNATURE, seed=bytes(32))
_NEW_TRUST = TrustPolicy.of_members(
    _NEW_KEY.verify_key, [witness.verify_key for witness in WITNESSES]
)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Log.create(tmp_path / "log", key=LOG_KEY) as log:
        yield log


def adopted(folder: Path, old: Log, *notes: bytes) -> Log:
    """Make a log of another key from the entries and checkpoints of one."""
    new = Log.create(folder, key=_NEW_KEY)
    new.append(old.entries(0, old.size))
    new.adopt(notes, former=[LOG_KEY.verify_key])
    return new


def test_checkpoints_of_a_former_key_are_adopted_with_their_entries(
    log: Log, tmp_path: Path
) -> None:
    log.append([entry(n) for n in range(5)])
    first = publish(log)
    log.append([entry(n) for n in range(5, 7)])
    second = publish(log)
    log.append([entry(7)])
    with adopted(tmp_path / "new", log, first, second) as new:
        assert new.latest() == second
        assert new.store.published_sizes() == [5, 7]
        assert (new.public / "checkpoint").read_bytes() == second
        Proof.parse(new.proof(6)).verify(entry(6), TRUST)
    with Log.open(tmp_path / "new", key=_NEW_KEY) as new:
        new.append([entry(8)])
        third = publish(new, trust=_NEW_TRUST)
        _NEW_TRUST.open_published(third)
        assert (new.size, new.latest()) == (9, third)
    with Log.open(tmp_path / "new", key=_NEW_KEY) as new:
        for note in (first, second, third):
            new.check(note)


def test_a_former_key_signs_nothing_beyond_what_was_adopted(
    log: Log, tmp_path: Path
) -> None:
    log.append([entry(n) for n in range(5)])
    note = publish(log)
    with adopted(tmp_path / "new", log, note) as new:
        new.append([entry(5)])
        log.append([entry(5)])
        with refused(VerificationError, "signature-missing"):
            new.check(publish(log))
        new.sign_checkpoint()
    with Log.create(tmp_path / "other", key=_NEW_KEY) as other:
        other.append([entry(n) for n in range(1, 6)])
        with refused(InconsistentLog, "log-forked"):
            other.adopt([note], former=[LOG_KEY.verify_key])
        with refused(VerificationError, "signature-missing"):
            other.adopt([note], former=[])
        assert other.store.published_sizes() == []


def test_a_log_that_gets_its_own_key_back_signs_the_same_size_again(
    log: Log, tmp_path: Path
) -> None:
    log.append([entry(n) for n in range(5)])
    note = publish(log)
    with Log.create(tmp_path / "new", key=LOG_KEY) as new:
        new.append(log.entries(0, 5))
        new.adopt([note], former=[])
        assert new.sign_checkpoint() == log.sign_checkpoint()
    with Log.open(tmp_path / "new", key=LOG_KEY) as new:
        TRUST.open_published(publish(new, time=TIME + 60))
