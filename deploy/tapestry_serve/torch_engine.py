"""The exact engine: one thread, one model, and rows of several adapters in a batch.

::

    submit   queue, bounded by jobs and by tokens
    thread   new jobs join        one forward pass over their prompts
             all rows step        one forward pass over a token of each
             rows end and leave   when they end, or their client has gone

A job waits for 20 ms at most before the first forward pass, for others to join it.

Guarantees:
    A greedy continuation does not depend on the rows beside it, but for rounding: where
    two tokens are likeliest within 1e-4, another one may be taken. What is drawn at
    random is drawn by a generator of the row's own.

Edge cases:
    Logits of a row that are not finite end that row with a fault, and no other. A fault
    of the model ends the rows of that pass; the thread goes on.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tapestry.artifacts.adapter_folder import AdapterFolder
from tapestry.errors import ConfigError, TapestryError
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.published_adapter import published_all
from tapestry.workloads.language.row_batch import RowBatch
from tapestry_serve.engine import BusyError, Finished, Job, ScoredToken, Tell

_log = logging.getLogger(__name__)
_COLLECT = 0.02  # seconds
_PEFT_BASE = "__base__"  # PEFT's name for a row without an adapter
BASE = "base"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Bounds on what is computed at once, and on what waits."""

    rows: int = 8
    jobs: int = 64  # in the queue
    tokens: int = 65_536  # of prompts in the queue
    logits_bytes: int = 1 << 30  # of a text that is scored


@dataclass(slots=True, kw_only=True)
class _JobRow:
    """A job on its way; also its ticket."""

    job: Job
    tell: Tell
    generator: torch.Generator
    last: int = 0  # token drawn
    done: int = 0  # tokens
    gone: bool = False

    def cancel(self) -> None:
        self.gone = True


@dataclass(slots=True, kw_only=True)
class _TextScore:
    """A text to be scored, for a caller that waits."""

    model: str
    tokens: Sequence[int]
    alternatives: int
    ready: threading.Event = field(default_factory=threading.Event)
    found: list[ScoredToken] | None = None
    fault: TapestryError | None = None


class TorchEngine:
    """A loaded base with its adapters; implements ``engine.AnswerEngine``."""

    kind = "torch"

    def __init__(
        self,
        model: LanguageModel,
        adapters: Mapping[str, AdapterFolder],
        *,
        limits: EngineLimits | None = None,
    ) -> None:
        """Put the adapters in, and start the thread.

        Raises:
            ConfigError: An adapter does not fit the model.
        """
        self._model, self._limits = model, limits or EngineLimits()
        names = {each: f"a{place}" for place, each in enumerate(adapters)}
        self._names = {BASE: _PEFT_BASE, **names}
        self._rows: list[str] = []  # PEFT's names for the pass under way
        self._stack = ExitStack()
        if adapters:
            found = {names[each]: folder for each, folder in adapters.items()}
            self._stack.enter_context(published_all(model.module, found))
            self._stack.enter_context(self._told(model.module))
        model.module.eval()
        self._queue: deque[_JobRow | _TextScore] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def _device(self) -> torch.device:
        return next(self._model.module.parameters()).device

    @property
    def positions(self) -> int:
        """The most tokens of a prompt with its answer."""
        return self._model.positions

    def submit(self, job: Job, tell: Tell) -> _JobRow:
        """Take a job; see ``AnswerEngine.submit``."""
        self._check(job.model, len(job.prompt))
        generator = torch.Generator().manual_seed(job.seed)
        row = _JobRow(job=job, tell=tell, generator=generator)
        self._put(row, tokens=len(job.prompt))
        return row

    def score(
        self, model: str, tokens: Sequence[int], *, alternatives: int
    ) -> list[ScoredToken]:
        """Score a text; see ``AnswerEngine.score``."""
        self._check(model, len(tokens) - 1)
        self._check_logits(len(tokens))
        asked = _TextScore(model=model, tokens=tokens, alternatives=alternatives)
        self._put(asked, tokens=len(tokens))
        asked.ready.wait()
        if asked.fault is not None:
            raise asked.fault
        return asked.found or []

    def close(self) -> None:
        """End all jobs, wait for the thread, and take the adapters out."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._stack.close()

    def _check(self, model: str, length: int) -> None:
        if model not in self._names:
            raise ConfigError(f"no model {model!r} here", code="model-unknown")
        if length >= self.positions:
            raise ConfigError(
                f"the prompt has {length} tokens, and the model takes"
                f" {self.positions} with the answer; shorten it",
                code="prompt-too-long",
            )

    def _check_logits(self, length: int) -> None:
        """Refuse a text whose logits, float32 for each token, are beyond the bound."""
        most = self._limits.logits_bytes // (4 * len(self._model.tokenizer))
        if length > most:
            raise ConfigError(
                f"a text of {length} tokens is too long to be scored here, {most} fit;"
                " score it in parts",
                code="score-too-long",
            )

    def _put(self, one: _JobRow | _TextScore, *, tokens: int) -> None:
        with self._changed:
            waiting = sum(map(_size, self._queue))
            full = len(self._queue) >= self._limits.jobs
            if self._closed or full or waiting + tokens > self._limits.tokens:
                raise BusyError(
                    f"{len(self._queue)} requests of {waiting} tokens wait already;"
                    " try again later",
                    code="queue-full",
                )
            self._queue.append(one)
            self._changed.notify()

    def _work(self) -> None:
        rows: list[_JobRow] = []
        batch = self._batch()
        while True:
            fresh, scores = self._take(
                room=self._limits.rows - len(rows), idle=not rows
            )
            if self._closed:
                _end([*rows, *fresh], reason="cancelled")
                for each in scores:
                    each.fault = BusyError("the server ends", code="queue-full")
                    each.ready.set()
                return
            for each in scores:
                self._score(each)
            try:
                rows = self._advance(batch, rows, fresh)
            except Exception as error:  # noqa: BLE001  # the thread goes on
                fault = _fault(error)
                _end([*rows, *fresh], reason="stop", fault=fault)
                rows, batch = [], self._batch()

    def _batch(self) -> RowBatch:
        return RowBatch(self._model.module, adapters=self._choosing)

    def _take(self, *, room: int, idle: bool) -> tuple[list[_JobRow], list[_TextScore]]:
        """Take what may join; wait for it while there is nothing else to do."""
        with self._changed:
            if idle:
                self._changed.wait_for(lambda: self._closed or self._queue)
                end = time.monotonic() + _COLLECT
                self._changed.wait_for(
                    lambda: self._closed or len(self._queue) >= room,
                    timeout=max(0.0, end - time.monotonic()),
                )
            rows: list[_JobRow] = []
            scores: list[_TextScore] = []
            while self._queue and (self._closed or len(rows) < room):
                one = self._queue.popleft()
                if isinstance(one, _TextScore):
                    scores.append(one)
                elif one.gone:
                    one.tell(Finished(reason="cancelled"))
                else:
                    rows.append(one)
            return rows, scores

    @torch.inference_mode()
    def _advance(
        self, batch: RowBatch, rows: list[_JobRow], fresh: list[_JobRow]
    ) -> list[_JobRow]:
        """Let new rows join, and draw one token for each row; returns who goes on.

        The tokens of rows that go on are read in the next pass.
        """
        if rows:
            left = [place for place, row in enumerate(rows) if not row.gone]
            _end([row for row in rows if row.gone], reason="cancelled")
            batch.keep(left)
            rows = [rows[place] for place in left]
        logits = []
        if rows:
            logits.append(batch.step([row.last for row in rows]))
        if fresh:
            names = [self._names[row.job.model] for row in fresh]
            logits.append(batch.join([row.job.prompt for row in fresh], names))
        rows = [*rows, *fresh]
        if not rows:
            return rows
        left = [
            place
            for place, (row, logits_V) in enumerate(
                zip(rows, torch.cat(logits), strict=True)
            )
            if _draw(row, logits_V, positions=self.positions)
        ]
        batch.keep(left)
        return [rows[place] for place in left]

    @torch.inference_mode()
    def _score(self, asked: _TextScore) -> None:
        try:
            tokens = torch.tensor([list(asked.tokens)], device=self._device)
            with self._choosing([self._names[asked.model]]):
                out = self._model.module(input_ids=tokens, use_cache=False)
            asked.found = [
                scored(int(token), logits_V, asked.alternatives)
                for token, logits_V in zip(
                    tokens[0, 1:], out.logits[0, :-1].float().cpu(), strict=True
                )
            ]
        except Exception as error:  # noqa: BLE001  # the thread goes on
            asked.fault = _fault(error)
        finally:
            asked.ready.set()

    @contextmanager
    def _choosing(self, names: Sequence[str]) -> Iterator[None]:
        """Run a forward pass with an adapter for each row."""
        self._rows = list(names)
        yield

    @contextmanager
    def _told(self, module: torch.nn.Module) -> Iterator[None]:
        """Tell each layer of PEFT the adapters of the rows, as PEFT's own hook does."""

        def tell(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            return given, {**named, "adapter_names": self._rows}

        hooks = [
            layer.register_forward_pre_hook(tell, with_kwargs=True)
            for layer in module.modules()
            if hasattr(layer, "base_layer")
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def scored(token: int, logits_V: Tensor, alternatives: int) -> ScoredToken:
    """Return a token's log-probability by logits (V,), and the likeliest tokens."""
    logprobs_V = torch.log_softmax(logits_V, dim=-1)
    best = torch.topk(logprobs_V, alternatives) if alternatives else None
    pairs = (
        ()
        if best is None
        else zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
    return ScoredToken(
        token=token, logprob=float(logprobs_V[token]), alternatives=tuple(pairs)
    )


def _draw(row: _JobRow, logits_V: Tensor, *, positions: int) -> bool:
    """Draw a row's next token and tell of it; returns false if the row has ended."""
    job = row.job
    if not bool(logits_V.max().isfinite()):
        fault = ConfigError(
            "the model gives NaN or infinity; it cannot answer", code="model-not-finite"
        )
        _end([row], reason="stop", fault=fault)
        return False
    token = choose(logits_V, job, row.generator)
    if token in job.ends:
        _end([row], reason="stop")
        return False
    row.last, row.done = token, row.done + 1
    row.tell(scored(token, logits_V, job.alternatives))
    if row.done >= job.max_tokens or len(job.prompt) + row.done >= positions:
        _end([row], reason="length")
        return False
    return True


def choose(logits_V: Tensor, job: Job, generator: torch.Generator) -> int:
    """Take the likeliest token, or draw one by temperature and ``top_p``."""
    if job.temperature == 0:
        return int(logits_V.argmax())
    chances_V = torch.softmax(logits_V.double() / job.temperature, dim=-1)
    if job.top_p < 1:
        ordered_V, tokens_V = chances_V.sort(descending=True)
        before_V = ordered_V.cumsum(dim=-1) - ordered_V
        ordered_V[before_V >= job.top_p] = 0  # the first one stays
        return int(tokens_V[torch.multinomial(ordered_V, 1, generator=generator)])
    return int(torch.multinomial(chances_V, 1, generator=generator))


def _end(
    rows: Sequence[_JobRow], *, reason: Any, fault: TapestryError | None = None
) -> None:
    for row in rows:
        row.tell(Finished(reason=reason, fault=fault))


def _size(one: _JobRow | _TextScore) -> int:
    return len(one.job.prompt if isinstance(one, _JobRow) else one.tokens)


def _fault(error: Exception) -> TapestryError:
    """Turn what a pass raises into a fault whose message has nothing of a prompt."""
    if isinstance(error, TapestryError):
        return error
    _log.error("a forward pass failed: %s", type(error).__name__)
    return TapestryError(
        f"the model failed with {type(error).__name__}; ask again", code="engine-failed"
    )
