"""The settings of an adapter: a file of its own, or the table of ``node.toml``."""

from pathlib import Path

import pytest

from tapestry.errors import ConfigError
from tapestry_node.adapters.adapter_file import (
    PUBLICATIONS,
    AdapterFile,
    NamedAdapter,
    check_name,
    names_in,
    settings_path,
)
from tapestry_node.settings import NodeSettings
from tests.support.log_world import fake_digest
from tests.support.operated_adapters import LAW, write_settings
from tests.support.refusals import refused
from tests.support.settings_files import merged, node_settings
from tests.support.settings_files import write_settings as write


@pytest.fixture
def settings(tmp_path: Path) -> NodeSettings:
    values = merged(node_settings(fake_digest("base")), {"name": "fr"})
    write(tmp_path / "node.toml", values, NodeSettings)
    (tmp_path / PUBLICATIONS).mkdir()
    return NodeSettings.read(tmp_path / "node.toml")


def law(folder: Path) -> Path:
    place = folder / PUBLICATIONS
    return write_settings(place, LAW, language="fr", domain="law", epsilon="3")


def test_without_a_file_an_adapter_is_trained_as_node_toml_says(
    tmp_path: Path, settings: NodeSettings
) -> None:
    found = NamedAdapter.read(tmp_path, LAW, settings, file=None)
    assert found == NamedAdapter.own(settings, LAW)
    assert (found.file.language, found.file.domain, found.file.region) == (None, "", "")
    own = settings.adapter.model_dump(exclude={"publish"})
    assert found.file.adapter.model_dump() == own
    assert NamedAdapter.own(settings).name == "fr"


def test_a_file_in_the_folder_has_its_own_settings(
    tmp_path: Path, settings: NodeSettings
) -> None:
    path = law(tmp_path)
    assert path == settings_path(tmp_path, LAW)
    found = NamedAdapter.read(tmp_path, LAW, settings, file=None)
    assert (found.file.domain, found.file.adapter.steps) == ("law", 2)
    elsewhere = path.rename(tmp_path / "other.toml")
    assert NamedAdapter.read(tmp_path, LAW, settings, file=elsewhere) == found


def test_a_file_that_is_named_has_to_be_there(
    tmp_path: Path, settings: NodeSettings
) -> None:
    with refused(ConfigError, "file-missing"):
        NamedAdapter.read(tmp_path, LAW, settings, file=tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("steps = 2", "steps = 0"),
        ('language = "fr"', 'language = "French"'),
        ("rank = 2", "rank = 2\npublish = true"),
        ('domain = "law"', 'colour = "red"'),
        ("epsilon = 3", ""),
    ],
    ids=["value", "language", "publish", "unknown", "missing"],
)
def test_settings_that_break_a_rule_are_refused(
    tmp_path: Path, settings: NodeSettings, before: str, after: str
) -> None:
    path = law(tmp_path)
    path.write_text(path.read_text().replace(before, after))
    with refused(ConfigError, "setting-invalid"):
        NamedAdapter.read(tmp_path, LAW, settings, file=None)


@pytest.mark.parametrize("name", ["", "../fr", "FR", ".fr", "fr law", "f" * 64])
def test_what_the_log_could_not_name_is_no_path_either(
    tmp_path: Path, settings: NodeSettings, name: str
) -> None:
    with refused(ConfigError, "adapter-name-malformed"):
        check_name(name)
    with refused(ConfigError, "adapter-name-malformed"):
        NamedAdapter.read(tmp_path, name, settings, file=None)


def test_files_of_other_names_are_left_alone(
    tmp_path: Path, settings: NodeSettings
) -> None:
    law(tmp_path)
    (tmp_path / PUBLICATIONS / "Notes.toml").touch()
    (tmp_path / PUBLICATIONS / "fr-care.job").touch()
    assert settings.adapter.steps == 1
    assert list(names_in(tmp_path)) == [LAW]
    assert list(names_in(tmp_path, ".job")) == ["fr-care"]


def test_settings_travel_through_a_job_unchanged(
    tmp_path: Path, settings: NodeSettings
) -> None:
    law(tmp_path)
    file = NamedAdapter.read(tmp_path, LAW, settings, file=None).file
    assert AdapterFile.decode(file.encode()) == file
