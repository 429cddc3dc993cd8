"""Per-unit gradients: clipped one by one, then summed.

For noise that nodes share, units run one by one and are summed as integers
(``integer_sum``): what one adds depends on it alone. Otherwise there are two ways to
the same sum, and memory alone decides between them:

``rows``  Opacus hooks give a gradient per row for a physical batch at once.
``loop``  One unit after another through plain autograd. Where parameters are many (a
          gradient per row is a copy of the model) it is as fast on a CPU, at a
          fraction of the memory.

A model that looks at all rows of a batch would mix examples in the one, and a model
that keeps something for the next batch in both. Only models that are tested to do
neither are accepted (``Workload.check_private``).

An example is a record. Its loss is the mean over its rows of each row's own loss; the
gradients of its rows are summed before clipping, so that a record counts as one however
long it is.
"""

import importlib.util
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tapestry.errors import ConfigError
from tapestry.privacy import clipping
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.vectors import FloatVector, IntegerVector
from tapestry.workloads.base import Example
from tapestry.workloads.data_manifest import Row
from tapestry_node.training.microbatches import BatchLimits, alike, pack


@contextmanager
def _without_init(package: str) -> Iterator[None]:
    """Import modules of a package, but not what its ``__init__`` imports beside them.

    Who imports names from the package later gets all of them.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or package in sys.modules:
        yield
        return
    sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[package]


with _without_init("opacus"):  # its accountants load scipy.stats: 0.5 s a node
    from opacus.grad_sample import GradSampleHooks

_TOLERANCE = 1e-3
_BLOCK = 1 << 16
_CHECKED: WeakKeyDictionary[nn.Module, set[object]] = WeakKeyDictionary()
Done = Callable[[Sequence[int]], None]
_FEWEST_ROWS = 2  # below, the loop does as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A model, what is trained in it, and the loss of each row.

    ``losses`` must return shape (len(rows),), each value free of the others. ``probe``
    holds public examples of one row each, and ``check_private`` refuses a model whose
    gradients are not known to be those of single examples.
    """

    module: nn.Module
    parameters: Sequence[tuple[str, nn.Parameter]]
    losses: Callable[[Sequence[Row]], Tensor]
    probe: Sequence[Example]
    check_private: Callable[[], None]
    recomputing: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def length(self) -> int:
        """The number of trained coordinates d."""
        return sum(p.numel() for _, p in self.parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts of a sum; private, for the institution's own eyes."""

    units: int = 0
    clipped: int = 0
    non_finite: int = 0
    loss: float = 0.0  # summed over units

    @property
    def mean_loss(self) -> float | None:
        """Mean over the units; None without any."""
        return self.loss / self.units if self.units else None

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            units=self.units + other.units,
            clipped=self.clipped + other.clipped,
            non_finite=self.non_finite + other.non_finite,
            loss=self.loss + other.loss,
        )


class Gradients:
    """Sums of gradients of one problem; made by ``attached``."""

    def __init__(
        self, problem: Problem, limits: BatchLimits, hooks: GradSampleHooks | None
    ) -> None:
        self._problem = problem
        self._limits = limits
        self._hooks = hooks
        self._parameters = [p for _, p in problem.parameters]

    @property
    def by_rows(self) -> bool:
        """True if Opacus runs, rather than the loop."""
        return self._hooks is not None

    def recomputing(self) -> AbstractContextManager[None]:
        """Compute layers anew on the way back, if the limits say so."""
        if self.recomputes:
            return self._problem.recomputing()
        return nullcontext()

    @property
    def recomputes(self) -> bool:
        """True if layers are computed anew on the way back."""
        return self._limits.recompute

    def clipped_sum(
        self, units: Sequence[Example], *, clip_norm: float
    ) -> tuple[Tensor, Tally]:
        """Sum the clipped gradients of some units, float64 of shape (d,).

        Guarantees:
            Adding or removing one unit changes the sum by a vector of norm at most
            ``clip_norm``, whatever the other units are. Its own part is at most
            ``clip_norm`` less ``clipping.SLACK``. The others' parts are summed in
            float64, but each comes out of float32, and who shares its physical batch
            shows in its last bits: that moves the sum by ``clipping.DRIFT`` of
            ``clip_norm``, of which the slack pays for a hundred times as much. This is
            measured, not proven.

        Edge cases:
            No units give zero, and the model is not run. A unit whose gradient is
            not finite counts as zero.
        """
        total = torch.zeros(
            self._problem.length, dtype=torch.float64, device=self._device
        )
        tally = Tally()
        for group in pack(units, self._limits):
            if self._hooks is None or not self._limits.hold(group):
                for unit in group:
                    tally += self._add_unit(unit, total, clip_norm)
            else:
                tally += self._add_rows(self._hooks, group, total, clip_norm)
        return total, tally

    def integer_sum(
        self, units: Sequence[Example], *, share: NoiseShare, clip_norm: float
    ) -> tuple[IntegerVector, Tally]:
        """Sum the clipped gradients of some units in steps of a grid, int64 (d,).

        Guarantees:
            Adding or removing one unit changes the sum by integers of norm at most
            ``share.unit_bound``, exactly, whatever the other units are, and no order of
            units gives another sum. Each unit runs alone: what may differ between two
            runs of it, on some machines, does not depend on the others.

        Edge cases:
            As ``clipped_sum``.
        """
        total = np.zeros(self._problem.length, dtype=np.int64)
        tally = Tally()
        for unit in units:
            loss, grads = self._gradient(unit)
            length = clipping.add_unit(
                total, grads, scale=share.unit_scale, bound=share.unit_bound
            )
            tally += _tally(loss, np.array([length]), clip_norm)
        return total, tally

    def plain_sum(self, units: Sequence[Example]) -> tuple[Tensor, Tally]:
        """Sum the gradients of some units without any bound, float32 (d,)."""
        self._clear()
        tally = Tally()
        for group in pack(units, self._limits):
            tally += Tally(units=len(group), loss=self._backward(group))
        total = torch.zeros(self._problem.length, device=self._device)
        for parameter, view in zip(self._parameters, self._views(total), strict=True):
            if parameter.grad is not None:
                view.copy_(parameter.grad)
        return total, tally

    def apply(self, total: Tensor, *, scale: float) -> None:
        """Scale a sum in place and put it where an optimizer looks for gradients."""
        for parameter, view in zip(self._parameters, self._views(total), strict=True):
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(view.mul_(scale))

    def _add_rows(
        self,
        hooks: GradSampleHooks,
        units: Sequence[Example],
        total: Tensor,
        clip_norm: float,
    ) -> Tally:
        owners = _owners(units)
        samples = [p.new_zeros(owners[-1] + 1, *p.shape) for p in self._parameters]

        def take(batch: Sequence[int]) -> None:
            index = torch.tensor([owners[i] for i in batch], device=self._device)
            for parameter, sample in zip(self._parameters, samples, strict=True):
                sample.index_add_(0, index, _take_sample(parameter))

        hooks.enable_hooks()
        try:
            loss = self._backward(units, done=take)
        finally:
            hooks.disable_hooks()
            self._clear()
        norms = _norms(samples)
        scales = clipping.factors(norms, clip_norm=clip_norm)
        factors = torch.from_numpy(scales).to(self._device)
        for sample, view in zip(samples, self._views(total), strict=True):
            sample[factors == 0] = 0  # zero times NaN would be NaN
            flat = sample.flatten(1).to(torch.float64)
            view.add_((factors @ flat).view_as(view))
        return _tally(loss, norms, clip_norm)

    def _add_unit(self, unit: Example, total: Tensor, clip_norm: float) -> Tally:
        loss, grads = self._gradient(unit)
        norms = np.array([clipping.norm(grads)])
        (factor,) = clipping.factors(norms, clip_norm=clip_norm)
        if factor > 0:
            for grad, view in zip(grads, self._views(total), strict=True):
                _add_scaled(view, torch.from_numpy(grad), factor=float(factor))
        return _tally(loss, norms, clip_norm)

    def _gradient(self, unit: Example) -> tuple[float, list[FloatVector]]:
        """Compute the loss of a unit that runs alone, and its gradient in pieces."""
        self._clear()
        loss = self._backward([unit])
        grads = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters
        ]
        return loss, [_flat(grad) for grad in grads]

    def _backward(self, units: Sequence[Example], *, done: Done | None = None) -> float:
        """Add the gradients of some units to what parameters hold; return the loss.

        ``done`` is told after each batch which rows, of all in order, were in it.
        """
        rows = [s for u in units for s in u.rows]
        weights = torch.tensor([1 / len(u.rows) for u in units for _ in u.rows])
        total = 0.0
        for batch in alike(rows, self._limits):
            losses = self._problem.losses([rows[i] for i in batch])
            if losses.shape != (len(batch),):
                raise ValueError(f"losses of shape {tuple(losses.shape)}")
            loss = (losses * weights[batch].to(self._device)).sum()
            with _quiet():
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            total += float(loss.detach())
            if done is not None:
                done(batch)
        return total

    def _views(self, total: Tensor) -> Iterator[Tensor]:
        start = 0
        for parameter in self._parameters:
            yield total[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    @property
    def _device(self) -> torch.device:
        return self._parameters[0].device


@contextmanager
def attached(
    problem: Problem, limits: BatchLimits, *, private: bool
) -> Iterator[Gradients]:
    """Prepare a problem for its gradients, and undo that on leaving.

    Raises:
        ConfigError: The architecture or its rotary type is not allowed, or its
            per-row gradients differ from the one-example loop.
        ValueError: What is trainable in the module is not what the problem names.
    """
    _check_problem(problem)
    training = problem.module.training
    problem.module.train()
    hooks = None
    try:
        if private:
            problem.check_private()
            room = limits.gradient_bytes // (8 * problem.length)  # Opacus copies once
            if room >= _FEWEST_ROWS:
                limits = replace(limits, rows=min(limits.rows, room))
                hooks = GradSampleHooks(problem.module, loss_reduction="sum")
                hooks.disable_hooks()
            # One row alone would compare nothing.
            pair = BatchLimits(rows=len(problem.probe), recompute=limits.recompute)
            _check_once(Gradients(problem, pair, hooks), problem)
        found = Gradients(problem, limits, hooks)
        with found.recomputing():
            yield found
    finally:
        if hooks is not None:
            hooks.cleanup()
            for part in problem.module.modules():  # a failed batch leaves its text
                vars(part).pop("activations", None)
                vars(part).pop("max_batch_len", None)
        for _, parameter in problem.parameters:
            parameter.grad = None
        problem.module.train(training)


def _check_once(gradients: Gradients, problem: Problem) -> None:
    """Check a model at its first use: what is compared is code, not values.

    Once for each module, what is trained in it, way to the sum and loss function.
    """
    losses = getattr(problem.losses, "__func__", problem.losses)
    names = tuple(name for name, _ in problem.parameters)
    known = _CHECKED.setdefault(problem.module, set())
    key = (names, gradients.by_rows, gradients.recomputes, losses)
    if key not in known:
        check_per_unit(gradients, problem)
        known.add(key)


def check_per_unit(gradients: Gradients, problem: Problem) -> None:
    """Compare per-unit gradients with the one-example loop, on public rows.

    Two or more rows of unequal length, as one unit each: their losses, and the sum of
    their gradients under a bound that binds and one that does not, must be what each
    gives alone, without hooks and where nothing is computed anew. A loss averaged over
    the elements of a batch fails here, and so does a layer that Opacus handles wrongly.
    ``gradients`` must have limits that run both at once.

    Raises:
        ConfigError: A loss or gradient differs by more than the tolerance, or the
            gradients vanish or overflow.
    """
    units = problem.probe
    rows = [row for unit in units for row in unit.rows]
    if len(rows) < _FEWEST_ROWS or len(rows) != len(units):
        raise ValueError("a probe has two examples or more, of one row each")
    with torch.no_grad():
        together = problem.losses(rows)
        alone = torch.cat([problem.losses([row]) for row in rows])
    _compare(together.double(), alone.double(), "losses")
    if not gradients.by_rows and not gradients.recomputes:
        return
    single = Gradients(problem, BatchLimits(rows=1), None)
    for clip_norm in (1e-3, 1e12):
        want, _ = single.clipped_sum(units[:1], clip_norm=clip_norm)
        want += single.clipped_sum(units[1:], clip_norm=clip_norm)[0]
        with gradients.recomputing():
            got, _ = gradients.clipped_sum(units, clip_norm=clip_norm)
        _compare(got, want, "gradients")


def _check_problem(problem: Problem) -> None:
    named = {id(p) for _, p in problem.parameters}
    trainable = {id(p) for p in problem.module.parameters() if p.requires_grad}
    if named != trainable or len(named) != len(problem.parameters):
        raise ValueError("what is trainable is not what the problem names")
    for name, parameter in problem.parameters:
        if parameter.dtype != torch.float32:
            raise ConfigError(
                f"{name} is {parameter.dtype}; training needs float32",
                code="training-not-float32",
            )


def _compare(got: Tensor, want: Tensor, what: str) -> None:
    error = float((got - want).norm())
    size = float(want.norm())
    if not 0 < size < math.inf:
        raise ConfigError(
            f"the {what} of a probe have size {size:.2g}; a base whose values vanish or"
            " overflow learns nothing: choose another, or scale its weights",
            code="probe-not-finite",
        )
    if not error <= _TOLERANCE * size:
        raise ConfigError(
            f"per-unit {what} differ from the one-example loop by {error:.2g} of"
            f" {size:.2g}; this model cannot be trained privately",
            code="gradients-differ",
        )


def _take_sample(parameter: nn.Parameter) -> Tensor:
    sample = getattr(parameter, "grad_sample", None)
    if not isinstance(sample, Tensor):
        raise ConfigError(
            "a trained parameter took no part in the loss; choose other targets",
            code="parameter-without-gradient",
        )
    parameter.grad_sample = None  # type: ignore[attr-defined]  # set by Opacus
    return sample


def _add_scaled(total: Tensor, grad: Tensor, *, factor: float) -> None:
    """Add float32 to float64 in blocks; torch takes twice as long in one go."""
    into, part = total.view(-1), grad.flatten()
    block = total.new_empty(min(_BLOCK, part.numel()))
    for start in range(0, part.numel(), _BLOCK):
        piece = part[start : start + _BLOCK]
        wide = block[: piece.numel()].copy_(piece)
        into[start : start + _BLOCK].add_(wide, alpha=factor)


def _owners(units: Sequence[Example]) -> list[int]:
    """List for each row, of all in order, the unit that it belongs to."""
    return [place for place, unit in enumerate(units) for _ in unit.rows]


def _norms(samples: Sequence[Tensor]) -> npt.NDArray[np.float64]:
    """Compute the norm of each unit over all parameters: (units, ...)* -> (units,)."""
    rows = zip(*samples, strict=True)
    return np.array([clipping.norm([_flat(part) for part in row]) for row in rows])


def _flat(part: Tensor) -> FloatVector:
    return np.asarray(part.detach().flatten().cpu().numpy(), dtype=np.float32)


def _tally(loss: float, norms: npt.NDArray[np.float64], clip_norm: float) -> Tally:
    finite = np.isfinite(norms)
    bound = clip_norm * (1 - clipping.SLACK)
    return Tally(
        units=len(norms),
        clipped=int((norms[finite] > bound).sum()),
        non_finite=int((~finite).sum()),
        loss=loss if math.isfinite(loss) else 0.0,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's remark that the first layer's input needs no gradient."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield
