"""Settings files of a model that was made here and not given as a folder."""

import json
import tempfile
from pathlib import Path
from typing import Any

from tapestry.artifacts.model_folder import CONFIG, FILES, GENERATION
from tapestry.errors import ResourceError

_VERSION = "transformers_version"  # of the library that wrote a file: no setting


def settings_of(module: Any, tokenizer: Any) -> dict[str, bytes]:
    """Return the files that transformers writes beside the tensors, by name.

    Raises:
        ForeignFileError: It writes a file that has no place in a model folder.
        ResourceError: There is no room for temporary files.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="tapestry-") as work:
            place = Path(work)
            module.config.architectures = [type(module).__name__]
            module.config.save_pretrained(work)
            module.generation_config.save_pretrained(work)
            tokenizer.save_pretrained(work)
            FILES.check(place)
            files = {path.name: path.read_bytes() for path in sorted(place.iterdir())}
    except OSError as error:
        raise ResourceError(
            f"cannot write temporary files: {error.strerror}", code="file-unwritable"
        ) from error
    return {
        name: _without_version(data) if name in (CONFIG, GENERATION) else data
        for name, data in files.items()
    }


def _without_version(data: bytes) -> bytes:
    value = json.loads(data)
    value.pop(_VERSION, None)
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"
