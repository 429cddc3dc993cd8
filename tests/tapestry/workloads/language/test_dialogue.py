"""A dialogue: turns of a user and an assistant, one after the other."""

from tapestry.workloads.language.dialogue import Dialogue


def test_the_user_begins_and_the_assistant_has_every_second_turn() -> None:
    dialogue = Dialogue(turns=("a", "b", "c", "d", "e"))
    assert dialogue.answers == ("b", "d")
    assert [each["role"] for each in dialogue.messages()] == [
        *("user", "assistant", "user", "assistant", "user")
    ]
    assert [each["content"] for each in dialogue.messages()] == list("abcde")


def test_a_question_without_an_answer_has_none() -> None:
    assert Dialogue(turns=("a",)).answers == ()
    assert Dialogue(turns=()).messages() == []


def test_equal_dialogues_are_one_key() -> None:
    assert len({Dialogue(turns=("a", "b")), Dialogue(turns=("a", "b"))}) == 1
