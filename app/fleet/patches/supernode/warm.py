"""Messages run in children of a warm process: the patch that lets a SuperNode use ``app/fleet/warm``.

Flower starts a Python process for every message, through a SuperExec that polls. Here the SuperNode's main thread has
a child forked, and answers its calls, where Flower would wait for a reply.

Read in flwr 1.39.0: ``supernode/start_client_internal.py``, ``supernode/runtime``, ``supernode/servicer/runtime``,
``supercore/corestate``.
"""

from typing import Any

from app.fleet.patches.registry import Flower, Patch

_LOOP = "flwr.supernode.start_client_internal"
_PUSH = f"{_LOOP}:_push_messages"
_CLIENTAPP = "flwr.supernode.runtime.run_clientapp"
_HANDLERS = "flwr.supernode.servicer.runtime.runtime_handlers"
_NODE_STATE = "flwr.supernode.nodestate.in_memory_nodestate:InMemoryNodeState"


def apply(flower: Flower, context: Any) -> None:
    """Let the SuperNode's main loop run its messages through ``context.executor``."""
    executor, stock = context.executor, flower[_PUSH]

    def push_messages(state: Any, object_store: Any, send: Any, push_object: Any) -> None:
        executor.execute_pending(state)
        stock(state, object_store, send, push_object)

    flower.replace(_PUSH, push_messages)


PATCH = Patch(
    name="warm",
    process="supernode",
    purpose="a message runs in a fork of a process that has imported and warmed the app",
    without="every message starts a new Python process: same results, slower",
    needs={
        # The SuperNode's loop (executor.py, task.py).
        _PUSH: "5f09f2f7a86c",
        f"{_LOOP}:_pull_and_store_message": "eaf5d0e36dc3",
        f"{_LOOP}:_insert_message": "a0c6f4605e99",
        f"{_LOOP}:start_client_internal": "bb3df95a5f63",
        # What the warm processes replace in Flower's program for a message (parent.py).
        f"{_CLIENTAPP}:run_clientapp": "0df7b3272ecd",
        f"{_CLIENTAPP}:RuntimeHttpClient": "",
        f"{_CLIENTAPP}:flwr_exit": "1445f36e9999",
        f"{_CLIENTAPP}:register_signal_handlers": "372d224abafd",
        f"{_CLIENTAPP}:install_from_fab": "481bd04cde58",
        f"{_CLIENTAPP}:get_load_client_app_fn": "f7790dd641ba",
        f"{_CLIENTAPP}:event": "6cdba89cf0cd",
        "flwr.supercore.runtime:RuntimeHttpClient._unary_unary": "6689ffaa5d5e",
        "flwr.supercore.exit.exit_handler:add_exit_handler": "c153212885df",
        "flwr.supercore.exit.exit_handler:trigger_exit_handlers": "5703e77e3197",
        "flwr.common.config:get_project_config": "8dd34346adf9",
        "flwr.common.config:get_project_dir": "155c70517e73",
        # The calls of a message, answered in the SuperNode's process (task.py).
        f"{_HANDLERS}:pull_pending_tasks": "f8f3d933e161",
        f"{_HANDLERS}:pull_task_input": "035e6c69a7cf",
        f"{_HANDLERS}:push_task_output": "1d148b25ce52",
        f"{_HANDLERS}:pull_messages": "5dd32a26b107",
        f"{_HANDLERS}:push_messages": "f0b01d8d3c43",
        f"{_HANDLERS}:pull_object": "cf11db1e6a09",
        f"{_HANDLERS}:push_object": "c6dad970cb51",
        f"{_HANDLERS}:confirm_message_received": "d922673fae15",
        "flwr.supercore.servicer.runtime.runtime_handlers:send_task_heartbeat": "0664b523bbb1",
        f"{_NODE_STATE}.claim_task": "a81e71e96256",
        f"{_NODE_STATE}.get_task_by_token": "08f66c55f91c",
        f"{_NODE_STATE}.finish_task": "6800803a9677",
        f"{_NODE_STATE}.get_run_series_context": "1da99e9598ec",
        f"{_NODE_STATE}.get_messages": "337c6ecb6ac9",
        f"{_NODE_STATE}.delete_messages": "b5305a764184",
        f"{_NODE_STATE}.record_message_processing_start": "be1591d854ff",
        f"{_NODE_STATE}.record_message_processing_end": "46dac2722579",
        "flwr.common.serde:message_from_proto": "adfc00f7b403",
        "flwr.supercore.inflatable.inflatable_object:iterate_object_tree": "34c0fe845619",
        "flwr.supercore.fab:Fab": "",
        "flwr.supercore.run:Run": "",
    },
    after=("small-objects",),
    apply=apply,
)
