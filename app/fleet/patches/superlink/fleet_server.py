"""The SuperLink's Fleet API on a server of Bouquet's, with Flower's own handlers and interceptors.

Flower gives each call a thread, 1,000 at most, before it knows who calls, and reads any body of up to 2 GiB. With a limit
on processes some 500 calls of a stranger end its serving thread, while the process lives on. Here a stranger stops at the
TLS handshake, a body is read when the caller is known, and a call that waits costs no thread (``app/fleet/fleet_api``).

Read in flwr 1.39.0: ``superlink/cli/flower_superlink.py``, ``supercore/grpc.py``.
"""

import logging
from typing import Any

from app.fleet.deployment import REQUIRED
from app.fleet.patches.registry import Flower, Patch

_SUPERLINK = "flwr.superlink.cli.flower_superlink"
_RUN = f"{_SUPERLINK}:_run_fleet_api_grpc_rere"
_CHUNK = "flwr.common.constant:FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"
LARGEST_CALL = 32 * 1024 * 1024  # Flower sends objects in pieces of 5 MiB


class _Handlers(dict[str, Any]):
    """What Flower adds to a server: its handlers by the full name of their method."""

    def add_generic_rpc_handlers(self, _handlers: Any) -> None:
        """The same handlers come by the other way too."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.update({f"/{service}/{name}": handler for name, handler in handlers.items()})


def apply(flower: Flower, context: Any) -> None:
    """Serve the Fleet API so. ``context`` is the settings of the SuperLink."""
    from app.environment import AppEnvironment, read
    from app.fleet.fleet_api import about, told
    from app.fleet.fleet_api.calls import FleetCalls, Local
    from app.fleet.fleet_api.health import METHOD, Health
    from app.fleet.fleet_api.server import Endpoint, FleetServer
    from app.fleet.fleet_api.tls import server_credentials

    servicer, add_servicer = (
        flower[f"{_SUPERLINK}:FleetServicer"],
        flower[f"{_SUPERLINK}:add_FleetServicer_to_server"],
    )
    translate = flower[f"{_SUPERLINK}:RpcErrorTranslationServerInterceptor"]
    version = flower[f"{_SUPERLINK}:create_fleet_runtime_version_server_interceptor"]
    largest = max(LARGEST_CALL, 2 * flower[_CHUNK])

    def run_fleet_api(
        *, address: str, state_factory: Any, objectstore_factory: Any, enable_supernode_auth: bool,
        certificates: tuple[bytes, bytes, bytes] | None, interceptors: list[Any],
    ) -> FleetServer:  # fmt: skip
        state = state_factory.state()
        health = Health(state.get_node_info)
        handlers = _Handlers()
        add_servicer(servicer(state_factory, objectstore_factory, enable_supernode_auth), handlers)

        def members() -> frozenset[bytes]:
            nodes = state.get_node_info()
            return frozenset(node.public_key for node in nodes if node.status != "unregistered") | {
                health.public_key
            }

        ca, credentials, pair = None, None, None
        certified = certificates is not None and context.client_certificates == REQUIRED
        if certificates is not None:
            ca, pair = certificates[0], (certificates[2], certificates[1])
            credentials = server_credentials(pair, members, client_certificates=certified)
        has_keys = certificates is not None
        answers = about.About(state.get_node_info, read(AppEnvironment).data, authenticated=has_keys)
        letters = told.Told(state.get_node_info, context.state, authenticated=has_keys)
        local: dict[str, Local] = {
            METHOD: health.answer,
            about.METHOD: answers.answer,
            told.METHOD: letters.admit,
        }
        calls = FleetCalls(handlers, [translate(), *interceptors, version()], local, certified=certified)
        endpoint = Endpoint(address, credentials, ca, pair, largest, context.health_port)
        server = FleetServer(endpoint, calls, health)
        bound = server.start()
        logging.getLogger("flwr").info(
            "Flower Deployment Runtime: Starting Fleet API (gRPC-rere) on %s", bound
        )
        return server

    flower.replace(_RUN, run_fleet_api)


PATCH = Patch(
    name="fleet-server",
    process="superlink",
    purpose="strangers stop at the TLS handshake, and calls that wait cost no thread",
    without="some 500 calls of anyone end the Fleet API, and nothing starts it again",
    required=True,
    needs={
        _RUN: "941cd68b2038",
        f"{_SUPERLINK}:FleetServicer": "",
        f"{_SUPERLINK}:add_FleetServicer_to_server": "370dc4a62263",
        f"{_SUPERLINK}:RpcErrorTranslationServerInterceptor": "",
        f"{_SUPERLINK}:create_fleet_runtime_version_server_interceptor": "6750b2752660",
        _CHUNK: "",
    },
    apply=apply,
)
