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
from tapestry_node.flower import LineUse, Pace, serve
from tests.support.echo_members import identity


class Uploads(Pace):
    """Sends at full speed, until the process is to die before a piece."""

    left = 0  # pieces until then; 0: it lives

    def wait(self, count: int) -> None:
        if self.left == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= self.left > 0
        super().wait(count)


uploads = Uploads(float("inf"))


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
            uploads.left = int(wish.get("pieces", 0))
            if not uploads.left:
                os.kill(os.getpid(), signal.SIGKILL)
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
        use=LineUse(pace=uploads),
        stop=stop,
    )


if __name__ == "__main__":
    main()
