"""The tokenizer of a base, without its model."""

from typing import Any

from tapestry.artifacts import model_folder
from tapestry.workloads.language.base_models import known_folder
from tapestry.workloads.language.pretrained import (
    LOCAL,
    private_copy,
    refusing,
    transformers_library,
)


def open_tokenizer(base: str) -> Any:
    """Load the tokenizer and the chat template of a base that is at hand.

    Guarantees:
        Nothing is downloaded or made, no weights are read, and no model is built.

    Edge cases:
        The files are not compared with the identity of a base, so a count of tokens
        is what it shows and no more.

    Raises:
        ConfigError: There is no base of this name at hand, its folder is no sound model
            folder, or transformers finds the tokenizer at fault.
        ForeignFileError: A file lies in the folder that is no part of a model.
        ResourceError: A file cannot be read, memory or a package is missing.
    """
    files = model_folder.read_settings(known_folder(base))
    with private_copy(files) as place, refusing("the tokenizer does not work"):
        library = transformers_library().AutoTokenizer
        return library.from_pretrained(str(place), **LOCAL)
