"""The stages of a demo, each on its own."""

import json
import os
from pathlib import Path

import pytest

from tapestry.errors import ConfigError
from tapestry.workloads.language.public_text import FILE as HELD_OUT
from tapestry_demo import corpora, demo_stages, scenario
from tapestry_demo.demo_run import DemoRun
from tests.support.commands import tapestry
from tests.support.demo_folders import begun, demo_run
from tests.support.federation import Base
from tests.support.refusals import refused
from tests.support.replicas import replica_of


@pytest.mark.usefixtures("here")
def test_a_demo_whose_base_changed_is_not_resumed() -> None:
    begun("begun", "prepare", base_digest="sha256:" + "0" * 64)
    result = tapestry("demo", "--resume", "--out", "begun")
    assert result.exit_code == 64
    assert "was begun on sha256:0000" in result.stderr


def test_the_text_that_the_tap_looks_for_is_private_and_long() -> None:
    pytest.importorskip("chatterbot_corpus")
    texts = demo_stages.choose_canaries(["italy", "brazil"])
    assert len(texts) == 40
    assert min(map(len, texts)) > 40
    held_out = corpora.load("italy").held_out
    public = "".join(t for rows in held_out.values() for d in rows for t in d.turns)
    assert not any(text.decode() in public for text in texts)


def test_a_base_is_remembered_and_another_one_is_refused(
    base: Base, tmp_path: Path
) -> None:
    demo = demo_run(tmp_path)
    for _ in range(2):
        demo_stages.check_base(demo, base.replica)
    assert demo.record.base_digest == base.replica.digest
    other = replica_of(
        {name: value * 2 for name, value in base.replica.parameters.items()}
    )
    with refused(ConfigError, "demo-base-differs", match=f"on {base.replica.digest}:"):
        demo_stages.check_base(demo, other)
    assert demo.record.base_digest == base.replica.digest


@pytest.fixture(scope="module")
def prepared(base: Base, tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """A demo after its preparation, over what an earlier call left half done."""
    pytest.importorskip("chatterbot_corpus")
    tmp_path = tmp_path_factory.mktemp("prepared")
    for name in ("text", "nodes/italy/keys", "coordinator"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "half").touch()
    demo = demo_run(tmp_path)
    demo.members = [
        demo_stages.member_of(tmp_path, country) for country in corpora.COUNTRIES
    ]
    demo_stages.prepare(demo, base.replica)
    return demo


def test_preparation_founds_a_federation_over_what_was_left_half_done(
    prepared: DemoRun,
) -> None:
    out = prepared.out
    assert list(out.rglob("half")) == []
    assert sorted(path.name for path in out.iterdir()) == ["coordinator", "nodes"]
    assert {path.name for path in (out / "nodes").iterdir()} == set(corpora.COUNTRIES)
    assert prepared.record.genesis.startswith("sha256:")
    assert prepared.settings.rounds == prepared.scale.rounds


def test_members_declare_the_records_that_they_have(prepared: DemoRun) -> None:
    for member in prepared.members:
        data = prepared.out / "nodes" / member.name / "data"
        lines = sum(len(path.read_text().splitlines()) for path in data.glob("*.jsonl"))
        assert lines == member.records > 100


def test_the_gate_and_each_node_get_a_dozen_lines_of_public_text(
    prepared: DemoRun,
) -> None:
    for member in prepared.members:
        gate = prepared.run_folder / "held-out" / f"{member.name}.jsonl"
        own = prepared.out / "nodes" / member.name / HELD_OUT
        assert gate.read_text() == own.read_text()
        rows = gate.read_text().splitlines()
        assert 10 <= len(rows) <= 24
        public = corpora.load(member.name, longest=scenario.LONGEST).held_out
        known = {turn for rows in public.values() for d in rows for turn in d.turns}
        for row in rows:
            assert {m["content"] for m in json.loads(row)["messages"]} <= known


def test_a_file_is_linked_or_copied_where_links_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("x")
    demo_stages.link_or_copy(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").samefile(tmp_path / "a")

    def refuse(*_: str) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    demo_stages.link_or_copy(str(tmp_path / "a"), str(tmp_path / "c"))
    assert (tmp_path / "c").read_text() == "x"
    assert not (tmp_path / "c").samefile(tmp_path / "a")
