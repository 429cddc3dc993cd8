"""An unforeseen error names its step and is no verdict about what was checked."""

import pytest

from tapestry.cli.exit_status import ExitStatus, status_of
from tapestry.errors import ResourceError, RuleError
from tapestry.inputs.faults import HiddenError
from tapestry_governance.audit.step_faults import within_step
from tests.support.refusals import refused

BUGS = [
    KeyError("secret"),
    ValueError("secret"),
    AssertionError("secret"),
    OverflowError("secret"),
    UnicodeDecodeError("utf-8", b"secret", 0, 1, "bad"),
    EOFError("secret"),
]


def _ending(error: BaseException) -> None:
    with within_step("events"):
        raise error


@pytest.mark.parametrize("error", BUGS, ids=lambda each: type(each).__name__)
def test_a_bug_names_its_step_and_has_the_status_of_a_bug(error: Exception) -> None:
    with pytest.raises(HiddenError) as caught:
        _ending(error)
    assert status_of(caught.value) is ExitStatus.INTERNAL
    assert caught.value.place.startswith(type(error).__name__)
    assert caught.value.place.endswith(", in step events")
    assert "secret" not in caught.value.place + caught.value.frames
    assert "_ending" in caught.value.frames


@pytest.mark.parametrize("error", [MemoryError("secret"), RecursionError("secret")])
def test_an_exhausted_machine_leaves_the_check_incomplete(error: Exception) -> None:
    with refused(ResourceError, "machine-exhausted", match="step events") as caught:
        _ending(error)
    assert status_of(caught.value) is ExitStatus.INCOMPLETE
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuleError("r", code="a-rule"),
        PermissionError(13, "no"),
        ModuleNotFoundError("no numpy", name="numpy"),
        HiddenError("a place", ""),
        KeyboardInterrupt(),
    ],
    ids=lambda each: type(each).__name__,
)
def test_an_error_that_is_foreseen_stays_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        _ending(error)
    assert caught.value is error
