"""A healthy folder opens and opens the same; a damaged one is refused by name."""

import shutil
from pathlib import Path

import pytest

from tapestry.errors import ConfigError, ForeignFileError
from tapestry.vector import parameters_digest
from tapestry.workloads.language import LanguageModel
from tapestry_governance import registry
from tests.core.model_folders import ARCHITECTURES, MUTATIONS, Mutation, build

_FEW = ("llama", "gpt2")
_SLOW = tuple(
    pytest.param(kind, marks=() if kind in _FEW else pytest.mark.slow)
    for kind in ARCHITECTURES
)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("healthy")


def _folder(healthy: Path, kind: str) -> Path:
    folder = healthy / kind
    return folder if folder.exists() else build(folder, kind)


@pytest.mark.parametrize("kind", _SLOW)
def test_a_healthy_folder_opens_with_the_digest_of_its_files(
    healthy: Path, kind: str, tmp_path: Path
) -> None:
    folder = _folder(healthy, kind)
    model = LanguageModel.open(folder)
    digest = parameters_digest(model.parameters())
    assert parameters_digest(LanguageModel.open(folder).parameters()) == digest
    assert registry.read_base(folder).digest == digest
    model.save(tmp_path / "again")
    assert registry.read_base(tmp_path / "again").digest == digest
    assert (
        parameters_digest(LanguageModel.open(tmp_path / "again").parameters()) == digest
    )


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("kind", _SLOW)
def test_a_damaged_folder_is_refused_by_name(
    healthy: Path, kind: str, mutation: Mutation, tmp_path: Path
) -> None:
    folder = tmp_path / kind
    shutil.copytree(_folder(healthy, kind), folder)
    named = mutation(folder)
    for _ in range(2):  # transformers gives some warnings only once
        with pytest.raises((ConfigError, ForeignFileError)) as caught:
            LanguageModel.open(folder)
        assert named in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
