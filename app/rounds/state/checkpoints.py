"""The checkpoints of one run, ``results/<run>/checkpoint/<round>/``: the last few and the one of the best model."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from app.environment import is_whole
from app.errors import UserError
from app.files import sync_folder
from app.rounds import events
from app.rounds.state.run import RunState, whole_files

FOLDER = "checkpoint"


@dataclass
class Checkpoints:
    """The checkpoints below a run's folder.

    Attributes:
        run: the run's folder.
        keep: how many of the newest stay.
    """

    run: Path
    keep: int = 2
    _folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self._folder = self.run / FOLDER

    def path(self, number: int) -> Path:
        """Where the checkpoint after a round is."""
        return self._folder / str(number)

    def rounds(self) -> list[int]:
        """The rounds that have a checkpoint, the newest first."""
        if not self._folder.is_dir():
            return []
        return sorted(
            (int(each.name) for each in self._folder.iterdir() if is_whole(each.name)), reverse=True
        )

    def save(self, state: RunState, model: bytes | None = None) -> events.CheckpointWritten:
        """Write the checkpoint of ``state`` and remove those that are not kept; ``model`` as there. Raises OSError."""
        begun = time.monotonic()
        if not self._folder.exists():
            self._folder.mkdir()
            sync_folder(self.run)
        size = state.save(self.path(state.round), model)
        newest = [number for number in self.rounds() if number <= state.round][: self.keep]
        kept = {*newest, *([state.summary.best["round"]] if state.summary.best else [])}
        self._remove(set(self.rounds()) - kept)
        return events.CheckpointWritten(
            round=state.round,
            folder=str(self.path(state.round)),
            bytes=size,
            seconds=time.monotonic() - begun,
            kept=sorted(kept),
        )

    def newest_whole(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that is not damaged, and what is wrong with the newer ones."""
        damaged = []
        for number in self.rounds():
            try:
                whole_files(self.path(number))
            except UserError as error:
                damaged.append(str(error))
            else:
                return self.path(number), damaged
        return None, damaged

    def forget_after(self, number: int) -> None:
        """Remove the checkpoints of later rounds, which are run again."""
        self._remove({each for each in self.rounds() if each > number})

    def _remove(self, rounds: set[int]) -> None:
        for number in rounds:
            shutil.rmtree(self.path(number), ignore_errors=True)
