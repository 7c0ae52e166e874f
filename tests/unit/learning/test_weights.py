"""A model's weights as arrays: which of them are shared, and how they go back into a model."""

import numpy as np
import pytest
import torch

from app.errors import UserError
from app.learning import weights
from app.learning.model import CNN, build_model
from app.learning.weights import check_personal
from app.settings import RunSettings


def test_personal_layers_are_not_sent_and_not_overwritten() -> None:
    model = build_model(RunSettings(), (3, 32, 32), 10)
    mine = model.get_parameter("fc3.weight").detach().clone()
    shared = weights.get_arrays(model, exclude=("fc3",))
    assert "fc3.weight" not in shared and "fc3.bias" not in shared and "fc2.weight" in shared
    weights.set_arrays(model, {name: array + 1 for name, array in shared.items()}, exclude=("fc3",))
    assert torch.equal(model.get_parameter("fc3.weight"), mine)
    np.testing.assert_array_equal(weights.get_arrays(model)["fc2.bias"], shared["fc2.bias"] + 1)
    assert not weights.is_personal("fc30.weight", ("fc3",))


@pytest.mark.parametrize(
    ("prefixes", "words"),
    [
        (("fc9",), "the model has no layer 'fc9'; it has conv1, conv2, fc1, fc2, fc3"),
        (("fc3", "fc"), "the model has no layer 'fc'"),
        (("conv1", "conv2", "fc1", "fc2", "fc3"), "nothing would be left to learn together"),
    ],
)
def test_personal_layers_that_make_no_sense_are_refused(prefixes: tuple[str, ...], words: str) -> None:
    model = CNN((3, 32, 32), 10)
    check_personal(model, ("fc3", "fc2.bias"))
    check_personal(model, ())
    with pytest.raises(UserError, match=words):
        check_personal(model, prefixes)


def test_setting_arrays_that_do_not_fit_leaves_the_model_alone() -> None:
    model = build_model(RunSettings(), (3, 32, 32), 10)
    before = weights.get_arrays(model)
    wrong = {**before, "fc1.bias": np.zeros(3, np.float32)}
    for bad in (wrong, {"conv1.bias": before["conv1.bias"]}, {**before, "more": before["fc1.bias"]}):
        with pytest.raises(ValueError):
            weights.set_arrays(model, {n: a + 1 if n != "fc1.bias" else a for n, a in bad.items()})
    for name, array in weights.get_arrays(model).items():
        np.testing.assert_array_equal(array, before[name])
    with pytest.raises(ValueError):
        weights.set_list(model, weights.get_list(model)[:-1])


def test_arrays_do_not_follow_the_model_and_ignore_its_memory_format() -> None:
    model = build_model(RunSettings(), (3, 32, 32), 10)
    before = weights.get_arrays(model)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    after = weights.get_arrays(model)
    with torch.no_grad():
        model.get_parameter("conv2.weight").zero_()
    assert before["conv2.weight"].any() and after["conv2.weight"].flags.c_contiguous
    np.testing.assert_array_equal(before["conv2.weight"], after["conv2.weight"])


def test_batchnorm_counters_do_not_travel() -> None:
    names = list(weights.state_tensors(build_model(RunSettings(model="resnet18"), (3, 32, 32), 10)))
    assert "bn1.running_var" in names
    assert not [name for name in names if "num_batches_tracked" in name]
