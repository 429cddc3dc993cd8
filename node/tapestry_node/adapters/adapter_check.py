"""Checks of an institution's adapter before it is paid for.

They cover its training, its public data, the folder that it would be written to, and
each rule of the log or the registry that settings and policy alone may break.
"""

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, ResourceError
from tapestry.inputs.faults import InputFault
from tapestry.inputs.plain_file import reading
from tapestry.protocol.messages import Reason
from tapestry.schema import first_fault
from tapestry.storage import durable_files
from tapestry.workloads.adapter_format import BaseName
from tapestry.workloads.data_manifest import DataManifest, Record
from tapestry_governance.events.federation_events import Policy
from tapestry_governance.events.model_events import AdapterPublished
from tapestry_node.adapters import adapter_trainer
from tapestry_node.adapters.adapter_file import PUBLICATIONS, NamedAdapter
from tapestry_node.adapters.adapter_trainer import AdapterPlan, Title
from tapestry_node.refusal import Refused
from tapestry_node.settings import AdapterTraining, NodeSettings
from tapestry_node.training.trainer import Trainer

_ANY = "sha256:" + "0" * 64
_STEPS = (".update", durable_files.SUFFIX)  # of one that is under way


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The folder, settings and policies under which an adapter would appear."""

    folder: Path  # of the node
    adapter: NamedAdapter
    settings: NodeSettings
    policy: Policy | None  # of the federation; None where the log is not known yet
    data: DataManifest


def plan_adapter(
    title: Title, adapter: AdapterTraining, *, target_delta: str, trainer: Trainer
) -> AdapterPlan:
    """Plan an adapter as the settings say; targets that they leave open are chosen.

    Raises:
        ConfigError: A setting is out of range, or more is asked than the records give.
    """
    if not adapter.targets:
        chosen = trainer.workload.choose_targets()
        adapter = adapter.model_copy(update={"targets": chosen})
    return adapter_trainer.plan(
        title,
        adapter,
        workload=trainer.workload.name,
        records=trainer.count,
        target_delta=target_delta,
    )


def trial_title(name: str, *, base_digest: str) -> Title:
    """Name an adapter that is planned and never trained."""
    base = BaseName(name="base-1", digest=base_digest)
    return Title(name=name, version=1, base=base)


def check_adapter(
    plan: AdapterPlan, place: Place, *, trainer: Trainer, load: Callable[[], object]
) -> list[Record]:
    """Refuse an adapter that could not be trained, or not be published then.

    Returns:
        The public data that it will be measured on.

    Edge cases:
        The budget that is left is not checked here; ``Ledger.reserve`` decides.

    Raises:
        Refused: The node's own policy, the model or the plan does not allow it.
        ConfigError: The federation's policy, the form of the log or a file in the
            node's folder does not allow it.
        ResourceError: The publication could not be written.
    """
    settings = place.settings
    adapters = adapter_trainer.adapters_of(trainer.workload)
    if plan.steps is None and "none" not in settings.policy.noise:
        raise Refused(
            Reason.LOCAL_POLICY,
            "adapter.noise is 'none', and policy.noise does not name 'none'",
            code="noise-not-allowed",
        )
    _check_entry(place)
    if place.policy is not None:
        _check_federation(place, place.policy)
    _check_room(place.folder, name=place.adapter.name)
    trainer.trainable.check(plan.training, plan.privacy, load=load)
    return adapters.read_public(place.folder, repeated=trainer.repeated)


def language_of(adapter: NamedAdapter, data: DataManifest) -> str:
    """Return the language that the log names for an adapter.

    Raises:
        ConfigError: Neither the adapter's settings nor the data name a language, which
            an entry of the log needs.
    """
    if adapter.file.language is not None:
        return adapter.file.language
    if not data.languages:
        raise ConfigError(
            "the data name no language, and an adapter's entry needs one; name it in"
            " the manifest of the data, or in the settings of the adapter",
            code="language-missing",
        )
    return data.languages[0]


def _check_room(folder: Path, *, name: str) -> None:
    """Refuse a folder in which a publication could not be written.

    Raises:
        ConfigError: Something else lies in the place of publications.
        ResourceError: The folder cannot be written.
    """
    root = folder / PUBLICATIONS
    with reading(root):
        if not os.path.lexists(root):
            root = folder
        if not root.is_dir():
            raise InputFault(root, "is no folder; move it away", code="not-a-folder")
        if not os.access(root, os.W_OK | os.X_OK):
            raise ResourceError(
                f"cannot write {root}; change its mode or its owner",
                code="file-unwritable",
            )
        steps = rf"(\.[0-9a-f]+\.update)?({re.escape(durable_files.SUFFIX)})?"
        own = re.compile(rf"{re.escape(name)}-[1-9][0-9]*{steps}")
        for path in root.iterdir() if root != folder else ():
            if not own.fullmatch(path.name):
                continue
            mode = path.lstat().st_mode
            step = path.suffix in _STEPS
            if not (stat.S_ISREG(mode) if step else stat.S_ISDIR(mode)):
                kind = "file" if step else "folder"
                raise InputFault(
                    path, f"is no plain {kind}; move it away", code="file-not-plain"
                )


def _check_federation(place: Place, policy: Policy) -> None:
    settings, licence = place.settings, place.adapter.file.adapter.licence
    if licence not in policy.adapter_licences:
        raise ConfigError(
            f"adapter.licence {licence!r} is not one that the federation allows:"
            f" {', '.join(policy.adapter_licences) or 'none'}",
            code="licence-not-allowed",
        )
    if decode_decimal(settings.policy.target_delta) > decode_decimal(policy.max_delta):
        raise ConfigError(
            f"policy.target_delta {settings.policy.target_delta} is above the"
            f" federation's {policy.max_delta}; lower it",
            code="delta-too-large",
        )


def _check_entry(place: Place) -> None:
    """Check that the log has a form for what would be published."""
    settings = place.settings
    try:
        AdapterPublished(
            name=place.adapter.name,
            version=1,
            country=settings.country,
            language=language_of(place.adapter, place.data),
            licence=place.adapter.file.adapter.licence,
            base="base-1",
            base_digest=_ANY,
            manifest_digest=_ANY,
            epsilon=None,
            target_delta=None,
            evaluation={},
        )
    except ValidationError as error:
        raise ConfigError(
            f"an adapter's {first_fault(error)}", code="setting-invalid"
        ) from None
