"""The app of this installation: the one that `bouquet train` submits where none is named."""

from pathlib import Path

HASH_FILE = (
    "app-hash"  # beside the app in an image, where building the app's bundle again would cost a second
)


def find_hash(given: Path | None = None) -> str:
    """The hash of the app; of the one in ``given`` where there is one. Raises UserError where there is none."""
    from app.fleet.runs.bundle import app_hash
    from app.fleet.runs.submit import project_folder

    project = project_folder(given)
    if given is None and (project / HASH_FILE).is_file():
        return (project / HASH_FILE).read_text().strip()
    return app_hash(project)
