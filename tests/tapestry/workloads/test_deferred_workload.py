"""A base says what it is at once; its model is built once, or refuses for good."""

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ConfigError, ForeignFileError
from tapestry.workloads.deferred_workload import DeferredWorkload, loading
from tapestry.workloads.language import base_models
from tapestry.workloads.workload_registry import defer_workload, open_reader
from tests.support.refusals import refused

FIRST = """
import sys
from tapestry.workloads.workload_registry import defer_workload
deferred = defer_workload("language", "tiny")
print(deferred.name, deferred.given.digest, deferred.reader.manifest_file)
sys.exit(any(m in sys.modules for m in ("torch", "transformers", "peft")))
"""


class Counted:
    """A base that counts how often its model is built, or cannot build it."""

    def __init__(self, load: Callable[[], Any]) -> None:
        found = base_models.find_base("tiny")
        self.name, self.given = found.name, found.given
        self.calls, self._load = 0, load

    def load(self) -> Any:
        self.calls += 1
        return self._load()


def deferred_of(base: Counted, **more: Any) -> Any:
    reader = open_reader("language")
    assert reader is not None
    return DeferredWorkload(base, reader=reader, **more)


def test_what_a_base_is_costs_no_torch() -> None:
    base_models.base_folder("tiny")  # made with torch, once
    done = subprocess.run(
        [sys.executable, "-c", FIRST], check=True, capture_output=True, text=True
    )
    digest = base_models.open_base("tiny").given.digest
    assert done.stdout.split() == ["language", digest, "corpus.toml"]


def test_the_model_is_built_once_when_something_needs_it() -> None:
    told: list[str] = []
    base = Counted(lambda: base_models.find_base("tiny").load())
    deferred = deferred_of(base, prepare=lambda: told.append("prepared"))
    assert deferred.given.digest == base.given.digest
    assert (base.calls, told) == (0, [])
    layers = deferred.choose_targets()
    assert layers == deferred.model().choose_targets()
    assert deferred.given.digest == deferred.model().given.digest
    assert (base.calls, told) == (1, ["prepared"])


def test_a_base_without_a_model_is_refused_each_time_with_its_reason() -> None:
    def fail() -> None:
        raise ConfigError("no such architecture", code="model-type-unknown")

    base = Counted(fail)
    deferred = deferred_of(base)
    assert deferred.fault is None
    for _ in range(2):
        with refused(ConfigError, "model-type-unknown", match="no such architecture"):
            deferred.module  # noqa: B018 - it is what is refused
    assert base.calls == 1
    assert isinstance(deferred.fault, ConfigError)


def test_a_model_is_built_from_what_was_read(tmp_path: Path) -> None:
    folder = base_models.base_folder("tiny", cache=tmp_path)
    deferred = defer_workload("language", str(folder))
    digest = deferred.given.digest
    for path in folder.iterdir():
        path.write_bytes(b"{}")
    assert deferred.model().given.digest == digest


def test_a_folder_at_fault_is_refused_before_any_model(tmp_path: Path) -> None:
    folder = base_models.base_folder("tiny", cache=tmp_path)
    (folder / "model.py").write_text("print()")
    with refused(ForeignFileError, "foreign-file", match=r"model\.py"):
        defer_workload("language", str(folder))
    (folder / "model.py").unlink()
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    with refused(ConfigError, "tensor-header-invalid"):
        defer_workload("language", str(folder))
    with refused(ConfigError, "workload-unknown", match="'os' .* language"):
        defer_workload("os", "tiny")


def test_loading_leaves_the_collector_as_it_was() -> None:
    with loading():
        assert not gc.isenabled()
        with loading():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ConfigError), loading():
        raise ConfigError("at fault", code="setting-invalid")
    assert gc.isenabled()
