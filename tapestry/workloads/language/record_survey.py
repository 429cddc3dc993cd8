"""Counts of records that need no model, for the institution alone.

None of them decides what trains. A count that cannot be made is told with the reason.
"""

from collections.abc import Callable, Sequence
from functools import partial

from tapestry.errors import ResourceError, TapestryError
from tapestry.protocol.round_manifest import Options
from tapestry.workloads.base import Summary
from tapestry.workloads.data_manifest import DataManifest
from tapestry.workloads.language.base_models import known_folder
from tapestry.workloads.language.dialogue import Text
from tapestry.workloads.language.language_counts import LanguageCounts
from tapestry.workloads.language.near_duplicates import NearDuplicates
from tapestry.workloads.language.options import LanguageOptions
from tapestry.workloads.language.record_statistics import Coverage, Uncounted
from tapestry.workloads.lazy_sequence import drawn


def survey(
    records: Sequence[Text],
    manifest: DataManifest,
    *,
    base: str,
    options: Options,
    begin: Callable[[str], None],
) -> dict[str, Summary]:
    """Make each count of some records.

    ``options`` are those of the training that tokens are counted for, and ``begin`` is
    told the name of each count before it is made.
    """
    (declared,) = manifest.languages
    counts: dict[str, Callable[[], Summary]] = {
        "near_duplicates": lambda: NearDuplicates.of(records),
        "identified_languages": lambda: LanguageCounts.of(records, declared),
        "tokens": lambda: _tokens(records, base, options),
    }
    found = {}
    for name, make in counts.items():
        begin(name)
        try:
            found[name] = make()
        except TapestryError as error:
            reason = " ".join(str(error).split())
            found[name] = Uncounted(label=name.split("_")[-1], reason=reason)
    return found


def _tokens(records: Sequence[Text], base: str, options: Options) -> Coverage:
    """Count tokens, if the base is at hand and its tokenizer can be loaded.

    Raises:
        ConfigError: The base is not at hand or not sound, or an option is at fault.
        ForeignFileError: A file lies in the base's folder that is no part of a model.
        ResourceError: A package is missing, or a file cannot be read.
    """
    length, folder = LanguageOptions.of(options).sequence_length, known_folder(base)
    try:
        from tapestry.workloads.language.base_tokenizer import open_tokenizer
        from tapestry.workloads.language.text_encoder import TextEncoder, as_drawn
    except ImportError:
        raise ResourceError(
            "this takes transformers and torch, which are not installed; pip install"
            " 'tapestry-federated[node]', or '.[node]' in the source folder",
            code="package-missing",
        ) from None
    encode = partial(TextEncoder(open_tokenizer(folder)).encode, sequence_length=length)
    examples = as_drawn(drawn(records), encode)
    return Coverage.of(examples, sequence_length=length, records=len(records))
