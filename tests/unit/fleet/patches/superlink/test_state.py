"""The SuperLink's state: members outlive it."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.supercore.error import FlowerError
from flwr.superlink import config_loader
from flwr.superlink.federation import NoOpFederationManager

from app.errors import UserError
from app.fleet.patches.registry import select
from app.fleet.patches.superlink import members
from app.fleet.patches.superlink.members import NODES, MembersLinkState
from app.fleet.patches.superlink.replies import ObjectStore
from app.fleet.patches.superlink.state import PATCH


def state(folder: Path) -> MembersLinkState:
    return MembersLinkState(NoOpFederationManager(), ObjectStore(), folder)


def test_nodes_survive_a_restart_and_a_revoked_key_stays_out(tmp_path: Path) -> None:
    first = state(tmp_path)
    kept = first.create_node("owner", "", b"key a", 30.0, name="a")
    gone = first.create_node("owner", "", b"key b", 30.0, name="b")
    assert first.activate_node(kept, 30.0)
    first.delete_node("owner", gone)

    second = state(tmp_path)
    nodes = {node.node_id: node for node in second.get_node_info()}
    assert {node.node_id: (node.name, node.status) for node in nodes.values()} == {
        kept: ("a", "online"), gone: ("b", "unregistered"),
    }  # fmt: skip
    assert second.get_node_id_by_public_key(b"key a") == kept
    assert second.get_node_id_by_public_key(b"key b") is None
    with pytest.raises(ValueError, match="already in use"):
        second.create_node("owner", "", b"key b", 30.0)
    second.deactivate_node(kept)
    assert {node.status for node in state(tmp_path).get_node_info()} == {"offline", "unregistered"}


def test_a_full_volume_enrolls_nobody_keeps_nobody_out_and_forgets_no_revocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written is written with a later heartbeat."""
    now = state(tmp_path)
    stays, goes = (now.create_node("owner", "", key, 30.0, name="x") for key in (b"key a", b"key b"))
    now.activate_node(goes, 30.0)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as volume:
        volume.setattr(members, "write_atomically", full)
        assert now.activate_node(stays, 30.0)
        with pytest.raises(FlowerError, match=rf"{tmp_path}/nodes.json cannot be written .*enroll again"):
            now.create_node("owner", "", b"key c", 30.0, name="y")
        with pytest.raises(FlowerError, match=r"it is revoked, but .*make space before"):
            now.delete_node("owner", goes)
        assert now.acknowledge_node_heartbeat(stays, 30.0)
    assert {node.node_id for node in now.get_node_info()} == {stays, goes}
    assert now.acknowledge_node_heartbeat(stays, 30.0)
    kept = {node.node_id: node.status for node in state(tmp_path).get_node_info()}
    assert kept == {stays: "online", goes: "unregistered"}
    assert now.create_node("owner", "", b"key c", 30.0, name="y")


def test_a_list_that_cannot_be_read_is_said_before_anyone_dials_in(tmp_path: Path) -> None:
    (tmp_path / NODES).write_text("{not json")
    with pytest.raises(UserError, match=r"nodes\.json cannot be read"):
        select([PATCH], SimpleNamespace(state=tmp_path)).install()


def test_flowers_superlink_is_given_this_state(tmp_path: Path) -> None:
    with select([PATCH], SimpleNamespace(state=tmp_path)).install():
        stores, states = config_loader.get_objectstore_linkstate_factories("any", NoOpFederationManager())
    assert isinstance(states.state(), MembersLinkState)
    assert isinstance(stores.store(), ObjectStore)
    assert states.state() is states.state()
