"""A disk that has room for so many bytes of a file and no more."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Refuse every write beyond a size, in this process, while the block runs.

    The kernel writes what fits and refuses the rest, as a full disk does; Python
    ignores the signal and raises ``OSError``.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
