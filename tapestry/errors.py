"""The errors that Tapestry raises on purpose, as one tree.

::

    TapestryError
    ├── ConfigError            a setting, a file or an argument is wrong
    ├── ResourceError          the machine cannot: port in use, disk full, no package
    ├── ProtocolError          bytes from another party break a format or a rule
    ├── PolicyError            allowed by the protocol, refused by the institution
    │   └── BudgetExhausted    the privacy budget does not cover it
    ├── QuorumError            too few parties answered, signed or survived
    ├── RuleError              the log is authentic, an event in it breaks a rule
    ├── WithdrawnError         members withdrew a release or an adapter
    ├── ForeignFileError       a folder holds files that are not part of it
    ├── IncompleteError        something needed for the verdict is missing
    └── VerificationError      a signature, proof or digest does not hold
        └── InconsistentLog    two views of one log contradict each other

``ValueError`` is left for bugs of the caller. A message names the value and the
rule, never a private record. ``code`` names the rule for programs: it stays the same
when the sentence changes, and two rules never share one (``governance/ERRORS.md``
lists them). Only ``tapestry.cli`` turns
these into exit codes.
"""

import re
from collections.abc import Sequence
from typing import Self

__all__ = [
    "BudgetExhausted",
    "ConfigError",
    "ForeignFileError",
    "IncompleteError",
    "InconsistentLog",
    "PolicyError",
    "ProtocolError",
    "QuorumError",
    "ResourceError",
    "RuleError",
    "TapestryError",
    "VerificationError",
    "WithdrawnError",
]


class TapestryError(Exception):
    """Base of every error that Tapestry raises on purpose.

    Args:
        message: The value, the rule that it breaks, and what repairs it.
        code: The rule's stable name, such as ``round-not-open``; by default the
            kind of the error, such as ``rule``.
    """

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code or _kind(type(self))

    def at(self, place: str) -> Self:
        """Return the same error with the place where it was found in front."""
        found = type(self).__new__(type(self))
        found.args = (f"{place}: {self}",)
        vars(found).update(vars(self))
        return found


class ConfigError(TapestryError):
    """A setting, a file or an argument is wrong; the message says how to repair it."""


class ResourceError(TapestryError):
    """The machine cannot do it: port in use, disk full, package missing."""


class ProtocolError(TapestryError):
    """Bytes from another party break a format or a rule of the protocol."""


class PolicyError(TapestryError):
    """The institution's own policy refuses something the protocol would allow."""


class BudgetExhausted(PolicyError):
    """The privacy budget that is left does not cover the request."""


class QuorumError(TapestryError):
    """Too few parties answered, signed or survived."""


class RuleError(TapestryError):
    """The log is authentic, but an event in it breaks a rule of the federation."""


class WithdrawnError(TapestryError):
    """All holds, and the members of the federation withdrew it by their votes."""


class ForeignFileError(TapestryError):
    """A folder holds files that are not part of it, and is otherwise as listed.

    ``files`` are their names, relative to the folder.
    """

    def __init__(
        self, message: str, files: Sequence[str] = (), *, code: str = ""
    ) -> None:
        super().__init__(message, code=code)
        self.files = tuple(files)


class IncompleteError(TapestryError):
    """Something that the verdict needs is missing, so there is no verdict."""


class VerificationError(TapestryError):
    """A signature, proof or digest does not hold."""


class InconsistentLog(VerificationError):
    """Two views of one log contradict each other; keep both as evidence."""


def _kind(error: type[TapestryError]) -> str:
    """Spell a class as a code: ``RuleError`` is ``rule``."""
    name = error.__name__.removesuffix("Error") or "error"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
