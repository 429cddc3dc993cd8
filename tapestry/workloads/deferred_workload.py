"""A workload whose base is read and whose model is built when something needs it.

Building a model takes a framework of machine learning with it: seconds of a processor,
and hundreds of megabytes. A node says who it is and how far it has come without that::

    name, reader, given   at once: the folder was read, checked and hashed
    all else              builds the model first, from the very bytes that were read

Guarantees:
    The model is built once. If that fails, each later use fails with the same error:
    nothing is ever answered from half a model.
"""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tapestry.artifacts.model_identity import ModelContent
from tapestry.workloads.base import FoundBase, RecordReader, Workload


class DeferredWorkload:
    """A ``Workload`` by its base; what only a model can tell builds the model."""

    def __init__(
        self,
        found: FoundBase,
        *,
        reader: RecordReader,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """Take a base that was read; ``prepare`` is called before the model is built.

        Guarantees:
            Nothing of the folder is read again, so that it may change meanwhile.
        """
        self._found, self._prepare = found, prepare
        self._lock = threading.Lock()
        self._model: Workload | None = None
        self.fault: Exception | None = None  # why there will be no model
        self.name: str = found.name
        self.reader = reader
        self.given: ModelContent = found.given

    def model(self) -> Workload:
        """Return the workload with its model, which is built at the first call.

        Edge cases:
            Others that call it meanwhile wait.

        Raises:
            ConfigError, ResourceError: The base is no model that can be built here;
                the same error at each call.
        """
        with self._lock:
            if self.fault is not None:
                raise self.fault
            if self._model is None:
                try:
                    with loading():
                        self._prepare()
                        self._model = self._found.load()
                except Exception as error:
                    self.fault = error
                    raise
            return self._model

    if not TYPE_CHECKING:  # a type checker would take any name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Return what only the model has."""
            if name.startswith("_"):  # of this object, or of a copy that is no object
                raise AttributeError(name)
            return getattr(self.model(), name)


@contextmanager
def loading() -> Iterator[None]:
    """Look for no garbage while modules are loaded: a fifth of the work, for nothing.

    What is there afterwards stays to the end of the process, and is not looked at.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
