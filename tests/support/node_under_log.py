"""A node with a long log that it took no part in, and a round that is open to it."""

import secrets
import shutil
import time
from pathlib import Path

import torch

from tapestry.evaluation.held_out import read_held_out
from tapestry.evaluation.scorer import gate_inputs
from tapestry.keys import SigningKey
from tapestry.model.replica import Replica
from tapestry.protocol.messages import (
    AdvertiseKeysRequest,
    CosignRequest,
    Kind,
    Message,
    encode_message,
)
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.stages import RoundStage
from tapestry.workloads.language.base_models import build_tiny
from tapestry_coordinator.round_plan import StartingPoint, plan_round
from tapestry_coordinator.settings import RunSettings
from tapestry_governance.events.round_events import RoundAborted, RoundOpened
from tapestry_governance.rules.replay import apply_all
from tapestry_node.data.data_version import commitment
from tests.support.federation import DECLARED, NAMES, Base, Federation
from tests.support.long_logs import LongLog, Parties


def tiny_base() -> Base:
    """Build the given base."""
    torch.set_num_threads(1)
    workload = build_tiny()
    return Base(workload=workload, replica=Replica.start(workload.given))


class NodeUnderLog:
    """A node that is asked to cosign and to join, by a coordinator of a test."""

    def __init__(self, place: Path, base: Base, *, size: int) -> None:
        """Found a federation, and let a node mirror about ``size`` entries.

        The other members ran rounds and released; of these the node knows that a
        quorum has cosigned them.
        """
        self._federation = federation = Federation(
            place, base, policy={"max_attempt": 1000, "min_cohort": 3}
        )
        self._base = base
        settings = RunSettings.read(federation.run_folder / "run.toml")
        self._settings = settings
        founding = federation.entries()
        founded = apply_all(None, founding)
        assert founded is not None
        self._founded = founded
        self._number = 0
        evaluation = base.workload.evaluation(settings.training.options)
        public = federation.run_folder / "held-out"
        self._gate = gate_inputs(evaluation, read_held_out(public, evaluation))
        shutil.copytree(public, federation.nodes[NAMES[0]].directory / "held-out")
        template = self._plan(1)
        # So much noise that a long log's rounds cost what its accounts say.
        privacy = template.privacy.model_copy(update={"noise_multiplier": "100"})
        template = template.model_copy(update={"privacy": privacy})
        self.log = log = LongLog(founding, _parties(federation), template=template)
        self.node = federation.nodes[NAMES[0]]
        salt = self.node.store.secret("dataset-salt", secrets.token_bytes(32))
        version = self.node.trainer.holdings.version
        dataset = commitment(version.dataset, salt)
        log.declare(DECLARED, datasets={NAMES[0]: dataset})
        log.grow(size, cohort=NAMES[1:])
        self._held = 0
        for request in (self._update(), self._offer()):
            self.node.handle(request)  # refused: no round is open yet
        self._held = len(log.entries)

    def serve(self) -> tuple[float, float]:
        """Open a round, and abort it when the node has joined.

        Returns:
            How many seconds the cosignature and the offer took.
        """
        self._number += 1
        manifest = self._plan(self._number)
        self.log.add(RoundOpened(manifest=manifest))
        cosign = self._timed(self._update(), Kind.COSIGNATURE)
        self._held = len(self.log.entries)
        offer = self._timed(self._offer(), Kind.ADVERTISED_KEYS)
        aborted = RoundAborted(
            run_id=manifest.run_id,
            round_number=manifest.round_number,
            attempt=manifest.attempt,
            stage=RoundStage.SHARE_KEYS,
            reason="quorum_missing",
            survivors=(),
        )
        self.log.add(aborted)
        return cosign, offer

    def restart(self) -> None:
        """End the node's process and start it again from its folder."""
        self.node = self._federation.restart(NAMES[0])

    def close(self) -> None:
        """Close the node."""
        self._federation.close()

    def _plan(self, number: int) -> RoundManifest:
        return plan_round(
            self._settings,
            self._founded,
            present=list(NAMES),
            round_number=number,
            start=StartingPoint(
                model_digest=self._base.replica.digest,
                workload=self._base.workload,
                gate=self._gate,
            ),
        )

    def _timed(self, request: Message, wanted: Kind) -> float:
        start = time.perf_counter()
        reply = self.node.handle(request)
        seconds = time.perf_counter() - start
        if reply.kind is not wanted:
            raise RuntimeError(f"the node answers {reply.kind}: {reply.body!r}")
        return seconds

    def _update(self) -> Message:
        body = CosignRequest(
            start=self._held, checkpoint=self.log.note().decode(), cosigned=()
        )
        return encode_message(body, self.log.entries[self._held :])

    def _offer(self) -> Message:
        return encode_message(AdvertiseKeysRequest(checkpoint=self.log.note().decode()))


def _parties(federation: Federation) -> Parties:
    keys = federation.coordinator / "keys"
    return Parties(
        federation="simulated",
        log=SigningKey.load(keys / "log.key"),
        coordinator=SigningKey.load(keys / "author.key"),
        members={
            folder.name: {
                path.stem: SigningKey.load(path)
                for path in sorted((folder / "keys").glob("*.key"))
            }
            for folder in sorted((federation.directory / "nodes").iterdir())
        },
    )
