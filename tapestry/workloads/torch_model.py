"""The parameters of a torch module, and what a training plan makes trainable in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tapestry.errors import ProtocolError
from tapestry.model.low_rank import factor
from tapestry.protocol.round_manifest import TrainingPlan
from tapestry.vectors import FloatVector, Layout, Parameters
from tapestry.workloads.lora_layers import inserted
from tapestry.workloads.stored_weights import place
from tapestry.workloads.target_modules import find_targets, leaves_of, linear_modules


class TorchModel:
    """A loaded module whose parameters or linear layers can be trained.

    It is the part of ``workloads.base.Workload`` that needs no knowledge of data.

    Guarantees:
        All is computed in float32 and what is trained is float32, whatever the base is
        stored in. Parameters are named and ordered by the module as it was loaded, tied
        ones once; attaching changes neither names nor order.

    Edge cases:
        Parameters are the arrays that were loaded wherever their types agree, and are
        never written to; a training has copies.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._parameters = dict(module.named_parameters())

    @property
    def module(self) -> nn.Module:
        """The torch module."""
        return self._module

    @property
    def _device(self) -> torch.device:
        return next(iter(self._parameters.values())).device

    def parameters(self) -> dict[str, FloatVector]:
        """Copy all parameters out, by name, float32."""
        return {
            name: parameter.detach().to("cpu", torch.float32, copy=True).numpy()
            for name, parameter in self._parameters.items()
        }

    def load(self, parameters: Parameters) -> None:
        """Take parameters, which must not be written to from then on.

        Raises:
            ProtocolError: Names or shapes differ from the model's; nothing is
                taken then.
        """
        if strange := sorted(parameters.keys() ^ self._parameters.keys()):
            raise ProtocolError(
                f"the model and the parameters differ in {strange[0]!r}",
                code="tensor-set-differs",
            )
        for name, parameter in self._parameters.items():
            if parameters[name].shape != tuple(parameter.shape):
                raise ProtocolError(
                    f"parameter {name!r} of shape {parameters[name].shape},"
                    f" the model's is {tuple(parameter.shape)}",
                    code="tensor-shape-differs",
                )
        place(self._module, self._parameters, parameters, device=self._device)

    def layout(self, plan: TrainingPlan) -> Layout:
        """Order the trained tensors: all, or B of each target in module order.

        Raises:
            ConfigError: A target is not a linear module of this model, or the rank
                does not fit the parameterization.
        """
        if plan.parameterization == "full":
            rows = [(n, tuple(p.shape)) for n, p in self._parameters.items()]
            return Layout(tensors=tuple(rows))
        modules = self.targets(plan)
        return Layout(
            tensors=tuple(
                (f"{name}.weight", (module.out_features, plan.rank))
                for name, module in modules.items()
            )
        )

    def targets(self, plan: TrainingPlan) -> dict[str, nn.Linear]:
        """Find the linear modules that a low-rank plan moves, in module order.

        Raises:
            ConfigError: A target is not a linear module of this model, or the rank
                is 0.
        """
        return find_targets(self.linear_modules(), plan)

    def linear_modules(self) -> dict[str, nn.Linear]:
        """Find what a low-rank plan can move, by name, in module order."""
        return linear_modules(self._module, self._parameters)

    def choose_targets(self) -> tuple[str, ...]:
        """Name all linear layers, for a low-rank plan whose settings name none."""
        return tuple(leaves_of(self.linear_modules()))

    @contextmanager
    def attach(self, plan: TrainingPlan) -> Iterator[list[tuple[str, nn.Parameter]]]:
        """Make exactly the tensors of ``layout`` trainable, in that order.

        Guarantees:
            On leaving, whatever happened inside, no LoRA layer is left, and values,
            flags and gradients of all parameters are those from before.
        """
        layout = self.layout(plan)
        flags = {name: p.requires_grad for name, p in self._parameters.items()}
        training = self._module.training
        self._module.requires_grad_(requires_grad=False)
        scope = (
            self._full() if plan.parameterization == "full" else self._low_rank(plan)
        )
        try:
            with scope as trained:
                self._module.train()
                yield [(name, trained[name]) for name, _ in layout.tensors]
        finally:
            self._module.train(training)
            for name, parameter in self._parameters.items():
                parameter.requires_grad = flags[name]
                parameter.grad = None

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Compute what a layer gives a second time on the way back, to save memory.

        Gradients have the same bits. A module that is not built for it goes on as
        before.
        """
        module: Any = self._module
        if not getattr(module, "supports_gradient_checkpointing", False):
            yield
            return
        try:
            module.activation_checkpointing_enable(
                {"use_reentrant": True}
            )  # for Opacus
            yield
        finally:
            module.activation_checkpointing_disable()
            module.disable_input_require_grads()  # which the first call enabled

    @contextmanager
    def moved(self, update: FloatVector, plan: TrainingPlan) -> Iterator[None]:
        """Run with a low-rank update of shape (d,) attached but not folded in.

        Raises:
            ConfigError: The plan does not fit the model.
            ProtocolError: The update has another length.
        """
        pieces = self.layout(plan).split(update)
        with self.attach(plan) as trained:
            with torch.no_grad():
                for name, parameter in trained:
                    parameter.copy_(torch.from_numpy(pieces[name]))
            yield

    @contextmanager
    def _full(self) -> Iterator[dict[str, nn.Parameter]]:
        before = {name: p.data for name, p in self._parameters.items()}
        try:
            for name, parameter in self._parameters.items():
                parameter.data = before[name].to(torch.float32, copy=True)
            self._module.requires_grad_(requires_grad=True)
            yield self._parameters
        finally:
            for name, parameter in self._parameters.items():
                parameter.data, parameter.grad = before[name], None

    @contextmanager
    def _low_rank(self, plan: TrainingPlan) -> Iterator[dict[str, nn.Parameter]]:
        factors = {
            name: factor(
                f"{name}.weight",
                rank=plan.rank,
                width=module.in_features,
                seed=plan.factor_seed,
            )
            for name, module in self.targets(plan).items()
        }
        with inserted(self._module, factors) as left:
            yield {f"{name}.weight": parameter for name, parameter in left.items()}
