"""The coordinator's part of a founding: what is there stays, what is stale is told."""

from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from tapestry.encrypted_keys import load_key, load_public
from tapestry.errors import (
    ConfigError,
    IncompleteError,
    ResourceError,
    RuleError,
    VerificationError,
)
from tapestry.keys import SigningKey
from tapestry_coordinator import coordinator_folder
from tapestry_coordinator.coordinator_folder import (
    draft_policy,
    init,
    is_certified,
    open_log,
    write_charter,
)
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_coordinator.superlink.tls import issue_certificate
from tapestry_governance.events.federation_events import GivenBase, Policy
from tapestry_governance.founding_files import Invitation, check_invitation
from tapestry_governance.policy_file import read_policy
from tests.support.file_limits import file_limit
from tests.support.founders import Founders, asks
from tests.support.log_world import fake_digest
from tests.support.refusals import refused

SETTINGS = CoordinatorSettings(
    federation="rivers", origin="rivers.example/log", address="rivers.example:443"
)
POLICY = draft_policy(
    GivenBase(model=fake_digest("base"), parameters=fake_digest("parameters"))
)
NAMES = ("nordland", "ostrava", "sueden")


def _init(
    folder: Path, *, settings: CoordinatorSettings = SETTINGS, policy: Policy = POLICY
) -> Path:
    return init(
        folder,
        settings,
        workload="language",
        base="tiny",
        policy=policy,
        passphrase=None,
    )


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class _Clock(datetime):
    """A clock that runs ahead by ``days``."""

    days = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "_Clock":
        return super().now(tz) + timedelta(days=cls.days)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> type[_Clock]:
    monkeypatch.setattr(coordinator_folder, "datetime", _Clock)
    monkeypatch.setattr(_Clock, "days", 0)
    return _Clock


def _sent(folder: Path, founders: Founders) -> list[Path]:
    paths = []
    for each in founders.requests():
        path = folder.parent / f"{each.request.name}.request"
        path.write_bytes(each.encode())
        paths.append(path)
    return paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _init(tmp_path / "rivers")
    return tmp_path / "rivers"


def _accepted(folder: Path, founders: Founders, requests: list[Path]) -> list[Path]:
    charter = write_charter(folder, requests).charter
    paths = []
    for name in founders.keys:
        path = folder.parent / f"{name}.acceptance"
        path.write_bytes(founders.accept(charter, name))
        paths.append(path)
    return paths


def test_init_again_keeps_what_is_there(folder: Path) -> None:
    before = _files(folder)
    keys = {path.name for path in (folder / "keys").iterdir()}
    assert keys == {"log.key", "author.key", "authority.key"}
    assert (folder / "keys").stat().st_mode & 0o777 == 0o700
    _init(folder)
    after = _files(folder)
    assert after == before
    assert load_public(folder / "keys" / "log.key").name == "rivers.example/log"


def test_an_invitation_has_the_policy_that_was_edited(folder: Path) -> None:
    path = folder / "policy.toml"
    path.write_text(path.read_text().replace("epsilon_cap = 8", "epsilon_cap = 2.5"))
    invitation = Invitation.decode(_init(folder).read_bytes())
    check_invitation(invitation)
    assert invitation.terms.policy == read_policy(folder / "policy.toml")
    assert invitation.terms.policy.epsilon_cap == "2.5"


def test_another_base_than_the_policys_changes_nothing(folder: Path) -> None:
    before = _files(folder)
    other = draft_policy(
        GivenBase(model=fake_digest("other"), parameters=fake_digest("parameters"))
    )
    with refused(ConfigError, "base-differs", match=fake_digest("other")):
        _init(folder, policy=other)
    assert _files(folder) == before


def test_a_certificate_that_runs_out_is_told_and_issued_anew(
    folder: Path, later: type[_Clock]
) -> None:
    founders = Founders.of(NAMES)
    requests = _sent(folder, founders)
    accepted = _accepted(folder, founders, requests)
    before = _files(folder)
    for days, is_valid in ((823, True), (825, False), (-1, False)):
        later.days = days
        assert is_certified(folder) is is_valid
    later.days = 825
    for act in (write_charter, open_log):
        with refused(ConfigError, "certificate-not-valid", match="coordinator renew"):
            act(folder, requests if act is write_charter else accepted)
    assert _files(folder) == before
    later.days = 800
    (folder / "tls" / "superlink.pem").unlink()
    _init(folder)
    after = _files(folder)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"tls/superlink.pem", "tls/superlink.key"}
    open_log(folder, accepted)


def test_an_authority_that_is_not_valid_is_not_replaced(
    folder: Path, later: type[_Clock]
) -> None:
    authority = (folder / "tls" / "authority.pem").read_bytes()
    later.days = -2  # the clock was set back since
    with refused(ConfigError, "certificate-not-valid", match=r"authority\.pem"):
        _init(folder)
    assert (folder / "tls" / "authority.pem").read_bytes() == authority


def test_a_charter_follows_the_settings_and_the_policy(folder: Path) -> None:
    requests = _sent(folder, Founders.of(NAMES))
    written = write_charter(folder, requests)
    assert not written.replaced
    first = written.charter
    again = write_charter(folder, requests)
    assert again.charter.genesis == first.genesis
    assert not again.replaced
    for name, old, new in (
        ("policy.toml", "epsilon_cap = 8", "epsilon_cap = 9"),
        ("coordinator.toml", "rivers.example:443", "rivers.example:8443"),
    ):
        path = folder / name
        path.write_text(path.read_text().replace(old, new))
        again = write_charter(folder, requests)
        assert again.charter.genesis != first.genesis
        assert again.replaced
        first = again.charter
    assert first.body.address == "rivers.example:8443"


@pytest.mark.parametrize(
    ("what", "said"),
    [("address", "address"), ("log.key", "log"), ("authority", "authority")],
)
def test_a_charter_of_other_terms_than_the_folders_opens_nothing(
    folder: Path, what: str, said: str
) -> None:
    founders = Founders.of(NAMES)
    accepted = _accepted(folder, founders, _sent(folder, founders))
    path = folder / "coordinator.toml"
    if what == "address":
        path.write_text(path.read_text().replace(":443", ":8443"))
    elif what == "authority":
        pem = folder / "tls" / "authority.pem"
        pem.write_bytes(pem.read_bytes() + b"\n")
    else:
        (folder / "keys" / what).unlink()
        SigningKey.generate("rivers.example/log").save(folder / "keys" / what)
    with refused(ConfigError, "charter-of-another", match=f"another {said} than"):
        open_log(folder, accepted)
    assert not (folder / "log").exists()


def test_a_log_opens_with_a_charter_and_all_acceptances(folder: Path) -> None:
    founders = Founders.of(NAMES)
    with refused(IncompleteError, "charter-not-written", match="coordinator charter"):
        open_log(folder, [])
    accepted = _accepted(folder, founders, _sent(folder, founders))
    with refused(IncompleteError, "acceptance-missing", match="by nordland, sueden;"):
        open_log(folder, accepted[1:2])
    stranger = folder.parent / "stranger.acceptance"
    others = Founders.of(("alpha", "beta", "gamma"))
    charter = others.charter(others.requests())
    stranger.write_bytes(others.accept(charter, "alpha"))
    with refused(RuleError, "accepted-charter-differs", match="'alpha'"):
        open_log(folder, [*accepted, stranger])
    stranger.write_bytes(charter.entry)
    with refused(VerificationError, "acceptance-malformed", match="stranger"):
        open_log(folder, [*accepted, stranger])
    assert not (folder / "log").exists()
    first = open_log(folder, accepted)
    assert open_log(folder, accepted).genesis == first.genesis
    with refused(ConfigError, "log-exists"):
        write_charter(folder, [])


@pytest.mark.parametrize("room", [0, 4096, 20_000])
def test_a_full_disk_opens_no_log_and_room_opens_it(folder: Path, room: int) -> None:
    founders = Founders.of(NAMES)
    accepted = _accepted(folder, founders, _sent(folder, founders))
    before = _files(folder)
    with file_limit(room), pytest.raises(ResourceError, match="log"):
        open_log(folder, accepted)
    assert not (folder / "log").exists()
    assert {path: _files(folder)[path] for path in before} == before
    assert open_log(folder, accepted).requests


@pytest.mark.parametrize("number", [16, pytest.param(128, marks=pytest.mark.slow)])
def test_as_many_members_as_a_charter_holds_found_a_log(
    folder: Path, number: int
) -> None:
    founders = Founders.of([f"member-{place:03}" for place in range(number)])
    accepted = _accepted(folder, founders, _sent(folder, founders))
    with refused(IncompleteError, "acceptance-missing", match="by member-007;"):
        open_log(folder, accepted[:7] + accepted[8:])
    assert len(open_log(folder, accepted).requests) == number
    assert len(list((folder / "enrolled").iterdir())) == number


def test_a_damaged_charter_is_written_anew(folder: Path) -> None:
    founders = Founders.of(NAMES)
    requests = _sent(folder, founders)
    accepted = _accepted(folder, founders, requests)
    path = folder / "rivers.charter"
    path.write_bytes(path.read_bytes()[:-9])
    with refused(VerificationError, "charter-damaged", match="coordinator charter"):
        open_log(folder, accepted)
    written = write_charter(folder, requests)
    assert written.replaced
    assert write_charter(folder, requests).charter == written.charter


def test_a_founder_with_too_few_records_for_noise_is_named(folder: Path) -> None:
    founders = Founders.of(NAMES)
    requests = [asks(name, keys, records=9) for name, keys in founders.keys.items()]
    paths = [folder.parent / f"{each.request.name}.request" for each in requests]
    for path, each in zip(paths, requests, strict=True):
        path.write_bytes(each.encode())
    with refused(RuleError, "records-too-few", match="'nordland'"):
        write_charter(folder, paths)
    assert not (folder / "rivers.charter").exists()
    policy = folder / "policy.toml"
    policy.write_text(policy.read_text().replace('"local"', '"none"'))
    write_charter(folder, paths)


def test_a_certificate_of_another_key_is_issued_anew(folder: Path) -> None:
    requests = _sent(folder, Founders.of(NAMES))
    key = folder / "tls" / "superlink.key"
    certificate = (folder / "tls" / "superlink.pem").read_bytes()
    issue_certificate(
        folder / "tls",
        ["rivers.example"],
        key=load_key(folder / "keys" / "authority.key", passphrase=None),
    )
    for torn in (key.read_bytes(), key.read_bytes()[:40]):
        key.write_bytes(torn)
        (folder / "tls" / "superlink.pem").write_bytes(certificate)
        assert not is_certified(folder)
        with refused(ConfigError, "certificate-key-differs", match="coordinator renew"):
            write_charter(folder, requests)
    _init(folder)
    assert is_certified(folder)
    write_charter(folder, requests)


def test_a_log_of_other_entries_stays(folder: Path) -> None:
    founders = Founders.of(NAMES)
    accepted = _accepted(folder, founders, _sent(folder, founders))
    open_log(folder, accepted)
    charter = coordinator_folder.open_log(folder, accepted)
    accepted[0].write_bytes(founders.accept(charter, "nordland", ["ostrava", "sueden"]))
    with refused(ConfigError, "log-exists", match="founded once"):
        open_log(folder, accepted)


@pytest.mark.parametrize(
    ("founders", "code"), [(2, "founders-too-few"), (129, "founders-too-many")]
)
def test_founders_are_as_many_as_a_round_needs_and_a_charter_holds(
    founders: int, code: str
) -> None:
    with refused(RuleError, code, match=str(founders)):
        coordinator_folder._check_number(founders, POLICY)  # noqa: SLF001
    coordinator_folder._check_number(128, POLICY)  # noqa: SLF001
