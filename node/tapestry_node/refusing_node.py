"""A node that cannot work, and says so: to its operator in full, to others by a code.

Where base, records or ledger are at fault, but settings, keys, state and mirror are
whole, the node connects all the same for some minutes. It answers greetings with its
name and the code of the fault and refuses all else. Then it ends as it would have ended
at once, so that a supervisor starts it anew.

Guarantees:
    Nothing private leaves: of the fault, only a code of the closed list
    ``FolderFault`` travels, whose words are fixed. Each reply is receipted before it
    leaves, as any other. A node whose keys are at fault can prove no name and tells the
    coordinator nothing; nor does one whose installed files or state were changed.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tapestry.environment import direct
from tapestry.errors import TapestryError
from tapestry.protocol.folder_faults import FolderFault
from tapestry.protocol.messages import (
    HelloRequest,
    Message,
    Reason,
    Refusal,
    decode_body,
    encode_message,
)
from tapestry_node.flower import LineUse, serve
from tapestry_node.open_folder import OpenFolder, Progress
from tapestry_node.refusal import log_refusal
from tapestry_node.settings import Transport
from tapestry_node.status_file import StatusFile

_logger = logging.getLogger(__name__)
SECONDS = 600.0  # that it says so, before it ends


class RefusingNode:
    """A node that answers greetings alone."""

    def __init__(self, folder: OpenFolder, fault: FolderFault) -> None:
        """Take what is whole of a node's folder, and what is not."""
        self._folder, self._fault = folder, fault

    def handle(self, message: Message, connection: str = "") -> Message:
        """Answer a greeting by name and fault; refuse any other request.

        Raises:
            ResourceError: Not even the receipt could be written; nothing leaves.
        """
        try:
            body = decode_body(message)
            if isinstance(body, HelloRequest):
                progress = Progress(refuses=self._fault)
                reply = self._folder.identify(body.nonce, connection, progress)
            else:
                reply = encode_message(Refusal(reason=Reason.MAINTENANCE))
        except Exception as error:  # noqa: BLE001 - default deny, whatever it is
            log_refusal(self._folder.settings.name, message.kind, error)
            reply = encode_message(Refusal(reason=Reason.PROTOCOL))
        self._folder.store.record(reply)
        return reply


@contextmanager
def opening(
    directory: Path, *, where: Transport, told: StatusFile
) -> Iterator[OpenFolder]:
    """Open a node's folder; if the block fails, tell the coordinator before it ends.

    Edge cases:
        It ends at once if the coordinator cannot be reached, or is lost.

    Raises:
        TapestryError: The folder cannot be opened, or what the block raised.
    """
    folder = OpenFolder.open(directory)
    try:
        yield folder
    except Exception as error:
        fault = FolderFault.of(error)
        said = error if isinstance(error, TapestryError) else type(error).__name__
        _logger.warning("cannot start: %s; the coordinator is told: %s", said, fault)
        _refuse(RefusingNode(folder, fault).handle, error, where, told)
        folder.close()
        raise


def _refuse(
    handle: Callable[[Message, str], Message],
    error: Exception,
    where: Transport,
    told: StatusFile,
) -> None:
    """Serve refusals for a while, or until the connection fails or a signal comes."""
    stop = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    timer = threading.Timer(SECONDS, stop.set)
    timer.daemon = True
    timer.start()

    def tell(cause: TapestryError | None, _: object) -> None:
        if cause is None:
            told.refusing(error)
        else:
            _logger.warning("the coordinator cannot be told: %s", cause)
            stop.set()

    try:
        with direct(where.superlink):
            serve(
                handle,
                superlink=where.superlink,
                root_certificates=Path(where.root_certificates),
                auth_key=Path(where.auth_key),
                use=LineUse(tell=tell),
                stop=stop,
            )
    except TapestryError as cause:
        _logger.warning("the coordinator cannot be told: %s", cause)
    finally:
        timer.cancel()
