"""A tiny Llama, and its losses, for the tests of private training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tapestry.workloads.language.architectures import check_architecture
from tapestry.workloads.language.tokens import TokenExample
from tapestry.workloads.language.workload import PROBE
from tapestry_node.training.per_example_gradients import Problem

VOCABULARY = 64


def llama(*, tied: bool = True, kind: str = "llama", **settings: Any) -> nn.Module:
    """Build a random model of two layers; the same on each call."""
    import transformers

    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **settings,
    )
    model: nn.Module = transformers.AutoModelForCausalLM.from_config(config)
    _fill(model, seed=7)
    return model.float().eval()


@torch.no_grad()
def _fill(module: nn.Module, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        scale, shift = (0.15, 0.0) if parameter.dim() > 1 else (0.2, 1.0)
        parameter.copy_(scale * drawn + shift)


def losses_of(module: nn.Module, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Mean token loss of each sequence."""
    each = _token_losses(module, sequences)
    return torch.stack([row.mean() for row in each])


def token_mean_losses(module: nn.Module, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Average over the tokens of the whole batch: the mistake of trap 2."""
    each = _token_losses(module, sequences)
    tokens = sum(len(row) for row in each)
    return torch.stack([row.sum() * len(each) / tokens for row in each])


def _token_losses(
    module: nn.Module, sequences: Sequence[Sequence[int]]
) -> list[Tensor]:
    width = max(map(len, sequences))
    tokens = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    logits = module(input_ids=tokens, attention_mask=mask, use_cache=False).logits
    each = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    ).view(len(sequences), width - 1)
    return [row[: len(s) - 1] for row, s in zip(each, sequences, strict=True)]


@contextmanager
def full(module: nn.Module) -> Iterator[Problem]:
    """Train everything; a tied weight is one parameter."""
    module.requires_grad_(requires_grad=True)
    yield Problem(
        module=module,
        parameters=list(module.named_parameters()),
        losses=lambda sequences: losses_of(module, sequences),
        probe=PROBE,
        check_private=partial(check_architecture, module),
    )


@contextmanager
def lora(module: nn.Module, *, both: bool = False) -> Iterator[Problem]:
    """Train B of a LoRA over a frozen A, or both."""
    import peft

    config = peft.LoraConfig(
        r=4, lora_alpha=4, lora_dropout=0.0, target_modules=["q_proj", "down_proj"]
    )
    wrapped = peft.LoraModel(module, {"default": config}, "default")
    for name, inner in module.named_modules():
        if name.endswith("lora_A.default") or (both and "lora_B.default" in name):
            _fill(inner, seed=len(name))
    module.requires_grad_(requires_grad=False)
    chosen = []
    for name, parameter in module.named_parameters():
        if "lora_B" in name or (both and "lora_A" in name):
            parameter.requires_grad = True
            chosen.append((name, parameter))
    try:
        yield Problem(
            module=module,
            parameters=chosen,
            losses=lambda sequences: losses_of(module, sequences),
            probe=PROBE,
            check_private=partial(check_architecture, module),
        )
    finally:
        wrapped.unload()


def units(count: int, *, seed: int = 0, sequences: int = 1) -> list[TokenExample]:
    """Random units of unequal length."""
    generator = torch.Generator().manual_seed(seed)

    def sequence() -> tuple[int, ...]:
        length = int(torch.randint(2, 13, (1,), generator=generator))
        drawn = torch.randint(3, VOCABULARY, (length,), generator=generator)
        return tuple(drawn.tolist())

    return [
        TokenExample(rows=tuple(sequence() for _ in range(sequences)))
        for _ in range(count)
    ]
