"""What an adapter would cost is told before, and what would refuse it as well."""

from pathlib import Path
from typing import Any

import pytest

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, PolicyError
from tapestry.privacy import accounting
from tapestry_node.adapters.adapter_file import NamedAdapter
from tapestry_node.adapters.adapter_quote import Quote, quote
from tapestry_node.settings import NodeSettings
from tapestry_node.training.step_memory import LIBRARIES
from tests.support.federation import Base, Federation
from tests.support.operated_adapters import (
    CARE,
    LAW,
    adapter_charges,
    ended,
    folder_of,
    trained,
    write_settings,
)
from tests.support.refusals import refused
from tests.support.settings_files import change_settings

pytestmark = pytest.mark.slow


def quoted(federation: Federation, name: str = LAW, **given: Any) -> Quote:
    folder = folder_of(federation)
    settings = NodeSettings.read(folder / "node.toml")
    adapter = NamedAdapter.read(folder, name, settings, file=None)
    return quote(
        folder, adapter, settings, **{"release": None, "measure": False} | given
    )


def change(federation: Federation, **changes: Any) -> None:
    change_settings(folder_of(federation) / "node.toml", NodeSettings, changes)


def test_a_quote_says_what_each_record_would_pay_and_what_is_left(
    settled: Federation,
) -> None:
    files = sorted(folder_of(settled).rglob("*"))
    found = quoted(settled, release="base-1", measure=True)
    assert (found.name, found.version, found.fault) == (LAW, 1, None)
    assert (found.release.release, found.release.yes) == ("base-1", 4)
    noise, delta = found.plan.steps, decode_decimal("0.00001")
    assert noise is not None
    assert found.epsilon == accounting.epsilon([noise], target_delta=delta)
    assert 2.9 < found.epsilon <= 3
    known = [row.charge.steps for row in settled.nodes["fr"].ledger.rows()]
    assert found.spent == accounting.epsilon(known, target_delta=delta)
    assert found.after == accounting.epsilon([*known, noise], target_delta=delta)
    assert (found.limit, found.cap) == (40, "40")
    assert found.rounds is not None
    before, after = found.rounds
    assert 0 < after < before
    assert found.seconds is not None
    assert found.seconds > 0
    size = sum(each.size for each in settled.base.replica.parameters.values())
    assert found.memory is not None
    assert found.memory > LIBRARIES + 4 * size
    said = "\n".join(found.lines())
    for part in ("base-1", "fi, fr, id, sw", f"{before} are left, {after} after it"):
        assert part in said
    assert found.to_json()["rounds_left_after"] == after
    assert adapter_charges(settled) == []  # nothing was charged, nothing written
    assert sorted(folder_of(settled).rglob("*")) == files


def test_what_is_paid_for_counts_in_the_next_quote(settled: Federation) -> None:
    before = quoted(settled, CARE)
    trained(settled, LAW)
    after = quoted(settled, CARE)
    assert after.spent > before.spent
    assert after.epsilon == before.epsilon
    with refused(PolicyError, "adapter-not-published", match=f"{LAW} 1 is trained"):
        quoted(settled, LAW)


@pytest.mark.parametrize(
    ("name", "changes", "code"),
    [
        ("base-7", {}, "adapter-name-reserved"),
        ("sw-law", {}, "adapter-name-reserved"),
        (LAW, {"policy": {"epsilon_limit": "4"}}, "budget-exhausted"),
    ],
    ids=["release", "member", "budget"],
)
def test_what_would_be_refused_is_said_before(
    settled: Federation, name: str, changes: dict[str, Any], code: str
) -> None:
    folder = folder_of(settled) / "adapters"
    write_settings(folder, name, language="fr", domain="law", epsilon="3")
    change(settled, **changes)
    found = quoted(settled, name)
    assert found.fault is not None
    assert found.fault.code == code
    assert found.to_json()["refused"] == code
    assert found.seconds is None


def test_a_licence_that_the_federation_does_not_allow_is_said_before(
    settled: Federation,
) -> None:
    path = folder_of(settled) / "adapters" / f"{LAW}.toml"
    path.write_text(path.read_text().replace("CC0-1.0", "MIT"))
    fault = quoted(settled).fault
    assert fault is not None
    assert fault.code == "licence-not-allowed"


def test_records_that_changed_have_no_quote(settled: Federation) -> None:
    data = folder_of(settled) / "data"
    (file,) = [p for p in data.iterdir() if p.suffix == ".jsonl"]
    file.write_text(file.read_text() + '{"text": "un autre"}\n')
    with refused(ConfigError, "dataset-differs"):
        quoted(settled)


def test_accounts_that_wait_count_among_those_that_the_policy_allows(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log would take no account more, also where it has none of them yet."""
    federation = ended(base, tmp_path, monkeypatch, max_accounts=1)
    federation.approve()
    trained(federation, LAW)
    assert len(federation.nodes["fr"].mirror.state.adapter_spending) == 0
    fault = quoted(federation, CARE).fault
    federation.close()
    assert fault is not None
    assert fault.code == "accounts-too-many"
