"""Model and data: points around three centres, a different mixture of them on each client."""

import numpy as np

CLASSES, FEATURES = 3, 4
CENTRES = np.random.default_rng(7).normal(size=(CLASSES, FEATURES)) * 2


def load_data(partition_id: int, num_partitions: int):
    """Points and labels of one partition, the last fifth of them for evaluation."""
    rng = np.random.default_rng([11, partition_id])
    weights = 1.0 + (np.arange(CLASSES) == partition_id % CLASSES) * num_partitions
    labels = rng.choice(CLASSES, size=500, p=weights / weights.sum())
    points = CENTRES[labels] + rng.normal(size=(len(labels), FEATURES))
    return points[:400], labels[:400], points[400:], labels[400:]


def initial_model():
    """Weights and biases of zeros."""
    return [np.zeros((FEATURES, CLASSES)), np.zeros(CLASSES)]


def probabilities(model, points):
    """The model's probability of each class, for each point."""
    scores = points @ model[0] + model[1]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def train(model, points, labels, epochs, learning_rate, batch=20):
    """Stochastic gradient descent over the points in their order."""
    weights, bias = (array.copy() for array in model)
    for _ in range(epochs):
        for start in range(0, len(points), batch):
            some, wanted = points[start : start + batch], np.eye(CLASSES)[labels[start : start + batch]]
            error = probabilities([weights, bias], some) - wanted
            weights -= learning_rate * some.T @ error / len(some)
            bias -= learning_rate * error.mean(axis=0)
    return [weights, bias]


def evaluate(model, points, labels):
    """Loss and accuracy."""
    found = probabilities(model, points)
    loss = -np.log(found[np.arange(len(labels)), labels] + 1e-12).mean()
    return float(loss), float((found.argmax(axis=1) == labels).mean())
