"""Models of few positions, and the given base, built once."""

from typing import Any

import pytest
import torch

from tapestry.workloads.language.model import LanguageModel
from tests.support.federation_fixtures import base
from tests.support.model_folders import build

__all__ = ["base"]


@pytest.fixture(params=["gpt2", "opt", "llama"], scope="session")
def bounded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> LanguageModel:
    """A model of few positions whose answers never end by themselves."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("positions") / request.param
    found = LanguageModel.open(build(folder, request.param))
    template: Any = found.template
    template.__dict__["ends"] = frozenset()
    return found
