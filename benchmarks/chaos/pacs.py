"""A PACS with moods: it refuses, aborts, forgets, keeps silent, goes down, and counts what it was sent."""

import ctypes
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Final

from service.demo.stand_in_pacs import StandInPacs

CLONE_NEWNET: Final = 0x40000000  # setns(2)


class _Moody(StandInPacs):
    mood = ""
    accepted: Counter[str]
    kept: set[str]
    met = 0  # how many stores or commitment requests met the mood

    def _store(self, event: Any) -> int:
        self.met += self.mood in ("a700", "0110", "aborts", "forgets")
        if self.mood == "a700":
            return 0xA700
        if self.mood == "0110":
            return 0x0110
        if self.mood == "aborts":
            event.assoc.abort()
            return 0x0110
        status = 0x0000 if self.mood == "forgets" else super()._store(event)
        uid = str(event.request.AffectedSOPInstanceUID)
        if status == 0x0000:
            self.accepted[uid] += 1
            if self.mood != "forgets":
                self.kept.add(uid)
        return status

    def _keeps(self, sop_instance_uid: str) -> bool:
        return sop_instance_uid in self.kept  # a look through thousands of folders would be what is measured

    def _answered(self, association: Any) -> None:
        if self.mood == "never-commits":
            self.met += 1
            self._asked.pop(association, None)
        else:
            super()._answered(association)


class Pacs:
    """The PACS under one address, up or down.

    Parameters
    ----------
    host
        Address to listen on; one of `namespace` where that is given.
    namespace
        Name of a network namespace (ip-netns(8)) whose sockets it has.
    """

    def __init__(self, folder: Path, *, host: str = "127.0.0.1", namespace: str | None = None) -> None:
        self.folder, self.host = folder, host
        self._namespace = namespace
        self._accepted: Counter[str] = Counter()
        self._kept: set[str] = set()
        self._scp: _Moody | None = None
        self.port = 0
        self.up()

    def up(self) -> None:
        """Listen, in a good mood."""
        if self._scp is not None:
            return
        made: list[_Moody] = []
        thread = threading.Thread(target=lambda: made.append(self._make()))
        thread.start()  # a thread of its own: it enters the namespace, and only its sockets stay there
        thread.join()
        (self._scp,) = made
        self._scp.accepted, self._scp.kept = self._accepted, self._kept
        self.port = self._scp.port
        self._scp.start()

    def _make(self) -> _Moody:
        if self._namespace is not None:
            with Path(f"/run/netns/{self._namespace}").open() as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return _Moody(self.folder, ae_title="PACS", host=self.host, port=self.port, takes_films=False)

    def down(self) -> None:
        """Close the port and every association."""
        if self._scp is not None:
            self._scp.stop()
            self._scp = None

    def feel(self, mood: str) -> None:
        """Behave so from now on; "" is well."""
        if self._scp is not None:
            self._scp.mood = mood

    @property
    def met(self) -> int:
        """How many requests met the present PACS in a bad mood."""
        return self._scp.met if self._scp is not None else 0

    @property
    def sent_again(self) -> int:
        """How many instances were accepted more than once."""
        return sum(count > 1 for count in self._accepted.values())

    def files(self) -> list[Path]:
        """Return everything that is kept."""
        return sorted(self.folder.glob("*/*.dcm"))

    def unfinished(self) -> list[Path]:
        """Return what is left of stores that were cut off."""
        return sorted(self.folder.glob("*/*.part"))
