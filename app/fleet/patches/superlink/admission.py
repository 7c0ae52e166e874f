"""Who may talk to the SuperLink's Fleet API, and a line in its log for each who may not.

Flower verifies that a caller holds a key and that the key belongs to the node it speaks for. ``interceptor.py`` adds to
that, without changing what goes over the wire:

* the key that a client asks to activate must be the one it signs with. Flower leaves that open for
  `ActivateNode`, so whoever knows a member's public key could keep that member out as "online twice";
* who is not enrolled, or was revoked, is refused before the body of the call is read;
* a refusal says its reason on both ends, with the client's name where it has one;
* who comes in is noted in `members.json`, by node id with name and bound on examples, for the ServerApp, its log and
  `summary.json`.

Read in flwr 1.39.0, `server/superlink/fleet/grpc_rere/node_auth_server_interceptor.py`.
"""

from typing import Any

from app.fleet.patches.registry import Flower, Patch

REGISTRY = "members.json"
_SUPERLINK = "flwr.superlink.cli.flower_superlink"
_INTERCEPTOR = "flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor:NodeAuthServerInterceptor"


def apply(flower: Flower, context: Any) -> None:
    """Put admission in front of the Fleet API; ``context.state`` is the folder where `members.json` goes, or None."""
    from app.fleet.patches.superlink.interceptor import AdmissionInterceptor

    class Interceptor(AdmissionInterceptor):
        """With this SuperLink's list of names."""

        registry = context.state / REGISTRY if context.state else None

    flower.replace(f"{_SUPERLINK}:NodeAuthServerInterceptor", Interceptor)


PATCH = Patch(
    name="admission",
    process="superlink",
    purpose="only enrolled keys come in, each for its own node, and every refusal has a reason",
    without="a stranger can keep a member out, and nobody learns why a client was refused",
    required=True,
    only_with="certificates",
    needs={
        f"{_SUPERLINK}:NodeAuthServerInterceptor": "",
        f"{_INTERCEPTOR}.intercept_service": "8583e6f5febd",
        "flwr.common.constant:PUBLIC_KEY_HEADER": "",
        "flwr.supercore.utils:get_metadata_bytes": "8455119de757",
    },
    apply=apply,
)
