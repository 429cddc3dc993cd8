"""An institution's part of a founding: settings from an invitation, and a request.

The settings are a draft for the operator to read. Each rule is the invitation's own
term, never a looser one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import tomli_w

from tapestry.errors import ConfigError, ResourceError
from tapestry.inputs.faults import Faults
from tapestry.inputs.setting_faults import validated
from tapestry.inputs.setting_values import to_toml
from tapestry.keys import VerifyKey
from tapestry.storage import durable_files
from tapestry.workloads.base import Workload
from tapestry.workloads.data_manifest import DataManifest
from tapestry_governance.founding import rounded_down
from tapestry_governance.founding_files import (
    Invitation,
    InvitationTerms,
    RequestFile,
    check_invitation,
    check_records,
)
from tapestry_governance.member_folder import (
    check_invited,
    make_keys,
    write_request,
)
from tapestry_node.data.manifest_file import read_manifest
from tapestry_node.settings import NodeSettings
from tapestry_node.training.trainer import Trainer

_STEPS = 100  # that a round may ask for, until the operator says otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """An institution as it describes itself."""

    name: str
    country: str | None  # None: the name
    data: Path
    manifest: Path | None  # of the data; None: it lies among them
    base: str  # as this machine names the model of the invitation
    language: str | None  # needed where the data folder says neither
    licence: str | None
    root: VerifyKey | None  # None: the root key is made here
    passphrase: str | None  # of a root key that is made here


def apply(
    folder: Path, invitation: Invitation, applicant: Applicant, *, workload: Workload
) -> RequestFile:
    """Make what a node's folder lacks: keys, node.toml, and the request.

    Edge cases:
        Keys and node.toml that are there are kept; the request is made from them
        again.

    Raises:
        VerificationError: The invitation is not signed by the keys that it names.
        ConfigError: The base or the data are not what the invitation or the options
            say, or node.toml or the keys are another federation's, name's or root's.
        RuleError: The invitation is of another coordinator than the one before, or
            another one than the node joined by; or the records are too few for noise.
        ResourceError: A file cannot be written.
    """
    check_invitation(invitation)
    terms = invitation.terms
    _check_base(terms, applicant.base, workload)
    path = folder / "node.toml"
    is_new = not path.exists()
    settings = (
        _draft(folder, terms, applicant, workload=workload)
        if is_new
        else NodeSettings.read(path)
    )
    for name, said, is_there in _named(folder, settings, terms, applicant):
        if said != is_there:
            _refuse_other(path, name, said, is_there)
    check_invited(folder, applicant.name, invitation)
    _describe(applicant, workload)
    place, manifest = settings.data_in(folder)
    data = Trainer(
        place,
        manifest=manifest,
        workload=workload,
        settings=settings,
        scratch=folder if folder.is_dir() else folder.parent,
    )
    check_records(applicant.name, rounded_down(data.count), terms.policy)
    durable_files.make_folders(folder)
    folder.chmod(0o700)
    if is_new:
        text = tomli_w.dumps(to_toml(settings.model_dump(), NodeSettings))
        durable_files.replace_file(path, text.encode())
    keys = make_keys(
        folder, applicant.name, root=applicant.root, passphrase=applicant.passphrase
    )
    return write_request(
        folder,
        applicant.name,
        invitation,
        keys,
        languages=data.manifest.languages,
        records=data.count,
    )


def _named(
    folder: Path, settings: NodeSettings, terms: InvitationTerms, applicant: Applicant
) -> Iterator[tuple[str, str, str]]:
    """Yield what node.toml may not say otherwise than the command does."""
    data, manifest = settings.data_in(folder)
    yield "data", str(applicant.data.resolve()), str(data.resolve())
    manifests = (applicant.manifest, manifest)
    is_there = ["" if each is None else str(each.resolve()) for each in manifests]
    yield "manifest", is_there[0], is_there[1]
    yield "base", applicant.base, settings.base
    yield "country", applicant.country or settings.country, settings.country
    yield "federation", terms.federation, settings.federation
    yield "name", applicant.name, settings.name


def _check_base(terms: InvitationTerms, base: str, workload: Workload) -> None:
    bases = terms.policy.bases
    here = workload.given.manifest.digest
    if bases != "any" and here not in {each.model for each in bases}:
        raise ConfigError(
            f"the base {base!r} is {here} here, the invitation names"
            f" {', '.join(each.model for each in bases)}; get the same files, and name"
            " their folder with --base",
            code="base-differs",
        )


def _describe(applicant: Applicant, workload: Workload) -> None:
    """Write the manifest of the data from the options, unless there is one.

    Raises:
        ConfigError: An option is missing, or the manifest says something else.
        ResourceError: The folder cannot be written.
    """
    reader = workload.reader
    path = applicant.manifest or applicant.data / reader.manifest_file
    if path.exists():
        known = read_manifest(applicant.data, reader, Faults(), place=path)
        _compare(applicant, known, path)
        return
    said = {
        "licence": applicant.licence,
        "language": applicant.language,
        "unit": "record",
    }
    wanted = {name: said[name] for name in said if name in reader.manifest.model_fields}
    missing = [f"--{name}" for name, value in wanted.items() if value is None]
    if missing:
        raise ConfigError(
            f"{path.parent} has no {path.name}; give {' and '.join(missing)}, and it"
            " is written there",
            code="data-manifest-missing",
        )
    validated(reader.manifest, wanted, what=f"an option for {path}")
    if not applicant.data.is_dir():
        raise ConfigError(
            f"{applicant.data} is no folder; name the one that holds the records",
            code="folder-missing",
        )
    try:
        durable_files.make_folders(path.parent)
        durable_files.replace_file(path, tomli_w.dumps(wanted).encode())
    except ResourceError as error:
        raise ResourceError(
            f"{error}; write it there yourself, it says how the data are licensed, or"
            " name another place with --manifest",
            code=error.code,
        ) from None


def _compare(applicant: Applicant, known: DataManifest | None, path: Path) -> None:
    """Require that the options say what the manifest does; faults of it come later."""
    for name in ("language", "licence"):
        said, is_there = getattr(applicant, name), getattr(known, name, None)
        if said is not None and is_there is not None and said != is_there:
            _refuse_other(path, name, said, is_there)


def _refuse_other(path: Path, name: str, said: str, is_there: str) -> NoReturn:
    raise ConfigError(
        f"{path} has {name} {is_there!r}, here it is {said!r}; nothing was"
        " changed: edit the file, or choose another folder",
        code="setting-differs",
    )


def _data(folder: Path, data: Path) -> str:
    """Name the records; relative where the folder has them, so that both can move.

    Or their manifest, likewise.
    """
    home, place = folder.resolve(), data.resolve()
    if home in place.parents:
        return str(place.relative_to(home))
    return str(data.absolute())


def _draft(
    folder: Path, terms: InvitationTerms, applicant: Applicant, *, workload: Workload
) -> NodeSettings:
    policy = terms.policy
    private = {"noise": "local", "epsilon": "1", "clip_norm": "1"}
    draft = {
        "name": applicant.name,
        "federation": terms.federation,
        "country": applicant.country or applicant.name,
        "workload": terms.workload,
        "base": applicant.base,
        "data": _data(folder, applicant.data),
        "manifest": applicant.manifest and _data(folder, applicant.manifest),
        "policy": {
            "min_cohort": policy.min_cohort,
            "max_colluding": policy.max_colluding,
            "noise": policy.noise,
            "epsilon_limit": policy.epsilon_cap,
            "fallback_epsilon_limit": policy.epsilon_cap,
            "target_delta": policy.max_delta,
            "max_steps": _STEPS,
            "bases": (workload.given.manifest.digest,),
            "parameterizations": ("full", "low_rank"),
            "max_checkpoint_age": policy.max_checkpoint_age,
            "spot_checks": 2,
        },
        "adapter": {
            "publish": False,
            "licence": (*policy.adapter_licences, "Apache-2.0")[0],
            "rank": 8,
            "targets": (),
            "steps": 1,
            "batch_size": 16,
            "learning_rate": "0.1",
            "options": workload.least_options(),
            **({"noise": "none"} if policy.noise == ("none",) else private),
        },
        "transport": {
            "superlink": terms.address,
            "root_certificates": "authority.pem",
            "auth_key": "keys/transport",
            "poll_seconds": "0.5",
        },
    }
    what = "node.toml cannot be drafted from the invitation and the options"
    return validated(NodeSettings, draft, what=what)
