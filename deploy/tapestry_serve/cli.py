"""``tapestry chat``: one prompt, the base and its adapters side by side."""

import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from tapestry.cli import console
from tapestry.cli.commands import PATH, Command, as_json
from tapestry.errors import ConfigError, WithdrawnError
from tapestry_governance.cli.audit import trust_file
from tapestry_governance.cli.votes import node_option

if TYPE_CHECKING:
    from tapestry.artifacts.adapter_folder import AdapterFolder
    from tapestry.workloads.language.model import LanguageModel
    from tapestry_governance.member_view import MemberView

Answers = dict[str, str]


def _check_temperature(
    _context: click.Context, _option: click.Parameter, value: float
) -> float:
    """Require 0, or a number by which logits in float32 can be divided."""
    if not (value == 0 or 0.01 <= value <= 10):
        raise click.BadParameter(f"{value} is not 0 and not in the range 0.01 to 10")
    return value


class _Options(TypedDict):
    max_tokens: int
    temperature: float
    bundle: Path | None
    node: Path | None
    trust: bytes | None
    withdrawn: bool
    as_json: bool


@click.command(cls=Command)
@click.option(
    "--base",
    required=True,
    metavar="NAME",
    help="The base: a release's folder, smollm2 or tiny.",
)
@click.option(
    "--adapter",
    multiple=True,
    type=PATH,
    metavar="DIR",
    help="An adapter's folder; may be repeated.",
)
@click.option(
    "--prompt",
    metavar="TEXT",
    help="Answer this and leave; without it, prompts are asked for.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1, 4096),
    metavar="N",
    default=48,
    show_default=True,
    help="The length of an answer at most, from 1 to 4096.",
)
@click.option(
    "--temperature",
    type=float,
    callback=_check_temperature,
    metavar="T",
    default=0.0,
    show_default=True,
    help="How freely tokens are drawn, 0.01 to 10; 0 takes the likeliest each time.",
)
@click.option(
    "--bundle",
    type=PATH,
    metavar="DIR",
    help="An audit bundle, for what members decided; default: bundle/ beside"
    " releases/.",
)
@node_option
@trust_file
@click.option(
    "--withdrawn", is_flag=True, help="Also run what members withdrew, and say so."
)
@as_json
def app(
    base: str,
    adapter: tuple[Path, ...],
    prompt: str | None,
    **given: Unpack[_Options],
) -> None:
    """Compare the answers of a base and its adapters to the same prompt.

    Status 5 says that members withdrew the base or an adapter, and that their policy
    does not only warn of it; then nothing is run.
    """
    if prompt is not None:
        prompt = console.check_text(prompt, what="the prompt")
    model, adapters = _load(base, adapter, log=_log(base, given), given=given)
    max_tokens, temperature = given["max_tokens"], given["temperature"]
    for text in _prompts(prompt):
        answers = _answer(
            model, adapters, prompt=text, max_tokens=max_tokens, temperature=temperature
        )
        if given["as_json"]:
            console.say_json({"prompt": text, "answers": answers}, indent=None)
        else:
            _show(text, answers)


def _log(base: str, given: _Options) -> "MemberView | None":
    """Open the log that is named, or the bundle beside the base; None without any."""
    from tapestry_governance.member_view import open_view

    node, bundle = given["node"], given["bundle"]
    folder = Path(base)
    beside = folder.resolve().parent.parent / "bundle"
    if node is None and bundle is None and folder.is_dir() and beside.is_dir():
        bundle = beside
    if node is None and bundle is None:
        if given["trust"] is not None:
            raise ConfigError(
                "--trust says whom a log has to be signed by, and no log is named; add"
                " --bundle",
                code="usage",
            )
        return None
    return open_view(node=node, bundle=bundle, trust=given["trust"])


def _check_votes(
    log: "MemberView | None",
    *,
    model: str,
    manifests: Sequence[str],
    withdrawn: bool,
) -> None:
    """Refuse what members withdrew, as the policy says, and tell how they voted.

    Raises:
        WithdrawnError: Members withdrew the base or an adapter, the policy does not
            only warn of that, and ``withdrawn`` does not allow it.
    """
    from tapestry_governance.vote_count import (
        count_votes,
        unknown_files,
        withdrawn_files,
    )

    if log is None:
        console.note("note: without --bundle or --node, no withdrawal is noticed")
        return
    state = log.state
    found = withdrawn_files(state, model=model, manifests=manifests)
    if any(each.refused for each in found) and not withdrawn:
        said = "; ".join(map(str, found))
        message = f"{said}; --withdrawn runs it all the same"
        raise WithdrawnError(message, code="model-withdrawn")
    names = [n for n in state.releases if state.releases[n].model_digest == model]
    counts = (count_votes(state, name, size=state.size) for name in names)
    notes = [*map(str, found), *unknown_files(state, model=model, manifests=manifests)]
    for each in (*notes, *(f"{count.release}: {count}" for count in counts)):
        console.note(f"note: {each}")


def _load(
    base: str,
    adapters: Sequence[Path],
    *,
    log: "MemberView | None",
    given: _Options,
) -> "tuple[LanguageModel, dict[str, AdapterFolder]]":
    """Load the base, checked if it is a release, and adapters that belong to it.

    Raises:
        WithdrawnError: Members withdrew one of them.

    Guarantees:
        What runs are the bytes that were checked; no file is read twice.
    """
    from tapestry.workloads.language.base_models import open_base
    from tapestry_governance import registry

    for folder in adapters:
        if not folder.is_dir():
            raise ConfigError(
                f"no adapter folder {folder}; name one with --adapter",
                code="folder-missing",
            )
    names = [folder.resolve().name for folder in adapters]
    if len(set(names)) != len(adapters) or "base" in names:
        raise ConfigError(
            f"two models have the same name among base, {', '.join(names)}; rename one"
            " folder",
            code="adapter-name-duplicated",
        )
    found = [registry.check_folder(folder) for folder in adapters]
    model = open_base(base)
    content = model.given
    shape = registry.BaseShape(
        digest=content.digest,
        parameters_digest=content.manifest.parameters,
        shapes={name: value.shape for name, value in content.tensors.items()},
    )
    for each in found:
        registry.check_fit(each, shape)
    if Path(base).is_dir() or found:
        _check_votes(
            log,
            model=shape.digest,
            manifests=[each.manifest_digest for each in found],
            withdrawn=given["withdrawn"],
        )
    return model, {n: each.held for n, each in zip(names, found, strict=True)}


def _prompts(prompt: str | None) -> Iterator[str]:
    if prompt is not None:
        yield prompt
        return
    if sys.stdin is None:
        return
    # input() needs all three streams, and a pipe gets answers alone.
    streams = (sys.stdin, sys.stdout, sys.stderr)
    people = None not in streams and sys.stdin.isatty() and sys.stdout.isatty()
    if people:
        console.note("ask something; an empty line ends this")
    while True:
        try:
            text = input("> ") if people else sys.stdin.readline().removesuffix("\n")
        except (EOFError, KeyboardInterrupt):
            return
        if not text.strip():
            return
        yield console.check_text(text, what="the prompt")


def _answer(
    model: "LanguageModel",
    adapters: "dict[str, AdapterFolder]",
    *,
    prompt: str,
    max_tokens: int,
    temperature: float,
) -> Answers:
    """Return the answer of each model to the prompt, with the same random numbers."""
    import torch

    from tapestry.workloads.language.dialogue import Dialogue

    seed = secrets.randbits(63)

    def complete() -> str:
        (answer,) = model.complete_all(
            [Dialogue(turns=(prompt,))],
            max_tokens=max_tokens,
            temperature=temperature,
            generator=torch.Generator().manual_seed(seed),
        )
        return answer.strip()

    answers = {"base": complete()}
    for name, adapter in adapters.items():
        with model.adapted(adapter):
            answers[name] = complete()
    return answers


def _show(prompt: str, answers: Answers) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def plain(text: str) -> Text:
        return Text("\n".join(map(console.shown, text.split("\n"))))

    table = Table(title=plain(prompt), title_justify="left", show_lines=False)
    for name in answers:
        table.add_column(plain(name), ratio=1, overflow="fold")
    table.add_row(*map(plain, answers.values()))
    Console(file=console.output()).print(table)
