"""Model and data: a table with numbers in all columns, and the class in the last one."""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import SGDClassifier

CLASSES = np.array([0, 1])


def load_table(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and classes: of the CSV file ``path``, or of the table that comes with scikit-learn."""
    if not path:
        return load_breast_cancer(return_X_y=True)
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    return table[:, :-1], table[:, -1].astype(int)


def load_data(partition_id: int, num_partitions: int, path: str):
    """Rows and classes of one client, the last fifth for evaluation. A client's own file is not divided."""
    rows, classes = load_table(path)
    if not path:
        order = np.random.default_rng(0).permutation(len(rows))[partition_id::num_partitions]
        rows, classes = rows[order], classes[order]
    # Each client scales its table by itself, so no number of it is shared.
    rows = (rows - rows.mean(axis=0)) / (rows.std(axis=0) + 1e-9)
    held_out = len(rows) // 5
    return rows[:-held_out], classes[:-held_out], rows[-held_out:], classes[-held_out:]


def new_model(features: int) -> SGDClassifier:
    """A model of zeros."""
    model = SGDClassifier(loss="log_loss", alpha=0.01, random_state=0)
    model.coef_, model.intercept_ = np.zeros((1, features)), np.zeros(1)
    model.classes_ = CLASSES
    return model


def get_arrays(model: SGDClassifier) -> list[np.ndarray]:
    """What travels."""
    return [model.coef_, model.intercept_]


def set_arrays(model: SGDClassifier, arrays: list[np.ndarray]) -> None:
    """Go on from what came. Arrays that came are read-only, and scikit-learn writes to them."""
    model.coef_, model.intercept_ = (array.copy() for array in arrays)
