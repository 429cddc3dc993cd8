"""Each error of the product names the rule that is broken by a stable code.

``governance/ERRORS.md`` lists the codes; ``python -m tests.support.error_codes`` writes
it.
"""

import re
from pathlib import Path

import pytest

from tests.house.test_house import ROOT
from tests.support import error_codes

_CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+){0,3}")

# Codes of more than one kind of error, by the reason. The kind says who has to act and
# decides the exit status; the code says which rule is broken.
SEVERAL_KINDS: dict[str, set[str]] = {
    "ConfigError in the operator's own files; IncompleteError or VerificationError in a"
    " folder from elsewhere; ProtocolError in messages; ResourceError of a machine": {
        "file-changed",
        "file-empty",
        "file-missing",
        "file-not-plain",
        "file-too-large",
        "file-unreadable",
        "folder-missing",
        "json-invalid",
        "json-key-duplicated",
        "json-number-invalid",
        "json-too-deep",
        "link-not-allowed",
        "text-not-utf8",
        "weights-missing",
        "adapter-shape-mismatch",
        "model-setting-invalid",
        "tensor-set-differs",
        "tensor-shape-differs",
    },
    "one rule that several parties check: PolicyError at a node, QuorumError at the"
    " coordinator, ProtocolError in a message, VerificationError in a transcript": {
        "base-differs",
        "base-not-allowed",
        "chunk-size-invalid",
        "cohort-too-small",
        "contribution-differs",
        "consents-too-few",
        "federation-differs",
        "key-list-differs",
        "layout-differs",
        "noise-not-allowed",
        "own-entry-differs",
        "share-list-differs",
        "spot-check-not-open",
        "survivor-list-differs",
    },
    "a rule of the log, RuleError, that others check as well: ConfigError of settings,"
    " ProtocolError of a message, VerificationError of a file, BudgetExhausted of a"
    " charge": {
        "commitment-differs",
        "data-not-declared",
        "delta-too-large",
        "epsilon-above-cap",
        "licence-not-allowed",
        "max-colluding-too-small",
        "node-not-in-cohort",
        "noise-not-positive",
        "participant-not-in-roster",
        "privacy-terms-differ",
        "release-model-differs",
        "roster-differs",
        "round-not-open",
        "signature-missing",
        "threshold-out-of-range",
        "training-without-noise",
    },
    "the log's state: InconsistentLog of a database or a history, VerificationError or"
    " IncompleteError of what was read, ConfigError of a folder, QuorumError while it"
    " is written": {
        "checkpoint-missing",
        "chunk-out-of-range",
        "closing-entry-missing",
        "database-damaged",
        "database-kind-differs",
        "event-type-differs",
        "log-entries-missing",
        "log-forked",
        "log-origin-differs",
    },
    "a value in settings, ConfigError, or from elsewhere; or of one machine": {
        "epsilon-unreachable",
        "file-not-expected",
        "folder-in-use",
    },
}


def test_the_page_of_error_codes_is_what_the_source_says() -> None:
    page = (ROOT / "governance" / "ERRORS.md").read_text("utf-8")
    assert page == error_codes.page(), "run python -m tests.support.error_codes"


def test_a_code_is_one_to_four_words_in_lower_case_with_hyphens() -> None:
    codes = {site.code for site in error_codes.sites()} - {""}
    assert {code for code in codes if not _CODE.fullmatch(code)} == set()


def test_a_code_has_one_kind_of_error_unless_a_reason_is_listed() -> None:
    families = error_codes.families()
    kinds: dict[str, set[str]] = {}
    for site in error_codes.sites():
        kinds.setdefault(site.code, set()).add(families[site.kind])
    several = {code for code, found in kinds.items() if code and len(found) > 1}
    assert several == set().union(*SEVERAL_KINDS.values())


def test_every_error_names_its_rule() -> None:
    lacking = [f"{s.file}:{s.line}" for s in error_codes.sites() if not s.code]
    assert lacking == [], "give each error a code"


_SOURCE = """
class TapestryError(Exception): ...
class RuleError(TapestryError): ...
class InnerError(RuleError): ...
def build(text, *, code): return RuleError(text, code=code)
def hide(text, *, code): return print(text)
def check():
    build("a", code="rule-of-a-builder")
    hide("b", code="no-error")
    RuleError("c")
    InnerError("d", code="rule-of-inner")
    raise RuleError("e", code=caught.code)
"""


def test_sites_are_calls_of_errors_and_of_functions_that_build_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tapestry").mkdir()
    (tmp_path / "tapestry" / "module.py").write_text(_SOURCE, "utf-8")
    monkeypatch.setattr(error_codes, "ROOT", tmp_path)
    found = [(site.code, site.kind, site.line) for site in error_codes.sites()]
    assert found == [
        ("", "RuleError", 10),
        ("rule-of-a-builder", "RuleError", 8),
        ("rule-of-inner", "InnerError", 11),
    ]
    assert error_codes.families()["InnerError"] == "RuleError"
