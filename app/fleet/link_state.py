"""The SuperLink's state: the members survive a restart, a run's messages live in memory.

Flower keeps either everything in memory or everything in a database, where each message of a round costs some
fifty statements and every model is written to disk twice: with ten clients a second of CPU a round. A run ends
with the SuperLink that serves it, so its messages are worth nothing to the next one; who may take part is. So this is
Flower's state in memory, with the nodes also in a file, and an object store that refuses what Flower's database refuses
and Flower's memory does not: trees that unfold without end, and trees that say something else about a known object.

Read in flwr 1.39.0: ``server/superlink/linkstate``, ``supercore/object_store``, ``superlink/config_loader.py``.
Where these differ, the SuperLink uses Flower's database.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import import_module
from logging import WARNING
from pathlib import Path
from typing import Any

from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.proto.control_pb2 import ListNodesResponse
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore import log
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from google.protobuf.json_format import MessageToJson, Parse, ParseError  # type: ignore[import-untyped]

from app.errors import UserError
from app.fleet.private_files import PRIVATE, write_atomically

NODES = "nodes.json"
ONLINE = "online"


class CarefulObjectStore(InMemoryObjectStore):
    """Flower's object store in memory, with the checks of the one in a database."""

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Note which objects of a tree are still to come. Raises ValueError for a tree that cannot be right."""
        with self.lock_store:
            self.check(object_tree)
            return super().preregister(run_id, object_tree)

    def check(self, object_tree: ObjectTree) -> None:
        """Raise ValueError where an object has a child twice, or other children than it is known to have."""
        with self.lock_store:
            here: dict[str, set[str]] = {}
            for node in iterate_object_tree(object_tree):
                name, children = node.object_id, [child.object_id for child in node.children]
                if len(children) != len(set(children)):
                    raise ValueError(f"object {name} has a child twice")
                known = self.store.get(name)
                before = set(known.child_object_ids) if known else here.get(name, set(children))
                if before != set(children):
                    raise ValueError(f"object {name} was announced with other children")
                here[name] = before


class MembersLinkState(InMemoryLinkState):
    """Flower's state in memory whose nodes are also in ``folder/nodes.json``."""

    def __init__(self, federation_manager: Any, object_store: CarefulObjectStore, folder: Path) -> None:
        super().__init__(federation_manager, object_store)
        self._file = folder / NODES
        self._careful_store = object_store
        self._restore(read_nodes(self._file).nodes_info)

    def _restore(self, nodes: Iterable[Any]) -> None:
        now = datetime.now(UTC).timestamp()
        for node in nodes:
            if node.status == ONLINE:  # it has as long to say so again as after any heartbeat
                node.online_until = now + HEARTBEAT_PATIENCE * node.heartbeat_interval
            self.nodes[node.node_id] = node
            self.node_public_key_to_node_id[node.public_key] = node.node_id
            self.owner_to_node_ids.setdefault(node.owner_aid, set()).add(node.node_id)

    def _save(self) -> None:
        with self.lock:
            nodes = ListNodesResponse(nodes_info=self.nodes.values())
            write_atomically(self._file, MessageToJson(nodes).encode(), PRIVATE)

    def create_node(self, *args: Any, **kwargs: Any) -> int:
        """Enroll a node."""
        node_id = super().create_node(*args, **kwargs)
        self._save()
        return node_id

    def delete_node(self, owner_aid: str, node_id: int) -> None:
        """Revoke a node's key; the node stays on record and keeps its key out."""
        super().delete_node(owner_aid, node_id)
        self._save()

    def activate_node(self, node_id: int, heartbeat_interval: float) -> bool:
        """A node has come online."""
        done = super().activate_node(node_id, heartbeat_interval)
        self._save()
        return done

    def deactivate_node(self, node_id: int) -> bool:
        """A node has said goodbye."""
        done = super().deactivate_node(node_id)
        self._save()
        return done

    def store_message_and_object_tree(
        self, message: Any, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """Store a message, or nothing of it where its tree is refused."""
        self._careful_store.check(object_tree)
        return super().store_message_and_object_tree(message, object_tree, session_id)


def read_nodes(file: Path) -> ListNodesResponse:
    """The nodes in ``file``; none where there is no such file. Raises UserError where it cannot be read."""
    try:
        nodes: ListNodesResponse = Parse(file.read_bytes(), ListNodesResponse())
    except FileNotFoundError:
        return ListNodesResponse()
    except (OSError, ParseError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} cannot be read ({error}); put back a copy, or remove it and enroll the clients again"
        ) from None
    return nodes


def install(folder: Path) -> bool:
    """Let this process's SuperLink keep its state so; False, with a warning, where this Flower differs."""
    try:
        config_loader: Any = import_module("flwr.superlink.config_loader")

        state_factory: Any
        store_factory: Any
        state_factory, store_factory = config_loader.LinkStateFactory, config_loader.ObjectStoreFactory
        for owner, names in (
            (InMemoryLinkState, ("create_node", "delete_node", "activate_node", "deactivate_node",
                                 "store_message_and_object_tree")),
            (InMemoryObjectStore, ("preregister",)),
            (config_loader, ("get_objectstore_linkstate_factories",)),
        ):  # fmt: skip
            for name in names:
                getattr(owner, name)
    except (ImportError, AttributeError) as error:
        log(WARNING, "All state goes to a database: this Flower differs from 1.39 (%s)", error)
        return False
    read_nodes(folder / NODES)  # a file that cannot be read must be said before anyone dials in

    class ObjectStoreFactory(store_factory):  # type: ignore[misc]
        """Makes one :class:`CarefulObjectStore`."""

        store_instance: Any

        def store(self) -> Any:
            with self._store_lock:
                if self.store_instance is None:
                    self.store_instance = CarefulObjectStore()
                return self.store_instance

    class LinkStateFactory(state_factory):  # type: ignore[misc]
        """Makes one :class:`MembersLinkState`."""

        state_instance: Any

        def state(self) -> Any:
            with self._state_lock:
                if self.state_instance is None:
                    store = self.objectstore_factory.store()
                    self.state_instance = MembersLinkState(self.federation_manager, store, folder)
                return self.state_instance

    config_loader.ObjectStoreFactory = ObjectStoreFactory
    config_loader.LinkStateFactory = LinkStateFactory
    return True
