"""The SuperLink's state: members outlive it, and no tree of objects can make it do endless work."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.message_pb2 import ObjectTree
from flwr.superlink import config_loader
from flwr.superlink.federation import NoOpFederationManager

from app.errors import UserError
from app.fleet import link_state
from app.fleet.link_state import CarefulObjectStore, MembersLinkState


def state(folder: Path) -> MembersLinkState:
    return MembersLinkState(NoOpFederationManager(), CarefulObjectStore(), folder)


def tree(name: str, *children: ObjectTree) -> ObjectTree:
    return ObjectTree(object_id=hashlib.sha256(name.encode()).hexdigest(), children=children)


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


def test_a_list_that_cannot_be_read_is_said_before_anyone_dials_in(tmp_path: Path) -> None:
    (tmp_path / link_state.NODES).write_text("{not json")
    with pytest.raises(UserError, match=r"nodes\.json cannot be read"):
        link_state.install(tmp_path)


def test_flowers_superlink_is_given_this_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LinkStateFactory", "ObjectStoreFactory"):
        monkeypatch.setattr(config_loader, name, getattr(config_loader, name))
    assert link_state.install(tmp_path)
    stores, states = config_loader.get_objectstore_linkstate_factories("any", NoOpFederationManager())
    assert isinstance(states.state(), MembersLinkState)
    assert isinstance(stores.store(), CarefulObjectStore)
    assert states.state() is states.state()


def test_another_flower_keeps_its_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(config_loader, "get_objectstore_linkstate_factories")
    before = config_loader.LinkStateFactory
    assert not link_state.install(tmp_path)
    assert config_loader.LinkStateFactory is before


@pytest.mark.parametrize(
    "hostile",
    [
        tree("root", tree("twice"), tree("twice")),
        tree("root", tree("known")),
        tree("root", tree("new", tree("leaf")), tree("other", tree("new"))),
    ],
    ids=["a child twice", "a known object with other children", "one object in two ways"],
)
def test_a_tree_that_contradicts_itself_leaves_nothing_behind(hostile: ObjectTree) -> None:
    store = CarefulObjectStore()
    store.preregister(1, tree("known", tree("leaf")))
    before = set(store.store)
    with pytest.raises(ValueError, match="object"):
        store.preregister(1, hostile)
    assert set(store.store) == before


def test_a_message_whose_tree_is_refused_is_not_stored(tmp_path: Path) -> None:
    link = state(tmp_path)
    message: Any = object()  # must not be looked at
    with pytest.raises(ValueError, match="twice"):
        link.store_message_and_object_tree(message, tree("root", tree("a"), tree("a")), "session")


def test_an_honest_tree_may_share_objects() -> None:
    store = CarefulObjectStore()
    shared = tree("shared")
    assert len(store.preregister(1, tree("root", tree("a", shared), tree("b", shared)))) >= 4
    store.preregister(1, tree("second root", tree("a", shared)))
