"""The app of this installation: the one that `bouquet train` submits where none is named."""

HASH_FILE = (
    "app-hash"  # beside the app in an image, where building the app's bundle again would cost a second
)


def find_hash() -> str:
    """The hash of the app. Raises UserError where there is none."""
    from app.fleet.runs.bundle import app_hash
    from app.fleet.runs.submit import project_folder

    project = project_folder()
    try:
        return (project / HASH_FILE).read_text().strip()
    except OSError:
        return app_hash(project)
