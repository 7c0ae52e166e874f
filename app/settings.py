"""Run settings: every key of ``[tool.flwr.app.config]``, read once into one typed, frozen object.

The defaults stand in two places, and a unit test keeps them equal. Flower reads the table in ``pyproject.toml``, and
``flwr run --run-config`` may override only its keys. :class:`RunSettings` gives each key its type and range.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app.errors import UserError

RunValue = bool | int | float | str

Strategy = Literal[
    "fedavg",
    "fedprox",
    "fedavgm",
    "fedadam",
    "fedyogi",
    "fedadagrad",
    "fedmedian",
    "fedtrimmedavg",
    "krum",
    "multikrum",
    "bulyan",
    "qfedavg",
]
Privacy = Literal["none", "central-fixed", "central-adaptive", "local"]

LARGEST = 2**63 - 1  # of Flower's run config
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


class RunSettings(BaseModel):
    """One run's settings. Attribute ``local_epochs`` is the run-config key ``local-epochs``."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
        protected_namespaces=(),
    )

    task: Literal["train", "evaluate"] = "train"  # evaluate: every client evaluates the model in `weights`

    # Rounds. `bouquet up` and `bouquet train` set the minima to the number of clients.
    num_server_rounds: Positive = 5
    fraction_train: Annotated[float, Field(gt=0, le=1)] = 1.0
    fraction_evaluate: Fraction = 0.5
    min_train_nodes: Count = 10
    min_evaluate_nodes: Count = 5
    min_available_nodes: Count = 10

    # When a phase has enough replies, and what happens where it has not. Times in seconds.
    min_replies: int | float = (
        0.5  # usable replies that a phase needs: a number, or a fraction of those wanted
    )
    round_deadline: PositiveFloat = 1800.0  # of a phase
    grace: NonNegative = 600.0  # how long a phase still waits for the others when min-replies are there
    strict: bool = False  # every client in every round, or the run stops
    round_retries: Count = 2  # further tries of a phase that has too few replies
    wait_for_clients: PositiveFloat = 1800.0  # for all at the start, for min-replies later

    # What is kept, and when the run ends.
    resume: str = "auto"  # auto, never, or the folder of a run or of a checkpoint
    submission: str = (
        ""  # set by `bouquet train`: submitted again after a cut, the same run goes on or has ended
    )
    keep_checkpoints: Annotated[int, Field(ge=2, le=LARGEST)] = (
        2  # the newest ones; the best is kept beside them
    )
    best_by: Literal["accuracy", "loss", "client-accuracy"] = (
        "accuracy"  # what decides which model is the best
    )
    patience: Count = 0  # stop after so many rounds without a better model; 0: never
    target_accuracy: Fraction = 0.0  # stop when it is reached; 0: never

    # A client's work.
    local_epochs: Positive = 1
    batch_size: Positive = 32
    learning_rate: PositiveFloat = 0.001
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: BelowOne = 0.9  # sgd
    weight_decay: NonNegative = 0.0
    lr_schedule: Literal["constant", "cosine", "step"] = "constant"
    lr_step_rounds: Positive = 10  # step: every so many rounds ...
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = 0.1  # ... multiply the rate by this
    augment: bool = False
    seed: Count = 42
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of a GPU's arithmetic; CPU: float32

    # The model and what of it travels.
    model: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "cnn"
    norm: Literal["batch", "group"] = "batch"
    weights: str = ""  # safetensors file to start from
    personal_layers: str = ""  # comma-separated prefixes of names that stay on the client
    update_dtype: Literal["float32", "float16"] = "float32"

    # Strategy and its settings, under the names of Flower's own classes.
    strategy: Strategy = "fedavg"
    proximal_mu: NonNegative = 0.01  # fedprox
    server_learning_rate: PositiveFloat = 1.0  # fedavgm
    server_momentum: BelowOne = 0.5  # fedavgm
    eta: PositiveFloat = 0.01  # fedadam, fedyogi, fedadagrad: the server's step
    beta_1: BelowOne = 0.9  # fedadam, fedyogi
    beta_2: BelowOne = 0.99  # fedadam, fedyogi
    tau: PositiveFloat = 0.001  # fedadam, fedyogi, fedadagrad: degree of adaptivity
    beta: Annotated[float, Field(ge=0, lt=0.5)] = 0.2  # fedtrimmedavg: share cut at each end
    num_malicious_nodes: Count = 0  # krum, multikrum, bulyan
    num_nodes_to_select: Count = 0  # multikrum; 0: all but the malicious ones
    q: NonNegative = 0.1  # qfedavg: fairness
    client_learning_rate: PositiveFloat = 1.0  # qfedavg: 1/L of the paper

    # Differential privacy of the updates.
    privacy: Privacy = "none"
    clipping_side: Literal["server", "client"] = "server"  # central-fixed, central-adaptive
    clipping_norm: PositiveFloat = 1.0  # largest L2 norm of an update; adaptive: the first one
    noise_multiplier: NonNegative = 1.0  # central: standard deviation over clipping norm
    target_clipped_quantile: Fraction = 0.5  # central-adaptive: share of updates to clip
    clip_norm_lr: PositiveFloat = 0.2  # central-adaptive
    clipped_count_stddev: NonNegative = 0.0  # central-adaptive; 0: from the number of clients
    privacy_delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    max_epsilon: NonNegative = 0.0  # central: stop before the budget is exceeded; 0: no limit
    local_epsilon: PositiveFloat = 10.0  # local: budget of one round
    local_sensitivity: NonNegative = 0.0  # local; 0: 2 * clipping-norm, the most two updates can differ

    @field_validator("min_replies")
    @classmethod
    def _number_or_fraction(cls, value: int | float) -> int | float:
        if value < 1 if isinstance(value, int) else not 0 < value <= 1:
            raise ValueError("write a number of clients such as 6, or a fraction above 0 and up to 1.0")
        return value

    @field_validator("personal_layers")
    @classmethod
    def _plain_prefixes(cls, value: str) -> str:
        for prefix in _split(value):
            if not re.fullmatch(r"[A-Za-z_][\w.]*", prefix):
                raise ValueError(f"{prefix!r} is no layer name; write for example 'fc3' or 'layer4,fc'")
        return value

    @property
    def fewest_updates(self) -> int:
        """Updates without which the strategy cannot tell liars from others (of the papers)."""
        per_liar = {"krum": 2, "multikrum": 2, "bulyan": 4}.get(self.strategy, 0)
        return per_liar * self.num_malicious_nodes + 3 if per_liar and self.num_malicious_nodes else 1

    @model_validator(mode="after")
    def _enough_clients(self) -> Self:
        needed = self.fewest_updates
        if 0 < self.min_train_nodes < needed:
            raise ValueError(
                f"num-malicious-nodes={self.num_malicious_nodes} with strategy {self.strategy} needs "
                f"min-train-nodes of at least {needed}, not {self.min_train_nodes}"
            )
        return self

    @model_validator(mode="after")
    def _a_model_to_evaluate(self) -> Self:
        if self.task == "evaluate" and not self.weights:
            raise ValueError("task='evaluate' needs weights: the safetensors file of the model")
        return self

    @model_validator(mode="after")
    def _noise_where_it_counts(self) -> Self:
        if self.privacy.startswith("central") and self.strategy not in ("fedavg", "fedprox"):
            # Flower adds the noise to the result of the strategy. The sensitivity is known for an average only.
            raise ValueError(
                f"privacy={self.privacy!r} needs strategy fedavg or fedprox, not {self.strategy!r}"
            )
        return self

    @property
    def personal_prefixes(self) -> tuple[str, ...]:
        """The prefixes in ``personal-layers``."""
        return tuple(_split(self.personal_layers))

    @classmethod
    def from_run_config(cls, run_config: Mapping[str, Any]) -> Self:
        """Check a run config (kebab-case keys; a missing key takes its default).

        Raises:
            UserError: an unknown key, a wrong type or a value out of range, in one line.
        """
        keys = run_keys()
        for key in run_config:
            if key not in keys:
                close = difflib.get_close_matches(key.replace("_", "-"), keys, n=1)
                hint = f"; did you mean '{close[0]}'?" if close else f"; the keys are {', '.join(keys)}"
                raise UserError(f"run config: there is no key '{key}'{hint}")
        try:
            return cls.model_validate(dict(run_config))
        except ValidationError as error:
            raise UserError(_one_line(error)) from None

    def to_run_config(self) -> dict[str, RunValue]:
        """The settings as Flower holds them: kebab-case keys, plain values."""
        return self.model_dump(by_alias=True)


def run_keys() -> list[str]:
    """All run-config keys, kebab-case, in their order in the table."""
    return [field.alias or name for name, field in RunSettings.model_fields.items()]


def parse_run_config(text: str) -> dict[str, RunValue]:
    """Parse ``"local-epochs=2 strategy='fedprox'"`` and check every key and value.

    ``flwr run`` ignores text that it cannot read; this function refuses it. A word without quotes is text.
    Returns only the keys given.

    Raises:
        UserError: text that is no ``key=value``, or a key or value that :class:`RunSettings` refuses.
    """
    pattern = re.compile(r"([^\s=]+)=('[^']*'|\"[^\"]*\"|\S+)")  # as flwr.common.config reads it
    rest = pattern.sub("", text).split()
    if rest:
        raise UserError(f"run config: '{rest[0]}' is no key=value pair; write for example \"local-epochs=2\"")
    values: dict[str, RunValue] = {}
    for key, raw in pattern.findall(text):
        if key in values:
            raise UserError(f"run config: the key '{key}' is given twice")
        values[key] = _parse_value(raw)
    RunSettings.from_run_config(values)
    return values


def _parse_value(raw: str) -> RunValue:
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return raw
    return value if isinstance(value, get_args(RunValue)) else raw


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _one_line(error: ValidationError) -> str:
    """The first problem that pydantic found, in the words of a run config."""
    problem = error.errors()[0]
    if not problem["loc"]:
        return f"run config: {problem['ctx']['error']}"
    key, value, context = problem["loc"][0], problem["input"], problem.get("ctx", {})
    kind = problem["type"]
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        close = difflib.get_close_matches(str(value).lower(), allowed, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"run config: {key}={value!r} is not one of {', '.join(allowed)}{hint}"
    if kind == "value_error":
        return f"run config: {key}={value!r}: {context['error']}"
    expected = {
        "greater_than_equal": "at least {ge}",
        "greater_than": "more than {gt}",
        "less_than_equal": "at most {le}",
        "less_than": "less than {lt}",
        "int_type": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "text in quotes",
        "finite_number": "a finite number",
        "string_pattern_mismatch": "a name in lower case, such as cnn or resnet18",
    }.get(kind)
    return f"run config: {key}={value!r} must be {expected.format(**context) if expected else problem['msg']}"
