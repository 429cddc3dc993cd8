"""The coordinator's request for an adapter, and the institution's answer.

The request names a release or an adapter. For a release the node trains the adapter of
``node.toml`` and hands it out, if the institution publishes one at the end of a run.
For an adapter it hands out what its operator has published already: the entry waits in
the outbox, and so the coordinator knows of it.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Protocol

from tapestry.artifacts.adapter_folder import PUBLISHED
from tapestry.artifacts.manifest import FOLDER
from tapestry.inputs.plain_file import read_plain
from tapestry.keys import SigningKey
from tapestry.model.replica import Replica
from tapestry.protocol.messages import Message, Reason
from tapestry.tlog.tiles import MAX_ENTRY_BYTES
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished
from tapestry_governance.log.mirror import LogMirror
from tapestry_node.adapters.adapter_file import PUBLICATIONS, NamedAdapter, names_in
from tapestry_node.adapters.publication import Publisher, publication_in
from tapestry_node.budget.ledger import Ledger
from tapestry_node.node_state import NodeState
from tapestry_node.refusal import Refused
from tapestry_node.round.result import ResultApplier
from tapestry_node.round.session import NodeContext, Session
from tapestry_node.settings import NodeSettings


class ServingNode(Protocol):
    """The parts of a node that its adapters are made from."""

    context: NodeContext
    settings: NodeSettings
    directory: Path
    mirror: LogMirror
    keys: dict[str, SigningKey]
    base: ResultApplier
    session: Session | None
    clock: Callable[[], datetime]

    @property
    def name(self) -> str:
        """The institution's name in the federation."""

    @property
    def replica(self) -> Replica:
        """The base that this node holds."""

    @property
    def ledger(self) -> Ledger:
        """The privacy ledger of its records."""

    @property
    def store(self) -> NodeState:
        """The durable state."""

    def require_work(self) -> None:
        """Require that new work may begin, and that the ledger knows all of the log."""

    def require_available(self) -> None:
        """Require that the operator lets new work begin."""


def answer_request(node: ServingNode, name: str) -> Message:
    """Hand out an adapter, by the institution's own decision alone.

    Raises:
        Refused: The operator published no adapter of this name; or the release is not
            the base held here, or ``node.toml`` publishes none on it.
        TapestryError: The training failed, or is not paid for.
    """
    if not name.startswith("base-"):
        return _handed_in(node, name)
    node.require_work()
    release = node.mirror.state.releases.get(name)
    if release is None or release.model_digest != node.replica.release_digest:
        said = f"{name} is not the base held here, {node.replica.release_digest}"
        raise Refused(Reason.BASE_MISMATCH, said, code="base-differs")
    check_origin(node, release)
    if not node.settings.adapter.publish:
        said = "adapter.publish is false in node.toml"
        raise Refused(Reason.LOCAL_POLICY, said, code="adapter-not-offered")
    own = NamedAdapter.own(node.settings)
    return publisher_of(node, own).publish(release, now=node.clock())


def check_origin(node: ServingNode, release: ReleasePublished) -> None:
    """Refuse a release that goes back through what this node has seen to be false.

    Raises:
        VerificationError: It goes back through a false sum or outcome of a gate.
    """
    node.base.check_sums(release.run_id, until=release.round_number)
    node.base.origin(release.run_id, named=node.settings.policy.bases)


def publisher_of(
    node: ServingNode, adapter: NamedAdapter, replica: Replica | None = None
) -> Publisher:
    """Join what making an adapter works with; by default on the base held now."""
    return Publisher(
        adapter=adapter,
        context=node.context,
        settings=node.settings,
        replica=replica or node.replica,
        ledger=node.ledger,
        community=node.keys["community"],
        folder=node.directory,
    )


def may_have_trained(node: ServingNode) -> Iterator[Publisher]:
    """Yield the makers of adapters that a node which forgot may have trained.

    They are the adapter of the end of a run, those that have a file of settings, and
    those that were accounted for before.
    """
    folder, settings = node.directory, node.settings
    accounts = node.store.accounts()
    names = {*names_in(folder), *(n for kind, n, _ in accounts if kind == "adapter")}
    if settings.adapter.publish:
        names.add(settings.name)
    for name in sorted(names):
        adapter = NamedAdapter.read(folder, name, settings, file=None)
        if name == settings.name and settings.adapter.publish:
            adapter = NamedAdapter.own(settings)
        yield publisher_of(node, adapter)


def publication_folder(folder: Path, published: AdapterPublished) -> Path:
    """Return where a node keeps the publication of a version."""
    return folder / PUBLICATIONS / f"{published.name}-{published.version}"


def _handed_in(node: ServingNode, name: str) -> Message:
    """Hand out the files of an adapter whose entry waits for the log.

    Guarantees:
        They are the files of the very entry that the operator handed in.
    """
    for entry in node.store.outbox():
        event = open_entry(entry).event
        body = event.body
        if not isinstance(body, AdapterPublished):
            continue
        if (event.actor, body.name) == (node.name, name):
            folder = publication_folder(node.directory, body)
            path = folder / FOLDER / PUBLISHED
            if path.exists() and read_plain(path, limit=MAX_ENTRY_BYTES) == entry:
                return publication_in(folder)
    said = f"no adapter {name!r} of this folder waits to be published"
    raise Refused(Reason.LOCAL_POLICY, said, code="adapter-not-offered")
