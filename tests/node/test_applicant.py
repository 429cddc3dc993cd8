"""An institution's draft from an invitation: its terms, and nothing too early."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tapestry.errors import (
    ConfigError,
    IncompleteError,
    ResourceError,
    RuleError,
    VerificationError,
)
from tapestry.workloads.base import Workload
from tapestry.workloads.workload_registry import open_workload
from tapestry_governance.events.federation_events import GivenBase, Policy
from tapestry_node.applicant import Applicant, apply
from tapestry_node.settings import NodeSettings, PrivateAdapterSettings
from tests.support.founders import invitation_of
from tests.support.log_world import World, fake_digest
from tests.support.refusals import refused


@pytest.fixture(scope="module")
def workload() -> Workload:
    return open_workload("language", "tiny")


def _policy(workload: Workload, **changes: object) -> Policy:
    base = workload.given.manifest
    given = GivenBase(model=base.digest, parameters=base.parameters)
    return World().policy(bases=(given,), **changes)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "records"
    folder.mkdir()
    rows = [json.dumps({"text": f"row {number}"}) for number in range(1234)]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    return folder


def _applicant(data: Path, **changes: object) -> Applicant:
    said: Mapping[str, object] = {
        "name": "sueden",
        "country": "Sueden",
        "data": data,
        "manifest": None,
        "base": "tiny",
        "language": "de",
        "licence": "CC0-1.0",
        "root": None,
        "passphrase": None,
    }
    return Applicant(**{**said, **changes})  # type: ignore[arg-type]  # of the test


def test_the_draft_has_the_invitations_own_terms(
    tmp_path: Path, data: Path, workload: Workload
) -> None:
    policy = _policy(workload, epsilon_cap="2.5", min_cohort=7, max_colluding=2)
    folder = tmp_path / "sueden"
    sent = apply(folder, invitation_of(policy), _applicant(data), workload=workload)
    settings = NodeSettings.read(folder / "node.toml")
    rules = settings.policy
    assert (rules.min_cohort, rules.max_colluding, rules.epsilon_limit) == (7, 2, "2.5")
    assert rules.fallback_epsilon_limit == "2.5"
    assert rules.noise == policy.noise
    assert rules.target_delta == policy.max_delta
    assert rules.bases == (workload.given.manifest.digest,)
    assert isinstance(settings.adapter, PrivateAdapterSettings)
    assert not settings.adapter.publish
    assert settings.genesis is None
    assert (sent.request.records, sent.request.languages) == (1200, ("de",))
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_node_without_a_genesis_names_the_next_step(
    tmp_path: Path, data: Path, workload: Workload
) -> None:
    folder = tmp_path / "sueden"
    apply(folder, invitation_of(_policy(workload)), _applicant(data), workload=workload)
    with refused(IncompleteError, "not-joined", match="governance accept"):
        _ = NodeSettings.read(folder / "node.toml").joined


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"language": None}, "data-manifest-missing"),
        ({"licence": None}, "data-manifest-missing"),
        ({"licence": "no licence!\n"}, "setting-invalid"),
        ({"name": "Süden"}, "setting-invalid"),
        ({"country": "a\nb"}, "setting-invalid"),
    ],
    ids=str,
)
def test_a_wrong_option_writes_nothing(
    tmp_path: Path,
    data: Path,
    workload: Workload,
    changes: dict[str, object],
    code: str,
) -> None:
    applicant = _applicant(data, **changes)
    with refused(ConfigError, code) as caught:
        apply(
            tmp_path / "sueden",
            invitation_of(_policy(workload)),
            applicant,
            workload=workload,
        )
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.rglob("*")} == {"records", "rows.jsonl"}


def test_terms_that_no_node_could_have_write_nothing(
    tmp_path: Path, data: Path, workload: Workload
) -> None:
    policy = _policy(workload, epsilon_cap="0")
    with refused(ConfigError, "setting-invalid", match=r"policy\.epsilon_limit"):
        apply(
            tmp_path / "sueden",
            invitation_of(policy),
            _applicant(data),
            workload=workload,
        )
    assert not (tmp_path / "sueden").exists()


def test_a_changed_invitation_and_another_base_are_refused(
    tmp_path: Path, data: Path, workload: Workload
) -> None:
    good = invitation_of(_policy(workload))
    terms = good.terms.model_copy(update={"address": "elsewhere.example:443"})
    folder = tmp_path / "sueden"
    with refused(VerificationError, "signature-invalid"):
        apply(
            folder,
            good.model_copy(update={"terms": terms}),
            _applicant(data),
            workload=workload,
        )
    given = GivenBase(model=fake_digest("b"), parameters=fake_digest("p"))
    other = _policy(workload).model_copy(update={"bases": (given,)})
    with refused(ConfigError, "base-differs", match=workload.given.manifest.digest):
        apply(folder, invitation_of(other), _applicant(data), workload=workload)
    assert not folder.exists()


def test_a_second_invitation_is_by_whom_the_first_was(
    tmp_path: Path, data: Path, workload: Workload
) -> None:
    folder, policy = tmp_path / "sueden", _policy(workload)
    apply(folder, invitation_of(policy), _applicant(data), workload=workload)
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with refused(RuleError, "invitation-differs", match="another log than"):
        apply(folder, invitation_of(policy), _applicant(data), workload=workload)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


@pytest.mark.parametrize("kept", ["this", "other draft", "none"])
def test_a_node_that_joined_takes_the_invitation_that_it_kept(
    tmp_path: Path, data: Path, workload: Workload, kept: str
) -> None:
    folder, policy = tmp_path / "sueden", _policy(workload)
    invitation = invitation_of(policy)
    apply(folder, invitation, _applicant(data), workload=workload)
    path = folder / "node.toml"
    path.write_text(f'genesis = "{fake_digest("genesis")}"\n{path.read_text()}')
    apply(folder, invitation, _applicant(data), workload=workload)
    other = invitation_of(policy)
    if kept == "none":
        (folder / "sueden.invite").unlink()
    elif kept == "other draft":
        draft = invitation.terms.model_copy(update={"base": "another"})
        changed = invitation.model_copy(update={"terms": draft})
        (folder / "sueden.invite").write_bytes(changed.encode())
        other = invitation
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with refused(RuleError, "invitation-differs"):
        apply(folder, other, _applicant(data), workload=workload)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


@pytest.mark.parametrize(("rows", "noise"), [(9, "local"), (9, "none"), (10, "local")])
def test_too_few_records_for_noise_are_told_at_once(
    tmp_path: Path, data: Path, workload: Workload, rows: int, noise: str
) -> None:
    lines = (data / "rows.jsonl").read_text("utf-8").splitlines()
    (data / "rows.jsonl").write_text("\n".join(lines[:rows]) + "\n", "utf-8")
    folder = tmp_path / "sueden"
    invitation = invitation_of(_policy(workload, noise=(noise,)))
    if rows < 10 and noise == "local":
        with refused(RuleError, "records-too-few", match="'sueden'"):
            apply(folder, invitation, _applicant(data), workload=workload)
        assert not folder.exists()
    else:
        apply(folder, invitation, _applicant(data), workload=workload)


def test_a_manifest_of_the_data_stays(
    tmp_path: Path, data: Path, workload: Workload
) -> None:
    path = data / "corpus.toml"
    text = 'licence = "MIT"\nlanguage = "fr"\nunit = "record"\n'
    path.write_text(text)
    sent = apply(
        tmp_path / "sueden",
        invitation_of(_policy(workload)),
        _applicant(data, language=None, licence=None),
        workload=workload,
    )
    assert path.read_text() == text
    assert sent.request.languages == ("fr",)


@pytest.mark.parametrize("inside", [True, False], ids=["in the folder", "elsewhere"])
def test_a_manifest_may_lie_outside_of_the_data(
    tmp_path: Path, data: Path, workload: Workload, inside: bool
) -> None:
    folder = tmp_path / "sueden"
    path = folder / "corpus.toml" if inside else tmp_path / "other" / "about.toml"
    invitation = invitation_of(_policy(workload))
    before = sorted(data.rglob("*"))
    for _ in range(2):  # the second time it is there
        sent = apply(
            folder,
            invitation,
            _applicant(data, manifest=path),
            workload=workload,
        )
        assert sent.request.languages == ("de",)
    assert sorted(data.rglob("*")) == before
    settings = NodeSettings.read(folder / "node.toml")
    assert settings.manifest == ("corpus.toml" if inside else str(path))
    assert settings.data_in(folder) == (folder / settings.data, path)
    with refused(ConfigError, "setting-differs", match="manifest"):
        apply(
            folder,
            invitation,
            _applicant(data),
            workload=workload,
        )


@pytest.mark.parametrize("what", ["missing", "file"])
def test_a_place_without_records_is_named(
    tmp_path: Path, workload: Workload, what: str
) -> None:
    place = tmp_path / "records"
    if what == "file":
        place.write_text("x")
    with refused(ConfigError, "folder-missing", match="records"):
        apply(
            tmp_path / "sueden",
            invitation_of(_policy(workload)),
            _applicant(place),
            workload=workload,
        )
    assert place.exists() == (what == "file")
    assert not (tmp_path / "sueden").exists()


def test_a_data_folder_that_cannot_be_written_is_told_what_to_do(
    tmp_path: Path, data: Path, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def read_only(path: Path, flags: int, *rest: int) -> int:
        if str(path).startswith(str(data)) and flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", read_only)
    folder = tmp_path / "sueden"
    invitation, applicant = invitation_of(_policy(workload)), _applicant(data)
    with refused(ResourceError, "file-unwritable", match="write it there yourself"):
        apply(folder, invitation, applicant, workload=workload)
    assert not folder.exists()
    monkeypatch.undo()
    (data / "corpus.toml").write_text(
        'licence = "MIT"\nlanguage = "fr"\nunit = "record"\n'
    )
    monkeypatch.setattr(os, "open", read_only)
    applicant = _applicant(data, language="fr", licence=None)
    apply(folder, invitation, applicant, workload=workload)
