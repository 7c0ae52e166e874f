"""A data set that is broken, or that means harm: `bouquet prepare` says so in one line, soon, in little memory."""

import io
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from container_engine import ROOT
from pictures_on_disk import hub_folder, image_folder, noise
from PIL import Image

from app.cli.main import main
from app.learning.data import writing
from app.learning.data.store import Store

MOST_SECONDS = 60  # a bound for what would hang, not a measurement
MIB = 1 << 20
PROGRAM = """
import resource, sys
from app.cli.main import main
sys.argv = ["bouquet", *sys.argv[1:]]
try:
    status = main()
except SystemExit as end:
    status = end.code
print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss} KiB")
sys.exit(status)
"""


class Prepared:
    """`bouquet prepare` of a data set. `alone`: in a process of its own, which may hang, and whose memory is looked at."""

    def __init__(self, source: Path, out: Path, *options: str, alone: bool = False) -> None:
        self.out, self.peak = out, 0
        command = ["prepare", "--dataset", str(source), "--out", str(out), "--clients", "2", *options]
        if alone:
            self._in_a_process(command)
        else:
            self._here(command)

    def _here(self, command: list[str]) -> None:
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["bouquet", *command])
            with pytest.raises(SystemExit) as ended:
                main()
        self.status, self.text = ended.value.code or 0, said.getvalue()

    def _in_a_process(self, command: list[str]) -> None:
        done = subprocess.run(
            [os.fsencode(part) for part in [sys.executable, "-c", PROGRAM, *command]],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=MOST_SECONDS,
        )
        self.status, text = done.returncode, (done.stdout + done.stderr).decode()
        if peak := re.search(r"peak (\d+) KiB\n", text):
            self.peak = int(peak.group(1)) * 1024
            text = text.replace(peak.group(0), "")
        self.text = text

    def refused(self, reason: str) -> None:
        """It ended with one line that holds `reason`, and left nothing behind."""
        assert self.status == 2, self.text
        [line] = [line for line in self.text.splitlines() if line.startswith("error")]
        assert reason in line, line
        assert "Traceback" not in self.text and not self.out.exists()
        assert all(letter.isprintable() or letter == "\n" for letter in self.text), (
            "nothing reaches the terminal raw"
        )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(file: Path, edge: int) -> None:
    """A PNG of a few kB that unfolds to edge x edge pixels."""
    head = struct.pack(">IIBBBBB", edge, edge, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * edge)
    data = b"".join(packer.compress(row) for _ in range(edge)) + packer.flush()
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "pictures", {"cats": 6, "dogs": 6}, size=(16, 16))


# -- files that are no files ------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["cats/pipe.png", "cats/pipe.txt", "data.parquet"])
def test_a_pipe_does_not_hang(pictures: Path, tmp_path: Path, place: str) -> None:
    os.mkfifo(pictures / place)
    Prepared(pictures, tmp_path / "store", alone=True).refused(f"{Path(place).name} is a pipe and no file")


@pytest.mark.parametrize("place", ["cats/zero.png", "zero.parquet"])
def test_a_link_to_a_device_is_not_read(pictures: Path, tmp_path: Path, place: str) -> None:
    (pictures / place).symlink_to("/dev/zero")
    Prepared(pictures, tmp_path / "store", alone=True).refused(f"{Path(place).name} is a device and no file")


def test_a_socket_is_no_file(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pictures / "cats")  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("s.png")
        Prepared(pictures, tmp_path / "store").refused("s.png is a socket and no file")


def test_a_pipe_or_a_device_as_the_data_set_itself(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path / "pipe", Path("/dev/zero")):
        Prepared(source, tmp_path / "store").refused("no such folder")


# -- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [b"caf\xe9.png", b"cats/caf\xe9.png", b"caf\xe9/x/1.png"])
def test_names_that_are_not_utf8(pictures: Path, tmp_path: Path, place: bytes) -> None:
    file = Path(os.fsdecode(os.fsencode(pictures) + b"/" + place))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    Prepared(pictures, tmp_path / "store").refused("is not UTF-8; rename it")


def test_a_data_set_whose_own_name_is_not_utf8(pictures: Path, tmp_path: Path) -> None:
    renamed = Path(os.fsdecode(os.fsencode(tmp_path) + b"/p\xff"))
    pictures.rename(renamed)
    Prepared(renamed, tmp_path / "store").refused("is not UTF-8; rename it")


ESCAPE = "\x1b]0;owned\x07\x1b[2J\nerror: forged"


def test_escapes_in_file_names_do_not_reach_the_terminal(pictures: Path, tmp_path: Path) -> None:
    (pictures / "cats" / f"{ESCAPE.replace('/', '')}.png").write_bytes(b"no picture")
    Prepared(pictures, tmp_path / "store").refused(r"\x1b]0;owned\x07\x1b[2J\nerror: forged.png")
    kept = Prepared(pictures, tmp_path / "store", "--tolerance", "1", alone=True)
    assert kept.status == 0 and "\x1b" not in kept.text and r"\x1b]0;owned" in kept.text


def test_escapes_in_names_of_classes_and_columns(pictures: Path, tmp_path: Path) -> None:
    (pictures / "cats").rename(pictures / ESCAPE)
    Prepared(pictures, tmp_path / "store").refused("holds characters that cannot be printed")
    folder = hub_folder(tmp_path / "labels", labels={"label": ["a", ESCAPE]})
    Prepared(folder, tmp_path / "store").refused("holds characters that cannot be printed")
    folder = hub_folder(tmp_path / "columns", labels={ESCAPE: [1, 2]})
    Prepared(folder, tmp_path / "store").refused(r"\x1b]0;owned")


# -- shapes of folders ------------------------------------------------------------------------------


def test_a_very_deep_folder(pictures: Path, tmp_path: Path) -> None:
    deep = pictures / "cats"
    subprocess.run(["mkdir", "-p", deep / "/".join(["d"] * 1500)], check=True)
    try:
        Prepared(pictures, tmp_path / "store").refused("nested too deeply")
    finally:
        subprocess.run(["rm", "-rf", deep], check=True)


def test_links_that_go_in_circles(pictures: Path, tmp_path: Path) -> None:
    (pictures / "cats" / "up").symlink_to(pictures)
    (pictures / "cats" / "a.png").symlink_to("b.png")
    (pictures / "cats" / "b.png").symlink_to("a.png")
    Prepared(pictures, tmp_path / "store").refused("2 of ")


def test_classes_that_differ_in_case_are_two_classes(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "pictures", {"Cat": 6, "cat": 6})
    assert Prepared(folder, tmp_path / "store").status == 0
    assert Store.open(tmp_path / "store").manifest.classes == ["Cat", "cat"]


# -- pictures ---------------------------------------------------------------------------------------


def test_small_files_that_unfold_to_gigabytes_are_named_and_not_unfolded(
    pictures: Path, tmp_path: Path
) -> None:
    first = pictures / "cats" / "bomb.png"
    bomb(first, 13_000)
    for number in range(3):
        shutil.copy(first, first.with_name(f"bomb-{number}.png"))
    clean = image_folder(tmp_path / "clean", {"cats": 6, "dogs": 6}, size=(16, 16))
    usual = Prepared(clean, tmp_path / "usual", alone=True).peak
    prepared = Prepared(pictures, tmp_path / "store", alone=True)
    prepared.refused("4 of 16 pictures cannot be read")
    assert prepared.peak < usual + 200 * MIB


def test_pictures_larger_than_any_model_takes_are_made_small(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "pictures" / "train", {"cats": 4, "dogs": 4}, size=(8, 1200)).parent
    assert Prepared(folder, tmp_path / "store").status == 0
    assert Store.open(tmp_path / "store").manifest.shape == (3, 32, 32)


def test_how_many_pictures_are_decoded_at_a_time_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub_folder(tmp_path / "set", train=60)
    assert Prepared(folder, tmp_path / "store").status == 0
    monkeypatch.setattr(writing, "_CHUNK_BYTES", 600)  # three pictures
    assert Prepared(folder, tmp_path / "again").status == 0
    first, second = (Store.open(tmp_path / name).manifest for name in ("store", "again"))
    assert first == second


def damaged(kind: str, file: Path) -> None:
    match kind:
        case "empty":
            file.write_bytes(b"")
        case "truncated":
            noise(1, 200, 200).save(file, "JPEG")
            file.write_bytes(file.read_bytes()[:900])
        case "postscript":
            file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
        case "sparse":
            with file.open("wb") as sparse:
                sparse.truncate(3 << 30)
        case "broken link":
            file.symlink_to("nowhere.png")


@pytest.mark.parametrize("kind", ["empty", "truncated", "postscript", "sparse", "broken link"])
def test_a_damaged_picture_is_named_and_may_be_left_out(pictures: Path, tmp_path: Path, kind: str) -> None:
    damaged(kind, pictures / "cats" / "damaged.png")
    prepared = Prepared(pictures, tmp_path / "store", alone=kind == "sparse")
    prepared.refused("1 of 13 pictures cannot be read:")
    assert "damaged.png" in prepared.text and prepared.peak < 1024 * MIB
    assert Prepared(pictures, tmp_path / "store", "--tolerance", "1").status == 0


ODD: dict[str, Callable[[Path], None]] = {
    "cmyk.jpg": lambda file: noise(1, 16, 16).convert("CMYK").save(file),
    "deep.png": lambda file: Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(file),
    "palette.gif": lambda file: noise(1, 16, 16).convert("P").save(file),
    "moving.gif": lambda file: noise(1, 16, 16).save(
        file, save_all=True, append_images=[noise(n, 16, 16) for n in range(2, 5)]
    ),
    "float.tiff": lambda file: Image.fromarray(np.full((16, 16), np.nan, np.float32)).save(file),
    "clear.png": lambda file: noise(1, 16, 16).convert("RGBA").save(file),
    "one-bit.png": lambda file: noise(1, 16, 16).convert("1").save(file),
}


def test_every_kind_of_picture_is_read(pictures: Path, tmp_path: Path) -> None:
    for name, save in ODD.items():
        save(pictures / "dogs" / name)
    prepared = Prepared(pictures, tmp_path / "store")
    assert prepared.status == 0, prepared.text
    assert Store.open(tmp_path / "store").manifest.skipped == []


# -- Parquet and tables -----------------------------------------------------------------------------


PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(folder: Path, labels: pa.Array, path: str | None = None) -> Path:
    """Rows of one picture, or of a path, beside any column of labels."""
    folder.mkdir()
    buffer = io.BytesIO()
    noise(1, 8, 8).save(buffer, "PNG")
    picture = {"bytes": buffer.getvalue() if path is None else None, "path": path}
    images = pa.array([picture] * len(labels), PICTURE)
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "train.parquet")
    return folder


@pytest.mark.parametrize(
    "way", ["{secret}", "{folder}/../private/photo.png", "private/photo.png", "file://{secret}"]
)
def test_a_table_reads_no_picture_outside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    secret = tmp_path / "private" / "photo.png"
    secret.parent.mkdir()
    noise(1, 8, 8).save(secret)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "set"
    table(folder, pa.array([0, 1] * 20), way.format(secret=secret, folder=folder))
    Prepared(folder, tmp_path / "store").refused("40 of 40 pictures cannot be read")
    Prepared(folder / "train.parquet", tmp_path / "store").refused("40 of 40 pictures cannot be read")


def test_a_table_reads_pictures_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    table(folder, pa.array([0, 1] * 20), str(folder / "photo.png"))
    noise(1, 8, 8).save(folder / "photo.png")
    assert Prepared(folder, tmp_path / "store").status == 0


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (pa.array([0.0, 1.0, float("nan"), 2.5] * 10), "has no label column among: image, label"),
        (pa.array([0, 1, None, 1] * 10), "has missing labels"),
        (pa.array([None] * 40, pa.int64()), "has missing labels"),
        (pa.array([1] * 40), "has 1 class; two are needed"),
        (pa.array([[0], [1]] * 20), "has no label column among: image, label"),
        (pa.array(["x" * 100_000, "y"] * 20), "the name of a class is longer than"),
        (pa.array(range(2**40, 2**40 + 40)), ""),
        (pa.array([-(2**62), 2**62] * 20), ""),
    ],
    ids=["float", "null", "only-null", "one", "list", "long", "huge", "far"],
)
def test_labels_of_every_kind(tmp_path: Path, labels: pa.Array, reason: str) -> None:
    prepared = Prepared(table(tmp_path / "set", labels), tmp_path / "store")
    if reason:
        prepared.refused(reason)
    else:
        assert prepared.status == 0, prepared.text
        part = Store.open(tmp_path / "store").partition(0)
        assert part.train.labels.min() >= 0


def test_a_label_for_each_row_is_no_class(tmp_path: Path) -> None:
    folder = table(tmp_path / "set", pa.array(range(20_001)))
    Prepared(folder, tmp_path / "store").refused("has 20001 classes; at most 20000 make sense")


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", bytes(range(256)) * 16], ids=len
)
def test_bytes_that_are_no_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.parquet").write_bytes(content)
    Prepared(tmp_path / "set", tmp_path / "store").refused("cannot be read")
    (tmp_path / "set" / "train.parquet").rename(tmp_path / "set" / "train.csv")
    Prepared(tmp_path / "set", tmp_path / "store").refused("DATASET=")
