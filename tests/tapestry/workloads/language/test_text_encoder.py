"""Records become examples by the tokenizer alone, as the model's own."""

from functools import partial
from typing import Any, cast

from tapestry.workloads.language.base_models import byte_tokenizer
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.text_encoder import TextEncoder, as_drawn
from tests.support.federation import Base

ASKED = Dialogue(turns=("Ciao?", "Ciao!"))
RECORDS: list[Text] = ["una frase più lunga di sedici byte", ASKED, "a", ""]


def test_the_examples_are_those_of_the_model(base: Base) -> None:
    encoder = TextEncoder(byte_tokenizer())
    found, model = (
        encoder.encode(RECORDS, sequence_length=16),
        cast("Any", base.workload),
    )
    assert found == model.encode(RECORDS, sequence_length=16)
    assert len(found[0].rows) == 3
    assert min(found[1].rows[0]) < 0  # what is asked is context alone


def test_a_record_too_short_for_a_loss_has_no_rows() -> None:
    encode = partial(TextEncoder(byte_tokenizer()).encode, sequence_length=16)
    rows = [example.rows for example in as_drawn(RECORDS, encode)]
    assert [len(each) for each in rows] == [3, 1, 1, 0]
