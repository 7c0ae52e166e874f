"""Data and parameters: a table that is made here, whose classes no linear model can tell apart."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xgboost as xgb

FEATURES, EXAMPLES = 8, 600


def load_data(partition_id: int) -> tuple[xgb.DMatrix, xgb.DMatrix]:
    """The rows of one client: to train on, and to evaluate on."""
    rng = np.random.default_rng([5, partition_id])
    rows = rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
    classes = (rows[:, 0] * rows[:, 1] + rows[:, 2] ** 2 > 0.8).astype(int)
    held_out = EXAMPLES // 5
    return (
        xgb.DMatrix(rows[:-held_out], label=classes[:-held_out]),
        xgb.DMatrix(rows[-held_out:], label=classes[-held_out:]),
    )


def parameters(run_config: Mapping[str, Any]) -> dict[str, Any]:
    """XGBoost's parameters."""
    return {
        "objective": "binary:logistic",
        "eval_metric": "auc",
        "eta": float(run_config["learning-rate"]),
        "max_depth": int(run_config["max-depth"]),
        "nthread": 1,
        "seed": 0,
    }


def load_model(content: bytes, run_config: Mapping[str, Any]) -> xgb.Booster:
    """The forest that came; one without trees where nothing came yet."""
    model = xgb.Booster(params=parameters(run_config))
    if content:
        model.load_model(bytearray(content))
    return model
