"""The registry: what is checked before a patch is installed, how one stays off, and that all of it can be undone."""

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.errors import UserError
from app.fleet.identity import keys
from app.fleet.patches import tables
from app.fleet.patches.registry import Flower, Patch, check_switches, select
from app.packing import internals

SUPERLINK_CONTEXT = SimpleNamespace(
    state=Path("/nowhere"),
    certificates=Path("/nowhere"),
    client_certificates="required",
    health_port=0,
    control_socket=None,
)


def _replace_find(flower: Flower, context: Any) -> None:
    flower.replace("app.packing.internals:owner_of", context.value)


def _patch(**changes: Any) -> Patch:
    patch = Patch(
        name="sample",
        process="here",
        purpose="a test",
        without="nothing is lost",
        needs={"app.packing.internals:owner_of": internals.digest(internals.owner_of)},
        apply=_replace_find,
    )
    return replace(patch, **changes)


@pytest.mark.parametrize("patch", tables.ALL, ids=lambda patch: f"{patch.process}-{patch.name}")
def test_this_flower_is_the_one_that_the_patches_were_written_for(patch: Patch) -> None:
    """A new digest belongs into the patch once its author has read what changed."""
    for name, expected in patch.needs.items():
        assert internals.digest(internals.find(name)) == expected, name


@pytest.mark.parametrize("patches", [tables.SUPERLINK, tables.SUPERNODE])
def test_each_patch_comes_after_those_it_wraps(patches: tuple[Patch, ...]) -> None:
    names = [patch.name for patch in patches]
    for patch in patches:
        assert all(names.index(other) < names.index(patch.name) for other in patch.after), patch.name


def test_swapped_patches_are_refused() -> None:
    first, second = _patch(name="first"), _patch(name="second", after=("first",))
    with pytest.raises(ValueError, match="second goes after first"):
        select([second, first], None)


@pytest.mark.parametrize(
    ("patches", "context"), [(tables.SUPERLINK, SUPERLINK_CONTEXT), (tables.SUPERNODE, None)]
)
def test_every_name_is_put_back(patches: tuple[Patch, ...], context: Any, tmp_path: Path) -> None:
    if context is None:
        key = keys.make_node_key(tmp_path / "node.key").path
        context = SimpleNamespace(superlink="127.0.0.1:1", executor=None, key=key, lost_after=15)
    else:
        context = SimpleNamespace(**{**vars(SUPERLINK_CONTEXT), "state": tmp_path})
    names = {name for patch in patches for name in patch.needs}
    before = {name: internals.find(name) for name in names}
    with select(patches, context).install() as installed:
        assert installed.on == {patch.name for patch in patches}
        replaced = {name for name in names if internals.find(name) is not before[name]}
        assert replaced
    assert all(internals.find(name) is before[name] for name in names)


def test_a_patch_replaces_what_it_declares_and_nothing_else() -> None:
    patch = _patch(needs={})
    with pytest.raises(KeyError, match="does not declare"):
        select([patch], SimpleNamespace(value=None)).install()


def test_a_patch_that_fails_leaves_no_other_behind() -> None:
    def fail(_flower: Flower, _context: Any) -> None:
        raise RuntimeError("broken")

    stock = internals.owner_of
    with pytest.raises(RuntimeError, match="broken"):
        select([_patch(), _patch(name="broken", apply=fail)], SimpleNamespace(value=1)).install()
    assert internals.owner_of is stock


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        ({"app.packing.nowhere:name": ""}, "Flower has no app.packing.nowhere:name"),
        ({"app.packing.internals:nothing": ""}, "Flower has no app.packing.internals:nothing"),
        ({"app.packing.internals:find": "0" * 12}, "app.packing.internals:find is not what it was"),
    ],
    ids=["module", "name", "source"],
)
def test_a_need_that_is_not_met_leaves_the_patch_off_with_one_line(
    needs: dict[str, str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "flwr"):
        selection = select([_patch(needs=needs)], None)
    assert selection.install().on == frozenset() and reason in selection.off["sample"]
    line = f"Patch sample is off: {selection.off['sample']}. Without it, nothing is lost."
    assert [record.getMessage() for record in caplog.records] == [line]


def test_a_required_patch_refuses_to_be_left_out() -> None:
    with pytest.raises(UserError, match="patch sample cannot be left out: Flower has no"):
        select([_patch(required=True, needs={"nowhere:name": ""})], None)
    with pytest.raises(UserError, match="BOUQUET_PATCHES switches it off"):
        select([_patch(required=True)], None, "-sample")
    assert "sample" in select([_patch(required=True)], None, "-all")


def test_switches_name_patches() -> None:
    assert "sample" not in select([_patch()], None, "-other, -sample")
    assert "sample" not in select([_patch()], None, "-all")
    assert "sample" in select([_patch()], None, "-other")
    check_switches(" -sample, -all ,", ["sample"])
    for wrong in ("sample", "-sampel", "+sample"):
        with pytest.raises(UserError, match=r"write -NAME.*all, sample"):
            check_switches(wrong, ["sample"])


def test_a_patch_without_its_context_means_nothing() -> None:
    selection = select([_patch(only_with="state", needs={"nowhere:name": ""})], SimpleNamespace(state=None))
    assert "sample" not in selection and not selection.off
