"""The given base, built once; and federations that end with their test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tapestry.model.replica import Replica
from tapestry.workloads.language.base_models import build_tiny
from tests.support.federation import Base, Federation

Found = Callable[..., Federation]


@pytest.fixture(scope="session")
def base() -> Base:
    torch.set_num_threads(1)
    workload = build_tiny()
    return Base(workload=workload, replica=Replica.start(workload.given))


@pytest.fixture
def found(base: Base, tmp_path: Path) -> Iterator[Found]:
    """Found federations; their nodes are closed after the test."""
    made: list[Federation] = []

    def make(**settings: Any) -> Federation:
        made.append(Federation(tmp_path / f"federation-{len(made)}", base, **settings))
        return made[-1]

    yield make
    for federation in made:
        federation.close()
