"""The warm parent: a process that has imported and warmed everything, and forks one child per message.

The warm parent is forked from the SuperNode before the SuperNode starts any thread. If that is no longer possible, it
is started as a separate program, ``python -P parent.py SOCKET_FD PID`` (``executor.py``).

There are three generations, and all run ``serve``. The parent imports PyTorch and Flower. For each app hash it forks an
app parent, which loads that app. On a CPU the app parent forks one child per message. On a GPU it forks one worker per
run, because a CUDA context cannot cross a fork and costs more to make than a message. With a GPU, only that worker
trains: see ``may_train``.

A child runs Flower's own ``run_clientapp`` unchanged. Only the transport differs: its Runtime API calls
go over a socket pair that the SuperNode handed over, as protobuf, instead of HTTP.

Read in flwr 1.39.0: ``flwr/supernode/runtime/run_clientapp.py``. The patch ``warm`` lists the names used here, and the
registry checks them before anything of this runs.
"""

import ctypes
import gc
import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from flwr.supercore.exit.exit_handler import add_exit_handler, trigger_exit_handlers
from flwr.supercore.runtime import RuntimeHttpClient


def load_file(path: Path) -> Any:
    """The module in the file ``path``: this program has no package, because an app may have one of the same name."""
    spec = spec_from_file_location(f"bouquet_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where pickle looks for its classes
    spec.loader.exec_module(module)
    return module


randomness = load_file(Path(__file__).with_name("randomness.py"))
confinement = load_file(Path(__file__).with_name("confinement.py"))
descriptors = load_file(Path(__file__).with_name("descriptors.py"))
forking = load_file(Path(__file__).with_name("forking.py"))
offspring = load_file(Path(__file__).with_name("offspring.py"))
process = load_file(Path(__file__).parents[2] / "process.py")
# Names in this module are replaced below.
clientapp: Any = import_module("flwr.supernode.runtime.run_clientapp")

PROCESS_NAME = "bouquet-warm"
PR_SET_NAME = 15
LONGEST_EXIT_S = 5.0
MADV_COLLAPSE = 25
HUGE_PAGE = 2 << 20
HEADER = struct.Struct("!BI")  # method name length, payload length
# Where an app's caches would go, if not into its own folder.
CACHES = ("HF_HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME")


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


def exit_clientapp(code: int, message: str | None = None, event_type: Any = None, **_: Any) -> None:
    """Stand in for ``flwr_exit``: the same exit handlers, without its five-second forced exit."""
    trigger_exit_handlers(run_before_force_exit=True)
    trigger_exit_handlers(run_before_force_exit=False)
    raise SystemExit(0 if 0 <= code < 100 else 1)


def register_exit_handlers(*, exit_handlers: list[Callable[[], None]], **_: Any) -> None:
    """Stand in for ``register_signal_handlers``: a child is ended by the kernel, not by a signal handler."""
    for handler in exit_handlers:
        add_exit_handler(handler)


class App:
    """The one app that this process serves: installed, imported and warmed once."""

    def __init__(self, content: bytes, request: dict[str, Any], lock: Callable[[], None]) -> None:
        if hashlib.sha256(content).hexdigest() != request["fab_hash"]:
            raise ValueError("the app's bundle is not the one that its hash names")
        path = clientapp.install_from_fab(content, skip_prompt=True)
        lock()
        load = clientapp.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
        with randomness.watch_import():
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


def use_huge_pages() -> None:
    """Gather this process's private memory into pages of 2 MiB.

    A fork copies an entry for every page, and the child's exit walks them again. 300 MiB of PyTorch's tables cost
    27 ms a message in pages of 4 KiB, and 7 ms in huge ones. Pages that are shared with the parent stay shared.
    This needs Linux 6.1; an older kernel refuses, and nothing changes.
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
    """Whether this process can still fork after a step of training. It can where it was told that there is no GPU.

    PyTorch's first backward pass counts the GPUs, also for tensors on the CPU. That starts CUDA and a thread for each
    GPU. In a fork of such a process every backward pass fails.
    """
    return os.environ.get("CUDA_VISIBLE_DEVICES") == ""


def training_step(optimizer: bool) -> None:
    """Run one tiny training step, so that lazy imports and kernel set-up are paid before the first fork.

    The optimizer's first step imports PyTorch's compiler, 100 MB of modules, so it is left out where nobody needs it.
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


class Home:
    """An app's own folder, which ends with the app's process: its bundle, unpacked, and a place to write.

    Whatever an earlier app left elsewhere is never taken for this one's bundle.
    """

    def __init__(self) -> None:
        parent = Path(os.environ.get("FLWR_HOME") or tempfile.gettempdir()).absolute()
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix="app-", dir=parent))
        self.own = self.path / "own"
        self.own.mkdir()

    def move_in(self) -> None:
        """Let Flower, the app and its libraries find this folder, in the process that loads the app, and write into it."""
        os.environ.update(FLWR_HOME=str(self.path), HOME=str(self.own), TMPDIR=str(self.own))
        for name in CACHES:
            os.environ.pop(name, None)
        tempfile.tempdir = None
        os.chdir(self.own)

    def lock(self, request: dict[str, Any], *connections: socket.socket, installed: bool) -> None:
        """Confine this process before it runs anything of the app; ``connections`` is all that stays open.

        Args:
            request: has the ``reach`` of the app, or none where apps are not confined.
            installed: whether the bundle is in place, and so is not to be changed.
        """
        if request.get("reach"):
            reach = confinement.Reach(*map(tuple, request["reach"]))
            reads, writes = (
                (str(self.path), *reach.reads),
                (str(self.own if installed else self.path), *reach.writes),
            )
            confinement.confine(reach._replace(reads=reads, writes=writes))
        confinement.close_all_but({connection.fileno() for connection in connections})

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def free_gpu_memory() -> None:
    """Hand what PyTorch keeps for later back to the GPU, where other clients' workers wait for it."""
    if "torch" in sys.modules and (cuda := sys.modules["torch"].cuda).is_initialized():
        cuda.empty_cache()


def run(connection: socket.socket, request: dict[str, Any]) -> int:
    """Process one message with Flower's ``run_clientapp``; returns its exit status."""
    descriptors.open_channel()
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
        sys.stdout.flush()  # else each child would write what is still buffered
    if pid := os.fork():
        return pid
    status = 1
    try:
        process.end_with_parent(signal.SIGKILL, parent)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        control.close()
        randomness.renew()
        status = work()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def serve(control: socket.socket, *, trusted: bool = False) -> int:
    """Answer the SuperNode's requests on ``control`` until it hangs up.

    A request is one JSON packet with at most two file descriptors. ``load``: fork an app parent
    (descriptors: its control socket, the app bundle). ``fork``: process a message in a child.
    ``worker``: fork a process that answers requests as this one does (descriptors: its control socket, and
    perhaps where its output goes). ``run``: process a message in this process, which ends where that fails.
    ``wait``: the exit status of a child. ``end``: kill what apps have left behind, all but the processes in ``keep``
    and what is below those in ``spared``.

    Args:
        control: this end of the control socket.
        trusted: whether this process has no app loaded: it alone answers ``load`` and ``end``, and ends all of its
            descendants when it ends.
    """
    homes: dict[int, Home] = {}
    if trusted:
        process.end_with_parent(0)  # it must outlive its parent for a moment
        offspring.adopt_orphans()
    while True:
        packet, handed, _, _ = socket.recv_fds(control, 1 << 20, 2)
        if not packet:
            break
        request = json.loads(packet)
        operation = request["op"]
        if operation == "run":
            if not run_here(control, socket.socket(fileno=handed[0]), request):
                return 1
            continue
        reply: dict[str, Any] = {}
        if operation == "wait":
            reply["status"] = offspring.wait(request["pid"], LONGEST_EXIT_S)
        elif operation == "end":
            offspring.end_all(request["keep"], request["spared"])
        else:
            reply["pid"] = start(control, handed, request, homes if trusted else None)
        for pid in [pid for pid in homes if not offspring.is_alive(pid)]:
            homes.pop(pid).remove()
        control.send(json.dumps(reply).encode())
    if trusted:
        offspring.end_all()
        for home in homes.values():
            home.remove()
    return 0


def start(
    control: socket.socket, handed: list[int], request: dict[str, Any], homes: dict[int, Home] | None
) -> int:
    """Fork the process that a request asks for; returns its pid. ``homes`` takes the folder of a new app."""
    connection = socket.socket(fileno=handed[0])
    home = Home() if homes is not None and request["op"] != "worker" else None
    work: Callable[[], int]
    if request["op"] == "worker":
        work = partial(serve_apart, connection, handed[1:], trusted=homes is not None)
    elif request["op"] == "load" and home is not None:
        with os.fdopen(handed[1], "rb") as bundle:
            work = partial(serve_app, connection, bundle.read(), request, home)
    elif home is not None:
        work = partial(run_unloaded, connection, request, home)
    else:
        work = partial(run, connection, request)
    pid = fork(work, control)
    if homes is not None and home is not None:
        homes[pid] = home
    connection.close()
    for output in handed[1:] if request["op"] == "worker" else ():
        os.close(output)
    return pid


def run_here(control: socket.socket, connection: socket.socket, request: dict[str, Any]) -> bool:
    """Process a message in this process; whether it can process the next."""
    control.send(json.dumps({"pid": os.getpid()}).encode())
    # The SuperNode takes the message for done when the last copy of its connection is closed.
    with connection.dup():
        if run(connection, request):
            # A fault of one message, such as a broken CUDA context, must not reach the next.
            control.close()
            return False
        free_gpu_memory()
    return True


def serve_apart(control: socket.socket, output: list[int], *, trusted: bool) -> int:
    """Serve ``control`` in a process of its own, which writes to ``output`` where that is given."""
    for descriptor in output:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
    return serve(control, trusted=trusted)


def run_unloaded(connection: socket.socket, request: dict[str, Any], home: Home) -> int:
    """Process a message of an app that cannot be loaded ahead, in a process that loads it as in stock Flower."""
    home.move_in()
    home.lock(request, connection, installed=False)
    return run(connection, request)


def serve_app(control: socket.socket, content: bytes, request: dict[str, Any], home: Home) -> int:
    """Load one app, say whether that worked, and serve its messages."""
    try:
        home.move_in()
        App(content, request, partial(home.lock, request, control, installed=True))
    except (Exception, SystemExit) as error:
        control.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        return 1
    if reason := forking.why_not():
        control.send(json.dumps({"unforkable": reason}).encode())
        return 1
    gc.collect()
    gc.freeze()  # keep the collector from touching, and so copying, the pages shared with the children
    process.hand_back_memory()
    use_huge_pages()
    control.send(json.dumps({"ready": True}).encode())
    return serve(control)


def forget_callers_package() -> None:
    """Unload this package in a fork of the SuperNode, because an app may have a package of the same name."""
    package = __name__.partition(".")[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder of the SuperNode's program


def run_warm_parent(control: socket.socket) -> int:
    """Warm up, say so, and serve."""
    # The terminal's Ctrl-C reaches the whole process group; the SuperNode decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_NAME, PROCESS_NAME.encode(), 0, 0, 0)  # what `ps` and `top` show
    process.forbid_inspection()
    clientapp.flwr_exit = exit_clientapp
    clientapp.register_signal_handlers = register_exit_handlers
    clientapp.event = lambda *_args, **_kwargs: None  # a thread for each, also where telemetry is off
    gc.disable()  # imported modules stay anyway, and walking them again and again is a fifth of the imports' time
    warm_torch()
    gc.enable()
    gc.freeze()
    use_huge_pages()
    control.send(json.dumps({"ready": True}).encode())
    return serve(control, trusted=True)


def run_warm_parent_in_fork(control: socket.socket, threads: int, output: int | None = None) -> int:
    """:func:`run_warm_parent` the warm parent of the SuperNode that this process was forked from.

    Args:
        control: where it is asked.
        threads: PyTorch threads of a message.
        output: descriptor to write to; None for that of the SuperNode.
    """
    if output is not None:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    forget_callers_package()
    return run_warm_parent(control)


def main() -> int:
    control = socket.socket(fileno=int(sys.argv[1]))
    process.end_with_parent(signal.SIGKILL, int(sys.argv[2]))
    return run_warm_parent(control)


if __name__ == "__main__":
    sys.exit(main())
