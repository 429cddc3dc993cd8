"""The files that Flower's programs read, and the programs that stand in for them."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ConfigError
from tapestry_coordinator.superlink import config_files
from tapestry_coordinator.superlink.config_files import (
    check_home,
    write_bundle,
    write_programs,
)
from tests.support.refusals import refused

paths = st.text(
    st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20
).map(lambda text: Path("/") / text.replace("/", ""))


@given(paths)
def test_any_directory_is_spelled_so_that_it_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, directory: Path
) -> None:
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder, app="some.module:app", directory=directory)
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    app = project["tool"]["flwr"]["app"]
    assert app["config"] == {"directory": str(directory)}
    assert app["components"]["serverapp"] == "some.module:app"


def test_a_bundle_holds_no_code(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", app="some.module:app", directory=tmp_path)
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["pyproject.toml"]


@pytest.mark.parametrize("name", config_files.UNWANTED)
def test_unwanted_programs_end_at_once(tmp_path: Path, name: str) -> None:
    write_programs(tmp_path)
    assert shutil.which(name, path=str(tmp_path)) == str(tmp_path / name)
    assert (
        subprocess.run([tmp_path / name, "--token", "x"], check=False).returncode == 1
    )


def test_a_home_whose_name_would_end_a_search_path_is_refused(tmp_path: Path) -> None:
    check_home(tmp_path)
    with refused(ConfigError, "path-separator-in-name", match="a:b"):
        check_home(tmp_path / "a:b")
