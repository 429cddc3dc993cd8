"""Text in the models of outside data: bounded, and safe in a path unless declared.

Every model of the product is walked, so a new field is here without being added. One
that is free text, and is never joined to a path, needs a row in ``TEXT``.
"""

import importlib
import pkgutil
import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

import tapestry
import tapestry_coordinator
import tapestry_demo
import tapestry_governance
import tapestry_node
import tapestry_serve
from tests.support.hostile_names import HOSTILE_NAMES

PACKAGES = (
    tapestry,
    tapestry_coordinator,
    tapestry_demo,
    tapestry_governance,
    tapestry_node,
    tapestry_serve,
)
LONGEST = 1 << 18  # characters of any text
# Of this project's own making, and read by nobody: the figures of a demo's page.
OWN = "tapestry_demo.report"

# Text that is no name: compared, verified, printed, or the operator's own. By field,
# in whichever model, or by model and field.
TEXT = {
    "BallotPaper.entry": "decoded",
    "BallotPaper.proof": "read as a proof",
    "BallotPaper.trust": "read as a trust policy",
    "CharterAdopted.address": "told to people, who dial it",
    "CharterFile.entry": "decoded",
    "CoveredEntry.entry": "decoded",
    "CoveredEntry.proof": "read as a proof",
    "CoordinatorReplacement.address": "told to people, who dial it",
    "InvitationTerms.address": "told to people, who dial it",
    "InvitationTerms.authority": "read as a certificate",
    "InvitationTerms.base": "a name of the cache, or a path; its digest is compared",
    "RequestFile.transport_key": "read as a key",
    "RequestFile.transport_proof": "hex",
    "RunSettings.base": "the operator's own path, or a name of the cache",
    **{
        f"Columns.{field}": "the name of a column, compared and printed"
        for field in (
            *("text", "messages", "question", "answer", "id", "label"),
            "ignored",
        )
    },
    **{
        f"ProtectedDomain.{field}": "compared with texts"
        for field in ("terms", "patterns", "labels")
    },
    **{
        f"{field}": "of a request: given to a model, and looked up or dropped"
        for field in (
            *("ChatTurn.content", "ChatTurn.name", "TextPart.text"),
            *("SamplingRequest.model", "SamplingRequest.stop"),
            *("ChatRequest.model", "ChatRequest.stop"),
            *("CompletionRequest.model", "CompletionRequest.stop"),
            *("CompletionRequest.prompt", "TokenizeRequest.prompt"),
            *("TokenizeRequest.model", "DetokenizeRequest.model"),
            *("CompareRequest.models", "CompareRequest.conversations"),
        )
    },
    "EvaluationTask.name": "a label, printed",
    "NodeSettings.base": "the operator's own path, or a name of the cache",
    **{
        f"Told{field}": "printed: a node's own words to its operator"
        for field in (
            *(".superlink", ".words", ".code", "Work.run", "Work.stage", "Log.left"),
            *("Log.release", "Rotation.purpose"),
            *("Refusal.kind", "Refusal.words", "Refusal.code"),
        )
    },
    "TrainingJob.asked": "a time, printed",
    "TrainingJob.failed": "printed: a node's own words to its operator",
    "accountant": "printed",
    "accountant_version": "printed",
    "adapter_licences": "compared",
    "alpha_pattern": "always empty",
    "auth_key": "the operator's own path",
    "base_model_name_or_path": "compared with the name in the weights",
    "contributions": "hex",
    "checkpoint": "read by the trust policy",
    "cosigned": "read by the trust policy",
    "country": "printed",
    "data": "the operator's own path",
    "domain": "printed",
    "evaluation": "labels of metrics, printed",
    "head": "a note, opened by the member's key",
    "key": "read by VerifyKey.parse",
    "keyid": "compared",
    "language": "printed",
    "languages": "printed",
    "licence": "compared",
    "licences": "printed",
    "lines": "read by the trust policy",
    "loftq_config": "always empty",
    "manifest": "the operator's own path",
    "metrics": "labels of metrics, printed",
    "nodes": "digested",
    "options": "read by the workload",
    "origin": "compared with a key's name",
    "payload": "decoded",
    "peft_version": "not read",
    "region": "printed",
    "rank_pattern": "always empty",
    "reason": "printed",
    "withdrawn_warns": "compared with reasons, and printed",
    "root_certificates": "the operator's own path",
    "scores": "labels of metrics, printed",
    "sig": "decoded",
    "source": "printed",
    "superlink": "read by check_address",
    "target_modules": "names of tensors",
    "targets": "names of modules",
    "type": "compared with the known ones",
}


def _modules() -> Iterator[Any]:
    for package in PACKAGES:
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith(("__main__", "template_process")):
                yield importlib.import_module(found.name)


def _models() -> list[type[BaseModel]]:
    found = {
        each
        for module in _modules()
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, BaseModel)
        and each.__module__.split(".")[0].split("_")[0] == "tapestry"
        and not each.__module__.startswith(OWN)
    }
    return sorted(found, key=lambda each: (each.__module__, each.__qualname__))


def _rules(metadata: Any) -> tuple[Any, ...]:
    return tuple(
        rule
        for each in metadata
        for rule in (each.metadata if isinstance(each, FieldInfo) else (each,))
    )


def _texts(annotation: Any, rules: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the rules of each text in an annotation, keys of dictionaries as well."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _texts(inner[0], (*_rules(inner[1:]), *rules))
    elif annotation is str:
        yield rules
    elif origin in (Union, types.UnionType):
        for each in inner:
            yield from _texts(each, rules)
    elif origin in (tuple, list, dict):
        for each in inner:
            yield from _texts(each)


def _fields() -> Iterator[tuple[str, tuple[Any, ...]]]:
    for model in _models():
        for name, field in model.model_fields.items():
            for rules in _texts(field.annotation, _rules(field.metadata)):
                yield f"{model.__name__}.{name}", rules


FIELDS = list(_fields())


def _is_bounded(rules: tuple[Any, ...]) -> bool:
    """Return whether a rule gives the text a greatest length."""
    for rule in rules:
        longest = getattr(rule, "max_length", None)
        if (pattern := getattr(rule, "pattern", None)) is not None:
            longest = re._parser.parse(pattern).getwidth()[1]  # type: ignore[attr-defined]  # noqa: SLF001
        if longest is not None and longest <= LONGEST:
            return True
    return False


def test_every_text_of_a_model_has_a_greatest_length() -> None:
    assert len(FIELDS) > 150
    assert [name for name, rules in FIELDS if not _is_bounded(rules)] == []


def _takes(rules: tuple[Any, ...], text: str) -> bool:
    try:
        TypeAdapter(Annotated[(str, *rules)]).validate_python(text, strict=True)
    except (ValidationError, UnicodeError):
        return False
    return True


def test_a_text_that_may_become_a_path_takes_no_hostile_name() -> None:
    taken = {
        (name, case)
        for name, rules in FIELDS
        for case, hostile in HOSTILE_NAMES.items()
        if _takes(rules, hostile)
    }
    declared = {name for name, _ in taken if {name, name.split(".")[1]} & TEXT.keys()}
    assert {each for each in taken if each[0] not in declared} == set()
    used = {name for each in declared for name in (each, each.split(".")[1])}
    assert TEXT.keys() - used == set(), "takes no hostile name: take the row out"
