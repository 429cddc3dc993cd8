"""The reasons why a node has no SuperLink, told apart: one sentence and code for each.

============================  ====================  ==================================
what a request meets          error                 who repairs it
============================  ====================  ==================================
silence, or a proxy alone     ``ResourceError``     the coordinator, or the network
a certificate that does not   ``VerificationError`` whoever is in the way, or the file
verify                                              ``authority.pem`` here
a certificate of another      ``ConfigError``       the coordinator, or the settings
host or another time                                and the clock here
a SuperLink without the key   ``IncompleteError``   the coordinator registers it
a SuperLink that refuses      ``ConfigError``       as the sentence says
============================  ====================  ==================================

Guarantees:
    No message quotes what came over the network, except a status and a date.
"""

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from tapestry.errors import (
    ConfigError,
    IncompleteError,
    ResourceError,
    TapestryError,
    VerificationError,
)

# What Flower's node authentication does, as tests at a real SuperLink show.
SIGNED_AT = "flwr-timestamp"  # the header with the time at which a request was signed
MOST_AHEAD, MOST_BEHIND = 5, 305  # seconds; beyond, it is status 401

_NOT_YET, _EXPIRED, _OTHER_HOSTS = 9, 10, (62, 64)  # OpenSSL's verify_code
_PROXY_ALONE = (502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialled:
    """The address that a node dials, and the files that it uses; for messages."""

    superlink: str
    root_certificates: Path
    auth_key: Path


def explain(error: Exception, dialled: Dialled) -> TapestryError:
    """Return the error that says what a failed request met, and what repairs it."""
    if isinstance(error, TapestryError):
        return error
    if isinstance(error, httpx.HTTPStatusError):
        return _answered(error.response, dialled)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate(cause, dialled)
    return _unanswered(error, dialled.superlink)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _answered(response: httpx.Response, dialled: Dialled) -> TapestryError:
    """Explain a status that is none of success."""
    status, superlink = response.status_code, dialled.superlink
    if status == httpx.codes.PRECONDITION_FAILED:
        key = dialled.auth_key
        return IncompleteError(
            f"the coordinator does not know {key}; send it {key}.pub again",
            code="transport-key-unknown",
        )
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        return _clock(response, superlink) or ConfigError(
            f"{superlink} forbids this node's requests (status {status}); ask the"
            " coordinator what its proxy or its SuperLink has against them",
            code="transport-forbidden",
        )
    if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
        return ConfigError(
            f"{superlink} takes no request of {len(response.request.content)} bytes"
            " (status 413); the coordinator's proxy needs client_max_body_size 4m",
            code="request-too-large",
        )
    if status in _PROXY_ALONE:
        return ResourceError(
            f"a proxy answers at {superlink}, but no SuperLink behind it (status"
            f" {status}); the coordinator is away",
            code="superlink-behind-proxy-away",
        )
    return ResourceError(
        f"{superlink} answers with status {status}, which no SuperLink does here; is it"
        " the coordinator's address?",
        code="superlink-failing",
    )


def _clock(response: httpx.Response, superlink: str) -> ConfigError | None:
    """Explain a refusal by the two clocks, if they are too far apart."""
    try:
        here = datetime.fromisoformat(response.request.headers[SIGNED_AT])
        there = parsedate_to_datetime(response.headers["date"])
        behind = (there - here).total_seconds()
    except (KeyError, ValueError, TypeError):
        return None
    if -MOST_AHEAD < behind < MOST_BEHIND:
        return None
    return ConfigError(
        f"the clock here says {_time(here)}, that of {superlink} {_time(there)}; a"
        f" node's may be {MOST_AHEAD} s ahead or {MOST_BEHIND} s behind: set it",
        code="clock-off",
    )


def _certificate(
    error: ssl.SSLCertVerificationError, dialled: Dialled
) -> TapestryError:
    superlink, now = dialled.superlink, _time(datetime.now(UTC))
    if error.verify_code == _EXPIRED:
        return ConfigError(
            f"the certificate of {superlink} has expired, by the clock here ({now});"
            " the coordinator has to renew it",
            code="certificate-expired",
        )
    if error.verify_code == _NOT_YET:
        return ConfigError(
            f"the certificate of {superlink} is not valid yet, by the clock here"
            f" ({now}); set the clock that is wrong, here or there",
            code="certificate-not-yet-valid",
        )
    if error.verify_code in _OTHER_HOSTS:
        return ConfigError(
            f"the certificate of {superlink} is for another host; dial the name that"
            " the coordinator gave, or let it make one for this name",
            code="certificate-of-another-host",
        )
    return VerificationError(
        f"the certificate of {superlink} is not by {dialled.root_certificates}"
        f" ({error.verify_message}); something else is in the way, or the coordinator"
        " has another authority: compare the file with its own",
        code="certificate-foreign",
    )


def _unanswered(error: Exception, superlink: str) -> ResourceError:
    """Explain a request without an answer that one could use."""
    causes = [*_causes(error)]

    def met(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if met(ConnectionRefusedError):
        return ResourceError(
            f"no SuperLink listens at {superlink} (connection refused); the coordinator"
            " is away, or has another address",
            code="superlink-away",
        )
    if met(socket.gaierror):
        return ResourceError(
            f"the host of {superlink} is unknown here; check the name, and this"
            " machine's network",
            code="host-unknown",
        )
    if met(httpx.TimeoutException, TimeoutError):
        return ResourceError(
            f"{superlink} does not answer (timed out); the coordinator is away, or a"
            " firewall is in between",
            code="superlink-silent",
        )
    if met(httpx.ProxyError):
        return ResourceError(
            f"the proxy of this machine's environment does not connect to {superlink};"
            " let it, or unset the proxy",
            code="proxy-refuses",
        )
    return _unusable(error, superlink, is_tls=not met(ssl.SSLError))


def _unusable(error: Exception, superlink: str, *, is_tls: bool) -> ResourceError:
    if not is_tls:
        return ResourceError(
            f"what listens at {superlink} does not speak TLS as a SuperLink does; is it"
            " the coordinator's address?",
            code="tls-missing",
        )
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return ResourceError(
            f"the connection to {superlink} was cut, or there is no way to it; check"
            " this machine's network",
            code="connection-lost",
        )
    return ResourceError(
        f"{superlink} answers with what is no message of a SuperLink"
        f" ({type(error).__name__}); is it the coordinator's address?",
        code="superlink-reply-malformed",
    )


def _time(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
