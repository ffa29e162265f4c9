"""Drive a headless Chromium over its debugging pipe: no port, no driver program, no further package.

Commands and events are those of the Chrome DevTools Protocol, one JSON object each, ended by a zero byte.
"""

import base64
import io
import json
import os
import select
import shlex
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

# WebGL without a graphics card; nothing leaves the machine, nothing is asked of it.
FLAGS = (
    *("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--ignore-gpu-blocklist", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--force-device-scale-factor=1", "--remote-debugging-pipe"),
)


class BrowserFault(RuntimeError):
    """The browser answered with an error, or not in time."""


class Browser(AbstractContextManager["Browser"]):
    """One page of a headless Chromium.

    Parameters
    ----------
    program
        Path of the browser.
    profile
        An empty folder for its profile.
    size
        (width, height) of the page in pixels.
    """

    def __init__(self, program: str, profile: Path, *, size: tuple[int, int] = (1100, 760)) -> None:
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        arguments = [program, *FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "about:blank"]
        # Chromium reads commands from descriptor 3 and answers on 4.
        line = f"exec {shlex.join(arguments)} 3<&{theirs_in} 4>&{theirs_out}"
        with (profile.parent / "browser.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", line], stdout=log, stderr=log, pass_fds=(theirs_in, theirs_out), start_new_session=True
            )
        os.close(theirs_in)
        os.close(theirs_out)
        self._size = size

    def __enter__(self) -> Self:
        """Attach to a new page."""
        target = self.call("Target.createTarget", url="about:blank", timeout_s=60)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Runtime.enable")
        width, height = self._size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the browser and every process it started."""
        os.close(self._out)
        try:
            self._process.wait(10)  # a closed pipe ends it
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        os.close(self._in)

    def open(self, url: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserFault(str(answer["exceptionDetails"].get("exception", answer["exceptionDetails"])))
        return answer["result"].get("value")

    def wait_for(self, expression: str, *, timeout_s: float = 60) -> Any:
        """Return the first true value of an expression."""
        end = time.monotonic() + timeout_s
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                raise BrowserFault(f"waited {timeout_s:g} s for {expression}")
            time.sleep(0.1)
        return value

    def screenshot(self) -> NDArray[np.uint8]:
        """Return the page as (rows, columns, 3) RGB."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Picture.open(io.BytesIO(data)).convert("RGB"))

    def double_click(self, x: float, y: float) -> None:
        """Click twice with the mouse."""
        for count in (1, 2):
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=count)

    def errors(self) -> list[str]:
        """Return what the page threw and nobody caught."""
        self.evaluate("0")
        thrown = [event["params"] for event in self._events if event.get("method") == "Runtime.exceptionThrown"]
        return [str(each["exceptionDetails"].get("exception", {}).get("description", each)) for each in thrown]

    def call(self, method: str, *, timeout_s: float = 60, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        os.write(self._out, json.dumps(command).encode() + b"\0")
        end = time.monotonic() + timeout_s
        while True:
            message = self._next(end, method)
            if message.get("id") == self._number:
                if "error" in message:
                    raise BrowserFault(f"{method}: {message['error']['message']}")
                result: dict[str, Any] = message["result"]
                return result
            self._events.append(message)

    def _next(self, end: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0]:
                raise BrowserFault(f"the browser did not answer {method} in time")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise BrowserFault(f"the browser ended during {method}; see browser.log")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message
