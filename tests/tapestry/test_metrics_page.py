"""Metrics are served in Prometheus' text form, on loopback addresses alone."""

import http.client
import socket
from contextlib import closing

import pytest

from tapestry.errors import ConfigError, ResourceError
from tapestry.metrics_page import (
    CountedBy,
    Metric,
    parse_address,
    render,
    serving,
)
from tests.support.ports import free_port
from tests.support.refusals import refused

ONE = Metric(name="some_bytes", help="Bytes.", value=12_345_678_901)


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{free_port()}"


def get(address: str, path: str = "/metrics") -> tuple[int, str, str]:
    """Return status, type and text of an answer."""
    with closing(http.client.HTTPConnection(address, timeout=60)) as client:
        client.request("GET", path)
        reply = client.getresponse()
        return reply.status, reply.headers["Content-Type"], reply.read().decode()


def test_a_page_has_help_type_and_a_line_for_each_label() -> None:
    counted = CountedBy()
    counted.add("b")
    counted.add('a"\\\n', 2)
    counted.add("b")
    several = Metric(
        name="some_total",
        help="Some.",
        value=counted.counts,
        label="reason",
        kind="counter",
    )
    assert render([ONE, several]) == (
        "# HELP some_bytes Bytes.\n"
        "# TYPE some_bytes gauge\n"
        "some_bytes 1.23456789e+10\n"
        "# HELP some_total Some.\n"
        "# TYPE some_total counter\n"
        'some_total{reason="a\\"\\\\\\n"} 2\n'
        'some_total{reason="b"} 2\n'
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("127.8.8.8:1", ("127.8.8.8", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("", ("", 0)),
    ],
)
def test_loopback_addresses_are_taken(text: str, found: tuple[str, int]) -> None:
    assert parse_address(text) == found


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.0:9464", "192.168.0.1:9464", "[::]:9464", "10.0.0.1:1"),
        *("localhost:9464", ":9464", "9464", "127.0.0.1", "127.0.0.1:", "*:9464"),
        *("127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:\u0661", "127.0.0.1:+1"),
    ],
)
def test_every_other_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_address(text)


def test_a_reader_gets_the_numbers_of_the_moment(address: str) -> None:
    values = iter([1.0, 2.5])

    def read() -> list[Metric]:
        return [Metric(name="some", help="Some.", value=next(values))]

    with serving(address, read):
        status, content, text = get(address)
        assert (status, content) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert text.endswith("\nsome 1\n")
        assert get(address)[2].endswith("\nsome 2.5\n")
        assert get(address, "/")[0] == 404
    with pytest.raises(ConnectionRefusedError):
        get(address)


def test_what_fails_is_told_by_its_code_and_ends_nothing(address: str) -> None:
    """The message of an error that is not ours may quote anything."""
    errors = iter([ConfigError("secret", code="some-code"), KeyError("secret")])

    def read() -> list[Metric]:
        raise next(errors)

    with serving(address, read):
        assert get(address)[::2] == (500, "some-code\n")
        assert get(address)[::2] == (500, "KeyError\n")


def test_an_address_in_use_is_said_and_none_serves_nothing(address: str) -> None:
    with serving("", list):
        pass
    with (
        serving(address, lambda: [ONE]),
        refused(ResourceError, "metrics-address-unavailable", match=address),
        serving(address, list),
    ):
        pass


def test_a_reader_that_says_nothing_does_not_keep_the_block_waiting(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapestry.metrics_page._SECONDS", 0.2)
    host, port = parse_address(address)
    with (
        serving(address, lambda: [ONE]),
        closing(socket.create_connection((host, port))),
    ):
        assert get(address)[0] == 200
