"""A data set of the hub works by its name, and once fetched also while the hub cannot be reached.

The hub here is a stand-in that answers the calls `datasets` makes, over real HTTP.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from pictures_on_disk import hub_folder

SCRIPT = """
import sys
from pathlib import Path
from app.errors import UserError
from app.learning.data.prepare import Request, prepare
try:
    print(prepare(Request(sys.argv[1], num_partitions=2), Path(sys.argv[2])).model_dump_json())
except UserError as error:
    print(error)
    sys.exit(2)
"""
REVISION = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """Serves the folders in `repositories` (name -> folder) as data sets."""

    repositories: dict[str, Path]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if path == "/":
            return self.reply(200)
        for name, folder in self.repositories.items():
            files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.parquet")}
            if path.startswith(f"/datasets/{name}/resolve/"):
                file = files.get(path.removeprefix(f"/datasets/{name}/resolve/").partition("/")[2])
                if file is None:
                    return self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=REVISION)
                body = file.read_bytes()
                etag = f'"{hashlib.sha1(body).hexdigest()}"'
                return self.reply(200, body, ETag=etag, X_Repo_Commit=REVISION)
            if path.startswith(f"/api/datasets/{name}/tree/"):
                inside = path.endswith("/data")
                entries = [
                    {"type": "file", "oid": "b" * 40, "size": file.stat().st_size, "path": key}
                    for key, file in files.items()
                ]
                top = [{"type": "directory", "oid": "c" * 40, "size": 0, "path": "data"}]
                return self.reply(200, json.dumps(entries if inside else top).encode())
            if path in (f"/api/datasets/{name}", f"/api/datasets/{name}/revision/{REVISION}"):
                info = {"id": name, "sha": REVISION, "siblings": [{"rfilename": key} for key in files]}
                return self.reply(200, json.dumps(info).encode())
        return self.reply(404, b"{}", X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    Hub.repositories = {
        "ylecun/mnist": hub_folder(tmp_path / "mnist", size=(28, 28), mode="L", labels={"label": 10})
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def prepare(name: str, out: Path, port: int) -> tuple[int, str]:
    """`prepare` in a process of its own: the hub's address is read when its client is imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(out.parent / "huggingface"),
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, str(out)], env=environment, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def test_by_name_then_from_the_cache_then_not_at_all(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    port = hub.server_address[1]
    status, output = prepare("mnist", tmp_path / "first", port)
    assert status == 0, output
    manifest = json.loads(output)
    assert manifest["source"] == "mnist" and manifest["shape"] == [1, 28, 28]
    assert manifest["counts"] == [{"train": 80, "val": 20}] * 2 and manifest["test_count"] == 40

    status, output = prepare("nobody/nothing", tmp_path / "other", port)
    assert status == 2 and "the hub has no such public data set" in output

    # Port 9 ("discard") answers nobody.
    status, output = prepare("mnist", tmp_path / "second", 9)
    assert status == 0 and json.loads(output)["checksum"] == manifest["checksum"]
    status, output = prepare("cifar100", tmp_path / "third", 9)
    assert status == 2 and output.count("\n") == 1 and "the hub cannot be reached" in output
