"""Whether an institution's adapter could be published: asked before it is paid for.

Its training, and everything else that the log or the registry would refuse afterwards
for reasons that lie in settings and policy alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from tapestry.config import NodeSettings, number
from tapestry.errors import ConfigError
from tapestry.protocol import Reason
from tapestry.workloads.adapters import BaseName
from tapestry_governance.events import AdapterPublished, Policy
from tapestry_node import adapting
from tapestry_node.adapting import AdapterPlan, Title
from tapestry_node.guard import Refused
from tapestry_node.trainable import Trainable
from tapestry_node.trainer import Trainer

_ANY = "sha256:" + "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an adapter would appear."""

    settings: NodeSettings
    policy: Policy | None  # of the federation; None where the log is not known yet
    language: str


def plan_adapter(
    title: Title, settings: NodeSettings, *, trainer: Trainer
) -> AdapterPlan:
    """Plan an adapter as the settings say; targets that they leave open are chosen.

    Raises:
        ConfigError: A setting is out of range, or more is asked than the records give.
    """
    adapter = settings.adapter
    if not adapter.targets:
        chosen = trainer.workload.choose_targets()
        adapter = adapter.model_copy(update={"targets": chosen})
    return adapting.plan(
        title,
        adapter,
        records=trainer.count,
        target_delta=settings.policy.target_delta,
    )


def trial_title(name: str, *, base_digest: str) -> Title:
    """Name an adapter that is planned and never trained."""
    base = BaseName(name="base-1", digest=base_digest)
    return Title(name=name, version=1, base=base)


def check_adapter(
    plan: AdapterPlan, place: Place, *, trainable: Trainable, load: Callable[[], object]
) -> None:
    """Refuse an adapter that could not be trained, or not be published then.

    Edge cases:
        What the ledger has left is not asked here; ``Ledger.reserve`` decides.

    Raises:
        Refused: The node's own policy, the model or the plan does not allow it.
        ConfigError: The federation or the form of the log does not allow it.
    """
    settings = place.settings
    if plan.steps is None and "none" not in settings.policy.noise:
        raise Refused(
            Reason.LOCAL_POLICY,
            "adapter.epsilon is 0: no noise, and policy.noise does not name 'none'",
        )
    _check_entry(plan, place)
    if place.policy is not None:
        _check_federation(settings, place.policy)
    trainable.check(plan.training, plan.privacy, load=load)


def _check_federation(settings: NodeSettings, policy: Policy) -> None:
    licence = settings.adapter.licence
    if licence not in policy.adapter_licences:
        raise ConfigError(
            f"adapter.licence {licence!r} is not one that the federation allows:"
            f" {', '.join(policy.adapter_licences) or 'none'}"
        )
    if number(settings.policy.target_delta) > number(policy.max_delta):
        raise ConfigError(
            f"policy.target_delta {settings.policy.target_delta} is above the"
            f" federation's {policy.max_delta}; lower it"
        )


def _check_entry(plan: AdapterPlan, place: Place) -> None:
    """See that the log has a form for what would be published."""
    settings = place.settings
    try:
        AdapterPublished(
            name=settings.name,
            version=1,
            country=settings.country,
            language=place.language,
            licence=settings.adapter.licence,
            base="base-1",
            base_digest=_ANY,
            manifest_digest=_ANY,
            epsilon=None,
            target_delta=plan.privacy.target_delta,
            evaluation={},
        )
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"an adapter's {where}: {first['msg']}") from None
