"""The tokenizer of a base, without its model."""

from pathlib import Path
from typing import Any

from tapestry.artifacts import model_folder
from tapestry.environment import require_docstrings
from tapestry.workloads.language.pretrained import (
    LOCAL,
    private_copy,
    refusing,
    transformers_library,
)


def open_tokenizer(folder: Path) -> Any:
    """Load the tokenizer and the chat template of a base from its folder.

    Guarantees:
        Nothing is downloaded, no weights are read, and no model is built.

    Edge cases:
        The files are not compared with the identity of a base, so a count of tokens
        is what it shows and no more.

    Raises:
        ConfigError: The folder is no sound model folder, or transformers finds the
            tokenizer at fault.
        ForeignFileError: A file lies in the folder that is no part of a model.
        ResourceError: A file cannot be read, memory or a package is missing.
    """
    require_docstrings()
    files = model_folder.read_settings(folder)
    with private_copy(files) as place, refusing("the tokenizer does not work"):
        library = transformers_library().AutoTokenizer
        return library.from_pretrained(str(place), **LOCAL)
