"""Pictures of every form are asked about as the model was trained, and what is no picture is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from app.cli.main import app
from app.errors import UserError
from app.learning.batches import normalise
from app.models.load import load_model
from app.models.predict import pictures, predict


def picture(file: Path, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Path:
    drawn = np.random.default_rng(len(file.name)).integers(0, 256, (*size[::-1], 3), np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn).convert(mode).save(file)
    return file


def test_probabilities_are_those_of_the_model(run: Path, tmp_path: Path) -> None:
    trained = load_model(run)
    file = picture(tmp_path / "a.png")
    [found] = predict(trained, [file], top=2)
    pixels = torch.from_numpy(np.asarray(Image.open(file)).transpose(2, 0, 1).copy())[None]
    wanted = torch.softmax(trained.model(normalise(pixels)), 1)[0]
    best = wanted.argsort(descending=True)[:2]
    assert [guess.name for guess in found.guesses] == [trained.classes[i] for i in best]
    assert [guess.probability for guess in found.guesses] == pytest.approx(wanted[best].tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "size"), [("L", (32, 32)), ("RGB", (100, 40)), ("P", (8, 8)), ("1", (32, 32))]
)
def test_pictures_of_other_sizes_and_colours_are_made_to_fit(
    run: Path, tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    [found] = predict(load_model(run), [picture(tmp_path / "a.png", size, mode)], top=9)
    assert not found.fault and len(found.guesses) == 3
    assert sum(guess.probability for guess in found.guesses) == pytest.approx(1)


def test_many_pictures_keep_their_order_and_bad_ones_their_place(run: Path, tmp_path: Path) -> None:
    files = [picture(tmp_path / "many" / f"{i:03}.png") for i in range(130)]
    files[70].write_text("no picture")
    files[71].write_bytes(b"")
    files.append(tmp_path / "gone.png")
    found = list(predict(load_model(run), files, top=1))
    assert [each.file for each in found] == files
    assert {i: each.fault for i, each in enumerate(found) if each.fault} == {
        70: "it is no picture that can be read", 71: "it is no picture that can be read", 130: "there is no such file",
    }  # fmt: skip


def test_a_folder_is_all_its_pictures(tmp_path: Path) -> None:
    files = [picture(tmp_path / "f" / "b.png"), picture(tmp_path / "f" / "deep" / "a.jpg")]
    (tmp_path / "f" / "notes.txt").write_text("no")
    assert list(pictures([tmp_path / "f", tmp_path / "x.png"])) == [*files, tmp_path / "x.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no file that is named like a picture"):
        list(pictures([tmp_path / "empty"]))


def test_the_command_names_each_bad_picture_and_ends_with_status_1(run: Path, tmp_path: Path) -> None:
    good, bad = picture(tmp_path / "good.png"), tmp_path / "bad.png"
    bad.write_text("no picture")
    options = ["predict", "--run", str(run), "--top", "1"]
    done = CliRunner().invoke(app, [*options, str(good), str(bad)])
    assert done.exit_code == 1, done.output
    assert done.stdout.startswith(f"{good}  ") and done.stdout.count("\n") == 1
    assert done.stderr == f"error: {bad}: it is no picture that can be read\n"
    done = CliRunner().invoke(app, [*options, "--json", str(good)])
    assert done.exit_code == 0
    answer = json.loads(done.stdout)
    assert answer["schema_version"] == 1 and answer["unreadable"] == []
    assert answer["predictions"][0]["file"] == str(good) and len(answer["predictions"][0]["guesses"]) == 1
