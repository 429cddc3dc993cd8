"""Records, prices and connection of a node, as its operator sees them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tapestry.encoding import decode_decimal
from tapestry.privacy import accounting
from tapestry_node import inspection
from tapestry_node.inspection import Inspection
from tapestry_node.settings import NodeSettings
from tests.support.federation import DECLARED, Base
from tests.support.node_folders import balance_of, change, opened, run, standing_of
from tests.support.settings_files import NO_ADAPTER_NOISE, run_settings


def inspect(folder: Path, base: Base) -> Inspection:
    node = opened(folder, base)
    found = inspection.inspect(standing_of(node))
    node.close()
    return found


def test_records_that_are_cut_or_left_out_are_counted(idle: Path) -> None:
    for path in idle.glob("node.db*"):
        path.unlink()  # the data is another one from here on
    rows = [{"text": "a"}, {"text": "a"}, {"text": "\u200b"}, {"text": "b " * 400}]
    rows += [{"text": f"una frase {n}"} for n in range(30)]
    (idle / "data" / "text.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (idle / "data" / "empty.txt").touch()
    change(idle, {"adapter": {"publish": False}})
    found = json.loads(run("check", idle, "--json").stdout)
    census, (coverage, *_) = found["census"], found["coverage"]
    assert (census["records"], census["duplicates"], census["files"]) == (33, 1, 2)
    assert (census["invisible"], census["empty"]) == (2, 1)
    assert census["characters"]["longest"] == 800
    assert coverage["without_loss"] == 0  # a start token makes two of one
    assert coverage["cut"] == 1
    assert coverage["tokens"]["longest"] > coverage["sequence_length"]


def test_an_adapter_alone_has_a_price_before_there_is_a_log(
    idle: Path, base: Base
) -> None:
    (price,) = inspect(idle, base).prices
    settings = NodeSettings.read(idle / "node.toml")
    assert settings.adapter.noise == "local"
    assert price.title == "the adapter"
    assert price.sampling_rate == settings.adapter.batch_size / DECLARED
    assert price.epsilon == price.epsilon_after
    assert 0.9 * decode_decimal(settings.adapter.epsilon) < price.epsilon
    assert price.epsilon <= decode_decimal(settings.adapter.epsilon)
    assert price.fits
    change(idle, {"policy": {"epsilon_limit": "3.5"}})  # the adapter wants 4
    assert [each.fits for each in inspect(idle, base).prices] == [False]


@pytest.mark.parametrize("adapter", [{"publish": False}, NO_ADAPTER_NOISE])
def test_an_adapter_that_promises_nothing_has_no_price(
    idle: Path, base: Base, adapter: dict[str, Any]
) -> None:
    change(idle, {"adapter": adapter})
    assert inspect(idle, base).prices == ()


def test_the_next_round_is_priced_on_top_of_what_is_spent(
    used: Path, base: Base
) -> None:
    price, adapter = inspect(used, base).prices
    assert price.title == "a round like round 1 of 'run', the log's last"
    settings = run_settings()
    steps = accounting.Steps(
        noise_multiplier=price.noise_multiplier,
        sampling_rate=settings["training"]["batch_size"] / DECLARED,
        steps=price.steps,
    )
    delta = decode_decimal(settings["privacy"]["target_delta"])
    assert price.steps == settings["training"]["steps"]
    assert price.epsilon == accounting.epsilon([steps], target_delta=delta)
    assert price.epsilon_after == accounting.epsilon([steps] * 2, target_delta=delta)
    assert adapter.epsilon_after > adapter.epsilon
    assert balance_of(used, base).spent == price.epsilon  # and nothing was charged


def test_records_too_few_for_the_plans_have_a_price_for_none(
    used: Path, base: Base
) -> None:
    for path in used.glob("node.db*"):
        path.unlink()
    (used / "view.db").unlink()
    (used / "data" / "text.jsonl").write_text('{"text": "una frase"}\n' * 3)
    found = inspect(used, base)
    size = NodeSettings.read(used / "node.toml").adapter.batch_size
    assert (found.records, found.prices) == (3, ())
    (fault,) = found.faults
    assert fault.code == "setting-out-of-range"
    said = f"batch size {size} is not between 1 and the 3 records"
    assert said in str(fault)
    done = run("check", used)
    assert done.exit_code == 2
    assert "data      3 records" in done.stdout
    assert said in done.stdout
    assert done.stdout.endswith("\nnot ready\n")
