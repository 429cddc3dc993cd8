"""Address and certificate of a SuperLink, as its node holds them.

Guarantees:
    A FIFO or device is refused and not waited for. No message holds a byte of a file.
"""

import logging
import re
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from tapestry.errors import ConfigError, TapestryError, VerificationError
from tapestry.inputs.plain_file import open_plain
from tapestry.storage import durable_files
from tapestry_governance.key_turn import NEXT

_logger = logging.getLogger(__name__)
_ADDRESS = re.compile(r"[^\s/]+:([0-9]{1,5})")
_MOST_BYTES = 1 << 20
_SOON = timedelta(days=30)


def check_address(superlink: str) -> None:
    """Check the address of a SuperLink.

    Raises:
        ConfigError: The address is not a host and a port from 1 to 65535.
    """
    found = _ADDRESS.fullmatch(superlink)
    if found is None or not 0 < int(found[1]) < 1 << 16:
        raise ConfigError(
            f"SuperLink {superlink!r} is not HOST:PORT", code="address-invalid"
        )


def read_certificates(path: Path) -> bytes:
    """Read the certificate of the authority that a SuperLink is known by.

    Raises:
        ConfigError: The file cannot be read, or holds no certificate (PEM).
    """
    data = _read(path)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ConfigError(
            f"{path} holds no certificate; name the PEM file of the SuperLink's"
            " authority",
            code="certificate-missing",
        ) from None
    return data


def validity(path: Path) -> tuple[datetime, datetime]:
    """Return since when and until when all certificates of a file are valid.

    Raises:
        ConfigError: The file cannot be read, or holds no certificate (PEM).
    """
    try:
        found = x509.load_pem_x509_certificates(read_certificates(path))
    except ValueError:  # OpenSSL takes some that this library does not
        raise ConfigError(
            f"{path} holds a certificate that is not spelled as X.509 demands; ask the"
            " coordinator for another",
            code="certificate-malformed",
        ) from None
    return (
        max(each.not_valid_before_utc for each in found),
        min(each.not_valid_after_utc for each in found),
    )


def check_validity(
    begins: datetime, ends: datetime, *, what: str, now: datetime
) -> ConfigError | None:
    """Check the time of a certificate; return a warning if it ends within 30 days.

    Raises:
        ConfigError: The certificate has expired, or is not valid yet.
    """
    clock = f"by the clock here ({now:%Y-%m-%d %H:%M})"
    if now > ends:
        raise ConfigError(
            f"the certificate of {what} has expired on {ends:%Y-%m-%d}, {clock}; ask"
            " the coordinator for a new one",
            code="certificate-expired",
        )
    if now < begins:
        raise ConfigError(
            f"the certificate of {what} is not valid before {begins:%Y-%m-%d %H:%M},"
            f" {clock}; set the clock that is wrong",
            code="certificate-not-yet-valid",
        )
    if ends - now > _SOON:
        return None
    return ConfigError(
        f"the certificate of {what} ends on {ends:%Y-%m-%d}, in {(ends - now).days}"
        " days; ask the coordinator for a new one",
        code="certificate-ends-soon",
    )


def _read(path: Path) -> bytes:
    """Return the bytes of a file."""
    try:
        with open_plain(path, links=True) as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the certificates {path}: {error.strerror}",
            code="file-unreadable",
        ) from error
    except VerificationError:
        raise ConfigError(
            f"{path} is no plain file; put the file itself there", code="file-not-plain"
        ) from None
    if len(data) > _MOST_BYTES:
        raise ConfigError(
            f"{path} is over {_MOST_BYTES >> 20} MiB; it is another file",
            code="file-too-large",
        )
    return data


def take_up_next(key: Path, *, is_known: Callable[[Path], object]) -> bool:
    """Give a new transport key the place of the old, once the SuperLink knows it.

    Guarantees:
        At any time and after any crash there is a whole key under this name, the old
        or the new one. A new one that is not known yet stays beside it.

    Args:
        key: The file of the node's transport key.
        is_known: Raises unless the SuperLink lets the key of a file connect.

    Raises:
        ResourceError: The folder cannot be written.
    """
    coming = key.with_name(key.name + NEXT)
    if not coming.exists():
        return False
    try:
        is_known(coming)
    except TapestryError as cause:
        _logger.info("the new transport key waits: %s", cause)
        return False
    public = coming.with_name(coming.name + ".pub")
    if public.exists():
        durable_files.move_file(public, key.with_name(key.name + ".pub"))
    durable_files.move_file(coming, key)
    return True
