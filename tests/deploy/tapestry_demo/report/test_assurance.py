"""Who saw what, what was published, and how to check it."""

from tests.support.report_pages import body_words, figures


def test_a_log_that_too_few_signed_is_not_called_fixed() -> None:
    data = figures()
    data["log"]["cosignatures"] = ["germany/witness"]
    words = body_words(data)
    assert "signed by one member, fewer than the three needed." in words
    assert "Fewer signed than are needed, so this log proves nothing yet." in words
    assert "is noticed" not in words
