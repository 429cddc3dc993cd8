"""Witnesses that are no members, asked over HTTP (``witness.add_checkpoint``).

They are those of the trust policy that have an address. One that is away, slow or says
nonsense costs seconds, and stops a round only if the quorum cannot do without it.

Guarantees:
    Nothing of a reply is used but a cosignature under this log's checkpoint, by the
    witness's key in the trust policy; or a size. A redirection is not followed, and of
    a reply no more is read than a request may have.

Not protected:
    Who can read the connection learns size and root of the log.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread

import httpx

from tapestry.errors import (
    ProtocolError,
    ResourceError,
    TapestryError,
    VerificationError,
)
from tapestry.tlog.note import Signature
from tapestry.tlog.trust_policy import Witness
from tapestry.tlog.turn import Trust
from tapestry_governance.log.writer import Log
from tapestry_governance.witness.add_checkpoint import (
    MAX_BYTES,
    PATH,
    SIZE_TYPE,
    CheckpointRequest,
    decode_size,
)

_logger = logging.getLogger(__name__)
_SECONDS = 5.0  # to connect, and for each part of a reply
_DEADLINE = 10.0  # for all witnesses together
_ATTEMPTS = 2  # the second where a witness knows another size


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessReply:
    """A witness's answer."""

    status: int
    content: str
    body: bytes


_Replies = SimpleQueue[tuple[str, WitnessReply | Exception]]


class OutsideWitnesses:
    """The outside witnesses of a log, as its trust policy lists them."""

    def __init__(self, log: Log, trust: Trust) -> None:
        self._log, self.trust = log, trust
        # By key: at a turn one witness may be there with its old key and its new one.
        self._listed = {w.key.keyid: w for w in trust.witnesses if w.url is not None}
        others = {w.key.keyid for w in trust.witnesses} - self._listed.keys()
        self.are_needed = not trust.is_quorum_of(others)
        self._busy: dict[str, Thread] = {}  # one that does not end is not asked again

    def ask(self) -> None:
        """Have the newest signed checkpoint cosigned, and keep the lines.

        Edge cases:
            One that cannot be published, as too few members cosigned it, stays here.

        Raises:
            ResourceError: The disk is full or failing.
        """
        note, size = self._log.sign_checkpoint(), self._log.size
        keys = self._log.store.cosigners(size)
        held = {w.key.keyid for w in self.trust.witnesses if str(w.key) in keys}
        if not self.trust.is_quorum_of(held | self._listed.keys()):
            return  # nothing will be published
        sizes = {
            name: self._log.store.cosigned_size(str(each.key))
            for name, each in self._listed.items()
        }
        for _ in range(_ATTEMPTS):
            requests = {
                name: CheckpointRequest(
                    old_size=old_size,
                    proof=self._log.consistency_proof(old_size, size),
                    note=note,
                ).encode()
                for name, old_size in sizes.items()
            }
            before, sizes = sizes, {}
            for name, reply in self._exchange(requests):
                try:
                    known = self._take(self._listed[name], reply, known=before[name])
                except ResourceError:
                    raise
                except (TapestryError, UnicodeDecodeError) as error:
                    _logger.warning("witness %s: %s", name, error)
                else:
                    if known is not None:
                        sizes[name] = known

    def _take(self, witness: Witness, reply: WitnessReply, *, known: int) -> int | None:
        """Keep a cosignature, or return the size from which it wants a proof.

        Raises:
            VerificationError: The witness has forgotten what it cosigned, or has
                cosigned more than this log has; or its cosignature does not hold.
            ProtocolError: It refuses, or the reply is no cosignature.
        """
        size = self._log.size
        if reply.status == httpx.codes.OK:
            line = _line_of(witness, reply.body)
            self._log.add_cosignature(size, line, trust=self.trust)
            return None
        if (reply.status, reply.content) != (httpx.codes.CONFLICT, SIZE_TYPE):
            raise ProtocolError(
                f"it answered {reply.status} to size {size}", code="witness-refused"
            )
        cosigned = decode_size(reply.body)
        if not known <= cosigned <= size:
            raise VerificationError(
                f"it says that it cosigned size {cosigned} last, here it cosigned"
                f" {known} of {size} entries: it has lost its memory and must be"
                " retired, or this log is an older copy",
                code="witness-size-differs",
            )
        return cosigned

    def _exchange(
        self, requests: Mapping[str, bytes]
    ) -> Iterator[tuple[str, WitnessReply]]:
        """Send requests at the same time; yield the replies that come in time."""
        replies: _Replies = SimpleQueue()
        waiting = set[str]()
        for name, body in requests.items():
            if name in self._busy and self._busy[name].is_alive():
                continue
            url = f"{self._listed[name].url}".rstrip("/") + PATH
            thread = Thread(
                target=_hand_over, args=(name, url, body, replies), daemon=True
            )
            self._busy[name] = thread
            waiting.add(name)
            thread.start()
        end = time.monotonic() + _DEADLINE
        while waiting:
            try:
                left = max(end - time.monotonic(), 0)
                name, reply = replies.get(timeout=left)
            except Empty:
                _logger.warning("no reply of witnesses %s", ", ".join(sorted(waiting)))
                return
            waiting.remove(name)
            if isinstance(reply, WitnessReply):
                yield name, reply
            else:
                _logger.warning("witness %s: %s", name, type(reply).__name__)


def _hand_over(name: str, url: str, body: bytes, replies: _Replies) -> None:
    """Post a body; put the reply or the error into a queue."""
    try:
        replies.put((name, _post(url, body)))
    except Exception as error:  # noqa: BLE001 - of another party, in a thread
        replies.put((name, error))


def _post(url: str, body: bytes) -> WitnessReply:
    found = bytearray()
    headers = {"Content-Type": "text/plain", "Accept-Encoding": "identity"}
    with httpx.stream(
        "POST",
        url,
        content=body,
        headers=headers,
        timeout=_SECONDS,
        follow_redirects=False,
    ) as reply:
        for part in reply.iter_raw(4096):
            found += part
            if len(found) > MAX_BYTES:
                raise ProtocolError(
                    f"its reply has over {MAX_BYTES} bytes",
                    code="witness-reply-malformed",
                )
    content = reply.headers.get("Content-Type", "")
    return WitnessReply(status=reply.status_code, content=content, body=bytes(found))


def _line_of(witness: Witness, body: bytes) -> bytes:
    """Find the line of a witness's key among those of a reply.

    Raises:
        ProtocolError: There is none, or a line is no signature.
    """
    for line in body.decode().splitlines(keepends=True):
        signature = Signature.parse(line)
        if (signature.name, signature.key_id) == (witness.key.name, witness.key.id):
            return line.encode()
    raise ProtocolError(
        f"it sent no cosignature of {witness.key.keyid}",
        code="witness-reply-malformed",
    )
