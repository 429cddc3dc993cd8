"""A headless Chromium that a test drives, over its own protocol."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-sync",
    "--disable-component-update",
    "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip


class Page:
    """One page, and the addresses that it asked for."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.requested: list[str] = []
        self.faults: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol, and note the events that come before."""
        self._number += 1
        told = {"id": self._number, "method": method, "params": params}
        self._socket.send(json.dumps(told))
        while True:
            value = json.loads(self._socket.recv(timeout=60))
            if value.get("id") == self._number:
                assert "error" not in value, value
                return dict(value["result"])
            self._note(value)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event["method"] == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif event["method"] == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(params["exceptionDetails"])[:500])
        elif (
            event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error"
        ):
            self.faults.append(params["entry"]["text"])

    def run(self, script: str) -> Any:
        """Evaluate an expression, which may be a promise; returns its value."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str) -> Any:
        """Wait until an expression is true; a minute at most."""
        end = time.monotonic() + 60
        while not (value := self.run(script)):
            assert time.monotonic() < end, script
            time.sleep(0.05)
        return value

    def resize(self, width: int, height: int = 900) -> None:
        """Lay the page out for another width."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip

    def press(self, key: str) -> None:
        """Press a key, and let it go."""
        code = {"Enter": 13, "Tab": 9, " ": 32}[key]
        for kind in ("keyDown", "keyUp"):
            text = {"Enter": "\r", " ": " "}.get(key, "")
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, text=text,
                windowsVirtualKeyCode=code,
            )  # fmt: skip

    def type(self, text: str) -> None:
        """Type a text into what has the focus."""
        self.call("Input.insertText", text=text)


@contextmanager
def browsing(url: str, folder: Path, *flags: str) -> Iterator[Page]:
    """Open an address in a browser of its own."""
    user = folder / "user"
    command = ["chromium", *FLAGS, *flags, f"--user-data-dir={user}", "about:blank"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        port = user / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not port.exists() or "\n" not in port.read_text():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        address = f"http://127.0.0.1:{port.read_text().split()[0]}/json/list"
        pages = httpx.get(address, trust_env=False).json()
        (target,) = [each for each in pages if each["type"] == "page"]
        with connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
            page = Page(socket)
            page.call("Page.navigate", url=url)
            page.wait("document.readyState === 'complete'")
            yield page
    finally:
        process.terminate()
        process.wait(timeout=30)
