"""Text of an answer in pieces: never a broken character, never a stop text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.workloads.language.base_models import byte_tokenizer
from tapestry_serve.text_stream import TextStream

TOKENIZER = byte_tokenizer()


def tokens(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def pieces(text: str, *stops: str) -> tuple[list[str], TextStream]:
    stream = TextStream(TOKENIZER, stops=stops)
    found = []
    for token in tokens(text):
        found.append(stream.push(token))
        if stream.stopped:
            break
    found.append(stream.finish())
    return found, stream


@given(st.text(max_size=40))
def test_pieces_together_are_the_text(text: str) -> None:
    found, stream = pieces(text)
    whole = TOKENIZER.decode(
        tokens(text), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert "".join(found) == stream.text == whole


def test_no_piece_has_half_a_character() -> None:
    found, _ = pieces("Grüße, ñandú, 日本語, 👋🏽")
    assert not any("\ufffd" in piece for piece in found)
    assert len([piece for piece in found if piece]) > 5


@given(
    st.text(alphabet="ab", max_size=30), st.lists(st.text("ab", max_size=4), max_size=3)
)
def test_what_was_sent_ends_before_the_first_stop_text(
    text: str, stops: list[str]
) -> None:
    found, stream = pieces(text, *stops)
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    # Of several stop texts the one that is complete first ends the answer.
    known = [stop for stop in stops if stop]
    first = next(
        (n for n in range(len(text) + 1) if any(s in text[:n] for s in known)), None
    )
    want = text
    if first is not None:
        want = text[: min(text[:first].find(s) for s in known if s in text[:first])]
    assert "".join(found) == stream.text == want
    assert stream.stopped == bool(ends)


@pytest.mark.parametrize("stop", ["STOP", "\n\n", "é"])
def test_a_stop_text_never_leaves_in_pieces(stop: str) -> None:
    found, _ = pieces(f"one{stop}two", stop)
    sent = ""
    for piece in found:
        sent += piece
        assert stop not in sent
    assert sent == "one"


def test_what_only_looked_like_a_stop_text_is_sent_in_the_end() -> None:
    assert pieces("one ST", "STOP")[0][-1] == "ST"
