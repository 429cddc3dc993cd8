"""Sizes of physical batches by the memory that a step is seen to take.

A forward pass on public examples tells what is kept for the way back: the tensors that
autograd saves, each storage once, without parameters. It grows with the elements of a
batch, so that its size for one element says how many elements fit::

    room      of the device's memory, less model and libraries, four fifths
    element   what was kept, times what gradients and intermediate values add
    fewest    one row of the longest length that a plan may have

If too few fit, layers are computed anew on the way back (``Workload.recomputing``).

Guarantees:
    What is chosen depends on model, plan and machine, and on no record.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace

from torch import Tensor, UntypedStorage
from torch.autograd.graph import saved_tensors_hooks

from tapestry.errors import ResourceError
from tapestry_node.training.microbatches import BatchLimits
from tapestry_node.training.per_example_gradients import Problem

LIBRARIES = 700_000_000  # bytes: Python, torch, transformers, and what a node holds
_PART = 0.8  # of the room
_ROWS = 8  # of the trial
_BUSY = 512  # elements; below, a step on recomputed layers is faster than smaller ones
_BESIDE = 2.2  # gradients and intermediate values, in units of what was kept
_BESIDE_RECOMPUTED = 6.5  # a layer and the logits beside the inputs of layers
_FLOAT = 4
_PLAIN = 32  # bytes a coordinate: sum, gradient, value before, change, optimizer
_PRIVATE = 48  # the same, with sums in float64 and noise
_GRADIENTS = 3  # of the room, single gradients take one part in so many
_COPIES = 8  # bytes a coordinate of each row's gradient; Opacus copies once


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSize:
    """The physical batches of a plan, and the bytes of the process at their peak."""

    limits: BatchLimits
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """The bytes of a plan's steps."""

    held: int  # model, libraries, and the sums of a gradient
    row: int  # the gradient of one row alone; 0 where none is needed
    kept: float  # one element of a physical batch, at the peak of a step
    recomputed: float  # the same, where layers are computed anew

    @classmethod
    def of(cls, problem: Problem, *, private: bool) -> "StepMemory":
        """Try a batch of public rows, whose parameters are attached already."""
        coordinate = _PRIVATE if private else _PLAIN
        return cls(
            held=_held(problem) + coordinate * problem.length,
            row=_COPIES * problem.length if private else 0,
            kept=_BESIDE * _kept(problem, recompute=False),
            recomputed=_BESIDE_RECOMPUTED * _kept(problem, recompute=True),
        )

    def choose(
        self, most: BatchLimits, *, longest: int, memory: int | None
    ) -> StepSize:
        """Choose the largest physical batches that fit, up to ``most`` or one row.

        Raises:
            ResourceError: Not one row of the longest length fits.
        """
        most = replace(most, elements=max(most.elements, longest))
        spare = math.inf if memory is None else max(0.0, memory - self.held)
        gradients = min(most.gradient_bytes, spare / _GRADIENTS, most.rows * self.row)
        gradients = 0 if gradients < 2 * self.row else int(gradients)
        busy = max(longest, min(_BUSY, most.elements))
        for recompute, size, fewest in (
            (False, self.kept, busy),
            (True, self.recomputed, longest),
        ):
            elements = min(most.elements, _PART * (spare - gradients) / size)
            if elements >= fewest:
                limits = replace(
                    most,
                    elements=int(elements),
                    gradient_bytes=gradients,
                    recompute=recompute,
                )
                taken = self.held + gradients + int(limits.elements * size)
                return StepSize(limits=limits, bytes=taken)
        needed = self.held + self.recomputed * longest / _PART
        raise ResourceError(
            f"a step on one sequence of {longest} takes about {needed / 1e9:.1f} GB,"
            f" and there are {(memory or 0) / 1e9:.1f}; shorten the sequences, choose a"
            " smaller base or a larger machine",
            code="memory-too-small",
        )


def _held(problem: Problem) -> int:
    """Count the bytes of a process with a model, whose shared arrays count once."""
    parts = {p.untyped_storage().data_ptr(): p for p in problem.module.parameters()}
    narrow = [p.numel() for p in parts.values() if p.element_size() < _FLOAT]
    return (
        LIBRARIES
        + sum(part.untyped_storage().nbytes() for part in parts.values())
        + _FLOAT * max(narrow, default=0)  # one is wide at a time
    )


def _kept(problem: Problem, *, recompute: bool) -> float:
    """Count the bytes that a forward pass keeps, for each element."""
    row = max((row for unit in problem.probe for row in unit.rows), key=len)
    known = {p.untyped_storage().data_ptr() for p in problem.module.parameters()}
    seen: dict[int, UntypedStorage] = {}  # held, so that no place is used again

    def take(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            seen[storage.data_ptr()] = storage
        return tensor

    scope = problem.recomputing() if recompute else nullcontext()
    training = problem.module.training
    problem.module.train()
    try:
        with scope, saved_tensors_hooks(take, lambda tensor: tensor):
            losses = problem.losses([row] * _ROWS)
    finally:
        problem.module.train(training)
    del losses
    size = sum(storage.nbytes() for storage in seen.values())
    return max(1, size) / (_ROWS * len(row))
