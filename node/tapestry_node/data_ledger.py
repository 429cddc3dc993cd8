"""The ledger of a node's records, opened together with the version that may train."""

from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from tapestry.encoding import decode_decimal
from tapestry.errors import BudgetExhausted
from tapestry_governance.rules.federation_state import FederationState
from tapestry_node.budget.ledger import Ledger
from tapestry_node.data import data_versions
from tapestry_node.node_state import NodeState
from tapestry_node.settings import NodeSettings
from tapestry_node.training.trainer import Trainer


def open_ledger(
    state: NodeState,
    trainer: Trainer,
    *,
    settings: NodeSettings,
    log: FederationState | None,
    now: datetime,
) -> Ledger:
    """Take in what changed in the data, if a version is due, and open the ledger.

    Raises:
        ConfigError: Unit or terms differ from the ledger's, single records are new, or
            no unit is left to train on.
        VerificationError: State, register or log contradict each other.
    """
    known = None if log is None else log.data.get(settings.name)

    def paying(blocks: tuple[int, ...]) -> tuple[int, ...]:
        if state.reading().terms is None:
            return blocks
        policy = settings.policy
        ledger = Ledger.look(
            state,
            epsilon=decode_decimal(policy.epsilon_limit),
            fallback_epsilon=decode_decimal(policy.fallback_epsilon_limit),
        )
        rounds = [r.charge for r in ledger.rows() if r.charge.purpose == "round"]
        if not rounds:
            return blocks
        able = ledger.paying(rounds[-1], blocks)
        if log is None or not able:
            return able
        like = replace(rounds[-1], number=0, blocks=able)
        with suppress(BudgetExhausted):
            cap = decode_decimal(log.policy.epsilon_cap)
            delta = decode_decimal(policy.target_delta)
            return ledger.check_cap(like, target_delta=delta, cap=cap).blocks
        return ()

    if state.reading().terms is not None:  # before a version is written
        Ledger.view(state, trainer.promise(1))
    holdings = data_versions.take_in(
        trainer.source,
        state,
        now=now,
        logged=0 if known is None else known.version,
        paying=paying,
        check=trainer.promise,
    )
    trainer.hold(holdings)
    return Ledger.open(state, trainer.terms)


def view_ledger(state: NodeState, trainer: Trainer) -> Ledger:
    """Open the ledger to read it, with what may train now; nothing is noted.

    Raises:
        ConfigError: Unit or terms differ from the ledger's, or single records are new.
        VerificationError: The register of units was lost or changed.
    """
    trainer.hold(data_versions.look(trainer.source, state))
    return Ledger.view(state, trainer.terms)
