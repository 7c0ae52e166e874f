"""Run settings: one table of defaults, and every mistake said in one line."""

import tomllib
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args
from hypothesis import given
from hypothesis import strategies as st

from app.errors import UserError
from app.settings import RunSettings, parse_run_config, run_keys

TABLE = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["tool"]["flwr"]["app"][
    "config"
]


def test_table_in_pyproject_holds_the_defaults() -> None:
    defaults = RunSettings().to_run_config()
    assert defaults == TABLE
    assert {key: type(value) for key, value in defaults.items()} == {k: type(v) for k, v in TABLE.items()}


def test_defaults_are_the_tutorials() -> None:
    settings = RunSettings.from_run_config(TABLE)
    assert (settings.num_server_rounds, settings.local_epochs, settings.batch_size) == (5, 1, 32)
    assert (settings.fraction_train, settings.fraction_evaluate) == (1.0, 0.5)
    assert (settings.min_train_nodes, settings.min_evaluate_nodes, settings.min_available_nodes) == (
        10,
        5,
        10,
    )
    assert (settings.optimizer, settings.learning_rate, settings.model) == ("adam", 0.001, "cnn")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("local-epoch=2", "did you mean 'local-epochs'"),
        ("local_epochs=2", "did you mean 'local-epochs'"),
        ("zzz=2", "the keys are task, num-server-rounds"),
        ("strategy='fedprx'", "did you mean 'fedprox'"),
        ("strategy='zzz'", "fedavg, fedprox, fedavgm, fedadam"),
        ("optimizer='lion'", "adam, adamw, sgd"),
        ("learning-rate=0", "more than 0"),
        ("learning-rate=nan", "learning-rate"),
        ("learning-rate=inf", "learning-rate"),
        ("fraction-evaluate=1.5", "at most 1"),
        ("local-epochs=0", "at least 1"),
        ("local-epochs=1.5", "a whole number"),
        ("local-epochs='2'", "a whole number"),
        ("augment=1", "true or false"),
        ("seed=-1", "at least 0"),
        ("seed=99999999999999999999", "at most 9223372036854775807"),
        ("model='ResNet 18'", "lower case"),
        ("personal-layers='fc3; rm'", "no layer name"),
        ("strategy='bulyan' num-malicious-nodes=2", "at least 11"),
        ("local-epochs 2", "no key=value pair"),
        ("seed=1 seed=2", "given twice"),
        ("a.b=2", "there is no key 'a.b'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_run_config(text)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert "pydantic" not in message


def test_words_without_quotes_are_text() -> None:
    assert parse_run_config("strategy=fedprox proximal-mu=1 augment=true") == {
        "strategy": "fedprox",
        "proximal-mu": 1,
        "augment": True,
    }
    assert parse_run_config("  ") == {}


def test_personal_layers_are_prefixes() -> None:
    assert RunSettings.from_run_config({"personal-layers": "fc3, layer4.1"}).personal_prefixes == (
        "fc3",
        "layer4.1",
    )
    assert RunSettings().personal_prefixes == ()


def test_settings_cannot_change() -> None:
    with pytest.raises(Exception, match="frozen"):
        RunSettings().seed = 1  # type: ignore[misc]


def _written(value: bool | int | float | str) -> str:
    if isinstance(value, str):
        return f'"{value}"' if "'" in value else f"'{value}'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**31),
            "learning-rate": st.floats(1e-9, 10),
            "augment": st.booleans(),
            "weights": st.text('abc /._-"', max_size=12),
        },
    )
)
def test_flower_reads_the_same_from_the_same_text(values: dict[str, bool | int | float | str]) -> None:
    if '"' in str(values.get("weights", "")) and "'" in str(values.get("weights", "")):
        return
    text = " ".join(f"{key}={_written(value)}" for key, value in values.items())
    assert parse_config_args([text]) == values
    assert parse_run_config(text) == values
    assert set(values) <= set(run_keys())
