"""The architectures that private training takes, each tested where it is used."""

from tapestry.workloads.language.architecture_names import ARCHITECTURES
from tests.support import model_folders


def test_each_name_is_one_that_tests_build() -> None:
    assert set(model_folders.ARCHITECTURES) >= ARCHITECTURES
    assert "mixtral" not in ARCHITECTURES
