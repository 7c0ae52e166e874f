"""A stand-in for the Hugging Face hub on loopback, for apps whose data come from there.

It answers what `datasets` and `huggingface_hub` ask for a data set of Parquet files: what there is of it, and its files.
Whoever asks must have :func:`environment` before `huggingface_hub` is imported.
"""

import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlparse

REVISION = "a" * 40
COMMIT = "b" * 40

Find = Callable[[str], Path | None]
"""Gives the folder of a data set by its name on the hub, or None where there is none of that name."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def __init__(self, *args: Any, find: Find) -> None:
        self._find = find
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        """Answer what the two libraries ask."""
        path = unquote(urlparse(self.path).path)
        if path == "/":
            return self._reply(200)
        match path.strip("/").split("/"):
            case ["api", "datasets", owner, name]:
                return self._about(f"{owner}/{name}")
            case ["api", "datasets", owner, name, "revision", _]:
                return self._about(f"{owner}/{name}")
            case ["api", "datasets", owner, name, "tree", _, *inside]:
                return self._tree(f"{owner}/{name}", "/".join(inside))
            case ["datasets", owner, name, "resolve", _, *file]:
                return self._file(f"{owner}/{name}", "/".join(file))
        return self._missing()

    do_HEAD = do_GET

    def _about(self, name: str) -> None:
        if (folder := self._find(name)) is None:
            return self._missing()
        siblings = [{"rfilename": file} for file in _files(folder)]
        self._reply(200, json.dumps({"id": name, "sha": REVISION, "siblings": siblings}).encode())

    def _tree(self, name: str, inside: str) -> None:
        if (folder := self._find(name)) is None:
            return self._missing()
        entries: dict[str, dict[str, Any]] = {}
        for path, file in _files(folder).items():
            parents = [*[str(parent) for parent in PurePosixPath(path).parents][::-1], path]
            if inside and inside not in parents[:-1]:
                continue
            shown = parents[parents.index(inside or ".") + 1]
            entries[shown] = (
                {"type": "file", "oid": COMMIT, "size": file.stat().st_size, "path": shown}
                if shown == path
                else {"type": "directory", "oid": COMMIT, "size": 0, "path": shown}
            )
        self._reply(200, json.dumps(list(entries.values())).encode())

    def _file(self, name: str, path: str) -> None:
        if (folder := self._find(name)) is None:
            return self._missing()
        if (file := _files(folder).get(path)) is None:
            return self._reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=REVISION)
        body = file.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        self._reply(200, body, ETag=etag, X_Repo_Commit=REVISION)

    def _missing(self) -> None:
        self._reply(404, b"{}", X_Error_Code="RepoNotFound")

    def _reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _files(folder: Path) -> dict[str, Path]:
    return {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*.parquet"))}


def folder_of(shelf: Path, name: str) -> Path | None:
    """The folder of a data set in a folder of all, where it has one."""
    folder = shelf / name
    return folder if folder.is_dir() else None


@contextmanager
def serving(find: Find) -> Iterator[int]:
    """Serve data sets on loopback; yields the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, find=find))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def environment(port: int, cache: Path, host: str = "127.0.0.1") -> dict[str, str]:
    """The variables with which a process asks this hub, and keeps what it gets in the folder `cache`."""
    return {
        "HF_ENDPOINT": f"http://{host}:{port}",
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": host,
    }


if __name__ == "__main__":  # in a container: FOLDER PORT
    ThreadingHTTPServer(
        ("0.0.0.0", int(sys.argv[2])), partial(Handler, find=partial(folder_of, Path(sys.argv[1])))
    ).serve_forever()
