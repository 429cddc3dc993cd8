"""A witness that is no member, and a log with branches that it may be shown."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from tapestry.keys import SigningKey, VerifyKey
from tapestry.tlog.checkpoint import Checkpoint
from tapestry.tlog.merkle import Tree, leaf_hash
from tapestry.tlog.trust_policy import TrustPolicy, Witness
from tapestry_governance.witness import witness_folder
from tapestry_governance.witness.add_checkpoint import CheckpointRequest
from tapestry_governance.witness.witness_folder import WitnessFolder
from tests.support.cosigning import LOG_KEY, TIME, WITNESSES, entry

NAME = "archive"
SIZE = 300


class Branch:
    """A log of 300 entries, which may leave the main branch at some entry."""

    def __init__(self, *, leaves_at: int = SIZE, key: SigningKey = LOG_KEY) -> None:
        own = [entry(n) if n < leaves_at else entry(n + SIZE) for n in range(SIZE)]
        self.tree, self.key = Tree(map(leaf_hash, own)), key

    def checkpoint(self, size: int) -> Checkpoint:
        return Checkpoint(origin=self.key.name, size=size, root=self.tree.root(size))

    def request(self, old_size: int, size: int) -> CheckpointRequest:
        """Ask for a cosignature, with the right proof."""
        return CheckpointRequest(
            old_size=old_size,
            proof=tuple(self.tree.consistency_proof(old_size, size)),
            note=self.checkpoint(size).sign(self.key),
        )

    def body(self, old_size: int, size: int) -> bytes:
        return self.request(old_size, size).encode()


MAIN = Branch()


def trust_of(
    key: VerifyKey,
    *,
    log: VerifyKey = LOG_KEY.verify_key,
    url: str = "https://archive.example/witness",
    members: Sequence[SigningKey] = WITNESSES,
    quorum: int = 1,
) -> TrustPolicy:
    """Trust members, and an outside witness."""
    return TrustPolicy.of_members(
        log,
        [member.verify_key for member in members],
        outside=[Witness(name=key.name, key=key, url=url)],
        outside_quorum=quorum,
    )


def make_witness(folder: Path, *, log: VerifyKey = LOG_KEY.verify_key) -> VerifyKey:
    """Make the folder of a witness that knows which log to cosign."""
    key = witness_folder.init(folder, NAME)
    trust = trust_of(key, log=log).encode()
    return witness_folder.init(folder, NAME, trust=trust)


@contextmanager
def opened(folder: Path) -> Iterator[WitnessFolder]:
    """Open a witness at a fixed time."""
    with closing(WitnessFolder.open(folder, clock=lambda: TIME)) as witness:
        yield witness
