"""Answers as clients read them, and the lineage that they carry."""

from tapestry.encoding import canonical_json, digest
from tapestry.workloads.language.base_models import byte_tokenizer
from tapestry_serve.answer_shapes import (
    Choice,
    Drawing,
    Envelope,
    chat_logprobs,
    count_tokens,
    text_logprobs,
)
from tapestry_serve.engine import ScoredToken
from tapestry_serve.served_models import ServedModel

MODEL = ServedModel(id="de", lineage={"base": {"name": "base-1"}}, is_logged=True)
DRAWING = Drawing(temperature=0.7, top_p=1.0, seed=2**62)
ENVELOPE = Envelope(model=MODEL, kind="chat.completion", prompt=(1, 2), drawing=DRAWING)
TOKENIZER = byte_tokenizer()


def choice(text: str, index: int = 0) -> Choice:
    return Choice(index=index, text=text, tokens=(), reason="stop")


def test_an_answer_has_one_head_in_each_of_its_chunks() -> None:
    head, chunk = ENVELOPE.head(), ENVELOPE.head(chunk=True)
    assert (head["object"], chunk["object"]) == (
        "chat.completion",
        "chat.completion.chunk",
    )
    assert head["id"] == chunk["id"]
    assert head["system_fingerprint"] == MODEL.digest
    assert MODEL.digest == digest(canonical_json({"base": {"name": "base-1"}}))


def test_the_digest_of_an_answer_changes_with_each_part() -> None:
    seen = {
        ENVELOPE.lineage([choice("a")])["answer"],
        ENVELOPE.lineage([choice("b")])["answer"],
        ENVELOPE.lineage([choice("a"), choice("a")])["answer"],
        Envelope(
            model=MODEL, kind="chat.completion", prompt=(1, 3), drawing=DRAWING
        ).lineage([choice("a")])["answer"],
    }
    assert len(seen) == 4
    lineage = ENVELOPE.lineage([choice("a")])
    assert lineage["sampling"] == {
        "temperature": "0.7",
        "top_p": "1",
        "seed": str(2**62),
    }
    assert lineage["verified"] == "log"
    assert canonical_json(lineage)  # no float in it


def test_tokens_are_counted() -> None:
    assert count_tokens(3, 4)["total_tokens"] == 7


def test_log_probabilities_have_the_shapes_of_both_routes() -> None:
    token = ScoredToken(token=68, logprob=-0.5, alternatives=((68, -0.5), (69, -1.5)))
    (entry,) = chat_logprobs(TOKENIZER, [token])["content"]
    assert entry["token"] == TOKENIZER.decode([68])
    assert bytes(entry["bytes"]).decode() == entry["token"]
    assert [each["logprob"] for each in entry["top_logprobs"]] == [-0.5, -1.5]
    found = text_logprobs(TOKENIZER, [65, token])
    assert found["token_logprobs"] == [None, -0.5]
    assert found["text_offset"] == [0, 1]
    assert found["top_logprobs"][1] == {
        TOKENIZER.decode([68]): -0.5,
        TOKENIZER.decode([69]): -1.5,
    }


def test_two_tokens_that_print_alike_keep_the_likelier_one() -> None:
    broken = [n for n in range(256) if TOKENIZER.decode([n]) == "\ufffd"][:2]
    pairs = tuple((n, -1.0 - place) for place, n in enumerate(broken))
    token = ScoredToken(token=broken[0], logprob=-1.0, alternatives=pairs)
    assert text_logprobs(TOKENIZER, [token])["top_logprobs"] == [{"\ufffd": -1.0}]
