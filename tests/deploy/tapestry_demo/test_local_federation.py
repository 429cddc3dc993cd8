"""A federation in a folder: keys of each party, one charter, one trust policy."""

from dataclasses import replace
from pathlib import Path

import pytest

from tapestry.encoding import digest
from tapestry.errors import ConfigError, ResourceError
from tapestry.keys import SigningKey
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry.transport_keys import transport_digest
from tapestry_coordinator.run_folders import run_folder
from tapestry_coordinator.settings import CoordinatorSettings, RunSettings
from tapestry_demo.local_federation import Founding, found
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.federation_events import CharterAdopted
from tapestry_governance.events.member_events import CharterAccepted
from tapestry_governance.founding import MEMBER_KEYS
from tapestry_governance.log.writer import Log
from tests.support.demo_folders import demo_founding, demo_members
from tests.support.refusals import refused


@pytest.fixture(scope="module")
def founding(tmp_path_factory: pytest.TempPathFactory) -> Founding:
    return demo_founding(demo_members(tmp_path_factory.mktemp("members")))


@pytest.fixture
def folder(founding: Founding, tmp_path: Path) -> Path:
    found(tmp_path, founding)
    return tmp_path


def _key(path: Path) -> SigningKey:
    return SigningKey.load(path)


def test_a_federation_has_a_folder_for_each_party(
    founding: Founding, folder: Path
) -> None:
    assert {path.name for path in folder.iterdir()} == {*("coordinator", "nodes")}
    names = {each.name for each in founding.institutions}
    assert {path.name for path in (folder / "nodes").iterdir()} == names
    for name in names:
        node = folder / "nodes" / name
        assert {path.name for path in node.iterdir()} == {
            *("node.toml", "trust-policy.txt", "authority.pem", "keys", "data"),
            *(f"{name}.{kind}" for kind in ("invite", "request", "acceptance")),
        }
        assert {path.stem for path in (node / "keys").iterdir()} == {
            *MEMBER_KEYS,
            "transport",
        }
        assert (node / "data" / "corpus.toml").is_file()


def test_keys_and_folders_are_for_their_owner_alone(folder: Path) -> None:
    keys = list(folder.rglob("keys/*.key"))
    assert len(keys) == 3 + 3 * len(MEMBER_KEYS)
    for path in keys:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_no_two_keys_of_a_federation_are_the_same(folder: Path) -> None:
    keys = [str(_key(path).verify_key) for path in folder.rglob("keys/*.key")]
    assert len({key.split("+")[-1] for key in keys}) == len(keys)


def test_the_first_entries_are_a_charter_and_all_acceptances(
    founding: Founding, tmp_path: Path
) -> None:
    genesis = found(tmp_path, founding)
    log_key = _key(tmp_path / "coordinator" / "keys" / "log.key")
    with Log.open(tmp_path / "coordinator" / "log", key=log_key) as log:
        entry, *others = log.entries(0, log.size)
    assert digest(entry) == genesis
    charter = open_entry(entry).event.body
    assert isinstance(charter, CharterAdopted)
    assert charter.policy == founding.policy
    assert charter.log == str(log_key.verify_key)
    authority = tmp_path / "coordinator" / "tls" / "authority.pem"
    assert charter.authority == digest(authority.read_bytes())
    for member, other in zip(charter.members, others, strict=True):
        accepted = open_entry(other).event.body
        assert isinstance(accepted, CharterAccepted)
        assert accepted.request.digest == member.request
        keys = tmp_path / "nodes" / member.name / "keys"
        for purpose in MEMBER_KEYS:
            own = _key(keys / f"{purpose}.key").verify_key
            assert getattr(accepted.request, purpose) == str(own)
        assert accepted.request.transport == transport_digest(
            (keys / "transport.pub").read_text("ascii").strip()
        )


def test_all_parties_hold_one_trust_policy_of_the_members_witnesses(
    folder: Path,
) -> None:
    policies = {path.read_bytes() for path in folder.rglob("trust-policy.txt")}
    assert len(policies) == 1
    (text,) = policies
    policy = TrustPolicy.parse(text)
    witnesses = {
        str(_key(path).verify_key) for path in folder.rglob("keys/witness.key")
    }
    assert {str(each.key) for each in policy.witnesses} == witnesses


def test_settings_name_the_genesis_and_are_read_back_as_they_were_agreed(
    founding: Founding, tmp_path: Path
) -> None:
    genesis = found(tmp_path, founding)
    coordinator, plan = tmp_path / "coordinator", founding.run
    path = run_folder(coordinator, plan.run_id) / "run.toml"
    assert RunSettings.read(path) == plan
    leads = CoordinatorSettings.read(coordinator / "coordinator.toml")
    assert leads == founding.coordinator
    for each in founding.institutions:
        text = (tmp_path / "nodes" / each.name / "node.toml").read_text("utf-8")
        assert f'genesis = "{genesis}"' in text
        assert f'name = "{each.name}"' in text


def test_two_federations_of_the_same_founders_differ(
    founding: Founding, tmp_path: Path
) -> None:
    assert found(tmp_path / "a", founding) != found(tmp_path / "b", founding)


@pytest.mark.parametrize("name", ["coordinator", "nodes/fr"])
def test_a_folder_that_exists_is_not_written_into(
    founding: Founding, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / "mine").write_text("x")
    with refused(ConfigError, "file-exists", match=f"{name} exists"):
        found(tmp_path, founding)
    assert [path.name for path in (tmp_path / name).iterdir()] == ["mine"]


def test_a_place_that_cannot_be_written_is_an_error_of_the_machine(
    founding: Founding, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with refused(ResourceError, "file-unwritable", match="cannot write .*file"):
        found(tmp_path / "file", founding)


def test_data_that_is_missing_is_an_error_of_the_machine(
    founding: Founding, tmp_path: Path
) -> None:
    lost = [replace(each, data=tmp_path / "gone") for each in founding.institutions]
    with refused(ResourceError, "file-unwritable", match=r"in .*out: .*gone"):
        found(tmp_path / "out", replace(founding, institutions=lost))
