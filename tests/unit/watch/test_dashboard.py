"""The Grafana dashboard has the form that Grafana's own models of it have. None was opened in a Grafana here."""

import json
from typing import Any

import pytest
from container_engine import ROOT
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard, stat, statetimeline, timeseries

GRAFANA = ROOT / "deploy" / "monitoring" / "grafana"
DASHBOARD = json.loads((GRAFANA / "bouquet.json").read_text())
OPTIONS = {"stat": stat.Options, "timeseries": timeseries.Options, "state-timeline": statetimeline.Options}
CUSTOM = {
    "stat": common.GraphFieldConfig,
    "timeseries": timeseries.FieldConfig,
    "state-timeline": statetimeline.FieldConfig,
}


def unknown(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """What of ``ours`` a model has not kept."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            line
            for key, value in ours.items()
            for line in (
                unknown(value, theirs[key], f"{path}.{key}")
                if key in theirs
                else [f"{path}.{key} is unknown"]
            )
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [
            line
            for number, (mine, other) in enumerate(zip(ours, theirs, strict=True))
            for line in unknown(mine, other, f"{path}[{number}]")
        ]
    return [] if ours == theirs else [f"{path}: {ours!r} became {theirs!r}"]


def through(model: Any, content: Any) -> Any:
    return json.loads(JSONEncoder().encode(model.from_json(content)))


def test_the_dashboard_is_one_of_grafanas() -> None:
    assert unknown(DASHBOARD, through(dashboard.Dashboard, DASHBOARD)) == []


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_a_panel_is_one_of_its_kind(panel: dict[str, Any]) -> None:
    if panel["type"] == "row":
        return
    assert unknown(panel["options"], through(OPTIONS[panel["type"]], panel["options"])) == []
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    assert unknown(custom, through(CUSTOM[panel["type"]], custom)) == []
    place = panel["gridPos"]
    assert place["x"] + place["w"] <= 24 and panel["description"].endswith(".")


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_a_key_that_grafana_does_not_know_is_noticed() -> None:
    wrong = {**DASHBOARD, "panles": [], "refresh": 3}
    assert unknown(wrong, through(dashboard.Dashboard, wrong)) != []
