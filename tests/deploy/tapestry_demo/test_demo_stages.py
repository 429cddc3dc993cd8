"""The stages of a demo, each on its own."""

import pytest

from tapestry_demo import corpora, demo_stages
from tests.support.commands import tapestry
from tests.support.demo_folders import begun


@pytest.mark.usefixtures("here")
def test_a_base_that_changed_is_not_gone_on_with() -> None:
    begun("begun", "prepare", base_digest="sha256:" + "0" * 64)
    result = tapestry("demo", "--resume", "--out", "begun")
    assert result.exit_code == 64
    assert "was begun on sha256:0000" in result.stderr


def test_what_is_looked_for_is_private_and_long() -> None:
    pytest.importorskip("chatterbot_corpus")
    texts = demo_stages._canaries(["italy", "brazil"])
    assert len(texts) == 40
    assert min(map(len, texts)) > 40
    held_out = corpora.load("italy").held_out
    public = "".join(t for rows in held_out.values() for d in rows for t in d.turns)
    assert not any(text.decode() in public for text in texts)
