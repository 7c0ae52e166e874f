"""Each attack is a function that returns what it got hold of; one that raises was refused.

The same attacks run a first time while the app is imported, because that is in another process.
"""

import ctypes
import fcntl
import os
import resource
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.supernode.runtime import run_clientapp

from .targets import TARGETS

app = ClientApp()
libc = ctypes.CDLL(None, use_errno=True)
Targets = dict[str, Any]


def done(result: int) -> int:
    """The result of a C function; raises where it failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def ancestors() -> list[int]:
    """The warm parent, the SuperNode and what started it: the processes above this app's own."""
    found: list[int] = []
    pid = os.getpid()
    while pid > 1 and len(found) < 8:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(parent)
        pid = parent
    return found


def supernode(targets: Targets) -> int:
    assert int(targets["supernode"]) in ancestors()
    return int(targets["supernode"])


def read_key(targets: Targets) -> int:
    return len(Path(targets["key"]).read_bytes())


def list_keys(targets: Targets) -> int:
    return len(list(Path(targets["key"]).parent.iterdir()))


def read_memory(targets: Targets) -> int:
    pid = supernode(targets)
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if "[heap]" in line:
            with Path(f"/proc/{pid}/mem").open("rb") as memory:
                memory.seek(int(line.split("-")[0], 16))
                return len(memory.read(64))
    raise OSError("no heap")


def read_memory_by_call(targets: Targets) -> int:
    buffer = ctypes.create_string_buffer(8)
    here, there = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8), (ctypes.c_void_p * 2)(id(None), 8)
    return done(libc.process_vm_readv(supernode(targets), here, 1, there, 1, 0))


def read_environment(targets: Targets) -> int:
    return len(Path(f"/proc/{supernode(targets)}/environ").read_bytes())


def read_neighbour(targets: Targets) -> int:
    return len(Path(f"/proc/{targets['neighbour']}/environ").read_bytes())


def trace(targets: Targets) -> int:
    done(libc.ptrace(0x4206, supernode(targets), 0, 0))  # PTRACE_SEIZE; it ends with this process
    return 1


def take_descriptor(targets: Targets) -> int:
    return done(libc.syscall(438, os.pidfd_open(supernode(targets)), 1, 0))


def signal_parents(targets: Targets) -> int:
    return _signal(ancestors()[1:] if os.getpid() != imported_in else ancestors())


def signal_neighbour(targets: Targets) -> int:
    return _signal([int(targets["neighbour"])])


def _signal(pids: list[int]) -> int:
    reached = 0
    for pid in pids:
        try:
            os.kill(pid, 0)
            reached += 1
        except PermissionError:
            pass
    if not reached:
        raise PermissionError("none")
    return reached


def limit_supernode(targets: Targets) -> int:
    resource.prlimit(supernode(targets), resource.RLIMIT_CORE)
    return 1


def call_out(targets: Targets) -> int:
    socket.create_connection(("127.0.0.1", int(targets["port"])), 5).close()
    return 1


def call_out_by_udp(targets: Targets) -> int:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(
        b"data", ("127.0.0.1", int(targets["port"]))
    )


def call_a_local_service(targets: Targets) -> int:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(targets["service"])
    return 1


def write_to_a_local_service(targets: Targets) -> int:
    ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return ours.sendto(b"data", targets["datagrams"])


def listen(targets: Targets) -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
    return 1


def write_to_store(targets: Targets) -> int:
    return (Path(targets["store"]) / "planted").write_text("data")


def plant_install(targets: Targets) -> int:
    """Where Flower would look for the bundle of another app, and where it lies while that app runs."""
    planted = 0
    for home in {targets["flwr_home"], os.environ["FLWR_HOME"]}:
        folder = Path(home) / "apps" / targets["installs"]
        try:
            (folder / "counting").mkdir(parents=True, exist_ok=True)
            (folder / "pyproject.toml").write_text(targets["pyproject"])
            (folder / "counting" / "__init__.py").write_text("")
            (folder / "counting" / "client.py").write_text("raise RuntimeError('planted')")
            planted += 1
        except OSError:
            continue
    if not planted:
        raise PermissionError("nowhere")
    return planted


def change_own_bundle(targets: Targets) -> int:
    return Path(__file__).with_name("__init__.py").write_text("planted = True")


def use_inherited_descriptors(targets: Targets) -> int:
    """Sockets of others, and the files by whose locks clients share a host."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            where = str(link.readlink())
        except OSError:
            continue
        if int(link.name) > 2 and where.startswith("/") and where.endswith(".lock"):
            fcntl.flock(int(link.name), fcntl.LOCK_UN)
            found += 1
    if not found:
        raise PermissionError("none")
    return found


def own_namespaces(targets: Targets) -> int:
    if pid := os.fork():
        if os.waitpid(pid, 0)[1]:
            raise PermissionError("refused")
        return 1
    os._exit(int(libc.unshare(0x10000000) != 0))  # CLONE_NEWUSER


def ring(targets: Targets) -> int:
    """io_uring makes and connects sockets without the calls that a filter sees."""
    return done(libc.syscall(425, 1, ctypes.create_string_buffer(120)))


ATTACKS: dict[str, Callable[[Targets], int]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        read_key, list_keys, read_memory, read_memory_by_call, read_environment, read_neighbour, trace,
        take_descriptor, signal_parents, signal_neighbour, limit_supernode, call_out, call_out_by_udp,
        call_a_local_service, write_to_a_local_service, listen, write_to_store, plant_install, change_own_bundle,
        use_inherited_descriptors, own_namespaces, ring,
    )
}  # fmt: skip


def attack(name: str, targets: Targets) -> dict[str, int]:
    try:
        return {"got": ATTACKS[name](targets)}
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}", flush=True)
        return {"got": 0}


# -- what ends otherwise than with an answer ----------------------------------------------------------


def stay(targets: Targets) -> dict[str, int]:
    """A process that outlives the message, in a session of its own, with all descriptors of this one."""
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        libc.prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG
        libc.prctl(15, b"hostile-daemon", 0, 0, 0)
        for number in range(1, 65):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                signal.signal(number, signal.SIG_IGN)
        time.sleep(600)
        os._exit(0)
    os.wait()
    return {"got": 1}


def reply_for_another(targets: Targets) -> dict[str, int]:
    """A reply whose objects are named after another message."""
    program: Any = run_clientapp
    stock = program.get_object_tree

    def other_tree(message: Any) -> Any:
        tree = stock(message)
        tree.object_id = "0" * 64
        return tree

    program.get_object_tree = other_tree
    return {"got": 1}


def confuse_the_supernode(targets: Targets) -> dict[str, int]:
    """A call whose name is no text."""
    program: Any = run_clientapp
    client = program.RuntimeHttpClient.from_server_address()
    client._connection.sendall(b"\x02\x00\x00\x00\x00\xff\xfe")
    return {"got": 1}


def work(targets: Targets) -> dict[str, int]:
    """What an app may do goes on: threads, files of its own, shared memory, programs, data loaders."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(2)
    torch.nn.Linear(64, 64)(torch.rand(512, 64)).sum().backward()
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"data")
    Path("~/.cache/models").expanduser().mkdir(parents=True, exist_ok=True)
    block = shared_memory.SharedMemory(create=True, size=16)
    block.close()
    block.unlink()
    rows = sum(len(batch) for (batch,) in DataLoader(TensorDataset(torch.rand(64, 8)), 8, num_workers=2))
    assert len(list(Path(os.environ["BOUQUET_DATA"]).iterdir())) > 0
    if (pid := os.fork()) == 0:
        time.sleep(60)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return {"got": int(os.system("true") == 0), "rows": rows}


OTHERS = {
    "stay": stay,
    "reply-for-another": reply_for_another,
    "confuse": confuse_the_supernode,
    "work": work,
}

imported_in = os.getpid()
at_import = [name for name in ATTACKS if attack(name, TARGETS)["got"]]
print("got while it was imported:", at_import, flush=True)
for descriptor in range(3, 64) if TARGETS["talks"] else ():
    # The control socket of the process that has this app loaded: say what nobody asked for.
    try:
        control = socket.socket(fileno=os.dup(descriptor))
        if control.type == socket.SOCK_SEQPACKET:
            control.send(b"[" * 20000)
    except OSError:
        continue


@app.train()
def train(message: Message, context: Context) -> Message:
    name = str(message.content.config_records["config"]["attack"])
    metrics = OTHERS[name](TARGETS) if name in OTHERS else attack(name, TARGETS)
    content = RecordDict({"metrics": MetricRecord({"at-import": len(at_import), **metrics})})
    return Message(content, reply_to=message)
