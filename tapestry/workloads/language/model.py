"""Causal language models in the layout of Hugging Face, safetensors only.

A text becomes tokens and the tokens become windows of ``sequence_length`` that
overlap by one token, so that each token but the first is predicted exactly once::

    tokens  t0 t1 t2 t3 t4 t5 t6          sequence_length 4
    windows t0 t1 t2 t3
                     t3 t4 t5 t6

A tokenizer that puts a beginning-of-text token first gets one, and then t0 is that
token. Others (SmolLM2 among them: what it calls BOS is a delimiter of its chat
format) get none; the code length then charges the first token of a text log2 of the
vocabulary, which is the same for every model that shares the tokenizer.

A dialogue becomes the tokens that the chat template gives (``chat_template``); only its
answers count, in training and in code length.

Shapes: B sequences, T positions, V tokens of the vocabulary.
"""

import inspect
import math
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tapestry.artifacts import model_folder
from tapestry.artifacts.adapter_folder import AdapterFolder
from tapestry.artifacts.model_folder import ModelFolder
from tapestry.artifacts.model_identity import ModelContent
from tapestry.artifacts.model_writer import write_model
from tapestry.errors import ConfigError
from tapestry.workloads.hardware import Machine
from tapestry.workloads.language.attention_targets import choose_targets
from tapestry.workloads.language.bfloat16 import multiplies_bfloat16
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.generation import decode
from tapestry.workloads.language.pretrained import open_pretrained
from tapestry.workloads.language.published_adapter import published
from tapestry.workloads.language.settings_files import settings_of
from tapestry.workloads.language.text_encoder import TextEncoder
from tapestry.workloads.language.tokens import TokenExample, by_length, pad, windows
from tapestry.workloads.ratio_score import RatioScore
from tapestry.workloads.torch_model import TorchModel

MIN_TEMPERATURE = 0.01  # below, float32 tells nothing from the likeliest token
_EVALUATION_TOKENS = 1024  # positions per batch: bounds the memory of the logits


class LanguageModel(TorchModel):
    """A loaded model with its tokenizer.

    ``workload.LanguageWorkload`` adds what training asks of it.
    """

    def __init__(
        self,
        module: nn.Module,
        tokenizer: Any,
        *,
        given: ModelContent | None = None,
    ) -> None:
        """Take a Hugging Face model and its tokenizer; see also ``open``.

        Without ``given`` the given base is the module as it is when it is asked for.
        """
        super().__init__(module.eval())
        self._tokenizer = tokenizer
        self._given = given
        self._encoder = TextEncoder(tokenizer)
        self.template = self._encoder.template
        known = inspect.signature(module.forward).parameters
        self._keeps_logits = "logits_to_keep" in known

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Load a local Hugging Face folder without network or code from it.

        Guarantees:
            The parameters are the tensors of the folder, one to one and to the bit.

        Raises:
            ConfigError: The folder is not a sound model (``open_pretrained``).
            ForeignFileError: A file lies in the folder that is no part of a model.
            ResourceError: A file cannot be read, memory or a package is missing.
        """
        return cls.of_folder(model_folder.read(directory))

    @classmethod
    def of_folder(cls, read: ModelFolder, machine: Machine | None = None) -> Self:
        """Load a folder that was read already, as ``open`` does.

        Raises:
            ConfigError: The folder is not a sound model (``open_pretrained``).
            ResourceError: Memory, a device or a package is missing.
        """
        found = open_pretrained(read, machine or Machine())
        return cls(found.module, found.tokenizer, given=found.given)

    @property
    def given(self) -> ModelContent:
        """The base that was given, as it is stored; see ``workloads.base``."""
        if self._given is None:
            files = settings_of(self._module, self._tokenizer)
            self._given = ModelContent(tensors=self.parameters(), files=files)
        return self._given

    @property
    def has_chat_template(self) -> bool:
        """True if the tokenizer brings a template for dialogues."""
        return bool(getattr(self._tokenizer, "chat_template", None))

    def prompt_tokens(self, prompt: Text) -> tuple[int, ...]:
        """Tokenize a prompt, as ``complete`` does."""
        return tuple(self._prompt(prompt))

    def whole_tokens(self, prompt: Text) -> tuple[int, ...] | None:
        """Tokenize a prompt as other programs do, if that is sure.

        See ``ChatTemplate.whole``, also for what it raises.
        """
        if isinstance(prompt, Dialogue):
            row = self.template.whole(prompt)
            return None if row is None else tuple(row)
        return tuple(self._tokenizer(prompt, verbose=False)["input_ids"])

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer or a continuation, in ascending order."""
        return tuple(sorted(self.template.ends))

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        return self._tokenizer

    def choose_targets(self) -> tuple[str, ...]:
        """Name the targets of a low-rank plan where settings leave them open."""
        return choose_targets(self._module, self.linear_modules())

    def adapted(self, adapter: AdapterFolder) -> AbstractContextManager[None]:
        """Run with a published PEFT adapter, exactly as plain ``peft`` loads it.

        Raises:
            ConfigError: The adapter does not fit this model.
        """
        return published(self._module, adapter)

    def encode(
        self, texts: Sequence[Text], *, sequence_length: int
    ) -> list[TokenExample]:
        """Turn each text into one example; a text too short for a loss gives none."""
        return self._encoder.encode(texts, sequence_length=sequence_length)

    def losses(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Mean loss in nats of the tokens that count, shape (len(rows),).

        No value depends on any other sequence of the batch: each mean is over the
        sequence's own tokens, and padding stands after all of them.
        """
        losses_BT, counts_B = self._token_losses(rows)
        return losses_BT.sum(dim=1) / counts_B

    def evaluate(
        self, texts: Sequence[Text], *, sequence_length: int, coarse: bool = False
    ) -> RatioScore:
        """Code length of texts and of the answers of dialogues, without gradients.

        With ``coarse`` it multiplies in bfloat16 if the processor can: 2.5 times
        faster then, and for SmolLM2 within 0.01 % of the exact bits per byte.

        Guarantees:
            The same texts in the same order give the same bits on one machine.
            What is scored is all that was written: a text of which the tokenizer drops
            or changes something is refused (``find_fault``), as its bits per byte would
            be those of another text. Of a text all bytes count, and all tokens, the
            first one as the module says; of a dialogue those of the answers, and each
            answer's end.

        Raises:
            ConfigError: The tokenizer loses something of a text, or the chat template
                refuses a dialogue; the message has the number of the text.
        """
        for number, text in enumerate(texts, start=1):
            if (fault := self._fault_of_tokens(text)) is not None:
                raise ConfigError(
                    f"text {number}: {fault}", code="text-not-tokenizable"
                )
        first = 0.0 if self._encoder.start else math.log2(len(self._tokenizer))
        tokens = self._encoder.tokenize(texts)
        length = min(sequence_length, self.positions)
        cut = [windows(row, length) for row in tokens]
        rows = [window for each in cut for window in each]
        owners = np.repeat(np.arange(len(cut)), [len(each) for each in cut])
        bits = np.array([first if row and row[0] >= 0 else 0.0 for row in tokens])
        with self._inference(coarse=coarse and multiplies_bfloat16()):
            for batch in by_length(rows, tokens=_EVALUATION_TOKENS):
                losses_BT, _ = self._token_losses([rows[i] for i in batch])
                nats = losses_BT.double().sum(dim=1).cpu().numpy()
                np.add.at(bits, owners[batch], nats / math.log(2))
        return RatioScore(
            amounts=tuple(bits.tolist()),
            sizes=tuple(map(_counted_bytes, texts)),
        )

    def find_fault(self, text: Text) -> str | None:
        """Say why a text cannot be scored, or its first question not be asked, or None.

        A node and a coordinator ask this of their texts before a round costs anything.

        Edge cases:
            Lossless is up to canonical composition (NFC, which some tokenizers apply)
            and one space before a text (which others add and take away again).
        """
        try:
            if isinstance(text, Dialogue):
                self.template.encode([text])
                self._check_prompt(self._prompt(Dialogue(turns=text.turns[:1])))
        except ConfigError as error:
            return str(error)
        return self._fault_of_tokens(text)

    def complete_all(
        self,
        prompts: Sequence[Text],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[str]:
        """Continue texts, and answer dialogues, until the model ends each.

        Args:
            prompts: Texts so far, and dialogues that end with a turn of the user.
            max_tokens: How many tokens at most for each.
            temperature: 0 takes the likeliest token each time; else from
                ``MIN_TEMPERATURE``.
            generator: Draws tokens when the temperature is not 0; all prompts take
                from it in turn.

        Edge cases:
            An answer ends where the positions of the model do.

        Raises:
            ConfigError: The chat template cannot print such a dialogue, a prompt is
                longer than the model takes, or the model gives NaN or infinity.
            ValueError: The temperature is no such number.
        """
        if not (temperature == 0 or MIN_TEMPERATURE <= temperature < math.inf):
            raise ValueError(f"temperature is {temperature}, want 0 or a higher number")
        given = [self._prompt(prompt) for prompt in prompts]
        for tokens in given:
            self._check_prompt(tokens)
        with self._inference(coarse=False):
            rows = decode(
                self._module,
                given,
                ends=self.template.ends,
                most=[min(max_tokens, self.positions - len(row)) for row in given],
                choose=partial(_choose, temperature=temperature, generator=generator),
            )
        return [
            str(self._tokenizer.decode(row, skip_special_tokens=True)) for row in rows
        ]

    def save(self, directory: Path) -> None:
        """Write settings files of the given base and the module's parameters.

        Raises:
            ResourceError: The folder cannot be written.
        """
        content = replace(self.given, tensors=self.parameters(), hashes=None)
        write_model(directory, content, card=None)

    def _fault_of_tokens(self, text: Text) -> str | None:
        """Say what the tokenizer loses of what is scored: one character, no word."""
        for part in (text,) if isinstance(text, str) else text.answers:
            (tokens,) = self.template.text.encode([part])
            back = self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
            want = _composed(part)
            if _composed(back) not in {want, f" {want}", want.removeprefix(" ")}:
                lost = [c for c in want if c not in _composed(back)]
                which = f", such as U+{ord(lost[0]):04X}" if lost else ""
                return (
                    f"the base's tokenizer drops or changes something of it{which}, so"
                    " that its bits per byte would be another text's; take it out, or"
                    " choose a base whose tokenizer keeps it"
                )
        return None

    @property
    def positions(self) -> int:
        """The most tokens that the model takes; unbounded where it does not say."""
        config: Any = self._module.config
        known = getattr(config, "max_position_embeddings", None)
        return known if type(known) is int and known > 0 else sys.maxsize

    def _check_prompt(self, tokens: Sequence[int]) -> None:
        if len(tokens) >= self.positions:
            raise ConfigError(
                f"the prompt has {len(tokens)} tokens with what the chat template adds,"
                f" and the model takes {self.positions} with the answer; shorten it",
                code="prompt-too-long",
            )

    def _prompt(self, prompt: Text) -> list[int]:
        if isinstance(prompt, Dialogue):
            return self.template.prompts([prompt])[0]
        (tokens,) = self._encoder.plain([prompt])
        return tokens or self._encoder.start or [self._tokenizer.eos_token_id or 0]

    @contextmanager
    def _inference(self, *, coarse: bool) -> Iterator[None]:
        training = self._module.training
        self._module.eval()
        kind, bfloat16 = self._device.type, torch.bfloat16
        try:
            with torch.no_grad(), torch.autocast(kind, dtype=bfloat16, enabled=coarse):
                yield
        finally:
            self._module.train(training)

    def _token_losses(
        self, sequences: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """Return losses of shape (B, T - start) and how many tokens of a row count.

        Columns before the first token that counts in any row are context alone, as the
        head of a chat template is; no logits are made for them.
        """
        batch = pad(sequences, device=self._device)
        start = int(batch.counted_BT[:, 1:].any(dim=0).nonzero()[0]) + 1
        keep = batch.tokens_BT.shape[1] - start + 1
        logits_BTV = self._module(
            input_ids=batch.tokens_BT,
            attention_mask=batch.attention_BT,
            use_cache=False,
            **({"logits_to_keep": keep} if self._keeps_logits else {}),
        ).logits[:, -keep:]
        counted_BT = batch.counted_BT[:, start:]
        losses_BT = functional.cross_entropy(
            logits_BTV[:, :-1].flatten(0, 1),
            batch.tokens_BT[:, start:].flatten(),
            reduction="none",
        ).view_as(counted_BT)
        return losses_BT * counted_BT, counted_BT.sum(dim=1)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _counted_bytes(text: Text) -> int:
    parts = (text,) if isinstance(text, str) else text.answers
    return sum(len(part.encode()) for part in parts)


def _choose(
    logits_V: Tensor, *, temperature: float, generator: torch.Generator | None
) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    chances_V = torch.softmax(logits_V / temperature, dim=-1)
    return int(torch.multinomial(chances_V, 1, generator=generator))
