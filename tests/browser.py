"""Controls a headless Chromium over its DevTools protocol, for tests of the rendered page."""

import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from urllib.request import ProxyHandler, build_opener

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-port=0",
]
LIMIT_S = 120.0
PROBE = """(() => ({
    images: [...document.images].map(image => image.complete && image.naturalWidth > 0),
    wide: document.documentElement.scrollWidth,
    room: document.documentElement.clientWidth,
    text: document.body.innerText.length,
}))()"""


class Page:
    """One tab: sends commands and records all events."""

    def __init__(self, socket):
        self._socket = socket
        self._number = 0
        self.events = []

    def call(self, method, **parameters):
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(command))
        while True:
            message = json.loads(self._socket.recv(timeout=LIMIT_S))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def visit(self, path):
        """Open a file and wait until it is loaded."""
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self._socket.recv(timeout=LIMIT_S)))

    def measure(self, width_px):
        """Return the result of ``PROBE`` in a window of this width."""
        size = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        found = self.call("Runtime.evaluate", expression=PROBE, returnByValue=True)
        return found["result"]["value"]

    def complaints(self):
        """Return console messages, log entries and exceptions."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self.events if event["method"] in kinds]

    def requests(self):
        """Return the requested addresses, without inline data."""
        sent = [e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        addresses = [each["request"]["url"] for each in sent]
        return [address for address in addresses if not address.startswith("data:")]


@contextmanager
def open_page(profile):
    """Start a browser with an empty profile folder; stop it by its process id."""
    from websockets.sync.client import connect

    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    environment = {**os.environ, "HOME": str(profile)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        port = _port(profile / "DevToolsActivePort", process)
        direct = build_opener(ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{port}/json/list", timeout=LIMIT_S) as answer:
            tabs = json.load(answer)
        address = next(tab for tab in tabs if tab["type"] == "page")["webSocketDebuggerUrl"]
        with connect(address, max_size=None, proxy=None, open_timeout=LIMIT_S) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _port(file, process):
    due = time.monotonic() + LIMIT_S
    while time.monotonic() < due:
        assert process.poll() is None, "the browser ended"
        if file.exists() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError("the browser did not listen in time")
