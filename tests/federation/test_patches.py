"""A Flower that differs in any name that a patch needs: the process starts, says one line, and messages are processed."""

import os
import re
import time
from pathlib import Path

import pytest
from federation_processes import ROOT, Fleet

from app.fleet.identity.certificates import init_ca, issue_server
from app.fleet.patches import tables
from app.fleet.patches.registry import Patch
from app.packing import internals

pytestmark = pytest.mark.federation

COUNTING = Path(__file__).parent / "apps" / "counting"
OTHER_FLOWER = ROOT / "tests" / "support" / "other_flower"
AT_ONCE = 8  # SuperNodes, each with the memory of a client of its own


def _names(patches: tuple[Patch, ...]) -> list[str]:
    return sorted({name for patch in patches for name in patch.needs})


def _without(name: str) -> dict[str, str]:
    """The environment of a process whose Flower lacks ``name``. Inside a class its source differs instead."""
    path = name.partition(":")[2]
    kind = "CHANGED_IN_FLOWER" if "." in path else "HIDDEN_IN_FLOWER"
    return {kind: name, "PYTHONPATH": os.pathsep.join([str(OTHER_FLOWER), str(ROOT)])}


def _expected(name: str, patches: tuple[Patch, ...]) -> list[str]:
    """The patches that stay off: those that need the name, or a method that is called so."""
    path = name.partition(":")[2]
    if "." not in path:
        return [patch.name for patch in patches if name in patch.needs]
    method = path.rpartition(".")[2]
    changed = {need for patch in patches for need in patch.needs if re.split(r"[.:]", need)[-1] == method}
    return [
        patch.name for patch in patches if any(need in changed and patch.needs[need] for need in patch.needs)
    ]


def _off(log: str) -> list[str]:
    return re.findall(r"Patch (\S+) is off: [^\n]*\. Without it, [^\n]*\.", log)


# These SuperNodes have no key, so what serves a key alone is not chosen here.
SUPERNODE = tuple(patch for patch in tables.SUPERNODE if not patch.only_with)
SUPERNODE_NAMES = _names(SUPERNODE)
GROUPS = [SUPERNODE_NAMES[start : start + AT_ONCE] for start in range(0, len(SUPERNODE_NAMES), AT_ONCE)]


@pytest.mark.parametrize("names", GROUPS, ids=range(len(GROUPS)))
def test_a_supernode_does_without_each_name(names: list[str], fleet: Fleet) -> None:
    fleet.num_clients = len(names)
    fleet.superlink()
    for number, name in enumerate(names):
        fleet.supernode(number, **_without(name))
    assert fleet.train(f"messages=1 nodes={len(names)}", COUNTING).wait(300) == 0, fleet.log("train")
    replies = fleet.replies()
    assert sorted(reply["partition-id"] for reply in replies) == list(range(len(names))), replies
    for number, name in enumerate(names):
        log = fleet.log(f"supernode-{number}")
        assert _off(log) == _expected(name, SUPERNODE), f"{name}:\n{log[-2000:]}"


OPTIONAL = tuple(patch for patch in tables.SUPERLINK if not patch.required)
REQUIRED = tuple(patch for patch in tables.SUPERLINK if patch.required)


@pytest.mark.parametrize("name", [name for name in _names(OPTIONAL) if not _expected(name, REQUIRED)])
def test_a_superlink_does_without_each_name(name: str, fleet: Fleet) -> None:
    fleet.superlink(**_without(name), BOUQUET_STATE=str(fleet.folder / "state"))
    fleet.supernode(0, BOUQUET_PATCHES="")
    assert fleet.train("messages=1", COUNTING).wait(180) == 0, fleet.log("superlink")[-3000:]
    assert [reply["partition-id"] for reply in fleet.replies()] == [0]
    log = fleet.log("superlink")
    # A ServerApp that needs the name as well has a line of its own.
    assert [name for name in _off(log) if not name.startswith("app-")] == _expected(name, OPTIONAL), log


@pytest.mark.parametrize("name", _names(REQUIRED))
def test_a_superlink_whose_door_cannot_be_guarded_does_not_open(name: str, fleet: Fleet) -> None:
    folder = fleet.folder / "pki"
    init_ca(folder)
    issue_server(folder)
    process = fleet.start(
        "superlink", "superlink", "--certificates", str(folder), "--state", str(fleet.folder / "state"),
        "--fleet-address", f"127.0.0.1:{fleet.fleet_port}", "--control-port", str(fleet.control_port),
        **_without(name),
    )  # fmt: skip
    assert process.wait(60) == 2
    *others, line = [line for line in fleet.log("superlink").splitlines() if line.strip()]
    assert all(re.search(r"Patch \S+ is off", other) for other in others), others
    needing = "|".join(patch.name for patch in REQUIRED if name in patch.needs)
    assert re.match(f"error: patch ({needing}) cannot be left out: ", line), line


@pytest.mark.parametrize(
    "name", ["pull_task_input", "trigger_exit_handlers", "_make_fleet_connection_retry_invoker"]
)
def test_a_name_that_the_next_release_calls_otherwise_costs_a_patch(name: str, fleet: Fleet) -> None:
    """Flower itself goes on under the new name, so this is what an upgrade looks like."""
    fleet.superlink()
    fleet.supernode(0, RENAMED_IN_FLOWER=name, PYTHONPATH=_without(name + ":")["PYTHONPATH"])
    assert fleet.train("messages=1", COUNTING).wait(180) == 0, fleet.log("supernode-0")[-3000:]
    patches = {"connection-errors", "reconnect"} if name.startswith("_make") else {"warm"}
    assert set(_off(fleet.log("supernode-0"))) == patches


@pytest.mark.parametrize("patch", tables.APPS, ids=lambda patch: patch.name)
def test_the_apps_do_without_each_name(patch: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.packing import flower

    stock = internals.find
    for missing in patch.needs:

        def find(name: str, missing: str = missing) -> object:
            if name == missing:
                raise AttributeError(name)
            return stock(name)

        monkeypatch.setattr(internals, "find", find)
        flower.available.cache_clear()
        assert not flower.available(patch.name)
    flower.available.cache_clear()


def test_a_run_without_any_optional_patch_learns_the_same(fleet: Fleet) -> None:
    """The tutorial's app, three clients, two rounds: slower, and the same digit for digit."""
    accuracies = []
    for switches in ("-all", ""):
        fleet.superlink(BOUQUET_PATCHES=switches)
        for number in range(3):
            fleet.supernode(number, BOUQUET_PATCHES=switches)
        config = "num-server-rounds=2 min-available-nodes=3 min-train-nodes=3 min-evaluate-nodes=3"
        assert fleet.train(config).wait(400) == 0, fleet.log("train")[-3000:]
        accuracies.append(re.findall(r"accuracy (\d\.\d+)  loss (\d\.\d+)", fleet.log("train")))
        (fleet.folder / "train.log").unlink()
        fleet.stop()
        time.sleep(0.5)
    assert len(accuracies[0]) == 2 and accuracies[0] == accuracies[1]
