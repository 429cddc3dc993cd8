"""The report on the software of this machine: what runs, and what a policy allows.

It names each package with its version and the digest of its RECORD, so that the
reports of two machines show in which package they differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tapestry.cli.exit_status import ExitStatus, worst
from tapestry.installed_packages import unrecorded_files
from tapestry.software_digest import SoftwareManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftwareReport:
    """The software here, the findings on its files, and the policy's list."""

    manifest: SoftwareManifest
    allowed: tuple[str, ...] | str | None  # by a policy; None if none was given
    differing: tuple[str, ...] | None  # files; None if they were not read
    unrecorded: tuple[str, ...] | None

    @classmethod
    def of(
        cls,
        manifest: SoftwareManifest,
        *,
        allowed: tuple[str, ...] | str | None,
        reads_files: bool,
    ) -> "SoftwareReport":
        """Compare the manifest with a policy, and if asked with every file."""
        differing = unrecorded = None
        if reads_files:
            packages = manifest.packages
            differing = tuple(
                f"{package.folder}/{path}"
                for package in packages
                for path in package.differing_files()
            )
            unrecorded = tuple(unrecorded_files(packages))
        return cls(
            manifest=manifest,
            allowed=allowed,
            differing=differing,
            unrecorded=unrecorded,
        )

    @property
    def is_allowed(self) -> bool | None:
        """True if the policy allows this software; None if none was given."""
        if self.allowed is None:
            return None
        return self.allowed == "any" or self.manifest.digest in self.allowed

    @property
    def status(self) -> ExitStatus:
        """The verdict on all that was checked."""
        return worst(
            status
            for status, found in (
                (ExitStatus.FAILED, self.differing),
                (ExitStatus.RULE_BROKEN, self.is_allowed is False),
                (ExitStatus.FOREIGN_FILE, self.unrecorded),
            )
            if found
        )

    def lines(self) -> Iterator[str]:
        """Print it for people."""
        manifest = self.manifest
        yield f"digest     {manifest.digest}"
        yield f"python     {manifest.interpreter}"
        yield f"tapestry   {manifest.own}"
        for each in manifest.packages:
            yield f"package    {each.name} {each.version} {each.record_digest}"
        for name, value in manifest.settings.items():
            yield f"setting    {name}={value}"
        for path in self.differing or ():
            yield f"differs    {path}: missing, or not as its package recorded it"
        for path in self.unrecorded or ():
            yield f"foreign    {path}: no package recorded it"
        if self.differing is not None:
            count = sum(len(each.files) for each in manifest.packages)
            yield f"files      {count} of {len(manifest.packages)} packages were read"
        if self.allowed is not None:
            names = "any" if self.allowed == "any" else ", ".join(self.allowed)
            yield f"policy     allows {names}"
            yield f"           {'this' if self.is_allowed else 'not this'} software"

    def to_json(self) -> dict[str, Any]:
        """Print it for programs."""
        return {
            "digest": self.manifest.digest,
            "manifest": self.manifest.to_json(),
            "policy": self.allowed,
            "allowed": self.is_allowed,
            "differing_files": self.differing,
            "unrecorded_files": self.unrecorded,
            "exit": int(self.status),
        }
