from typing import Any

import pytest
import torch

from tapestry.workloads.language.model import LanguageModel
from tests.support.model_folders import build


@pytest.fixture(params=["gpt2", "opt", "llama"], scope="session")
def bounded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> LanguageModel:
    """A model of few positions whose answers never end by themselves."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("positions") / request.param
    found = LanguageModel.open(build(folder, request.param))
    template: Any = found._template
    template.__dict__["ends"] = frozenset()
    return found
