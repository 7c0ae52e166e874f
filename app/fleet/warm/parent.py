"""The warm parent: a process that has imported and warmed everything, and forks one child per message.

A fork of the SuperNode before that has a thread, else a program of its own, ``python -P parent.py SOCKET_FD PID``
(``executor.py``). Three generations, all running ``serve``: the parent imports PyTorch and Flower; for each app hash
it forks an app parent, which loads that app; the app parent forks one child per message (CPU), or one long-lived
worker per run (GPU, because a CUDA context cannot cross a fork and costs more to make than a message). Where there is
a GPU, only that worker trains: see ``may_train``.

A child runs Flower's own ``run_clientapp`` unchanged. Only the transport differs: its Runtime API calls
go over a socket pair that the SuperNode handed over, as protobuf, instead of HTTP.

Read in flwr 1.39.0: ``flwr/supernode/runtime/run_clientapp.py``. ``executor.py`` checks the names used
here before it starts this program, and falls back to Flower's own executor otherwise.
"""

import ctypes
import gc
import json
import os
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from flwr.supercore.exit.exit_handler import add_exit_handler, trigger_exit_handlers
from flwr.supercore.runtime import RuntimeHttpClient

# Names in this module are replaced below.
clientapp: Any = import_module("flwr.supernode.runtime.run_clientapp")

PROCESS_NAME = "bouquet-warm"
PR_SET_PDEATHSIG = 1
MADV_COLLAPSE = 25
HUGE_PAGE = 2 << 20
HEADER = struct.Struct("!BI")  # method name length, payload length


class SocketRuntimeClient(RuntimeHttpClient):
    """Flower's Runtime API client over a socket pair."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()  # the heartbeat has a thread of its own

    def _unary_unary(self, *, path: str, rpc_method: str, request: Any, response_type: Any) -> Any:
        payload = request.SerializeToString(deterministic=True)
        method = rpc_method.rpartition("/")[2].encode()
        with self._lock:
            self._connection.sendall(HEADER.pack(len(method), len(payload)) + method + payload)
            failed, length = HEADER.unpack(self._read(HEADER.size))
            content = self._read(length)
        if failed:
            raise RuntimeError(content.decode())
        response = response_type()
        response.ParseFromString(content)
        return response

    def _read(self, length: int) -> bytes:
        content = bytearray(length)
        view, received = memoryview(content), 0
        while received < length:
            if not (count := self._connection.recv_into(view[received:])):
                raise ConnectionError("the SuperNode closed the connection")
            received += count
        return bytes(content)

    def close(self) -> None:
        self._connection.close()


def leave(code: int, message: str | None = None, event_type: Any = None, **_: Any) -> None:
    """Stand in for ``flwr_exit``: the same exit handlers, without its five-second forced exit."""
    trigger_exit_handlers(run_before_force_exit=True)
    trigger_exit_handlers(run_before_force_exit=False)
    raise SystemExit(0 if 0 <= code < 100 else 1)


def register_exit_handlers(*, exit_handlers: list[Callable[[], None]], **_: Any) -> None:
    """Stand in for ``register_signal_handlers``: a child is ended by the kernel, not by a signal handler."""
    for handler in exit_handlers:
        add_exit_handler(handler)


def die_with(parent: int) -> None:
    """Ask the kernel to end this process when its parent ends, however that happens."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class App:
    """The one app that this process serves: installed, imported and warmed once."""

    def __init__(self, content: bytes, request: dict[str, Any]) -> None:
        path = clientapp.install_from_fab(content, skip_prompt=True)
        load = clientapp.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
        self.client_app = load(request["fab_id"], request["fab_version"], request["fab_hash"])
        clientapp.install_from_fab = lambda *_args, **_kwargs: path
        clientapp.get_load_client_app_fn = lambda *_args, **_kwargs: self._loaded
        self._warm_up(request)

    def _loaded(self, *_: Any) -> Any:
        return self.client_app

    def _warm_up(self, request: dict[str, Any]) -> None:
        """Call the app's own ``warm_up(run_config, node_config)``; without one, take a step of Adam."""
        if not may_train():
            return
        from flwr.common.config import get_project_config, get_project_dir

        project = get_project_dir(request["fab_id"], request["fab_version"], request["fab_hash"])
        reference = get_project_config(project)["tool"]["flwr"]["app"]["components"]["clientapp"]
        warm_up = getattr(sys.modules.get(reference.partition(":")[0]), "warm_up", None)
        try:
            if callable(warm_up):
                warm_up(request["run_config"], request["node_config"])
            elif "torch" in sys.modules:
                training_step(optimizer=True)
        except Exception:
            # The first message meets the same error and reports it to the server.
            traceback.print_exc()


def hand_back_memory() -> None:
    """Hand what was freed back to the kernel: a step of ResNet-50 leaves 1.4 GB behind, kept by each idle client.

    GNU's C library does so by itself only at the heap's end. Others lack the function.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def use_huge_pages() -> None:
    """Gather this process's private memory into pages of 2 MiB.

    A fork copies an entry for every page, and the child's exit walks them again: 300 MiB of PyTorch's tables in
    pages of 4 KiB cost 27 ms a message, in huge ones 7 ms. What is shared with the parent stays so. Needs
    Linux 6.1; an older kernel refuses, and nothing changes.
    """
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    start = size = 0
    with Path("/proc/self/smaps").open() as mappings:
        for line in mappings:
            name, value, *_ = [*line.split(maxsplit=2), ""]
            if not name.endswith(":"):
                start, size = 0, 0
                if line.split()[1:5:3] == ["rw-p", "0"]:  # private, of no file
                    first, last = (int(address, 16) for address in name.split("-"))
                    start = -(-first // HUGE_PAGE) * HUGE_PAGE
                    size = last // HUGE_PAGE * HUGE_PAGE - start
            elif (
                name == "Private_Dirty:" and size > 0 and int(value) * 1024 >= size * 7 // 8
            ):  # else it would grow
                madvise(start, size, MADV_COLLAPSE)


def may_train() -> bool:
    """Whether a step of training leaves this process able to fork: only where it was told that there is no GPU.

    PyTorch's first backward pass counts the GPUs, also for tensors on the CPU, which starts CUDA and a thread for each;
    in a fork of a process that has done so, every backward pass fails.
    """
    return os.environ.get("CUDA_VISIBLE_DEVICES") == ""


def training_step(optimizer: bool) -> None:
    """Run one tiny training step, so that lazy imports and kernel set-up are paid before the first fork.

    With an optimizer only where it is needed: its first step imports PyTorch's compiler, 100 MB of modules.
    """
    torch = import_module("torch")
    state = torch.random.get_rng_state()
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 2))
    loss = torch.nn.functional.cross_entropy(model(torch.rand(4, 1, 8, 8)), torch.zeros(4, dtype=torch.long))
    loss.backward()
    if optimizer:
        torch.optim.Adam(model.parameters()).step()
    torch.random.set_rng_state(state)


def warm_torch() -> None:
    """Import PyTorch, where there is one, and run its first kernels."""
    try:
        torch = import_module("torch")
    except ImportError:
        return
    # One thread here: a pool of OpenMP threads does not survive a fork.
    torch.set_num_threads(1)
    if may_train():
        training_step(optimizer=False)


def free_gpu_memory() -> None:
    """Hand what PyTorch keeps for later back to the GPU, where other clients' workers wait for it."""
    if "torch" in sys.modules and (cuda := sys.modules["torch"].cuda).is_initialized():
        cuda.empty_cache()


def run(connection: socket.socket, request: dict[str, Any]) -> int:
    """Process one message with Flower's ``run_clientapp``; returns its exit status."""
    if (threads := request.get("threads")) and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    client = SocketRuntimeClient(connection)
    clientapp.RuntimeHttpClient.from_server_address = lambda **_: client
    try:
        clientapp.run_clientapp(
            runtime_api_address="", token=request["token"], insecure=True, runtime_dependency_install=False
        )
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        connection.close()
    return 0


def fork(work: Callable[[], int], control: socket.socket) -> int:
    """Run ``work`` in a child that dies with this process; returns the child's pid."""
    parent = os.getpid()
    with suppress(OSError):
        sys.stdout.flush()  # what is still in here would be written by each child
    if pid := os.fork():
        return pid
    status = 1
    try:
        die_with(parent)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        control.close()
        status = work()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def serve(control: socket.socket) -> int:
    """Answer the SuperNode's requests on ``control`` until it hangs up.

    A request is one JSON packet with at most two file descriptors. ``load``: fork an app parent
    (descriptors: its control socket, the app bundle). ``fork``: process a message in a child.
    ``worker``: fork a process that answers requests as this one does (descriptors: its control socket, and
    perhaps where its output goes). ``run``: process a message in this process, which ends where that fails.
    ``wait``: the exit status of a child.
    """
    while True:
        packet, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 2)
        if not packet:
            return 0
        request = json.loads(packet)
        reply: dict[str, Any] = {}
        operation = request["op"]
        if operation == "wait":
            reply["status"] = os.waitstatus_to_exitcode(os.waitpid(request["pid"], 0)[1])
        else:
            connection = socket.socket(fileno=descriptors[0])
            if operation == "load":
                with os.fdopen(descriptors[1], "rb") as bundle:
                    content = bundle.read()
                reply["pid"] = fork(partial(serve_app, connection, content, request), control)
            elif operation == "worker":
                reply["pid"] = fork(partial(serve_apart, connection, descriptors[1:]), control)
            elif operation == "fork":
                reply["pid"] = fork(partial(run, connection, request), control)
            elif operation == "run":
                reply["pid"] = os.getpid()
                control.send(json.dumps(reply).encode())
                # The SuperNode takes the message for done when the last copy of its connection is closed.
                with connection.dup():
                    if run(connection, request):
                        # What broke one message, such as a GPU's context, must not reach the next.
                        control.close()
                        return 1
                    free_gpu_memory()
                continue
            connection.close()
            for output in descriptors[1:] if operation == "worker" else ():
                os.close(output)
        control.send(json.dumps(reply).encode())


def serve_apart(control: socket.socket, output: list[int]) -> int:
    """Serve ``control`` in a process of its own, which writes to ``output`` where that is given."""
    for descriptor in output:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
    return serve(control)


def serve_app(control: socket.socket, content: bytes, request: dict[str, Any]) -> int:
    """Load one app, say whether that worked, and serve its messages."""
    try:
        App(content, request)
    except (Exception, SystemExit) as error:
        control.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        return 1
    gc.collect()
    gc.freeze()  # keep the collector from touching, and so copying, the pages shared with the children
    hand_back_memory()
    use_huge_pages()
    control.send(json.dumps({"ready": True}).encode())
    return serve(control)


def forget_callers_package() -> None:
    """Make way for an app whose package is called as this one is, in a process that was forked from the SuperNode."""
    package = __name__.partition(".")[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder of the SuperNode's program


def become(control: socket.socket) -> int:
    """Warm up, say so, and serve."""
    # The terminal's Ctrl-C reaches the whole process group; the SuperNode decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):
        Path("/proc/self/comm").write_text(PROCESS_NAME)  # what `ps` and `top` show
    clientapp.flwr_exit = leave
    clientapp.register_signal_handlers = register_exit_handlers
    clientapp.event = lambda *_args, **_kwargs: None  # a thread for each, also where telemetry is off
    gc.disable()  # what imports leave behind is kept anyway; walking it again and again is a fifth of their time
    warm_torch()
    gc.enable()
    gc.freeze()
    use_huge_pages()
    control.send(json.dumps({"ready": True}).encode())
    return serve(control)


def become_in_fork(control: socket.socket, threads: int) -> int:
    """:func:`become` the warm parent of the SuperNode that this process was forked from."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    forget_callers_package()
    return become(control)


def main() -> int:
    control = socket.socket(fileno=int(sys.argv[1]))
    die_with(int(sys.argv[2]))
    return become(control)


if __name__ == "__main__":
    sys.exit(main())
