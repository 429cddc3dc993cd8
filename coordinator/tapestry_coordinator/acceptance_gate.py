"""The gate: public held-out text and the length of the sum decide on a step.

``held-out/<country>.jsonl`` is text that the institutions published for this. A
round whose mean update is too long, or after which the mean code length over the
countries grows by more than the plan allows, changes nothing and is logged so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tapestry.encoding import canonical_json, decode_json, encode_fraction
from tapestry.errors import ConfigError
from tapestry.inputs.faults import Faults, InputFault
from tapestry.inputs.folder_walker import walk
from tapestry.inputs.text_reader import read_rows
from tapestry.model.replica import Replica, measure
from tapestry.protocol.wire_messages import RoundManifest
from tapestry.secagg.server import Unmasked
from tapestry.settings import number
from tapestry.workloads.base import Evaluation, Workload
from tapestry.workloads.language.dialogue import Text
from tapestry.workloads.language.text_rows import public_texts, text_of_row
from tapestry_coordinator.journal import Journal

_PRINTED = 1e17  # a plain decimal has at most 18 digits before its point


def read_held_out(folder: Path) -> dict[str, list[Text]]:
    """Read the public text of each country, by name.

    Raises:
        ConfigError: No file, something that is not a ``.jsonl`` file, or a line that
            is not ``{"text": "..."}``; all faults are in one message, up to ten.
    """
    faults = Faults()
    texts: dict[str, list[Text]] = {}
    for path in walk(folder, faults):
        if path.suffix != ".jsonl" or path.parent != folder:
            faults.add(
                InputFault(path, "is no <country>.jsonl; move it out of this folder")
            )
        else:
            texts[path.stem] = public_texts(path, faults)
    faults.check(folder)
    if not texts:
        raise ConfigError(f"{folder} holds no *.jsonl; the gate needs held-out text")
    return texts


def check_held_out(folder: Path, workload: Workload) -> None:
    """Require that the model can read each held-out text, before a round is opened.

    Raises:
        ConfigError: The chat template refuses a dialogue, a question is longer than
            the model takes, or the tokenizer loses something; up to ten lines by file.
    """
    faults = Faults()
    for path in walk(folder, faults):
        for line, row in read_rows(path, faults):
            if (rule := workload.find_fault(text_of_row(row))) is not None:
                faults.add(InputFault(path, rule, line=line))
    faults.check(folder)


def evaluate_all(
    workload: Workload, texts: Mapping[str, Sequence[Text]], *, sequence_length: int
) -> dict[str, Evaluation]:
    """Evaluate the loaded parameters on each country's text."""
    return {
        name: workload.evaluate(rows, sequence_length=sequence_length)
        for name, rows in texts.items()
    }


def bits_per_byte(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    """Reduce each country's evaluation to its score."""
    return {name: each.bits_per_byte for name, each in evaluations.items()}


def logged_evaluations(
    journal: Journal, model_digest: str
) -> dict[str, Evaluation] | None:
    """Read what a gate found out about a base; None if it never tried it."""
    known = journal.facts().get(_fact(model_digest))
    if known is None:
        return None
    return {
        name: Evaluation(
            bits_by_text=tuple(map(number, each["bits"])),
            bytes_by_text=tuple(each["bytes"]),
        )
        for name, each in decode_json(known.encode()).items()
    }


def _fact(model_digest: str) -> str:
    return f"evaluations {model_digest}"


def mean_of(scores: Mapping[str, float]) -> float:
    """Average over countries, each counting the same."""
    return sum(scores.values()) / len(scores)


def finite(scores: Mapping[str, float]) -> dict[str, float]:
    """Keep the scores that have a plain decimal spelling, for log and journal."""
    return {name: value for name, value in scores.items() if abs(value) < _PRINTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """What the gate says of a step; ``reason`` is None when it is taken.

    Guarantees:
        Norm and scores are finite; a country whose score is not has none.
    """

    replica: Replica
    reason: str | None
    norm: float
    scores: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceGate:
    """Tries steps before they are taken."""

    workload: Workload
    texts: Mapping[str, Sequence[Text]]
    journal: Journal
    sequence_length: int

    def judge(
        self, manifest: RoundManifest, total: Unmasked, *, replica: Replica
    ) -> GateVerdict:
        """Try the step that a sum gives."""
        before = self.scores(replica)
        rejected = partial(GateVerdict, replica=replica, scores=finite(before))
        places = tuple(
            total.cohort.places[name] for name in total.transcript.survivors.names
        )
        found = measure(total.values, places=places, manifest=manifest)
        norm = found.norm
        if found.fault is not None:
            return rejected(reason=found.fault, norm=norm)
        candidate = replica.after(
            total.values,
            places=places,
            manifest=manifest,
            layout=self.workload.layout(manifest.training),
        )
        after = self.scores(candidate)
        limit = mean_of(before) + number(manifest.outer.max_loss_increase)
        scores = finite(after)
        if not mean_of(after) <= limit:
            return rejected(reason="held_out_worse", norm=norm, scores=scores)
        return GateVerdict(replica=candidate, reason=None, norm=norm, scores=scores)

    def check(self, replica: Replica, *, held_out: Path) -> None:
        """Ask before the first round what would reject every round.

        Args:
            replica: The base that it starts from; its scores are kept for that round.
            held_out: The folder that ``texts`` was read from.

        Raises:
            ConfigError: The model cannot read a text, or gives no finite score on the
                texts of a country.
        """
        check_held_out(held_out, self.workload)
        scores = self.scores(replica)
        if lacking := sorted(scores.keys() - finite(scores).keys()):
            place = f"{held_out.name}/{lacking[0]}.jsonl"
            raise ConfigError(
                f"the base gives no finite bits per byte on {place}; its weights are"
                " damaged, or too large for float32"
            )

    def scores(self, replica: Replica) -> dict[str, float]:
        """Bits per byte of each country's text; computed once for each base.

        Edge cases:
            A base that breaks has scores that are not finite. They are returned, and
            neither remembered nor printed.
        """
        known = logged_evaluations(self.journal, replica.digest)
        if known is not None:
            return bits_per_byte(known)
        self.workload.load(replica.parameters)
        found = evaluate_all(
            self.workload, self.texts, sequence_length=self.sequence_length
        )
        scores = bits_per_byte(found)
        if all(abs(bits) < _PRINTED for e in found.values() for bits in e.bits_by_text):
            plain = {
                name: {
                    "bits": list(map(encode_fraction, each.bits_by_text)),
                    "bytes": list(each.bytes_by_text),
                }
                for name, each in found.items()
            }
            self.journal.set_fact(_fact(replica.digest), canonical_json(plain).decode())
        return scores
