"""A message's token runs out within half a minute: it must not be claimed before the message can begin."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.fleet.site.allowed_apps import parse_allowed
from app.fleet.warm import task as warm_task
from app.fleet.warm.executor import WarmSettings
from app.fleet.warm.task import Task


def test_a_message_waits_for_its_turn_and_its_app_before_its_token_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    @contextmanager
    def slot(_folder: Path, _slots: int) -> Iterator[None]:
        events.append("slot")
        yield

    def noted(name: str, result: Any = None) -> Any:
        return lambda *_args, **_kwargs: events.append(name) or result

    def start(*_args: Any) -> Any:
        events.append("start")
        raise OSError("no process")

    state = SimpleNamespace(
        get_run=lambda _: SimpleNamespace(fab_hash="hash", series_id=1),
        get_fab=lambda _: SimpleNamespace(content=b"", hash_str="hash"),
        get_run_series_context=lambda _: None,
        claim_task=noted("claim", "token"),
        get_messages=lambda **_: [],
    )
    executor = SimpleNamespace(
        settings=WarmSettings({}, slots=1, slots_folder=tmp_path, allowed_apps=parse_allowed("any")),
        app_parent=noted("app"), start_message=start, drop_app=noted("drop"),
        why_over=lambda: "",
    )  # fmt: skip
    monkeypatch.setattr(warm_task, "training_slot", slot)
    Task(cast(Any, executor), cast(Any, state), SimpleNamespace(run_id=1, task_id=2)).execute()
    assert events == ["slot", "app", "claim", "start", "drop"]
