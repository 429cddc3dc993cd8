"""Settings files: strict, whole, and named by the line that is wrong."""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli_w
from pydantic import BaseModel

from tapestry.errors import ConfigError, ResourceError
from tapestry.inputs.setting_types import type_at
from tapestry.inputs.setting_values import fit, to_toml
from tapestry.inputs.text_reader import read_toml
from tapestry.settings import write_new
from tapestry.workloads.language.text_records import Corpus
from tapestry_coordinator.settings import RunSettings
from tapestry_node.settings import NodeSettings
from tests.support.refusals import refused
from tests.support.settings_files import merged, node_settings, run_settings

DIGEST = "sha256:" + "0" * 64
DAY = datetime.date(2026, 1, 2)
Place = tuple[str, ...]


def _node() -> dict[str, Any]:
    """A ``node.toml``, as a TOML writer takes it."""
    settings = {**node_settings(DIGEST), "name": "fr", "genesis": DIGEST}
    return to_toml(settings, NodeSettings)


def _write(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(tomli_w.dumps(settings), encoding="utf-8")
    return path


def _without(settings: dict[str, Any], dotted: str) -> dict[str, Any]:
    head, _, rest = dotted.partition(".")
    kept = dict(settings)
    if rest:
        kept[head] = _without(kept[head], rest)
    else:
        del kept[head]
    return kept


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    node = NodeSettings.read(_write(tmp_path / "node.toml", _node()))
    assert node.name == "fr"
    assert node.policy.noise == ("local",)
    assert node.transport is None
    assert node.speed.physical_batch == 16
    _write(tmp_path / "run.toml", to_toml(run_settings(), RunSettings))
    again = RunSettings.read(tmp_path / "run.toml")
    assert again == RunSettings.model_validate(run_settings())


@pytest.mark.parametrize(
    "dotted",
    [
        "policy",
        *(f"policy.{name}" for name in node_settings(DIGEST)["policy"]),
        *(f"adapter.{name}" for name in node_settings(DIGEST)["adapter"]),
    ],
)
def test_nothing_that_affects_privacy_or_trust_has_a_default(
    tmp_path: Path, dotted: str
) -> None:
    path = _write(tmp_path / "node.toml", _without(_node(), dotted))
    with refused(
        ConfigError, "setting-invalid", match=rf"{dotted}: is .*; (write|add)"
    ) as caught:
        NodeSettings.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"polcy": {}}, "polcy"),
        ({"policy": {"min_cohrt": 3}}, "policy.min_cohrt"),
        ({"policy": {"min_cohort": 1}}, "policy.min_cohort"),
        ({"policy": {"min_cohort": "3"}}, "policy.min_cohort"),
        ({"policy": {"epsilon_limit": "8"}}, "policy.epsilon_limit"),
        ({"policy": {"epsilon_limit": 8.0}}, "policy.epsilon_limit"),
        ({"policy": {"epsilon_limit": 0}}, "policy.epsilon_limit"),
        ({"policy": {"epsilon_limit": 1001}}, "policy.epsilon_limit"),
        ({"policy": {"fallback_epsilon_limit": 0}}, "policy.fallback_epsilon_limit"),
        ({"policy": {"target_delta": 1}}, "policy.target_delta"),
        ({"policy": {"noise": ["some"]}}, "policy.noise.0"),
        ({"policy": {"bases": ["smollm2"]}}, "policy.bases.0"),
        ({"name": "FR"}, "name"),
        ({"speed": {"threads": 0}}, "speed.threads"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(
    tmp_path: Path, changes: dict[str, Any], where: str
) -> None:
    path = _write(tmp_path / "node.toml", merged(_node(), changes))
    with refused(ConfigError, "setting-invalid", match=rf"node\.toml: {where}: "):
        NodeSettings.read(path)


def test_a_misspelled_key_is_named_and_not_the_one_that_lacks(tmp_path: Path) -> None:
    settings = _without(_node(), "policy.min_cohort")
    path = _write(
        tmp_path / "node.toml", merged(settings, {"policy": {"min_cohrt": 3}})
    )
    with refused(ConfigError, "setting-invalid") as caught:
        NodeSettings.read(path)
    said = f"{path}: policy.min_cohrt: no such key; is min_cohort meant?"
    assert str(caught.value) == said


def test_a_number_out_of_range_is_told_its_rule(tmp_path: Path) -> None:
    changes = {"policy": {"epsilon_limit": 0}}
    path = _write(tmp_path / "node.toml", merged(_node(), changes))
    with refused(ConfigError, "setting-invalid") as caught:
        NodeSettings.read(path)
    said = (
        f"{path}: policy.epsilon_limit: epsilon 0 is not in (0, 1000];"
        " write, for example, epsilon_limit = 8"
    )
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("key", "value", "rule", "example"),
    [
        ("base", 8, "8 must be text in quotes", '"8"'),
        ("base", 0.25, "0.25 must be text in quotes", '"0.25"'),
        ("base", DAY, "2026-01-02 must be text in quotes", '"smollm2"'),
        ("name", DAY, "2026-01-02 must be text in quotes", '"italy"'),
        ("policy.target_delta", True, "true must be a number", "0.00001"),
        ("policy.target_delta", [0.1], "a list must be a number", "0.00001"),
        (
            "policy.epsilon_limit",
            "eight",
            '"eight" must be a number without quotation marks',
            "8",
        ),
        ("policy.min_cohort", "3", '"3" must be a whole number without quotes', "3"),
        ("policy.min_cohort", 1, "1 must be 2 or more", "3"),
        ("policy.noise", "local", '"local" must be a list in brackets', '["local"]'),
        ("adapter.publish", "y", '"y" must be true or false without quotes', "true"),
        ("adapter.rank", 2.5, "2.5 must be a whole number", "1"),
        (
            "name",
            "FR hospital",
            '"FR hospital" is not a name: up to 63 of a-z, 0-9, dots and hyphens',
            '"italy"',
        ),
        (
            "genesis",
            "sha256:AB",
            '"sha256:AB" is not a digest: sha256: and 64 hex digits in lower case',
            f'"{DIGEST}"',
        ),
    ],
    ids=str,
)
def test_a_message_says_what_to_write(
    tmp_path: Path, key: str, value: object, rule: str, example: str
) -> None:
    table, _, name = key.rpartition(".")
    changes = {table: {name: value}} if table else {name: value}
    path = _write(tmp_path / "node.toml", merged(_node(), changes))
    with refused(ConfigError, "setting-invalid") as caught:
        NodeSettings.read(path)
    said = f"{path}: {key}: {rule}; write, for example, {name} = {example}"
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policy": 3}, "policy: 3 must be a table; add the table [policy]"),
        ({"Name": "fr"}, "Name: no such key; is name meant?"),
        ({"transprt": {}}, "transprt: no such key; is transport meant?"),
        ({"zzz": 1}, "zzz: no such key; mind the spelling"),
        (
            {"policy": {"noise": ["some"]}},
            (
                "policy.noise.0: \"some\" must be 'none', 'local' or 'shared';"
                ' write, for example, noise = ["local"]'
            ),
        ),
    ],
    ids=str,
)
def test_a_wrong_table_key_or_choice_is_told_in_words(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = _write(tmp_path / "node.toml", merged(_node(), changes))
    with refused(ConfigError, "setting-invalid") as caught:
        NodeSettings.read(path)
    assert str(caught.value) == f"{path}: {said}"


def test_all_wrong_settings_are_told_at_once(tmp_path: Path) -> None:
    changes = {"policy": {"min_cohort": 1, "epsilon_limit": "8"}, "colour": "red"}
    path = _write(tmp_path / "node.toml", merged(_node(), changes))
    with refused(ConfigError, "many-faults") as caught:
        NodeSettings.read(path)
    head, *lines = str(caught.value).splitlines()
    assert head == f"{path}: 3 faults"
    keys = ["colour", "policy.min_cohort", "policy.epsilon_limit"]
    assert [line.split(":")[0].strip() for line in lines] == keys


def _leaves(model: type[BaseModel], *, at: Place = ()) -> Iterator[Place]:
    for name, field in model.model_fields.items():
        options = [field.annotation, *get_args(field.annotation)]
        tables = [
            o for o in options if isinstance(o, type) and issubclass(o, BaseModel)
        ]
        if tables:
            yield from _leaves(tables[0], at=(*at, name))
        else:
            yield (*at, field.alias or name)


@pytest.mark.parametrize("model", [NodeSettings, RunSettings, Corpus])
def test_each_setting_has_an_example_that_is_right(
    model: type[BaseModel], tmp_path: Path
) -> None:
    example: dict[str, Any] = {}
    for place in _leaves(model):
        inside: tuple[str | int, ...] = place
        if place[0] == "domains":
            inside = ("domains", 0, *place[1:])
        value = type_at(model, inside).example
        assert value is not None, place
        table = example
        for part in place[:-1]:
            table = table.setdefault(part, {})
        table[place[-1]] = value
    if model is Corpus:  # the others are in place of the text
        assert example.pop("domains")  # a list of tables
        for name in ("messages", "question", "answer"):
            del example["columns"][name]
    if model is NodeSettings:  # one key is for training without noise
        example["policy"]["noise"] = ["local", "none"]
    path = _write(tmp_path / "example.toml", to_toml(example, model))
    model.model_validate(fit(read_toml(path), model))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("= 1", "toml-invalid"),
        ("a = [" * 9999, "toml-invalid"),
        ("", "file-empty"),
        ("\x00", "character-not-allowed"),
    ],
    ids=["no key", "deep", "empty", "NUL"],
)
def test_a_file_that_is_no_settings_is_one_line(
    tmp_path: Path, text: str, code: str
) -> None:
    path = tmp_path / "node.toml"
    path.write_text(text)
    with refused(ConfigError, code, match=r"^[^\n]+$"):
        NodeSettings.read(path)


def test_a_file_in_another_encoding_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b'name = "\xff"')
    with refused(ConfigError, "text-not-utf8", match=r"node\.toml, line 1: "):
        NodeSettings.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with refused(ConfigError, "file-missing", match=r"node\.toml"):
        NodeSettings.read(tmp_path / "node.toml")


def test_settings_are_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    write_new(path, "a = 1\n")
    with refused(ConfigError, "file-exists"):
        write_new(path, "a = 2\n")
    assert path.read_text() == "a = 1\n"
    with refused(ResourceError, "file-unwritable"):
        write_new(tmp_path / "no" / "node.toml", "")


def test_settings_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    node = NodeSettings.read(_write(tmp_path / "node.toml", _node()))
    with pytest.raises(ValueError, match="frozen"):
        node.policy.min_cohort = 2  # type: ignore[misc]  # that is what is tested
