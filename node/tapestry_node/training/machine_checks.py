"""Checks of a plan on the machine that would train it, before its budget is touched.

``tapestry.workloads.plan_checks`` decides all that depends on model, plan and declared
number of records, for the coordinator as well. This module adds the two checks that
only the training machine can make: its memory is enough, and the model's per-example
gradients equal those of one example at a time, tried on public examples.

Guarantees:
    No record is looked at. The model is left as it was, but for its values, which may
    become those of the base that is held here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from tapestry.encoding import decode_decimal
from tapestry.errors import (
    ConfigError,
    ProtocolError,
    ResourceError,
    TapestryError,
)
from tapestry.privacy import accounting
from tapestry.protocol.messages import Reason
from tapestry.protocol.round_manifest import PrivacyPlan, RoundManifest, TrainingPlan
from tapestry.secagg.quantization import Encoding
from tapestry.vectors import Layout
from tapestry.workloads import plan_checks
from tapestry.workloads.base import Workload
from tapestry.workloads.hardware import Machine
from tapestry_node.refusal import Refused
from tapestry_node.training.microbatches import BatchLimits

if TYPE_CHECKING:
    from torch import nn

    from tapestry_node.training.step_memory import StepSize

_BYTES = 20  # a coordinate: sum 8, gradient 4, value before 4, change 4
_SEEDLESS = {"factor_seed": "0" * 64}
# What was tried is code, not values: what held for a loaded model holds on.
_Tried = WeakKeyDictionary["nn.Module", set[tuple[str, BatchLimits]]]
_TRIED: _Tried = WeakKeyDictionary()
_Sizes = dict[tuple[object, ...], "StepSize"]
_SIZES: WeakKeyDictionary["nn.Module", _Sizes] = WeakKeyDictionary()


@contextmanager
def refusing(reason: Reason) -> Iterator[None]:
    """Give an error of a plan the reason that may leave the node."""
    try:
        yield
    except (ConfigError, ProtocolError, ResourceError) as error:
        raise Refused(reason, str(error), code=error.code) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainable:
    """The checks for one loaded model."""

    workload: Workload
    records: int  # declared
    limits: BatchLimits  # the largest
    machine: Machine

    def step(self, plan: TrainingPlan, privacy: PrivacyPlan) -> "StepSize":
        """Choose the physical batches of a plan, at its first use.

        Raises:
            ConfigError: The plan does not fit the model.
            ResourceError: No step of the plan fits into memory.
        """
        from tapestry.workloads.device_memory import device_memory
        from tapestry_node.training import dp_sgd

        known = _SIZES.setdefault(self.workload.module, {})
        private = privacy.noise != "none"
        seedless = plan.model_copy(update=_SEEDLESS).digest
        types = tuple(str(p.dtype) for p in self.workload.module.parameters())
        key = (seedless, private, types, self.limits, self.machine)
        if key not in known:
            known[key] = dp_sgd.measure(
                self.workload,
                plan,
                private=private,
                most=self.limits,
                memory=device_memory(self.machine),
            )
        return known[key]

    @property
    def largest(self) -> int | None:
        """The bytes of the largest step that was chosen for this model, if any."""
        known = _SIZES.get(self.workload.module, {})
        return max((size.bytes for size in known.values()), default=None)

    def check_round(
        self, manifest: RoundManifest, *, load: Callable[[], object]
    ) -> Layout:
        """Check everything about a round that is known before it starts.

        ``load`` puts the base that is held here into the model. The result is the
        layout of the update.

        Raises:
            Refused: A check fails; the first one is named.
        """
        layout = self.check(manifest.training, manifest.privacy, load=load)
        with refusing(Reason.PLAN_UNSUPPORTED):
            plan_checks.check_outer(manifest.outer)
            Encoding.of(manifest)
            steps = plan_checks.round_steps(manifest, records=self.records)
            _check_finite(steps, manifest.privacy)
        return layout

    def check(
        self, plan: TrainingPlan, privacy: PrivacyPlan, *, load: Callable[[], object]
    ) -> Layout:
        """Check everything about a training that is known before it starts.

        Raises:
            Refused: A check fails; the first one is named.
        """
        with refusing(Reason.MODEL_UNSUPPORTED):
            plan_checks.check_model(self.workload, privacy)
        with refusing(Reason.PLAN_UNSUPPORTED):
            plan_checks.check_records(plan, privacy, records=self.records)
            layout = plan_checks.check_plan(self.workload, plan, privacy)
        with refusing(Reason.MACHINE_UNFIT):
            check_memory(layout, available=self.machine.memory)
            with _told():
                limits = self.step(plan, privacy).limits
        if privacy.noise != "none":
            self._try(plan, limits, load)
        return layout

    def _try(
        self, plan: TrainingPlan, limits: BatchLimits, load: Callable[[], object]
    ) -> None:
        """Try the gradients, once for each plan but for its factors."""
        key = (plan.model_copy(update=_SEEDLESS).digest, limits)
        known = _TRIED.setdefault(self.workload.module, set())
        if key in known:
            return
        try:
            self._probe(plan, limits)
        except Refused:  # the values of another base may be what fails
            load()
            self._probe(plan, limits)
        known.add(key)

    def _probe(self, plan: TrainingPlan, limits: BatchLimits) -> None:
        from tapestry_node.training import dp_sgd

        with _told():
            try:
                dp_sgd.probe(self.workload, plan, limits=limits)
            except ConfigError as error:
                reason = Reason.MODEL_UNSUPPORTED
                raise Refused(reason, str(error), code=error.code) from error


@contextmanager
def _told() -> Iterator[None]:
    """Turn what a library raises on public examples into a refusal."""
    try:
        yield
    except TapestryError:
        raise
    except Exception as error:  # Opacus raises anything; no record is at hand
        said = " ".join(str(error).split())[:200]
        raise Refused(
            Reason.MODEL_UNSUPPORTED,
            f"gradients of single examples fail: {type(error).__name__}: {said}",
            code="gradients-not-computable",
        ) from error


def check_memory(layout: Layout, *, available: int | None) -> None:
    """Refuse a plan whose gradient alone is more than the machine's memory.

    Raises:
        ResourceError: The gradient needs more bytes than are available.
    """
    needed = _BYTES * layout.length
    if available is not None and needed > available:
        raise ResourceError(
            f"a step on {layout.length} parameters takes {needed / 2**30:.1f} GiB"
            f" beside the model, this machine has {available / 2**30:.1f}; train fewer"
            " (low_rank, a lower rank) or take a larger machine",
            code="memory-too-small",
        )


def _check_finite(steps: accounting.Steps | None, privacy: PrivacyPlan) -> None:
    """Refuse a round that alone promises nothing.

    Raises:
        ConfigError: The epsilon of the round is not finite.
    """
    if steps is None or privacy.noise == "none":
        return
    delta = decode_decimal(privacy.target_delta)
    if accounting.epsilon([steps], target_delta=delta) == float("inf"):
        raise ConfigError(
            f"one round of {steps.steps} steps with noise multiplier"
            f" {steps.noise_multiplier:g} has no finite epsilon; take more noise",
            code="epsilon-unreachable",
        )
