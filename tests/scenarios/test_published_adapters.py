"""A published adapter loads as its card says, copied from the card word for word."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.artifacts import adapter_folder
from tapestry.model.replica import Replica
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry_governance import registry
from tapestry_governance.audit.verify import AuditVerdict
from tests.support.federation import NAMES, Base, Federation, sentences, write_lines

NAME = "fr"
# peft asks transformers in a way that this is going to drop.
THEIRS = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
UNPRINTED = "[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # a card spells them out
SETTINGS = {
    "repetition_penalty": 1.9,
    "no_repeat_ngram_size": 2,
    "min_new_tokens": 3,
    "suppress_tokens": [32, 101, 116],
    "max_length": 40,
    "num_beams": 3,
    "eos_token_id": 116,
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A base that comes with settings of its own for the library's generation."""
    folder = tmp_path_factory.mktemp("base")
    build_tiny().save(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | SETTINGS))
    model = LanguageWorkload.open(folder)
    return Base(workload=model, replica=Replica.start(model.given))


@pytest.fixture(scope="module")
def published(
    base: Base, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Federation]:
    """A release and the adapter of one member, which left its targets open."""
    off = {name: {"adapter": {"publish": False}} for name in NAMES}
    federation = Federation(
        tmp_path_factory.mktemp("published") / "federation",
        base,
        coordinator={"adapters": True},
        institutions=off | {NAME: {"adapter": {"targets": [], "learning_rate": "9"}}},
    )
    public = federation.directory / "nodes" / NAME / "held-out.jsonl"
    write_lines(public, sentences(NAME, 60)[-6:])
    federation.run()
    federation.bundle()
    yield federation
    federation.close()


def blocks(card: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", card.read_text("utf-8"), re.M | re.S)


def answers(card: Path) -> list[str]:
    """The texts between the fences of the first sample: prompt, base, adapter."""
    return re.findall(r"^```text\n(.*?)\n```$", card.read_text("utf-8"), re.M | re.S)[
        :3
    ]


def run(code: str, folder: Path) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", THEIRS, "-c", code],
        capture_output=True,
        check=False,
        cwd=folder,
        env=environment,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed = done.stdout.removesuffix("\n") or "(nothing)"  # as a card says it
    return re.sub(UNPRINTED, lambda found: f"\\u{ord(found[0]):04x}", printed)


def test_the_cards_code_gives_the_answers_that_it_shows(published: Federation) -> None:
    folder = published.coordinator
    kept = (folder / "releases" / "base-1" / "generation_config.json").read_text()
    assert json.loads(kept).items() >= SETTINGS.items()
    card = folder / "adapters" / NAME / "README.md"
    auto, own, ask = blocks(card)
    prompt, base, adapter = answers(card)
    assert prompt
    assert base != adapter
    assert run(auto + ask, folder) == adapter
    places = {
        "./releases/base-1": str(folder / "releases" / "base-1"),
        f"./adapters/{NAME}": str(folder / "adapters" / NAME),
    }
    for path, place in places.items():
        own = own.replace(path, place)
    assert run(own + ask, published.directory / "nodes") == adapter


def test_the_registry_and_the_audit_take_it_with_targets_by_name(
    published: Federation,
) -> None:
    folder = published.coordinator / "adapters" / NAME
    config = adapter_folder.read_config((folder / "adapter_config.json").read_bytes())
    assert config.target_modules == ("q_proj", "v_proj")
    assert config.base_model_name_or_path == "./releases/base-1"
    assert registry.check_folder(folder).base == "base-1"
    assert published.audit().verdict is AuditVerdict.HOLDS
