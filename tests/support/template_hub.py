"""A hub on loopback that gives `flwr new` an app.

In Flower 1.39 the templates of `flwr new` are not in the library: it asks Flower's hub for a link, and fetches an archive.
The app served here is written for the tests, in the form that the hub's `@flwrlabs/quickstart-numpy` has.
"""

import io
import json
import textwrap
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = "quickstart-numpy"
FILES = {
    "pyproject.toml": """
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"

        [project]
        name = "quickstart-numpy"
        version = "1.0.0"
        description = ""
        license = "Apache-2.0"
        dependencies = ["flwr[simulation]>=1.25.0", "numpy>=2.0.2"]

        [tool.hatch.build.targets.wheel]
        packages = ["."]

        [tool.flwr.app]
        publisher = "flwrlabs"

        [tool.flwr.app.components]
        serverapp = "quickstart_numpy.server_app:app"
        clientapp = "quickstart_numpy.client_app:app"

        [tool.flwr.app.config]
        num-server-rounds = 3

        [tool.flwr.federations]
        default = "local-simulation"

        [tool.flwr.federations.local-simulation]
        options.num-supernodes = 10
    """,
    "quickstart_numpy/__init__.py": "",
    "quickstart_numpy/client_app.py": """
        import numpy as np
        from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
        from flwr.clientapp import ClientApp

        app = ClientApp()


        @app.train()
        def train(msg: Message, context: Context):
            arrays = [array + np.random.rand(*array.shape) for array in msg.content["arrays"].to_numpy_ndarrays()]
            metrics = MetricRecord({"random_metric": np.random.rand(), "num-examples": 1})
            return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=msg)


        @app.evaluate()
        def evaluate(msg: Message, context: Context):
            metrics = MetricRecord({"random_metric": np.random.rand(3).tolist(), "num-examples": 1})
            return Message(RecordDict({"metrics": metrics}), reply_to=msg)
    """,
    "quickstart_numpy/server_app.py": """
        import numpy as np
        from flwr.app import ArrayRecord, Context
        from flwr.serverapp import Grid, ServerApp
        from flwr.serverapp.strategy import FedAvg

        app = ServerApp()


        @app.main()
        def main(grid: Grid, context: Context) -> None:
            rounds: int = context.run_config["num-server-rounds"]
            result = FedAvg().start(grid=grid, initial_arrays=ArrayRecord([np.zeros((2, 2))]), num_rounds=rounds)
            np.savez("final_model.npz", *result.arrays.to_numpy_ndarrays())
    """,
}


def _archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for file, text in FILES.items():
            archive.writestr(f"{NAME}/{file}", textwrap.dedent(text).lstrip())
    return content.getvalue()


class _Hub(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Answer where the archive is."""
        self._answer(json.dumps({"zip_url": f"{_address(self.server)}/archive"}).encode())

    def do_GET(self) -> None:
        """Answer with the archive."""
        self._answer(_archive())

    def _answer(self, content: bytes) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _address(server: object) -> str:
    assert isinstance(server, ThreadingHTTPServer)
    return f"http://127.0.0.1:{server.server_address[1]}"


@contextmanager
def template_hub() -> Iterator[dict[str, str]]:
    """The environment in which `flwr new` finds the hub."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"FLWR_SUPERGRID_API_URL": _address(server), "FLWR_DISABLE_UPDATE_CHECK": "1"}
        server.shutdown()
