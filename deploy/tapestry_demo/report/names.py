"""The names that a reader knows, in place of the ids that programs exchange.

An id that stands in no table is shown as it is, with a capital letter where it is a
plain word: a federation may choose any.
"""

import re
from collections.abc import Mapping

from tapestry.html import numbers
from tapestry.protocol.stages import RoundStage
from tapestry_demo.report.data import Country, RunFigures, release_number

_PLACES: Mapping[str, str] = {"netherlands": "the Netherlands"}
_ENGINES: Mapping[str, str] = {
    "inprocess": "all parties in one process",
    "flower": "each party in a process of its own, over a Flower network",
}
_OUTCOMES: Mapping[str, str] = {
    "applied": "used",
    "rejected": "rejected by the gate",
}
_LOST_AT: Mapping[str, str] = {
    RoundStage.ADVERTISE_KEYS: "before it began",
    RoundStage.SHARE_KEYS: "while keys were agreed",
    RoundStage.COLLECT_MASKED_INPUTS: "before its upload arrived",
    RoundStage.CHECK_CONSISTENCY: "when the cohort was agreed",
    RoundStage.UNMASK: "when the sum was opened",
}
_MESSAGES: Mapping[str, str] = {
    "identity": "who it is, and which rules it follows",
    "cosignature": "signature under the log",
    "advertised_keys": "public keys for one round",
    "shared_keys": "encrypted shares of its mask keys",
    "masked_input": "masked update",
    "consent": "agreement on who is in the sum",
    "unmasking_shares": "shares that open the sum",
    "receipt": "confirmation",
    "publication": "its adapter, which is public",
    "refusal": "refusal",
}
_STAGES: Mapping[str, str] = {
    "prepare": "preparation of model and text",
    "start": "start",
    "round": "rounds",
    "rounds": "rounds",
    RoundStage.OPEN: "opening of the rounds in the log",
    RoundStage.ADVERTISE_KEYS: "public keys",
    RoundStage.SHARE_KEYS: "shares of the keys",
    RoundStage.COLLECT_MASKED_INPUTS: "training at the institutions, and uploads",
    RoundStage.CHECK_CONSISTENCY: "agreement on who is in the sums",
    RoundStage.UNMASK: "opening of the sums",
    RoundStage.CLOSE: "closing of the rounds in the log",
    "release": "releases",
    "adapter": "training of the adapters",
    "adapters": "training of the adapters",
    "evaluate": "measuring the models",
    "central": "reference without noise, in one place",
    "central-dp": "reference with noise, in one place",
    "samples": "sample answers",
    "report": "report",
}


def place(name: str) -> str:
    """Return a country's name, from the id of its node."""
    if name in _PLACES:
        return _PLACES[name]
    if re.fullmatch(r"[a-z]+(-[a-z]+)*", name):
        return " ".join(map(numbers.capital, name.split("-")))
    return name


def title(node: str) -> str:
    """Return a country's name where a line begins: ``The Netherlands``."""
    return numbers.capital(place(node)) if node in _PLACES else place(node)


def country(run: RunFigures, node: str) -> str:
    """Return a country and its language, as a title: ``Italy (Italian)``."""
    found = _country(run, node)
    return f"{title(node)} ({found.language_name})" if found else title(node)


def language(run: RunFigures, node: str) -> str:
    """Return the language of a country's text, or else the country."""
    found = _country(run, node)
    return found.language_name if found else place(node)


def signer(witness: str) -> str:
    """Return the country of a witness, whose key is called ``italy/witness``."""
    return place(witness.removesuffix("/witness"))


def model(run: RunFigures, name: str) -> str:
    """Describe a model, from its id."""
    if name == "given":
        return "the model as it was given"
    if release_number(name) is not None:
        return _release(run, name)
    if name == "central":
        return "trained in one place, without noise"
    if name == "central-dp":
        return "trained in one place, with noise"
    prefix, _, rest = name.partition("-")
    return adapter(rest) if prefix == "adapter" and rest else name


def adapter(node: str) -> str:
    """Name a country's adapter: ``Italy's``, ``the Netherlands' adapter``."""
    owner = place(node)
    return f"{owner}\u2019{'' if owner.endswith('s') else 's'} adapter"


def engine(name: str) -> str:
    """Describe the way in which the parties were connected."""
    return _ENGINES.get(name, name)


def outcome(name: str) -> str:
    """Name the outcome of a round."""
    return _OUTCOMES.get(name, name)


def lost_at(stage: str) -> str:
    """The point at which a node was missing."""
    return _LOST_AT.get(stage, stage)


def message(kind: str) -> str:
    """Describe a kind of message that leaves a node."""
    return _MESSAGES.get(kind, kind)


def stage(name: str) -> str:
    """Describe a stage of the run."""
    return _STAGES.get(name, name)


def _country(run: RunFigures, node: str) -> Country | None:
    return next((c for c in run.countries if c.name == node), None)


def _release(run: RunFigures, name: str) -> str:
    known = (r.round for r in run.releases if r.name == name)
    number = next(known, release_number(name))
    return f"the shared model after round\u00a0{number}"
