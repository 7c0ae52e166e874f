"""The commands that run a federation: its server, one client, one training run, or all of it here; and images for an app."""

import json
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import typer

from app.cli.data import add_packages, local_data
from app.cli.monitor import beside
from app.cli.options import add_command, echo
from app.cli.results import report_latest
from app.cli.watch import look, shown
from app.errors import UserError
from app.fleet.deployment import (
    PACKAGE,
    DrainSettings,
    EvaluateSettings,
    ImageSettings,
    SuperLinkSettings,
    SuperNodeSettings,
    TrainSettings,
    UpSettings,
)


def superlink(settings: SuperLinkSettings) -> None:
    """Run the SuperLink: SuperNodes dial in, and the Control API stays on loopback."""
    from app.fleet import superlink as link

    def watch() -> None:
        if settings.metrics:
            from app.watch.monitor import superlink as metrics

            metrics.serve(settings)

    look("server", settings)
    link.run(settings, watch)


def supernode(settings: SuperNodeSettings) -> None:
    """Run one client: find its partition id, dial the SuperLink, train when asked."""
    from app.fleet import supernode as node
    from app.fleet.runs import own_app
    from app.fleet.site.allowed_apps import with_own

    look("client", settings)
    allowed = with_own(settings.allowed_apps, partial(own_app.find_hash, settings.app))
    node.serve(replace(settings, allowed_apps=allowed))


def train(settings: TrainSettings) -> None:
    """Submit a run, show its progress, and exit with status 0 only when all clients took part."""
    from app.fleet import flower
    from app.fleet.dependencies import environment
    from app.fleet.runs import bundle, retry, submit

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which stops the run, as Ctrl-C does
    project = submit.project_folder(settings.app)
    run_config = submit.run_config_for(project, settings.num_clients, settings.rounds, settings.config)
    if not submit.is_own_app(project):
        environment.require(bundle.manifest(project), echo)
    submit.wait_for_control_api(settings.control_address, submit.CONNECT_TIMEOUT_S)
    flower.prepare_environment()
    submission = submit.Submission(
        project, run_config, settings.control_address, settings.ca, resumes=submit.is_own_app(project)
    )
    with shown(settings.results, plain=settings.plain) as (say, submitted):
        if not submission.resumes:
            submit.wait_for_the_new(submission, settings.num_clients, say)
        outcome = retry.submit_until_ended(submission, say, submitted)
    raise typer.Exit(outcome.status)


def evaluate(settings: EvaluateSettings) -> None:
    """Have every client evaluate a model, and show what each one found."""
    from app.fleet import flower
    from app.fleet.runs import submit

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not settings.model:
        raise UserError("no model: give --model, a safetensors file such as results/latest/model.safetensors")
    file = Path(settings.model)
    model = str(file.resolve()) if file.is_file() else settings.model  # else it is on the SuperLink's machine
    extra = f"{settings.config} task='evaluate' weights='{model}'"
    run_config = submit.run_config_for(PACKAGE, settings.num_clients, None, extra)
    submit.wait_for_control_api(settings.control_address, submit.CONNECT_TIMEOUT_S)
    flower.prepare_environment()
    submission = submit.Submission(PACKAGE, run_config, settings.control_address, settings.ca)
    progress = partial(print, file=sys.stderr, flush=True) if settings.as_json else echo
    outcome = submit.submit(submission, progress)
    if settings.as_json and outcome.finished:
        echo(json.dumps(json.loads(outcome.evaluation), indent=2))
    raise typer.Exit(outcome.status)


def drain(settings: DrainSettings) -> None:
    """Finish the round that is under way, begin no other, and say when the server can be stopped."""
    from app.fleet.runs import drain as drained

    drained.drain(settings, echo)


def up(settings: UpSettings) -> None:
    """Run a whole federation on this machine as plain processes, and take it down again."""
    from app.fleet.local import up as launch
    from app.fleet.runs import submit

    project = submit.project_folder(settings.app)
    run_config = submit.run_config_for(project, settings.num_clients, settings.rounds, settings.config)
    launch.check(settings)
    look("all", settings)
    add_packages(project)
    data = local_data(settings, project, "as plain processes")
    with shown(settings.results, plain=settings.plain) as (say, submitted), beside(settings, say):
        outcome = launch.run(settings, data, project, run_config, say, submitted)
    if settings.report and outcome.finished:
        report_latest(settings.results, data.store)
    raise typer.Exit(outcome.status)


def image(settings: ImageSettings) -> None:
    """Build images with another app in them, and with what it asks for beside Bouquet; a run installs nothing."""
    from app.fleet.dependencies import image as images
    from app.fleet.runs import bundle, submit

    project = submit.project_folder(settings.app)
    submit.run_config_for(project, 1, None, "")  # an app that cannot run is told here
    images.build(settings, bundle.manifest(project), bundle.build(project), echo)


def add_to(app: typer.Typer) -> None:
    """Add these commands to ``bouquet``."""
    add_command(app, up, UpSettings, example="bouquet up --dataset digits --clients 4 --rounds 2")
    add_command(
        app,
        superlink,
        SuperLinkSettings,
        example="bouquet superlink --certificates server --state state",
    )
    add_command(
        app,
        supernode,
        SuperNodeSettings,
        example="bouquet supernode --superlink fl.example.org:9092 --ca ca.crt --key node.key --partition-id 0",
    )
    add_command(app, train, TrainSettings, example="bouquet train --clients 3 --rounds 5 --ca ca.crt")
    add_command(
        app, evaluate, EvaluateSettings, example="bouquet evaluate --model results/latest/model.safetensors"
    )
    add_command(app, drain, DrainSettings, example="bouquet drain --ca ca.crt")
    add_command(app, image, ImageSettings, example="bouquet image --app FOLDER --tag mine")
