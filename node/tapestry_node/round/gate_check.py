"""The acceptance gate as a member sees it: the same data, its own scores.

The manifest of a round names the digests of the held-out data and of the evaluation.
The coordinator shows the data once; they are public. After each round the node scores
the base before and after the step and compares the outcome with the log's. A
coordinator that rejects a good step, to repeat the round with other nodes and look at
the difference, is found by all members; so is one that takes a bad step.

A dispute is on the disk before it is reported, and posted to the log once. The node
takes part in that run no more and cosigns no release that rests on the round.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapestry.encoding import decode_decimal, digest, encode_decimal
from tapestry.errors import ConfigError, ProtocolError, VerificationError
from tapestry.evaluation.acceptance import Scored, check_outcome
from tapestry.evaluation.held_out import (
    check_held_out,
    digest_of,
    read_held_out,
    scores_of,
)
from tapestry.evaluation.scorer import KnownScores, Scorer, gate_inputs
from tapestry.model.replica import Measured, Replica
from tapestry.protocol.messages import MAX_HELD_OUT_BYTES, Reason
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.storage import durable_files
from tapestry.workloads.base import Workload
from tapestry_governance.events.round_events import RoundClosed
from tapestry_node.refusal import Refused

FOLDER = "held-out"
_REMEMBERED = 8  # bases whose scores are kept in memory
_FILE = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}\.[a-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step that the node computed: the base before and after, and its measure."""

    before: Replica
    after: Replica  # the same if the sum allows no step
    measured: Measured


class GateCheck:
    """The held-out data of a run, and a node's own scores on them."""

    def __init__(
        self,
        workload: Workload,
        *,
        folder: Path,
        dispute: Callable[[RoundClosed], None],
    ) -> None:
        """Take a workload, the node's folder and what notes a dispute for good."""
        self._workload, self._dispute = workload, dispute
        self._folder = folder / FOLDER
        self.known: KnownScores = {}  # may be shared by parties of one process
        self._scorable: str | None = None  # the data that the model can be scored on

    @property
    def held(self) -> str | None:
        """The digest of the data that lie here; None without any."""
        files = sorted(self._folder.glob("*")) if self._folder.is_dir() else []
        if not files:
            return None
        return digest_of({path.stem: digest(path.read_bytes()) for path in files})

    def keep(
        self, manifest: RoundManifest, names: Sequence[str], files: Sequence[bytes]
    ) -> None:
        """Keep the held-out data that a round names.

        Raises:
            ProtocolError: The files are other ones, too large, or not one for each
                name, which is an institution's with the workload's suffix.
        """
        suffix = self._workload.evaluation(manifest.training.options).suffix
        want = manifest.gate.held_out
        if len(names) != len(files) or sum(map(len, files)) > MAX_HELD_OUT_BYTES:
            raise ProtocolError(
                f"{len(names)} names, {len(files)} files of {sum(map(len, files))}"
                f" bytes; want one file each, at most {MAX_HELD_OUT_BYTES} bytes",
                code="held-out-invalid",
            )
        stems = [Path(name).stem for name in names]
        content = dict(zip(stems, map(digest, files), strict=True))
        strange = [
            n for n in names if not _FILE.fullmatch(n) or Path(n).suffix != suffix
        ]
        if strange or len(content) != len(names) or digest_of(content) != want:
            raise ProtocolError(
                f"held-out data {digest_of(content)}, the round names {want}",
                code="held-out-differs",
            )
        with durable_files.replace_folder(self._folder) as draft:
            draft.mkdir()
            for name, data in zip(names, files, strict=True):
                (draft / name).write_bytes(data)

    def require(self, manifest: RoundManifest) -> None:
        """Require the data and the evaluation of a round before it is joined.

        Guarantees:
            What is required here can be scored when the round has ended: no data
            that a coordinator shows keep a member from the check of its outcome.

        Raises:
            Refused: The data are not here, are scored in another way than here, or
                cannot be scored with this model.
        """
        scorer = self._scorer(manifest)
        if self._scorable == scorer.held_out.digest:
            return
        try:
            check_held_out(self._folder, scorer.evaluation)
        except ConfigError as error:
            raise Refused(
                Reason.PLAN_UNSUPPORTED,
                f"the held-out data of round {manifest.round_number} cannot be scored"
                f" with this model: {error}",
                code="held-out-not-scorable",
            ) from None
        self._scorable = scorer.held_out.digest

    def check(self, manifest: RoundManifest, closed: RoundClosed, step: Step) -> None:
        """Compare the outcome of a round with the node's own; dispute another one.

        Raises:
            Refused: The data of the gate are not here yet.
            VerificationError: The log's outcome is not the gate's; the dispute is on
                the disk.
        """
        scorer = self._scorer(manifest)
        try:
            _compare(scorer, manifest, closed, step)
        except VerificationError:
            self._dispute(closed)
            raise
        finally:
            while len(self.known) > _REMEMBERED:
                del self.known[next(iter(self.known))]  # the oldest

    def _scorer(self, manifest: RoundManifest) -> Scorer:
        """Open the data of a round.

        Raises:
            Refused: They are not here, or are scored in another way than here.
        """
        evaluation = self._workload.evaluation(manifest.training.options)
        try:
            held_out = read_held_out(self._folder, evaluation)
        except ConfigError:
            held_out = None
        if held_out is None or held_out.digest != manifest.gate.held_out:
            raise Refused(
                Reason.MAINTENANCE,
                f"the held-out data {manifest.gate.held_out} of round"
                f" {manifest.round_number} are not in {self._folder}; the coordinator"
                " has to show them",
                code="held-out-missing",
            )
        inputs = gate_inputs(evaluation, held_out)
        if inputs != manifest.gate:
            raise Refused(
                Reason.PLAN_UNSUPPORTED,
                f"the gate scores by {manifest.gate.evaluation}, here by"
                f" {inputs.evaluation}",
                code="evaluation-differs",
            )
        return Scorer(
            workload=self._workload,
            evaluation=evaluation,
            held_out=held_out,
            known=self.known,
        )


def _compare(
    scorer: Scorer, manifest: RoundManifest, closed: RoundClosed, step: Step
) -> None:
    """Compare norm and range exactly, and scores within the band."""
    fault, norm = step.measured.fault, encode_decimal(step.measured.norm)
    if closed.metrics.get("mean_norm") != norm:
        raise VerificationError(
            f"the log has the norm {closed.metrics.get('mean_norm')}, the sum of round"
            f" {closed.round_number} has {norm}",
            code="gate-norm-differs",
        )
    if fault is None:
        check_outcome(
            Scored(
                before=scores_of(scorer.scores(step.before)),
                after=scores_of(scorer.scores(step.after)),
            ),
            plan=manifest.outer,
            reason=closed.reason,
            claimed=_claimed(closed.metrics, scorer.evaluation.name),
        )
    elif closed.reason != fault:
        raise VerificationError(
            f"round {closed.round_number} is {closed.outcome} with reason"
            f" {closed.reason}, its sum shows {fault}",
            code="gate-outcome-differs",
        )


def _claimed(metrics: Mapping[str, str], name: str) -> dict[str, float]:
    """Read the scores by institution out of the metrics of a closed round."""
    prefix = f"{name}/"
    return {
        key.removeprefix(prefix): decode_decimal(value)
        for key, value in metrics.items()
        if key.startswith(prefix)
    }
