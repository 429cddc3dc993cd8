"""What the machine at hand can do, told alike in a container and out of it."""

from tapestry.workloads.hardware import memory_bytes


def test_this_machine_says_how_much_memory_it_has() -> None:
    found = memory_bytes()
    assert found is None or found > 1 << 28
