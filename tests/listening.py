"""Run the storage SCP on a free port, with its stores and its database."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE

from service import db
from service.conformance import VERIFICATION
from service.queue.jobs import Jobs
from service.receiving.scp import StorageServer
from service.settings import Limits, Peer, Settings
from service.storage import Stores

LIMITS = Limits(minimum_free_disk_bytes=0, association_timeout_seconds=1, network_timeout_seconds=3)


@dataclass
class Running:
    """What a test of the listener needs."""

    server: StorageServer
    settings: Settings
    stores: Stores
    jobs: Jobs

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def tls_port(self) -> int:
        return self.server.tls_port

    def associate(self, *datasets: Dataset, calling: str = "PACS", called: str = "CARPUS", **options: Any) -> Any:
        """Return an association, established or not, that offers C-ECHO and what the data sets need."""
        ae = AE(calling)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
        ae.add_requested_context(VERIFICATION)
        for ds in datasets:
            ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
        return ae.associate("127.0.0.1", self.port, ae_title=called, **options)

    def send(self, *datasets: Dataset) -> list[int]:
        """Store the data sets over one association; return their statuses."""
        association = self.associate(*datasets)
        assert association.is_established
        statuses = [association.send_c_store(ds).Status for ds in datasets]
        association.release()
        return statuses

    def wait_until_free(self) -> None:
        """Wait until no association holds a place: a peer sees the end of its connection a moment earlier."""
        places, deadline = self.server.places, time.monotonic() + 5
        while places.associations.total() and time.monotonic() < deadline:
            time.sleep(0.01)

    def echo(self) -> int:
        """Return the status of a C-ECHO on an association of its own."""
        association = self.associate()
        assert association.is_established
        status: int = association.send_c_echo().Status
        association.release()
        return status


def start(folder: Path, **changes: Any) -> Running:
    """Return a server that is not started yet; `changes` are settings."""
    changes.setdefault("limits", LIMITS)
    changes.setdefault("peers", (Peer(ae_title="PACS"),))
    settings = Settings(data_directory=folder, **changes)
    engine = db.connect(settings.resolved_database_url)
    db.migrate(engine)
    jobs = Jobs(engine, process="scp")
    stores = Stores.open(folder, minimum_free_bytes=settings.limits.minimum_free_disk_bytes)
    return Running(StorageServer(settings, stores, jobs, port=0), settings, stores, jobs)
