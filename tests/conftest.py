"""Settings for every test: one thread, no network, laws without a deadline."""

import os

# Before torch, transformers or matplotlib is imported by any test module.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The first call into torch takes longer than any deadline for one example.
settings.register_profile(
    "tapestry",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tapestry")


def pytest_configure() -> None:
    """Take signals and modes of files as at a terminal, and keep folders in memory.

    What runs in the background or outlives a terminal is started with some signals
    ignored; children inherit that, and many a test sends one.
    """
    os.umask(0o022)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            is_break = number is signal.SIGINT
            signal.signal(
                number, signal.default_int_handler if is_break else signal.SIG_DFL
            )
    _keep_folders_in_memory()


def _keep_folders_in_memory() -> None:
    """Keep the folders of tests in memory where there is room.

    The journals and logs under test wait for the disk at every commit, and thousands
    of folders are made and removed: a fifth of the time on an ordinary disk.
    """
    memory = Path("/dev/shm")  # noqa: S108
    if memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


def _has_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    return (
        subprocess.run(["nvidia-smi"], capture_output=True, check=False).returncode == 0
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need an accelerator where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no accelerator on this machine"))
