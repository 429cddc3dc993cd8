"""Held-out data: public data of each institution, on which models are scored.

``held-out/<name>.jsonl`` is data that an institution published for this; the suffix is
the workload's. Coordinator, demo and benchmarks score with the same functions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapestry.encoding import canonical_json, digest
from tapestry.errors import ConfigError
from tapestry.inputs.faults import Faults, InputFault
from tapestry.inputs.folder_walker import walk
from tapestry.inputs.plain_file import reading
from tapestry.workloads.base import Evaluation
from tapestry.workloads.data_manifest import Record
from tapestry.workloads.ratio_score import LARGEST, RatioScore


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Public data by the name of the institution that gave it."""

    sets: Mapping[str, Sequence[Record]]
    digest: str  # of the files' names and bytes


def read_held_out(folder: Path, evaluation: Evaluation) -> HeldOut:
    """Read the public data of each institution.

    Raises:
        ConfigError: There is no file, a file that has another suffix or lies deeper,
            or a file that breaks a rule of its kind; all faults are in one message,
            up to ten.
        ResourceError: A file cannot be read any more.
    """
    faults = Faults()
    sets: dict[str, Sequence[Record]] = {}
    for path in walk(folder, faults):
        if path.suffix != evaluation.suffix or path.parent != folder:
            rule = f"is no <country>{evaluation.suffix}; move it out of this folder"
            faults.add(InputFault(path, rule, code="file-not-expected"))
        else:
            sets[path.stem] = evaluation.read(path, faults)
    faults.check(folder)
    if not sets:
        raise ConfigError(
            f"{folder} holds no *{evaluation.suffix}; the gate needs held-out data",
            code="file-missing",
        )
    with reading(folder):
        files = {
            name: digest((folder / f"{name}{evaluation.suffix}").read_bytes())
            for name in sets
        }
    return HeldOut(sets=sets, digest=digest_of(files))


def digest_of(files: Mapping[str, str]) -> str:
    """Digest held-out files: from institution to the digest of its file."""
    return digest(canonical_json(dict(files)))


def check_held_out(folder: Path, evaluation: Evaluation) -> None:
    """Require that the model can be scored on all data, before a round is opened.

    Raises:
        ConfigError: The loaded model cannot be scored on some of the data; up to ten
            places by file.
    """
    faults = Faults()
    for path in walk(folder, faults):
        evaluation.check(path, faults)
    faults.check(folder)


def evaluate_all(
    evaluation: Evaluation, sets: Mapping[str, Sequence[Record]]
) -> dict[str, RatioScore]:
    """Score the loaded parameters on each institution's data."""
    return {name: evaluation.evaluate(data) for name, data in sets.items()}


def scores_of(scores: Mapping[str, RatioScore]) -> dict[str, float]:
    """Reduce each institution's score to one number."""
    return {name: each.score for name, each in scores.items()}


def mean_of(scores: Mapping[str, float]) -> float:
    """Average over institutions, each counting the same."""
    return sum(scores.values()) / len(scores)


def finite(scores: Mapping[str, float]) -> dict[str, float]:
    """Keep the scores that have a plain decimal spelling, for log and journal."""
    return {n: value for n, value in scores.items() if abs(value) < LARGEST}


def evaluation_key(evaluation: Evaluation, held_out: HeldOut, model_digest: str) -> str:
    """Name an evaluation by all that it depends on, so that it stands for no other."""
    value = [evaluation.name, dict(evaluation.settings), held_out.digest, model_digest]
    return f"evaluations {digest(canonical_json(value))}"
