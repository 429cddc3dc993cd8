"""Proposals from the words of a person."""

from pathlib import Path

import pytest
import tomli_w

from tapestry.errors import ConfigError, TapestryError
from tapestry.inputs.setting_values import to_toml
from tapestry_governance.events.member_events import (
    CoordinatorReplacement,
    PolicyChange,
    RootReplacement,
    Withdrawal,
)
from tapestry_governance.founding_files import InvitationTerms, invite
from tapestry_governance.policy_file import PolicySettings
from tapestry_governance.proposal_drafts import draft
from tests.support.founders import Founders, invitation_of
from tests.support.log_world import World
from tests.support.proposals import new_key
from tests.support.refusals import refused


@pytest.fixture
def world() -> World:
    world = World().found()
    world.run_round(1)
    world.add(world.release(1))
    return world


def made(world: World, kind: str, *words: object, reason: str | None = None) -> object:
    said = [str(word) for word in words]
    return draft(kind, said, state=world.folded, reason=reason)


def test_a_policy_is_that_of_the_file(world: World, tmp_path: Path) -> None:
    policy = world.policy(version=2, max_attempt=7)
    path = tmp_path / "policy.toml"
    path.write_text(tomli_w.dumps(to_toml(policy.model_dump(), PolicySettings)))
    assert made(world, "policy", path) == PolicyChange(kind="policy", policy=policy)


def test_an_institution_is_admitted_by_its_request(
    world: World, tmp_path: Path
) -> None:
    (sent, *_) = Founders.of(("nordland", "ostrava")).requests()
    path = tmp_path / "nordland.request"
    path.write_bytes(sent.encode())
    found = made(world, "admit", path)
    assert found.request == sent.request  # type: ignore[attr-defined]
    assert found.possession == sent.possession  # type: ignore[attr-defined]


def test_a_root_key_is_the_public_half_that_the_member_made(
    world: World, tmp_path: Path
) -> None:
    key = new_key("fr/root")
    path = tmp_path / "root.pub"
    path.write_text(f"{key.verify_key}\n")
    wanted = RootReplacement(kind="root", member="fr", key=str(key.verify_key))
    assert made(world, "root", "fr", path) == wanted
    with refused(ConfigError, "key-file-invalid", match="'de'"):
        made(world, "root", "de", path)


def test_a_coordinator_is_the_one_of_an_invitation(
    world: World, tmp_path: Path
) -> None:
    terms: InvitationTerms = invitation_of(world.policy()).terms
    log, author = new_key("log.example/gov"), new_key("coordinator/author")
    signed = invite(
        terms.model_copy(
            update={"log": str(log.verify_key), "coordinator": str(author.verify_key)}
        ),
        log=log,
        author=author,
    )
    path = tmp_path / "rivers.invite"
    path.write_bytes(signed.encode())
    found = made(world, "coordinator", path)
    assert isinstance(found, CoordinatorReplacement)
    assert (found.log, found.key) == (str(log.verify_key), str(author.verify_key))
    assert found.address == terms.address
    path.write_bytes(signed.encode().replace(signed.log[:8].encode(), b"00000000"))
    with pytest.raises(TapestryError):
        made(world, "coordinator", path)


def test_what_is_withdrawn_is_published_and_the_reason_is_named(world: World) -> None:
    found = made(world, "withdraw", "base-1", reason="unsafe")
    digest = world.folded.releases["base-1"].manifest_digest
    wanted = Withdrawal(kind="withdraw", subject=digest, name="base-1", reason="unsafe")
    assert found == wanted
    with refused(ConfigError, "usage"):
        made(world, "withdraw", "base-9", reason="unsafe")


def test_pause_resume_and_removal_need_no_file(world: World) -> None:
    for kind in ("pause", "resume"):
        assert made(world, kind).kind == kind  # type: ignore[attr-defined]
    assert made(world, "remove", "fr").member == "fr"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "words", "reason"),
    [
        ("merge", (), None),
        ("pause", ("fr",), None),
        ("root", ("fr",), None),
        ("policy", (), None),
        ("withdraw", ("base-1",), None),
        ("pause", (), "unsafe"),
    ],
)
def test_other_words_are_refused_with_what_may_be_said(
    world: World, kind: str, words: tuple[str, ...], reason: str | None
) -> None:
    with refused(ConfigError, "usage"):
        made(world, kind, *words, reason=reason)
