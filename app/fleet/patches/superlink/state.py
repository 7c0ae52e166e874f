"""The SuperLink's state: members survive a restart, messages live in memory, and each node reaches what is its own.

Flower keeps either everything in memory or everything in a database. There each message of a round costs some fifty
statements, and every model is written to disk twice: a second of CPU a round with ten clients. Messages belong to one
run, and a run cannot outlive its SuperLink, so messages stay in memory. The list of members must survive a restart, so
it goes to a file. The calls of a node see the state through ``node_state.py``, and its reply's objects are kept in
``replies.py``: without them a member can end every run, and fetch or delete what is not its own.

Read in flwr 1.39.0: ``server/superlink/linkstate``, ``supercore/object_store``, ``superlink/config_loader.py``.
"""

from typing import Any

from app.fleet.patches.registry import Flower, Patch

_LOADER = "flwr.superlink.config_loader"
_STATE = "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState"
_HANDLERS = {
    f"flwr.server.superlink.fleet.message_handler.message_handler:{name}": digest
    for name, digest in {
        "pull_messages": "63c87f5e7a6c",
        "push_messages": "0ff408f15ed2",
        "push_object": "b2d1d6f95ed6",
        "pull_object": "0304e7086a2d",
        "confirm_message_received": "193842e970ea",
        "get_run": "e533f3172864",
        "get_fab": "a94a15f27e2e",
        "send_node_heartbeat": "e5dd973fcd9d",
    }.items()
}
_RUNTIME_CONFIRM = "flwr.superlink.servicer.runtime.runtime_handlers:confirm_message_received"
_INFLATABLE = "flwr.supercore.inflatable"
_STORE = "flwr.supercore.object_store.in_memory_object_store:InMemoryObjectStore"


def apply(flower: Flower, context: Any) -> None:
    """Let this process's SuperLink keep its state so. ``context.state`` is the folder of the members."""
    from app.fleet.patches.superlink.members import NODES, MembersLinkState, read_nodes
    from app.fleet.patches.superlink.node_state import NodeState
    from app.fleet.patches.superlink.replies import ObjectStore

    folder = context.state
    read_nodes(folder / NODES)  # a file that cannot be read must be reported before anyone dials in
    state_factory: Any = flower[f"{_LOADER}:LinkStateFactory"]
    store_factory: Any = flower[f"{_LOADER}:ObjectStoreFactory"]

    class ObjectStoreFactory(store_factory):  # type: ignore[misc]
        """Makes one :class:`ObjectStore`."""

        store_instance: Any

        def store(self) -> Any:
            with self._store_lock:
                if self.store_instance is None:
                    self.store_instance = ObjectStore()
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

    def as_its_node(handler: Any) -> Any:
        def handle(request: Any, state: Any, **others: Any) -> Any:
            mine = NodeState(state, request.node.node_id)
            return handler(request, mine, **dict.fromkeys(others, mine))  # the other one is the store

        return handle

    stock_confirm = flower[_RUNTIME_CONFIRM]

    def confirm_message_received(request: Any, state: Any, task: Any) -> Any:
        state.forget([request.message_object_id])  # where it is a message that the ServerApp gave up
        return stock_confirm(request, state, task)

    flower.replace(f"{_LOADER}:ObjectStoreFactory", ObjectStoreFactory)
    flower.replace(f"{_LOADER}:LinkStateFactory", LinkStateFactory)
    for name in _HANDLERS:
        flower.replace(name, as_its_node(flower[name]))
    flower.replace(_RUNTIME_CONFIRM, confirm_message_received)


PATCH = Patch(
    name="state",
    process="superlink",
    purpose="messages stay in memory, the list of members goes to a file, and a node reaches what is its own",
    without="a member can end every run, and fetch or delete the messages of others",
    required=True,
    only_with="state",
    needs={
        f"{_LOADER}:ObjectStoreFactory": "",
        f"{_LOADER}:ObjectStoreFactory.store": "5f465613bfb0",
        f"{_LOADER}:LinkStateFactory": "",
        f"{_LOADER}:LinkStateFactory.state": "8b1e223d0999",
        f"{_LOADER}:get_objectstore_linkstate_factories": "9f697d33f493",
        _STATE: "",
        f"{_STATE}.__init__": "d50d022da606",
        f"{_STATE}.create_node": "24e0d726af43",
        f"{_STATE}.delete_node": "19472bf78ec0",
        f"{_STATE}.activate_node": "ddd272f4a52b",
        f"{_STATE}.deactivate_node": "711446eb21a5",
        f"{_STATE}.acknowledge_node_heartbeat": "87661fe60e18",
        f"{_STATE}.store_message_ins": "a2b78afac51d",
        f"{_STATE}.store_message_res": "52a4f7ccc70e",
        f"{_STATE}.get_message_res": "3e91c65629fc",
        f"{_STATE}.delete_messages": "5cfa8be0fba0",
        f"{_STATE}.get_run_status": "e6abbbc4d377",
        f"{_STATE}.get_run_info": "e5feff99a3e3",
        f"{_STATE}._store_generated_message": "f1393b8bc5ee",
        _STORE: "",
        f"{_STORE}.preregister": "9e051ec570df",
        f"{_STORE}.get_object_tree": "1283fc620bd1",
        f"{_STORE}.get": "b67cbc37f989",
        f"{_STORE}.delete": "e6ab07f837d6",
        f"{_STORE}.delete_objects_in_run": "dee23750dfc2",
        **_HANDLERS,
        _RUNTIME_CONFIRM: "ff4736642191",
        "flwr.app.message:make_message": "7b10c6528e36",
        "flwr.app.metadata:Metadata.__init__": "addaf6f8fb5b",
        "flwr.server.utils.validator:validate_message": "c3328f0cf0b7",
        f"{_INFLATABLE}.inflatable_object:get_object_children_ids_from_object_content": "de77457a9d36",
        f"{_INFLATABLE}.inflatable_object:get_object_id": "1c9d6716beb1",
        f"{_INFLATABLE}.inflatable_object:iterate_object_tree": "34c0fe845619",
        f"{_INFLATABLE}.inflatable_utils:validate_object_content": "86b85558c2b3",
        "flwr.server.superlink.linkstate.in_memory_linkstate:HEARTBEAT_PATIENCE": "",
    },
    apply=apply,
)
