"""Flower's state in memory, with the members also in a file.

``state.py`` puts it into the SuperLink; it imports this module when Flower is the one they were written for.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from logging import ERROR
from pathlib import Path
from typing import Any

from flwr.proto.control_pb2 import ListNodesResponse
from flwr.server.superlink.linkstate import in_memory_linkstate
from flwr.supercore import log
from flwr.supercore.error import ApiErrorCode, FlowerError
from google.protobuf.json_format import MessageToJson, Parse, ParseError  # type: ignore[import-untyped]

from app.errors import UserError
from app.files import PRIVATE, write_atomically
from app.fleet.patches.superlink.node_state import RepliesLinkState
from app.fleet.patches.superlink.replies import ObjectStore

NODES = "nodes.json"
ONLINE = "online"


class MembersLinkState(RepliesLinkState):
    """Flower's state in memory whose nodes are also in ``folder/nodes.json``."""

    def __init__(self, federation_manager: Any, object_store: ObjectStore, folder: Path) -> None:
        super().__init__(federation_manager, object_store)
        self._file = folder / NODES
        self._unsaved = False  # the last time, the file could not be written
        self._restore(read_nodes(self._file).nodes_info)

    def _restore(self, nodes: Iterable[Any]) -> None:
        now = datetime.now(UTC).timestamp()
        for node in nodes:
            if node.status == ONLINE:  # it has as long to say so again as after any heartbeat
                patience: float = in_memory_linkstate.HEARTBEAT_PATIENCE  # type: ignore[attr-defined]
                node.online_until = now + patience * node.heartbeat_interval
            self.nodes[node.node_id] = node
            self.node_public_key_to_node_id[node.public_key] = node.node_id
            self.owner_to_node_ids.setdefault(node.owner_aid, set()).add(node.node_id)

    def _save(self) -> str:
        """Write the file; why that failed. Then the next heartbeat of any node tries again."""
        with self.lock:
            nodes = ListNodesResponse(nodes_info=self.nodes.values())
            try:
                write_atomically(self._file, MessageToJson(nodes).encode(), PRIVATE)
            except OSError as error:
                reason = f"{self._file} cannot be written ({error.strerror})"
                if not self._unsaved:
                    log(ERROR, "%s: make space; the members are kept in memory until then", reason)
                self._unsaved = True
                return reason
            self._unsaved = False
            return ""

    def create_node(self, *args: Any, **kwargs: Any) -> int:
        """Enroll a node. Raises FlowerError, and enrolls nobody, where that cannot be kept."""
        node_id = super().create_node(*args, **kwargs)
        if reason := self._save():
            with self.lock:
                node = self.nodes.pop(node_id)
                del self.node_public_key_to_node_id[node.public_key]
                self.owner_to_node_ids[node.owner_aid].discard(node_id)
            raise _unkept(f"{reason}: make space, and enroll again")
        return node_id

    def delete_node(self, owner_aid: str, node_id: int) -> None:
        """Revoke a node's key; the node stays on record and keeps its key out. Raises FlowerError where that cannot be kept yet."""
        super().delete_node(owner_aid, node_id)
        if reason := self._save():
            raise _unkept(f"it is revoked, but {reason}: make space before the SuperLink is started again")

    def acknowledge_node_heartbeat(self, node_id: int, heartbeat_interval: float) -> bool:
        """A node is alive."""
        done = super().acknowledge_node_heartbeat(node_id, heartbeat_interval)
        if self._unsaved:
            self._save()
        return done

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


def _unkept(reason: str) -> FlowerError:
    return FlowerError(ApiErrorCode.FORBIDDEN_ACTION, reason, public_details=reason)


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
