"""The memory of a device, or why it is not there."""

import pytest
import torch

from tapestry.errors import ResourceError
from tapestry.workloads.device_memory import device_memory
from tapestry.workloads.hardware import Machine
from tests.support.refusals import refused


@pytest.mark.parametrize("memory", [None, 10**9])
def test_a_processor_computes_in_main_memory(memory: int | None) -> None:
    assert device_memory(Machine(memory=memory)) == memory


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_not_there_is_told_with_its_remedy() -> None:
    with refused(ResourceError, "device-missing", match=r'set speed\.device to "cpu"'):
        device_memory(Machine(device="cuda"))


@pytest.mark.gpu
def test_an_accelerator_has_memory_of_its_own() -> None:
    found = device_memory(Machine(device="cuda", memory=1))
    assert found is not None
    assert found > 1 << 30
