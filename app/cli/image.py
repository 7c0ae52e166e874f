"""The command that builds images with another app in them."""

import typer

from app.cli.options import add_command, echo
from app.fleet.deployment import ImageSettings


def image(settings: ImageSettings) -> None:
    """Build images with another app in them, and with what it asks for beside Bouquet; a run installs nothing."""
    from app.fleet.dependencies import image as images
    from app.fleet.runs import bundle, submit

    project = submit.project_folder(settings.app)
    submit.run_config_for(project, 1, None, "")  # an app that cannot run is told here
    images.build(settings, bundle.manifest(project), bundle.build(project), echo)


def add_to(app: typer.Typer) -> None:
    """Add this command to ``bouquet``."""
    add_command(app, image, ImageSettings, example="bouquet image --app FOLDER --tag mine")
