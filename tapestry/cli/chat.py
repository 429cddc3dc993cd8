"""``tapestry chat``: one prompt, the base and its adapters side by side."""

import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapestry.errors import ConfigError

if TYPE_CHECKING:
    from tapestry.workloads.language import LanguageModel

Answers = dict[str, str]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def chat(
    base: Annotated[
        str, typer.Option(help="The base: a release's folder, smollm2 or tiny.")
    ],
    adapter: Annotated[
        list[Path] | None, typer.Option(help="An adapter's folder; may be repeated.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Answer this and leave; else ask for prompts.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, max=4096)] = 48,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=10.0, help="0: the likeliest token each time.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Compare what a base and its adapters say to the same prompt."""
    model, folders = _load(base, adapter or [])
    for text in _prompts(prompt):
        answers = _answer(
            model, folders, prompt=text, max_tokens=max_tokens, temperature=temperature
        )
        if as_json:
            record = {"prompt": text, "answers": answers}
            print(json.dumps(record, ensure_ascii=False))
        else:
            _show(text, answers)


def _load(
    base: str, adapters: Sequence[Path]
) -> "tuple[LanguageModel, dict[str, Path]]":
    """Load the base, checked if it is a release, and adapters that belong to it."""
    from tapestry import manifest
    from tapestry.vector import parameters_digest
    from tapestry.workloads.bases import open_base
    from tapestry_governance import registry

    folders = {folder.resolve().name: folder for folder in adapters}
    if len(folders) != len(adapters) or "base" in folders:
        raise ConfigError("two adapters have the same name; rename one folder")
    for folder in adapters:
        if not folder.is_dir():
            raise ConfigError(f"no adapter folder {folder}")
        registry.check_folder(folder)
    if (Path(base) / manifest.FOLDER / manifest.FILE).exists():
        manifest.verify(Path(base), manifest.read(Path(base)))
    model = open_base(base)
    if adapters:
        parameters = model.parameters()
        found = registry.Base(
            digest=parameters_digest(parameters),
            shapes={name: value.shape for name, value in parameters.items()},
        )
        for folder in adapters:
            registry.check_fit(folder, found)
    return model, folders


def _prompts(prompt: str | None) -> Iterator[str]:
    if prompt is not None:
        yield prompt
        return
    while True:
        try:
            text = input("> ")
        except (EOFError, KeyboardInterrupt):
            return
        if not text.strip():
            return
        yield text


def _answer(
    model: "LanguageModel",
    folders: dict[str, Path],
    *,
    prompt: str,
    max_tokens: int,
    temperature: float,
) -> Answers:
    """Let each continue the prompt on a new line, with the same random numbers."""
    import torch

    seed = secrets.randbits(63)

    def complete() -> str:
        return model.complete(
            f"{prompt}\n",
            max_tokens=max_tokens,
            temperature=temperature,
            generator=torch.Generator().manual_seed(seed),
        ).strip()

    answers = {"base": complete()}
    for name, folder in folders.items():
        with model.adapted(folder):
            answers[name] = complete()
    return answers


def _show(prompt: str, answers: Answers) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(prompt), title_justify="left", show_lines=False)
    for name in answers:
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(*(Text(answer) for answer in answers.values()))
    Console().print(table)
