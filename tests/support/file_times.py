"""Times of files, which kernels count in steps."""

import time


def let_a_step_pass() -> None:
    """Wait until what is written next has a later time than what was written before.

    The longest step of a Linux kernel is a hundredth of a second.
    """
    time.sleep(0.02)
