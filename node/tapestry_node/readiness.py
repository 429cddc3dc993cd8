"""Readiness of a node to join a round, as ``tapestry node check`` reports it.

Admission decides on each offer, and the ledger on each charge. This module asks
beforehand, of what lies on the node's own disk, which of their rules every offer would
break: of the log's last round where there is one, otherwise of the least that the
policy accepts.

Edge cases:
    No objection is no promise: an offer may still break a rule. Before the mirror of
    the log holds an entry, a key is compared with its own name and with
    ``trust-policy.txt``; after that, with the members of the log.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tapestry.encoding import decode_decimal
from tapestry.errors import (
    BudgetExhausted,
    ConfigError,
    PolicyError,
    ProtocolError,
    ResourceError,
    TapestryError,
)
from tapestry.keys import SigningKey, VerifyKey
from tapestry.privacy import accounting
from tapestry.protocol.round_manifest import (
    LocalNoise,
    NoNoise,
    PrivacyPlan,
    RoundManifest,
    SharedNoise,
    TrainingPlan,
)
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance.rules.federation_state import FederationState
from tapestry_node.adapters.adapter_check import (
    Place,
    check_adapter,
    plan_adapter,
    trial_title,
)
from tapestry_node.adapters.adapter_file import PUBLICATIONS, NamedAdapter
from tapestry_node.budget.ledger import Charge, Ledger
from tapestry_node.budget.log_accounts import check_cap
from tapestry_node.refusal import Objection
from tapestry_node.round.admission import check_policy
from tapestry_node.settings import NodePolicy, NodeSettings
from tapestry_node.training.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The facts about itself that a node knows before an offer."""

    folder: Path
    settings: NodeSettings
    keys: Mapping[str, VerifyKey]  # by purpose; those that can be read
    trust: TrustPolicy | None  # None: it cannot be read
    state: FederationState | None  # None: the mirror of the log is empty
    given_base: str  # its digest
    ledger: Ledger
    trainer: Trainer
    load: Callable[[], object]  # puts the base that is held here into the model

    @property
    def last(self) -> RoundManifest | None:
        """The log's last round, whatever became of it."""
        return None if self.state is None else self.state.newest


def objections(standing: Standing) -> list[Objection]:
    """List the rules that every offer would break; empty if none is known.

    Guarantees:
        No line depends on a record, except that a line of public data repeats one.
    """
    rules = (_training, _adapter, _budget)
    found = [each for rule in rules for each in rule(standing)]
    found += base_objections(standing.settings, given_base=standing.given_base)
    if standing.state is None:  # otherwise ``check_keys`` compared them with the log
        keys = standing.keys
        found += key_objections(standing.settings, keys=keys, trust=standing.trust)
    return list(dict.fromkeys(found))


def _training(standing: Standing) -> Iterator[Objection]:
    """Check the last round, or the least that there could be, as admission would."""
    policy, last = standing.settings.policy, standing.last
    if last is not None:

        def ask_again() -> None:
            check_policy(last, policy)
            standing.trainer.trainable.check_round(last, load=standing.load)

        if (fault := _fault(ask_again)) is not None:
            place = f"a round like {last.round_number}, the log's last: "
            yield Objection.of(fault, place=place)
        return
    for name, value in (
        ("noise", policy.noise),
        ("parameterizations", policy.parameterizations),
    ):
        if not value:
            said = f"policy.{name} is empty; name what a round may have"
            yield Objection.of(ConfigError(said, code="setting-invalid"))
            return
    faults = [_trial(standing, each) for each in policy.parameterizations]
    if all(faults):
        yield from map(Objection.of, filter(None, faults))


def _trial(standing: Standing, parameterization: str) -> TapestryError | None:
    """Try the least that could be offered; return the error that refuses it."""
    workload = standing.trainer.workload

    def ask() -> None:
        low_rank = parameterization == "low_rank"
        plan = TrainingPlan.model_validate(
            {
                "workload": workload.name,
                "parameterization": parameterization,
                "rank": int(low_rank),
                "targets": workload.choose_targets() if low_rank else (),
                "factor_seed": "0" * 64,
                "steps": 1,
                "batch_size": 1,
                "optimizer": "sgd",
                "learning_rate": "0.001",
                "weight_decay": "0",
                "options": workload.least_options(),
            }
        )
        noise = _least_noise(standing.settings.policy)
        standing.trainer.trainable.check(plan, noise, load=standing.load)

    return _fault(ask)


def _least_noise(policy: NodePolicy) -> PrivacyPlan:
    """Return the noise that asks least of a model, of those in the policy."""
    if "none" in policy.noise:
        return NoNoise(noise="none")
    least = {
        "unit": "record",
        "adjacency": "add-remove",
        "clip_norm": "1",
        "noise_multiplier": "1",
        "target_delta": policy.target_delta,
    }
    if policy.noise[0] == "local":
        return LocalNoise.model_validate({"noise": "local", **least})
    return SharedNoise.model_validate({"noise": "shared", "min_share": "0", **least})


def _adapter(standing: Standing) -> Iterator[Objection]:
    """Check the node's adapter, if it is to be published."""
    settings, trainer = standing.settings, standing.trainer
    if not settings.adapter.publish:
        return
    limit = decode_decimal(settings.policy.epsilon_limit)
    adapter = settings.adapter
    if adapter.noise != "none" and decode_decimal(adapter.epsilon) > limit:
        if not list(_budget(standing)):  # which says enough
            said = (
                f"the adapter: adapter.epsilon {adapter.epsilon} is above"
                f" policy.epsilon_limit {limit:g}; lower it, or set adapter.publish ="
                " false"
            )
            yield Objection.of(ConfigError(said, code="epsilon-above-limit"))
        return

    def ask() -> None:
        title = trial_title(settings.name, base_digest=standing.given_base)
        place = Place(
            folder=standing.folder,
            adapter=NamedAdapter.own(settings),
            settings=settings,
            policy=standing.state.policy if standing.state else None,
            data=trainer.manifest,
        )
        plan = plan_adapter(
            title,
            adapter,
            target_delta=settings.policy.target_delta,
            trainer=trainer,
        )
        check_adapter(plan, place, trainer=trainer, load=standing.load)
        if plan.steps is not None and not _is_paid(standing):
            _check_budget(standing, plan.steps)

    fault = _fault(ask)
    if fault is not None:
        remedy = " (or set adapter.publish = false)"
        yield Objection.of(fault, place="the adapter: ", remedy=remedy)


def _is_paid(standing: Standing) -> bool:
    """Return true if an adapter is in the log, or is trained and will go there."""
    name = standing.settings.name
    if standing.state is not None and name in standing.state.adapters:
        return True
    made = (standing.folder / PUBLICATIONS).glob(f"{name}-[1-9]*")
    return any(path.is_dir() or path.suffix == ".update" for path in made)


def _check_budget(standing: Standing, steps: accounting.Steps) -> None:
    """Check the price of an adapter with the ledger and the federation's cap.

    Raises:
        BudgetExhausted: It does not fit, and ``_budget`` has no objection already.
    """
    ledger, name = standing.ledger, standing.settings.name
    rows = [row.charge for row in ledger.rows() if row.charge.purpose == "adapter"]
    charge = Charge(
        purpose="adapter",
        run=name,
        number=1 + max((each.number for each in rows if each.run == name), default=0),
        steps=steps,
        own_multiplier=steps.noise_multiplier,
        blocks=standing.trainer.holdings.version.trains,
    )
    if standing.state is not None:
        check_cap(
            charge,
            ledger=ledger,
            state=standing.state,
            name=standing.settings.name,
            target_delta=standing.settings.policy.target_delta,
        )
    if not list(_budget(standing)):
        ledger.fit(charge)


def _fault(ask: Callable[[], object]) -> TapestryError | None:
    """Return the error that a check ends with, if it does."""
    try:
        ask()
    except (ConfigError, PolicyError, ProtocolError, ResourceError) as error:
        return error
    return None


def _budget(standing: Standing) -> Iterator[Objection]:
    balance = standing.ledger.balance()
    least = min(balance.blocks, key=lambda each: each.spent)
    for name, value, limit in (
        ("epsilon", least.spent, balance.limit),
        ("fallback epsilon", least.fallback, balance.fallback_limit),
    ):
        if value >= limit:
            key = f"policy.{name.replace(' ', '_')}_limit"
            said = f"{name} {value:.4f} is spent, {key} is {limit:g}; no round fits"
            yield Objection.of(BudgetExhausted(said, code="budget-exhausted"))
            return
    last, left = standing.last, None
    with suppress(ConfigError, ProtocolError):  # ``_training`` objects
        if last is not None and (charge := standing.trainer.charge(last)):
            left = standing.ledger.rounds_left(charge)
    if left == 0:
        said = (
            f"epsilon {balance.spent:.4f} is spent, policy.epsilon_limit is"
            f" {balance.limit:g}; no further round like the log's last one fits"
        )
        yield Objection.of(BudgetExhausted(said, code="budget-exhausted"))


def base_objections(settings: NodeSettings, *, given_base: str) -> Iterator[Objection]:
    """Compare the digest of the base with those that the policy names."""
    if given_base not in settings.policy.bases:
        said = (
            f"base {settings.base!r} is {given_base}, which is not in"
            " policy.bases; name it there, or give the base that was agreed on"
        )
        yield Objection.of(PolicyError(said, code="base-not-allowed"))


def key_objections(
    settings: NodeSettings,
    *,
    keys: Mapping[str, VerifyKey],
    trust: TrustPolicy | None,
) -> Iterator[Objection]:
    """Compare keys with the node's name and its trust policy, where there is no log."""
    name = settings.name
    for purpose, key in keys.items():
        owner = key.name.partition("/")[0]
        if owner != name:
            yield Objection.of(_of_another(purpose, name=name, owner=owner))
            return
    witness = keys.get("witness")
    if witness and trust and witness not in {w.key for w in trust.witnesses}:
        said = "keys/witness.key is no witness of trust-policy.txt; name it there"
        yield Objection.of(ConfigError(said, code="witness-not-trusted"))


def check_keys(
    state: FederationState, *, keys: Mapping[str, SigningKey], name: str
) -> None:
    """Compare a node's keys with the members of the log.

    Edge cases:
        One that left may still say what it owes, with whatever keys it had.

    Raises:
        ConfigError: A key is not that of the member whose name the node has.
    """
    if name in state.left:
        return
    members = state.members
    for purpose, key in keys.items():
        public = str(key.verify_key)
        held = [m.name for m in members.values() if getattr(m, purpose) == public]
        former = state.former_keys.get((name, purpose), ())
        if name in members and key.verify_key in {each.key for each in former}:
            raise ConfigError(
                f"keys/{purpose}.key is a former key of {name!r}; put the newest copy"
                f" back, or make another: tapestry node rotate FOLDER {purpose}",
                code="own-key-former",
            )
        if held != [name]:
            raise _of_another(purpose, name=name, owner=held[0] if held else None)


def _of_another(purpose: str, *, name: str, owner: str | None) -> ConfigError:
    whose = "of no member" if owner is None else f"that of {owner!r}"
    return ConfigError(
        f"name is {name!r} in node.toml, but keys/{purpose}.key is {whose}; name the"
        " member whose keys these are",
        code="key-of-another-node",
    )
