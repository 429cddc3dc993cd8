"""The adapters that a coordinator keeps, and how it gets one that a member submits.

A member submits the signed entry of an adapter at any time, like any entry for the
log. The coordinator then asks that member for the files, and logs the entry when they
hold. So the log names no adapter whose files the coordinator lacks.
"""

import errno
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tapestry.artifacts import manifest
from tapestry.artifacts.adapter_folder import ACCOUNTED, PUBLISHED
from tapestry.errors import ProtocolError, ResourceError
from tapestry.protocol.messages import (
    Message,
    Publication,
    PublishAdapterRequest,
    encode_message,
    split_entries,
)
from tapestry.storage import durable_files
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.log_publisher import LogPublisher
from tapestry_coordinator.refusals import read_reply
from tapestry_governance import registry
from tapestry_governance.audit.published_folders import check_copies
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.model_events import AdapterPublished

_logger = logging.getLogger(__name__)
_FETCH_SECONDS = 300.0  # that the files of an adapter may take
_RETRY_SECONDS = 600.0  # until a member that said nothing is asked again


class Shelf(Protocol):
    """The place where adapters are kept, and the log that names them."""

    @property
    def directory(self) -> Path:
        """The coordinator's folder."""

    @property
    def trust(self) -> bytes:
        """The file of the trust policy."""

    @property
    def publisher(self) -> LogPublisher:
        """The log."""


class AdapterFetcher:
    """Asks members for the files of the adapters whose entries they submit."""

    def __init__(
        self, directory: Path, *, trust: bytes, publisher: LogPublisher, grid: Grid
    ) -> None:
        """Take a coordinator's folder, its log, and the members."""
        self.directory, self.trust, self.publisher = directory, trust, publisher
        self._grid = grid
        self._silent: dict[str, float] = {}  # member -> when it may be asked again

    def fetch(self, member: str, entry: bytes) -> bool:
        """Fetch the files of an adapter and log its entries, if its member is here.

        Guarantees:
            No open round waits for it. A member that does not answer holds the next
            one up for five minutes, and is asked again ten minutes later. Nobody makes
            another member work, or keeps its adapter out: one that another node hands
            in waits until its own does, which has the files.

        Raises:
            TapestryError: The member refuses, or ``keep_adapter`` does.
        """
        event = open_entry(entry).event
        name = getattr(event.body, "name", "")
        if event.actor != member:
            return False
        is_early = time.monotonic() < self._silent.get(member, 0.0)
        is_here = member in self._grid.nodes()
        if self.publisher.state.open_round is not None or not is_here or is_early:
            return False
        checkpoint = self.publisher.checkpoint.decode()
        request = encode_message(
            PublishAdapterRequest(name=name, checkpoint=checkpoint)
        )
        for node, reply in self._grid.exchange(
            {member: request}, deadline=_FETCH_SECONDS
        ):
            kept = keep_adapter(self, node, reply)
            _logger.info("node %s published adapter %s", node, kept)
            return True
        self._silent[member] = time.monotonic() + _RETRY_SECONDS
        return False


def keep_adapter(run: Shelf, node: str, reply: Message) -> str:
    """Store an adapter's files, check them as an audit will, and log its entries.

    Guarantees:
        A node's publication touches no adapter of another node. The former files under
        its name are replaced when the log has taken the new entry, and not before.
        Beside the manifest lie the account and the publication as they were handed in
        for the log, whatever the node sent there. An audit of the log with both entries
        would find no fault in the folder. After an error no file is kept, and no entry
        was appended unless the disk failed.

    Raises:
        ProtocolError, VerificationError, IncompleteError: The files break a rule of
            the registry, or are not those that the log will name.
        ForeignFileError: A file is no part of an adapter.
        RuleError: The log's rules refuse an entry.
        ResourceError: The disk is full or failing.
    """
    names = read_reply(reply, Publication).files
    accounted, entry, files = split_entries(reply.attachments)
    if len(names) != len(files):
        raise ProtocolError(
            f"the publication has {len(names)} names for {len(files)} files",
            code="file-names-differ",
        )
    event = open_entry(entry).event
    published = event.body
    owner = run.publisher.state.publishers.get(getattr(published, "name", ""), node)
    if not isinstance(published, AdapterPublished) or {event.actor, owner} != {node}:
        raise ProtocolError(
            f"the publication is {event.type} of {event.actor}, want an adapter of"
            f" {node}",
            code="publication-differs",
        )
    folder = run.directory / "adapters" / published.name
    draft = folder.with_name(f".{published.name}")
    with durable_files.replace_folder(folder, draft=draft):
        copies = {ACCOUNTED: accounted, PUBLISHED: entry}
        own = {f"{manifest.FOLDER}/{name}": data for name, data in copies.items()}
        _write(draft, dict(zip(names, files, strict=True)) | own)
        found = registry.check_folder(draft)
        registry.check_entry(found, published)
        base = run.directory / "releases" / published.base
        registry.check_fit(found, registry.read_base(base))
        foreseen = run.publisher.foresee((accounted, entry))
        check_copies(
            draft,
            published.name,
            state=foreseen.state,
            entries=foreseen,
            policy=run.trust,
        )
        for each in (accounted, entry):
            run.publisher.add(each)
    return published.name


def _write(folder: Path, files: Mapping[str, bytes | memoryview]) -> None:
    try:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise ProtocolError(
            "two files of the publication have one name", code="file-names-differ"
        ) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # the sender's fault
            raise ProtocolError(
                "a file of the publication has too long a name",
                code="file-name-too-long",
            ) from None
        raise ResourceError(
            f"cannot write {folder}: {error.strerror}", code="file-unwritable"
        ) from error
