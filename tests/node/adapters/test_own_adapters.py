"""An institution's adapters as they stand, and what it hands in for them."""

import pytest

from tapestry.errors import ConfigError, IncompleteError, RuleError, VerificationError
from tapestry_governance.events.envelope import Author, open_entry, sign_entry
from tapestry_governance.events.publication_events import AdapterWithdrawn
from tapestry_node.adapters.own_adapters import (
    hand_in,
    list_adapters,
    made_in,
    withdraw,
)
from tapestry_node.settings import NodeSettings
from tests.support.federation import Federation
from tests.support.operated_adapters import (
    CARE,
    LAW,
    exchange,
    folder_of,
    idle,
    trained,
)
from tests.support.refusals import refused

pytestmark = pytest.mark.slow


@pytest.fixture
def one(settled: Federation) -> Federation:
    """One whose institution has trained an adapter, and published nothing."""
    trained(settled, LAW)
    return settled


def settings_of(federation: Federation) -> NodeSettings:
    return NodeSettings.read(folder_of(federation) / "node.toml")


def stands(federation: Federation) -> dict[tuple[str, int | None], str]:
    rows = list_adapters(folder_of(federation), settings_of(federation))
    return {(row.name, row.version): row.state for row in rows}


def withdraws(
    federation: Federation, version: int | None = None, reason: str = "superseded"
) -> int:
    return withdraw(
        folder_of(federation),
        settings_of(federation),
        LAW,
        version=version,
        reason=reason,
        now=federation.moment(),
    )


def test_an_adapter_goes_from_planned_to_withdrawn(one: Federation) -> None:
    folder = folder_of(one)
    assert stands(one) == {(LAW, 1): "trained", (CARE, None): "planned"}
    assert hand_in(folder, LAW) == (1, True)
    assert stands(one)[LAW, 1] == "published"
    exchange(one)
    assert stands(one)[LAW, 1] == "accepted"
    assert hand_in(folder, LAW) == (1, False)
    assert withdraws(one) == 1
    waiting = one.nodes["fr"].store.outbox()
    assert withdraws(one, 1) == 1  # the same entry, not a second one
    assert one.nodes["fr"].store.outbox() == waiting
    exchange(one)
    assert stands(one)[LAW, 1] == "withdrawn"
    (said,) = one.said(AdapterWithdrawn)
    assert (said.name, said.version, said.reason) == (LAW, 1, "superseded")
    with refused(RuleError, "withdrawn-already"):
        withdraws(one)


def test_a_second_version_stands_beside_the_first(one: Federation) -> None:
    hand_in(folder_of(one), LAW)
    exchange(one)
    trained(one, LAW, "--release", "base-1")
    assert stands(one)[LAW, 2] == "trained"
    assert hand_in(folder_of(one), LAW) == (2, True)
    exchange(one)
    assert [stands(one)[LAW, n] for n in (1, 2)] == ["accepted", "accepted"]
    assert withdraws(one, 1) == 1
    exchange(one)
    assert [stands(one)[LAW, n] for n in (1, 2)] == ["withdrawn", "accepted"]


def test_what_is_not_trained_or_not_published_is_not_handed_in(
    one: Federation,
) -> None:
    with refused(IncompleteError, "adapter-not-trained", match=CARE):
        hand_in(folder_of(one), CARE)
    with refused(IncompleteError, "adapter-not-in-log", match=LAW):
        withdraws(one)
    with refused(ConfigError, "adapter-name-malformed"):
        hand_in(folder_of(one), "../law")


def test_a_reason_is_a_word(one: Federation) -> None:
    hand_in(folder_of(one), LAW)
    exchange(one)
    with refused(ConfigError, "reason-malformed"):
        withdraws(one, reason="It is old.")


def test_another_members_adapter_is_not_withdrawn(one: Federation) -> None:
    hand_in(folder_of(one), LAW)
    exchange(one)
    folder = one.nodes["id"].directory
    with refused(RuleError, "adapter-name-taken", match="fr's"):
        withdraw(
            folder,
            NodeSettings.read(folder / "node.toml"),
            LAW,
            version=None,
            reason="harmful",
            now=one.moment(),
        )


def test_files_that_changed_since_are_not_handed_in(one: Federation) -> None:
    card = folder_of(one) / "adapters" / f"{LAW}-1" / "README.md"
    card.write_text(card.read_text() + "more")
    with refused(VerificationError, "manifest-file-changed"):
        hand_in(folder_of(one), LAW)
    assert stands(one)[LAW, 1] == "trained"


def test_a_folder_under_another_name_is_no_publication(one: Federation) -> None:
    root = folder_of(one) / "adapters"
    (root / f"{LAW}-1").rename(root / "fr-other-1")
    assert made_in(folder_of(one)) == {}
    (root / "fr-other-1").rename(root / f"{LAW}-1")
    ((key, entry),) = made_in(folder_of(one)).items()
    assert key == (LAW, 1)
    assert open_entry(entry).event.actor == "fr"


def test_a_name_that_another_member_took_is_told_at_once(one: Federation) -> None:
    """``fr`` trained under a free name, and another was faster to publish."""
    path = folder_of(one) / "adapters" / f"{LAW}-1" / "tapestry" / "published.entry"
    body = open_entry(path.read_bytes()).event.body.model_copy(update={"name": "id-x"})
    node = one.nodes["fr"]
    author = Author(federation="simulated", actor="fr", role="community")
    event = author.event(body, now=one.moment(), seen=node.mirror.seen)
    place = folder_of(one) / "adapters"
    (place / f"{LAW}-1").rename(place / "id-x-1")
    other = place / "id-x-1" / "tapestry" / "published.entry"
    other.write_bytes(sign_entry(event, node.keys["community"]))
    with refused(RuleError, "adapter-name-reserved"):
        hand_in(folder_of(one), "id-x")
    idle(one)
