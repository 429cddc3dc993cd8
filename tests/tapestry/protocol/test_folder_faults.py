"""What a coordinator learns of a fault at an institution: a code of a closed list."""

import re

from tapestry.errors import ConfigError
from tapestry.protocol.folder_faults import FolderFault
from tests.support import error_codes
from tests.support.record_canaries import CANARY


def test_every_fault_is_the_code_of_an_error() -> None:
    codes = {site.code for site in error_codes.sites()}
    assert {fault.value for fault in FolderFault} - codes == {"internal"}


def test_every_fault_has_fixed_words_of_its_own() -> None:
    words = [fault.words for fault in FolderFault]
    assert len(set(words)) == len(words)
    assert all(re.fullmatch("[a-z][a-z.,' ]{10,60}", each) for each in words)


def test_an_error_is_reduced_to_a_code_of_the_list() -> None:
    known = ConfigError(CANARY, code="records-missing")
    assert FolderFault.of(known) is FolderFault.RECORDS_MISSING
    for error in (ConfigError("x", code=CANARY), ValueError(CANARY), KeyError()):
        assert FolderFault.of(error) is FolderFault.INTERNAL
