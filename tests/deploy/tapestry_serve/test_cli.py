"""``tapestry chat``: the base and its adapters answer the same prompt, side by side."""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tapestry.artifacts import manifest, model_folder
from tapestry.workloads.adapter_format import BaseName
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.peft_folder import write_peft
from tests.support.adapter_folders import make_demo
from tests.support.commands import Result, exit_status, tapestry
from tests.support.plans import training_plan

PLAN = training_plan(
    parameterization="low_rank",
    rank=4,
    targets=("q_proj", "down_proj"),
    factor_seed="ab" * 32,
    steps=1,
    batch_size=1,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out a base and two adapters that change what it says."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("chat")
    model = build_tiny()
    model.save(root / "base-1")
    digest = model_folder.read(root / "base-1").digest
    generator = np.random.default_rng(5)
    for name in ("italy", "spain"):
        update = generator.normal(size=model.layout(PLAN).length).astype(np.float32)
        write_peft(
            root / name,
            update,
            model=model,
            plan=PLAN,
            base=BaseName(name="base-1", digest=digest),
        )
        (root / name / "README.md").write_text(f"# {name}\n")
        manifest.write(root / name)
    return root


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write the base of a federation that runs, and an adapter on it."""
    root = tmp_path_factory.mktemp("released")
    model = build_tiny()
    model.save(root / "base")
    write_peft(
        root / "adapter",
        np.full(model.layout(PLAN).length, 0.25, dtype=np.float32),
        model=model,
        plan=PLAN,
        base=BaseName(name="base-2", digest=model.given.digest),
    )
    (root / "adapter" / "README.md").write_text("# fr-culture\n")
    manifest.write(root / "adapter")
    return root / "base", root / "adapter"


def _ask(demo: Path, *options: object) -> Result:
    adapter = demo / "adapters" / "fr-culture"
    base = demo / "releases" / "base-2"
    short = ("--prompt", "Ciao", "--max-tokens", 2, "--json")
    return _chat("--base", base, "--adapter", adapter, *short, *options)


@pytest.mark.parametrize("withdrawn", ["base-2", "fr-culture"])
def test_what_members_withdrew_is_not_run_unless_asked(
    released: tuple[Path, Path], tmp_path: Path, withdrawn: str
) -> None:
    demo = make_demo(tmp_path, files=released, withdrawn=withdrawn)
    refused = _ask(demo)
    assert refused.exit_code == 5
    assert json.loads(refused.stdout)["error"]["code"] == "model-withdrawn"
    assert f"{withdrawn} is withdrawn by entry " in refused.stderr
    assert "harmful, the policy refuses it; --withdrawn runs it" in refused.stderr
    allowed = _ask(demo, "--withdrawn")
    assert allowed.exit_code == 0
    assert f"note: {withdrawn} is withdrawn by entry " in allowed.stderr
    assert "answers" in json.loads(allowed.stdout)


@pytest.mark.parametrize("withdrawn", ["base-2", "fr-culture"])
@pytest.mark.parametrize(("warns", "status"), [("harmful", 0), ("superseded", 5)])
def test_what_the_policy_only_warns_of_is_run_with_a_note(
    *,
    released: tuple[Path, Path],
    tmp_path: Path,
    withdrawn: str,
    warns: str,
    status: int,
) -> None:
    demo = make_demo(
        tmp_path,
        files=released,
        withdrawn=withdrawn,
        rules={"withdrawn_warns": (warns,)},
    )
    said = _ask(demo)
    assert said.exit_code == status
    assert ("harmful, the policy only warns" in said.stderr) is (status == 0)


def test_a_log_elsewhere_tells_what_members_decided(
    released: tuple[Path, Path], tmp_path: Path
) -> None:
    demo = make_demo(tmp_path, files=released, withdrawn="base-2")
    shutil.move(demo / "bundle", demo / "elsewhere")
    unseen = _ask(demo)
    assert unseen.exit_code == 0
    assert (
        unseen.stderr == "note: without --bundle or --node, no withdrawal is noticed\n"
    )
    assert _ask(demo, "--bundle", demo / "elsewhere").exit_code == 5
    (demo / "elsewhere" / "checkpoint").write_bytes(b"")
    assert _ask(demo, "--bundle", demo / "elsewhere").exit_code == 1
    both = _ask(demo, "--bundle", demo / "elsewhere", "--node", demo)
    assert both.exit_code == 64


def test_what_the_log_does_not_name_is_run_with_a_note(
    released: tuple[Path, Path], tmp_path: Path
) -> None:
    """Such as a withdrawn adapter with another word on its card."""
    demo = make_demo(tmp_path, files=released, withdrawn="fr-culture")
    folder = demo / "adapters" / "fr-culture"
    (folder / "README.md").write_text("# fr-culture, again\n")
    manifest.write(folder)
    said = _ask(demo)
    assert said.exit_code == 0
    assert "note: the log does not name an adapter with manifest sha256:" in said.stderr


def test_a_trust_policy_without_a_log_is_refused(
    released: tuple[Path, Path], tmp_path: Path
) -> None:
    demo = make_demo(tmp_path, files=released)
    trust = tmp_path / "trust-policy.txt"
    shutil.move(demo / "bundle" / "trust-policy.txt", trust)
    shutil.rmtree(demo / "bundle")
    said = _ask(demo, "--trust", trust)
    assert said.exit_code == 64
    assert "no log is named; add --bundle" in said.stderr


def test_a_base_is_run_with_a_note_of_how_members_voted(
    released: tuple[Path, Path], tmp_path: Path
) -> None:
    said = _ask(make_demo(tmp_path / "approved", files=released))
    assert said.exit_code == 0
    assert said.stderr.startswith("note: base-2: approved by entry ")
    assert said.stderr.count("\n") == 1
    demo = make_demo(tmp_path / "candidate", files=released, approved=False)
    said = _ask(demo)
    assert said.exit_code == 0
    assert "note: base-2: candidate; 0 yes, 3 are needed" in said.stderr


def _chat(*arguments: object, typed: str | None = None) -> Result:
    return tapestry("chat", *arguments, typed=typed)


def _three(folders: Path) -> list[object]:
    adapters = [folders / "italy", folders / "spain"]
    return [
        "--base",
        folders / "base-1",
        *(x for a in adapters for x in ("--adapter", a)),
    ]


def test_base_and_adapters_answer_the_same_prompt(folders: Path) -> None:
    options = [*_three(folders), "--prompt", "Ciao", "--max-tokens", 8, "--json"]
    first = json.loads(_chat(*options).stdout)
    assert first["prompt"] == "Ciao"
    assert list(first["answers"]) == ["base", "italy", "spain"]
    assert first["answers"]["italy"] != first["answers"]["base"]
    assert json.loads(_chat(*options).stdout) == first  # temperature 0


def test_a_table_has_a_column_for_each_model(folders: Path) -> None:
    result = _chat(*_three(folders), "--prompt", "Ciao [bold]", "--max-tokens", 4)
    assert result.exit_code == 0
    for word in ("base", "italy", "spain", "Ciao [bold]"):
        assert word in result.stdout


def test_without_a_prompt_chat_reads_prompts_until_an_empty_line(folders: Path) -> None:
    options = ["--base", folders / "base-1", "--max-tokens", 2, "--json"]
    result = _chat(*options, typed="uno\ndue\n\ntre\n")
    assert result.exit_code == 0
    assert result.stdout.count('"answers"') == 2
    assert _chat(*options, typed="").exit_code == 0


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_pipe_is_read_when_an_output_stream_is_closed(
    folders: Path, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("ciao\n"))
    monkeypatch.setattr(sys, stream, None)
    status = exit_status(["chat", "--base", str(folders / "base-1")])
    assert status == (3 if stream == "stdout" else 0)


def test_an_adapter_that_is_a_loop_of_links_is_named(
    folders: Path, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    said = _chat("--base", folders / "base-1", "--adapter", tmp_path / "loop")
    assert said.exit_code == 64
    assert "no adapter folder" in said.stderr


def test_a_temperature_draws_tokens(folders: Path) -> None:
    options = ["--base", folders / "base-1", "--prompt", "x", "--max-tokens", 12]
    drawn = {_chat(*options, "--temperature", 5, "--json").stdout for _ in range(3)}
    assert len(drawn) > 1


def test_a_tampered_adapter_or_another_base_is_refused(
    folders: Path, tmp_path: Path
) -> None:
    other = build_tiny()
    other.load({n: v * np.float32(0.5) for n, v in other.parameters().items()})
    other.save(tmp_path / "other")
    adapter = ["--adapter", folders / "italy", "--prompt", "x"]
    result = _chat("--base", tmp_path / "other", *adapter)
    assert result.exit_code == 1
    assert "take the base that it was trained on" in result.stderr
    card = folders / "italy" / "README.md"
    content = card.read_bytes()
    try:
        card.write_text("# better\n")
        result = _chat("--base", folders / "base-1", *adapter)
        assert result.exit_code == 1
    finally:
        card.write_bytes(content)


@pytest.mark.parametrize(
    ("adapter", "status", "message"),
    [
        ("nowhere", 64, "no adapter folder"),
        ("base-1", 3, "name the folder of one release or adapter"),
    ],
)
def test_a_folder_that_is_no_adapter_is_named(
    folders: Path, adapter: str, status: int, message: str
) -> None:
    result = _chat("--base", "tiny", "--adapter", folders / adapter, "--prompt", "x")
    assert result.exit_code == status
    assert message in result.stderr


def test_a_release_that_was_changed_is_not_run(folders: Path, tmp_path: Path) -> None:
    release = tmp_path / "base-1"
    shutil.copytree(folders / "base-1", release)
    manifest.write(release)
    assert _chat("--base", release, "--prompt", "ciao").exit_code == 0
    (release / "generation_config.json").write_text("{}")
    refused = _chat("--base", release, "--prompt", "ciao")
    assert refused.exit_code == 1
    assert "generation_config.json was changed" in refused.stderr


def test_two_adapters_of_one_name_and_an_unknown_base_are_named(folders: Path) -> None:
    twice = ["--adapter", folders / "italy"] * 2
    result = _chat("--base", folders / "base-1", *twice, "--prompt", "x")
    assert result.exit_code == 64
    assert "italy, italy" in result.stderr
    result = _chat("--base", "gpt-5", "--prompt", "x")
    assert result.exit_code == 64
    assert "no base 'gpt-5'" in result.stderr


def test_wrong_usage_has_the_status_of_wrong_usage(folders: Path) -> None:
    assert _chat("--prompt", "x").exit_code == 64
    options = ["--base", folders / "base-1", "--prompt", "x"]
    assert _chat(*options, "--max-tokens", 0).exit_code == 64


@pytest.mark.parametrize("value", ["nan", "inf", "1e-320", "0.009", "-1", "11", "x"])
def test_a_temperature_out_of_range_is_wrong_usage(folders: Path, value: str) -> None:
    options = ("--base", folders / "base-1", "--prompt", "Ciao", "--temperature", value)
    done = _chat(*options)
    assert done.exit_code == 64
    assert value in done.stderr


def test_a_prompt_longer_than_the_model_takes_is_wrong_usage(folders: Path) -> None:
    done = _chat("--base", folders / "base-1", "--prompt", "Ciao " * 300)
    assert done.exit_code == 64
    assert "the prompt has 150" in done.stderr
    assert "the model takes 1024 with the answer; shorten it" in done.stderr
