"""Bodies of add-checkpoint have one spelling."""

import pytest

from tapestry.encoding import encode_base64
from tapestry.errors import ProtocolError
from tapestry_governance.witness.add_checkpoint import (
    CheckpointRequest,
    decode_size,
    encode_size,
)
from tests.support.outside_witness import MAIN

HASH = encode_base64(bytes(32)).encode()
# The example of the specification; the note is only carried here.
EXAMPLE = (
    b"old 20852014\n"
    b"PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
    b"jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n"
    b"5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n"
    b"/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n"
    b"\n"
    b"example.com/behind-the-sofa\n"
    b"20852163\n"
    b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    b"\n"
    b"\xe2\x80\x94 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJur"
    b"mRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)


def test_the_example_of_the_specification_is_read_and_printed() -> None:
    request = CheckpointRequest.parse(EXAMPLE)
    assert (request.old_size, len(request.proof)) == (20_852_014, 4)
    assert request.note.startswith(b"example.com/behind-the-sofa\n20852163\n")
    assert request.encode() == EXAMPLE


@pytest.mark.parametrize(("old", "size"), [(0, 0), (0, 1), (7, 7), (7, 300)])
def test_a_request_is_read_as_it_was_printed(old: int, size: int) -> None:
    request = MAIN.request(old, size)
    assert CheckpointRequest.parse(request.encode()) == request


def test_sixty_three_hashes_are_the_most() -> None:
    body = b"old 1\n" + (HASH + b"\n") * 63 + b"\nx"
    assert len(CheckpointRequest.parse(body).proof) == 63
    with pytest.raises(ProtocolError):
        CheckpointRequest.parse(b"old 1\n" + (HASH + b"\n") * 64 + b"\nx")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"\n", b"\n\n", b"old", b"old 1", b"old 1\n", b"old 1\n\n", b"\n\nx"),
        *(b"old 01\n\nx", b"old +1\n\nx", b"old -1\n\nx", b"old 1 \n\nx"),
        *(b"old  1\n\nx", b"Old 1\n\nx", b"old 1\r\n\nx", b"old \xd9\xa1\n\nx"),
        *(b"old 10000000000000000000\n\nx", b"old \n\nx", b"old 1\nx\n\nx"),
        *(b"old 1\n" + HASH[:-1] + b"\n\nx", b"old 1\n" + HASH + b" \n\nx"),
        b"old 1\n" + encode_base64(bytes(31)).encode() + b"\n\nx",
        b"old 1\n" + HASH + b"\r\n\nx",
        HASH + b"\nold 1\n\nx",
    ],
)
def test_every_other_spelling_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        CheckpointRequest.parse(body)


def test_a_size_is_a_number_and_a_line_feed() -> None:
    assert decode_size(encode_size(20_852_163)) == 20_852_163
    for body in (b"", b"5", b"5\n\n", b"05\n", b" 5\n", b"\n", b"-1\n", b"\xff\n"):
        with pytest.raises(ProtocolError):
            decode_size(body)
