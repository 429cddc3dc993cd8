"""The log as a member reads it to decide: a node's mirror, or an audit bundle."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tapestry.encoding import digest
from tapestry.errors import ConfigError, IncompleteError, VerificationError
from tapestry.inputs.text_reader import read_toml
from tapestry.tlog.checkpoint import read_claim
from tapestry.tlog.freshness import check_fresh
from tapestry.tlog.merkle import Tree, leaf_hash
from tapestry.tlog.proof import Proof
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry.tlog.turn import spelled_for
from tapestry_governance.audit.bundle import read_small
from tapestry_governance.cli.folder_checks import audited
from tapestry_governance.events.envelope import Seen
from tapestry_governance.founding import founding_trust
from tapestry_governance.founding_files import OpenedCharter
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.log.turns import Turns
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply_all
from tapestry_governance.rules.settlement import settle


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberView:
    """A log up to a checkpoint that a quorum cosigned.

    Guarantees:
        All rules were applied to all entries, and the checkpoint was verified by the
        trust policy of the node's folder, of the bundle, or the one given.
    """

    logged: FederationState  # after the last entry
    state: FederationState  # as the next entry finds it
    entries: tuple[bytes, ...]
    note: bytes  # the checkpoint
    trust: TrustPolicy  # in force

    @property
    def genesis(self) -> str:
        """The digest of entry 0."""
        return digest(self.entries[0])

    @property
    def seen(self) -> Seen:
        """The log as an event says that its author saw it."""
        root = self.logged.past.root(len(self.entries))
        return Seen(size=len(self.entries), root=root.hex())

    def proof(self, index: int) -> bytes:
        """Prove that an entry is in the log; a tlog-proof.

        Edge cases:
            The checkpoint alone, where it does not reach the entry: so it is in a log
            that was recovered, until it names the coordinator that signs it.

        Raises:
            ConfigError: There is no such entry.
        """
        if not 0 <= index < len(self.entries):
            raise ConfigError(
                f"the log has {len(self.entries)} entries here, none at {index}",
                code="entry-missing",
            )
        note = spelled_for(self.trust, self.note)
        if index >= (size := read_claim(note).size):
            return note
        tree = Tree(map(leaf_hash, self.entries[:size]))
        hashes = tuple(tree.inclusion_proof(index))
        return Proof(index=index, hashes=hashes, checkpoint=note).encode()


def open_view(
    *, node: Path | None, bundle: Path | None, trust: bytes | None = None
) -> MemberView:
    """Open the log of a node's folder, or of a bundle; the node may run.

    Raises:
        ConfigError: Not exactly one is named, or a file is missing.
        IncompleteError: The node has accepted no checkpoint yet, or is in no
            federation.
        TapestryError: The mirror or the bundle does not verify.
    """
    if (node is None) == (bundle is None):
        raise ConfigError(
            "name a copy of the log: either --node, or --bundle", code="usage"
        )
    return _of_bundle(bundle, trust) if bundle is not None else _of_node(node or Path())


def founded_log(
    bundle: Path, charter: OpenedCharter, *, since: bytes | None, now: datetime
) -> FederationState:
    """Return the state of the log that a charter founded, as a bundle has it.

    ``since`` is a checkpoint that was kept; it is needed where the founding is older
    than a year.

    Guarantees:
        Nothing in the bundle is trusted: its checkpoint follows from the founders'
        witnesses, from turn to turn. So another coordinator is one that members voted
        for, in a log that a quorum has cosigned, no longer ago than the federation
        lets a checkpoint be: one from before a vote does not hide it.

    Not protected:
        Who holds the keys of a quorum of founders of the last year can forge it.

    Raises:
        VerificationError: The log has another charter.
        PolicyError: Its checkpoint is old, or from the future.
        TapestryError: The bundle does not verify.
    """
    trust = founding_trust(charter)
    audit = audited(bundle, trust=trust.encode(), since=since, artifacts=False)
    state = audit.state
    if state.genesis != charter.genesis:
        raise VerificationError(
            f"the log in {bundle} begins with {state.genesis}, the charter is"
            f" {charter.genesis}; name a bundle of this federation",
            code="genesis-differs",
        )
    check_fresh(
        audit.opened,
        Turns(trust).in_force(state, audit.opened.checkpoint.size),
        now=int(now.timestamp()),
        limit=state.policy.max_checkpoint_age,
        before=None,
    )
    return state


def _of_node(folder: Path) -> MemberView:
    path = folder / "node.toml"
    if not path.is_file():
        raise ConfigError(
            f"{folder} has no node.toml; name the node's folder", code="file-missing"
        )
    genesis = read_toml(path).get("genesis")
    if not isinstance(genesis, str) or not (folder / "view.db").exists():
        raise IncompleteError(
            f"the node in {folder} has no log yet; join, and let it run",
            code="mirror-empty",
        )
    founding = TrustPolicy.parse(read_small(folder / "trust-policy.txt"))
    mirror = LogMirror.open(
        folder / "view.db", trust=founding, genesis=genesis, readonly=True
    )
    try:
        accepted = mirror.accepted
        if accepted is None:
            raise IncompleteError(
                f"the node in {folder} has accepted no checkpoint yet; let it run",
                code="checkpoint-missing",
            )
        entries = mirror.entries(0, accepted.checkpoint.size)
        state = mirror.state
    finally:
        mirror.close()
    return view_of(
        entries,
        note=accepted.note,
        founding=founding,
        state=state if state.size == len(entries) else None,
    )


def _of_bundle(folder: Path, trust: bytes | None) -> MemberView:
    audit = audited(folder, trust=trust, artifacts=False)
    return view_of(
        list(audit.entries),
        note=audit.bundle.checkpoint,
        founding=audit.trust,
        state=audit.state,
    )


def view_of(
    entries: Sequence[bytes],
    *,
    note: bytes,
    founding: TrustPolicy,
    state: FederationState | None = None,
) -> MemberView:
    """Make the view of entries under a checkpoint that counts.

    ``state`` is the one after the last entry; without it the rules are applied.

    Raises:
        RuleError: An entry breaks a rule.
        IncompleteError: There is no entry.
    """
    logged = state or apply_all(None, entries)
    if logged is None:
        raise IncompleteError("the log is empty", code="log-empty")
    return MemberView(
        logged=logged,
        state=settle(logged, seen=len(entries)),
        entries=tuple(entries),
        note=note,
        trust=Turns(founding).in_force(logged, len(entries)),
    )
