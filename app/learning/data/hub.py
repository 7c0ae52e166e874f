"""Reading through `datasets`: a hub that does not answer costs seconds, and each error is one line."""

import errno
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import UserError

TIMEOUT_S = 5.0

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system calls a disk, a quota or a file-size limit that is exhausted."""


@contextmanager
def quick_hub(*, wanted: bool) -> Iterator[None]:
    """Inside, `datasets` stays off the network unless the hub is `wanted` and answers.

    `datasets` then reads its cache at once. By itself it would retry five times first, for 23 s.
    """
    import datasets
    import huggingface_hub

    constants = huggingface_hub.constants
    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if not wanted or not sys.stderr.isatty():
        datasets.disable_progress_bars()
        # "Repo card metadata block was not found": a local folder needs none.
        logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)
    try:
        if not wanted or any(before) or not answers():
            datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def answers() -> bool:
    """Whether the hub answers within TIMEOUT_S, also where name resolution hangs."""
    import huggingface_hub

    answered = threading.Event()

    def ask() -> None:
        try:
            huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=TIMEOUT_S)
        except Exception:
            logging.getLogger(__name__).debug("the hub does not answer", exc_info=True)
        else:
            answered.set()

    # A daemon: a resolver that hangs must not keep the process alive.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return answered.is_set()


@contextmanager
def readable_errors(name: str, *, hub: bool) -> Iterator[None]:
    """Turn what `datasets` raises for DATASET=`name` into a UserError.

    For a local source a full disk passes through as an OSError with its `errno`, because the caller knows
    which disk it is. The `hub`'s files are kept under HF_HOME.
    """
    from datasets.exceptions import DatasetNotFoundError

    try:
        yield
    except UserError:
        raise
    except DatasetNotFoundError:
        raise UserError(
            f"DATASET={name}: the hub has no such public data set; check the name (owner/name), "
            "log in with HF_TOKEN if it is private, or give a local folder"
        ) from None
    except Exception as error:
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, OSError) and _is_full(cause):
                if hub:
                    raise UserError(
                        f"HF_HOME: the disk is full while fetching DATASET={name}; "
                        "free some space or set HF_HOME to a directory on a larger disk"
                    ) from None
                raise OSError(errno.ENOSPC, "no space left") from None
            if isinstance(cause, PermissionError):
                raise UserError(
                    f"DATASET={name}: no permission for {cause.filename}; "
                    "set HF_HOME to a directory that can be written, or mend the permission"
                ) from None
        if any(isinstance(cause, ConnectionError) or "httpx" in type(cause).__module__ for cause in causes):
            raise UserError(
                f"DATASET={name}: no such folder, and the hub cannot be reached to look there; "
                "mend the network, give a local folder in hub form, or use DATASET=digits"
            ) from None
        if "Config name is missing" in str(error):
            raise UserError(
                f"DATASET={name} has several subsets; choose one with --subset: {_choices(error)}"
            ) from None
        raise UserError(
            f"DATASET={name} cannot be read: {one_line(causes[-1])}; check that it is a data set of pictures"
        ) from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: OSError) -> bool:
    # `datasets` looks at the free space beforehand and then says so without an errno.
    return error.errno in FULL or "Not enough disk space" in str(error)


def _choices(error: BaseException) -> str:
    return one_line(error).partition("[")[2].partition("]")[0].replace("'", "") or one_line(error)


def one_line(error: BaseException) -> str:
    """The error's text on one line, its class name where it has none."""
    text = " ".join(str(error).split())
    return text[:200] if text else type(error).__name__
