"""A node process for tests: answers every request with what it got."""

import functools
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tapestry.encoding import decode_json
from tapestry.protocol.messages import Kind, Message
from tapestry_node.flower import serve
from tests.support.echo_members import identity


def answer(name: str, request: Message, connection: str) -> Message:
    """Echo, or do what the body asks for."""
    if request.kind is Kind.HELLO:
        return identity(name, request, connection)
    wish = decode_json(request.body)
    if "sleep" in wish:
        time.sleep(float(wish["sleep"]))
    if wish.get("fail") == "bug":
        raise KeyError("patient 17")
    if wish.get("die") == name:
        mark = Path(wish["mark"])
        if not mark.exists():
            mark.touch()
            kill = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
            threading.Timer(float(wish.get("after", 0)), kill).start()
    return Message(
        kind=Kind.RECEIPT, body=request.body, attachments=request.attachments
    )


def main() -> None:
    """Serve until SIGTERM."""
    name, superlink, certificates, key = sys.argv[1:5]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    serve(
        functools.partial(answer, name),
        superlink=superlink,
        root_certificates=Path(certificates),
        auth_key=Path(key),
        stop=stop,
    )


if __name__ == "__main__":
    main()
