"""A headless Chromium, driven over its debugging pipe; nothing but Debian's package."""

import json
import os
import select
import shutil
import subprocess
import sys

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium here; Debian's package is called chromium"
)

# Chromium reads from file 3 and writes to file 4.
_START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_PATIENCE = 120  # seconds without a word
KEYS = {"Enter": 13, "Escape": 27, "Space": 32, "ArrowLeft": 37, "ArrowRight": 39}
KEYS |= {"ArrowUp": 38, "ArrowDown": 40, "Tab": 9, "Home": 36, "End": 35}


class Browser:
    """One tab; `complaints` and `asked` are of the page that was opened last."""

    def __init__(self, folder):
        theirs, self._to = os.pipe()
        self._from, ours = os.pipe()
        words = [
            PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs), str(ours), *words],
            pass_fds=(theirs, ours),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(ours)
        self._sent, self._session, self._unread = 0, None, b""
        self.complaints, self.asked = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for room in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{room}.enable")

    def close(self):
        self._session = None
        self.call("Browser.close")
        self._process.wait(_PATIENCE)
        os.close(self._to)
        os.close(self._from)

    def call(self, method, **parameters):
        """The answer to a command of the DevTools protocol."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._sent:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path, address="", size=(1200, 900), **media):
        """Load a file; `media` are features such as prefers_color_scheme."""
        features = [
            {"name": name.replace("_", "-"), "value": value}
            for name, value in media.items()
        ]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0], height=size[1], deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.call("Page.navigate", url="about:blank")
        self.complaints, self.asked = [], []
        self.call("Page.navigate", url=f"{path.as_uri()}{address}")
        while self.value("document.readyState") != "complete":
            self._note(self._next())

    def value(self, expression):
        """What an expression is in the page."""
        found = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, *keys):
        """Press keys one after the other; single letters are typed."""
        for key in keys:
            facts = {"key": " " if key == "Space" else key, "code": key}
            facts["windowsVirtualKeyCode"] = KEYS.get(key, 0)
            text = {"Enter": "\r", "Space": " "}.get(key, key if len(key) == 1 else "")
            self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **facts)
            self.call("Input.dispatchKeyEvent", type="keyUp", **facts)
        self.value("new Promise((done) => setTimeout(done, 150))")

    def _next(self):
        while b"\0" not in self._unread:
            if not select.select([self._from], [], [], _PATIENCE)[0]:
                raise TimeoutError("Chromium says nothing.")
            piece = os.read(self._from, 1 << 20)
            if not piece:
                raise EOFError(f"Chromium ended: {self._process.wait(_PATIENCE)}.")
            self._unread += piece
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        kind, facts = event.get("method"), event.get("params", {})
        if kind == "Network.requestWillBeSent":
            self.asked.append(facts["request"]["url"][:200])
        elif kind in (
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        ):
            self.complaints.append(facts)
