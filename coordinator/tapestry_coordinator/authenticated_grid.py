"""Members behind a transport, each known by a proof of its own key.

A transport knows connections. Whoever reaches its control paths decides who may open
one, and under which name. So a member's name comes from a signed challenge alone
(``tapestry.protocol.connection_proof``)::

    coordinator                                   connection 17
      hello: a fresh nonce ─────────────────────────▶
      ◀──────── identity: name, signature over (charter, name, 17, nonce)
      under the node key that the log has for that name now? then 17 is that member
"""

import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from tapestry.errors import ProtocolError, TapestryError, VerificationError
from tapestry.keys import VerifyKey
from tapestry.protocol.connection_proof import ConnectionClaim, new_nonce
from tapestry.protocol.messages import HelloRequest, Identity, Message, encode_message
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.refusals import read_reply

_logger = logging.getLogger(__name__)
MAX_GREETED = 128  # connections without a name that are greeted at a time
_PATIENCE = 10.0  # seconds for their answers while a member is missing
_GLANCE = 1.0  # and while none is
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 60.0  # seconds before another greeting

Keys = Callable[[], Mapping[str, VerifyKey]]
Notice = Callable[[Mapping[str, Identity]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Binding:
    """The connection that proved a member's name, and the key by which it did."""

    connection: str
    key: VerifyKey


class AuthenticatedGrid:
    """A grid of members over a grid of connections.

    Guarantees:
        A connection is a member's only after a proof under the node key that the log
        has for the member now; when that key changes, the proof has to be given again.
        A node whose new key is on its way proves its name by both of them at once, so
        that it need not know how far this log is; a former key alone proves nothing.
        A nonce goes to one connection and is accepted once. The newest proof counts:
        the connection before it is forgotten until it has left and come back. A
        connection without a proof gets greetings and nothing else, changes nothing,
        and is greeted ever more rarely, with at most ``MAX_GREETED`` at a time.
    """

    def __init__(
        self, grid: Grid, *, genesis: str, keys: Keys, notice: Notice = lambda _: None
    ) -> None:
        """Take the transport's grid.

        Args:
            grid: Its names are the transport's names for its connections, of which
                each answers a request at most once.
            genesis: The digest of the log's first entry.
            keys: Returns the members' node keys, as of the log's last entry.
            notice: Told who is reachable, with what each said last, at each look.
        """
        self._grid, self._genesis, self._keys = grid, genesis, keys
        self._notice, self._said = notice, dict[str, Identity]()
        self._bindings: dict[str, _Binding] = {}  # by member
        self._replaced: set[str] = set()
        self._pauses: dict[str, tuple[float, float]] = {}  # until when, how long

    def nodes(self) -> list[str]:
        """Return the names of the members that are reachable now, in order."""
        online, keys = set(self._grid.nodes()), self._keys()
        for name, binding in list(self._bindings.items()):
            if keys.get(name) != binding.key:
                del self._bindings[name]
        self._replaced &= online
        self._pauses = {c: p for c, p in self._pauses.items() if c in online}
        self._introduce(online)
        reachable = sorted(self._reachable(online))
        self._notice({name: self._said[name] for name in reachable})
        return reachable

    def exchange(
        self, requests: Mapping[str, Message], *, deadline: float
    ) -> Iterator[tuple[str, Message]]:
        """Send each member its request and yield replies as they arrive."""
        end = time.monotonic() + deadline
        names = self._connections(requests)
        known = {connection: requests[name] for connection, name in names.items()}
        left = end - time.monotonic()
        for connection, reply in self._grid.exchange(known, deadline=left):
            yield names[connection], reply

    def greet(
        self, names: Collection[str], *, deadline: float
    ) -> Iterator[tuple[str, Identity]]:
        """Ask members how far they are; each has to prove its name once more."""
        known = self._connections(names)
        for _, said in self._challenge(known, deadline=deadline):
            yield said.name, said

    def _connections(self, names: Collection[str]) -> dict[str, str]:
        """Return members by their connections; look for those that have none yet."""
        if not self._bindings.keys() >= set(names):
            self.nodes()
        bound = self._bindings
        return {bound[name].connection: name for name in names if name in bound}

    def _reachable(self, online: set[str]) -> set[str]:
        return {n for n, b in self._bindings.items() if b.connection in online}

    def _introduce(self, online: set[str]) -> None:
        """Greet connections without a name; take the names that they prove.

        Whoever opens connections that say nothing delays a round only as long as a
        member is missing anyway.
        """
        due = self._due(online)
        missing = self._keys().keys() - self._reachable(online)
        patience = _PATIENCE if missing else _GLANCE
        strangers = dict.fromkeys(due, "")
        for connection, said in self._challenge(strangers, deadline=patience):
            before = self._bindings.get(said.name)
            if before is not None and before.connection != connection:
                self._replaced.add(before.connection)
            key = self._keys()[said.name]
            self._bindings[said.name] = _Binding(connection=connection, key=key)
            _logger.info("connection %s is node %s", connection, said.name)
            if missing and not (missing := missing - {said.name}):
                break

    def _due(self, online: set[str]) -> list[str]:
        """Choose connections to greet, and note when each may be greeted again."""
        now = time.monotonic()
        bound = {binding.connection for binding in self._bindings.values()}
        due = [
            connection
            for connection in sorted(online - bound - self._replaced)
            if self._pauses.get(connection, (now, 0))[0] <= now
        ]
        if len(due) > MAX_GREETED:  # at random, so that no flood keeps a member out
            due = secrets.SystemRandom().sample(due, MAX_GREETED)
        for connection in due:
            last = self._pauses.get(connection, (now, _FIRST_PAUSE / 2))[1]
            pause = min(2 * last, _LONGEST_PAUSE)
            self._pauses[connection] = now + pause, pause
        return due

    def _challenge(
        self, connections: Mapping[str, str], *, deadline: float
    ) -> Iterator[tuple[str, Identity]]:
        """Greet connections; yield those that prove the expected name, or any if ""."""
        nonces = {connection: new_nonce() for connection in connections}
        requests = {
            connection: encode_message(HelloRequest(nonce=nonce))
            for connection, nonce in nonces.items()
        }
        for connection, reply in self._grid.exchange(requests, deadline=deadline):
            name = connections[connection]
            try:
                said = self._verify(connection, reply, nonce=nonces.pop(connection))
                if name and said.name != name:
                    raise ProtocolError(
                        f"it names itself {said.name!r}", code="node-name-differs"
                    )
            except TapestryError as error:
                who = f"node {name}" if name else f"connection {connection}"
                _logger.warning("leaving %s out, bad hello: %s", who, error)
            else:
                self._said[said.name] = said
                yield connection, said

    def _verify(self, connection: str, reply: Message, *, nonce: str) -> Identity:
        """Read an identity and check its proof.

        Raises:
            ProtocolError: The reply is no identity, or its name is no member's.
            VerificationError: The member's key did not sign for this greeting.
        """
        said = read_reply(reply, Identity)
        key = self._keys().get(said.name)
        if key is None:
            raise ProtocolError(
                f"{said.name!r} is no member", code="connection-not-member"
            )
        claim = ConnectionClaim(
            genesis=self._genesis,
            node=said.name,
            connection=connection,
            nonce=nonce,
        )
        try:
            claim.verify(said.proof, key)
        except VerificationError:
            if said.other_proof is None:
                raise
            claim.verify(said.other_proof, key)
        return said
