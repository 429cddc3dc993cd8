"""The memory of the device that a model computes on."""

import torch

from tapestry.errors import ResourceError
from tapestry.workloads.hardware import Machine


def device_memory(machine: Machine) -> int | None:
    """Return the bytes of the memory in which a machine's device computes.

    Raises:
        ResourceError: The device is not there, or torch was built without it.
    """
    if machine.device == "cpu":
        return machine.memory
    try:
        found = torch.cuda.get_device_properties(machine.device).total_memory
    except (AssertionError, RuntimeError) as error:
        said = " ".join(str(error).split())[:120]
        raise ResourceError(
            f"device {machine.device!r} is not there ({said}); set speed.device to"
            ' "cpu", or install a torch that knows it',
            code="device-missing",
        ) from None
    return int(found)
