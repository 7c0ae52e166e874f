"""``bouquet image``: Bouquet's images with another app in them, and with what it asks for beside Bouquet.

The Dockerfile adds to images that are there. pip comes from this installation, because the images have none. It adds
packages to a folder of their own, after the same rules as ``environment.py``, and the app's bundle is where ``bouquet train``
and a client's ``own`` find it. So a container installs nothing when it runs.
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from app.environment import with_variables
from app.errors import UserError
from app.fleet.dependencies.requirements import Installed, asked, compare, installed_here, read_installed
from app.fleet.deployment import ImageSettings

BUNDLE = "app.fab"  # in the working directory of an image that holds an app
ADDITIONS = "/opt/additions"
# What of pip's configuration means the same in a container.
PIP_SETTINGS = (
    "index-url", "extra-index-url", "trusted-host", "proxy", "no-index", "timeout", "default-timeout", "retries",
)  # fmt: skip

_PACKAGES = """\
FROM {superlink} AS packages
USER root
RUN --mount=type=secret,id=ca,mode=0444 --mount=type=secret,id=pip,mode=0444 \\
    --mount=type=bind,source=pip,target=/build/pip --mount=type=bind,source=wheels,target=/build/wheels \\
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \\
    PYTHONPATH=/build PIP_CONFIG_FILE=/run/secrets/pip PIP_NO_CACHE_DIR=1 \\
    python -m app.fleet.dependencies.packages {wheels}{additions} \\
    {requirements}

"""
_STAGE = """\
FROM {base} AS {name}
{packages}WORKDIR /opt/app
COPY {bundle} ./
"""
_FROM_PACKAGES = f"COPY --from=packages {ADDITIONS} {ADDITIONS}\nENV PYTHONPATH={ADDITIONS}\n"


@dataclass(frozen=True)
class Image:
    """An image that is built: the stage of the Dockerfile, what it is built on, and its name."""

    stage: str
    base: str
    name: str


def dockerfile(images: list[Image], app: str, missing: list[Requirement], *, wheels: bool) -> str:
    """The Dockerfile of these images.

    Args:
        images: the first is that of the server.
        app: the app's name and version, for people.
        missing: what the app asks for, and the images have not.
        wheels: whether it comes from the folder ``wheels`` beside the Dockerfile, and not from pip's index.
    """
    text = (
        f"# Bouquet's images with the app {app} in them, and with what it asks for: written by `bouquet image`.\n"
        f"# Beside this file: {BUNDLE}, the app's bundle; pip, the package of that name; wheels, a folder.\n"
    )
    if missing:
        text += _PACKAGES.format(
            superlink=images[0].base,
            wheels="--wheels /build/wheels " if wheels else "",
            additions=ADDITIONS,
            requirements=" ".join(shlex.quote(str(each)) for each in missing),
        )
    stages = [
        _STAGE.format(
            base=image.base, name=image.stage, packages=_FROM_PACKAGES if missing else "", bundle=BUNDLE
        )
        for image in images
    ]
    return text + "\n".join(stages)


def build(
    settings: ImageSettings, manifest: Mapping[str, Any], bundle: bytes, echo: Callable[[str], None]
) -> None:
    """Build the images, or print their Dockerfile.

    Args:
        settings: what is asked for.
        manifest: the app's ``pyproject.toml``.
        bundle: the app's bundle.
        echo: takes each line for the person.

    Raises:
        UserError: the images to build on are not there, a package is not to be found, or the versions do not go together.
    """
    project = manifest["project"]
    app = f"{project['name']} {project['version']}"
    tag = settings.tag or re.sub(r"[^\w.-]", "-", f"{project['name']}-{project['version']}")
    if settings.wheels is not None and not settings.wheels.is_dir():
        raise UserError(f"--wheels={settings.wheels} is no folder; give one that holds wheels")
    images = _images(settings.base, tag, there=None if settings.print_only else _is_there)
    installed = installed_here() if settings.print_only else _installed_in(images[0].base)
    found = compare(asked(manifest), installed)
    if found.conflicts and not settings.keep_versions:
        told = "; ".join(map(str, found.conflicts))
        raise UserError(f"{told}: change the app, or keep the versions that are here with --keep-versions")
    text = dockerfile(images, app, found.missing, wheels=settings.wheels is not None)
    if settings.print_only:
        echo(text.rstrip())
        return
    for conflict in found.conflicts:
        echo(f"warning: {conflict}: it runs with that")
    if found.missing:
        echo(f"adding what {app} asks for: {', '.join(map(str, found.missing))}")
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        _fill(context, text, bundle, settings.wheels)
        for image in images:
            _docker_build(image, context, settings)
            echo(f"built {image.name}")
    echo(f"they are used with IMAGE_TAG={tag}")


def _images(base: str, tag: str, there: Callable[[str], bool] | None) -> list[Image]:
    """The images to build: the server's, and the client's for the CPU and for GPUs, as far as Bouquet's own are there."""
    superlink = Image("superlink", f"bouquet-superlink:{base}", f"bouquet-superlink:{tag}")
    clients = [
        Image("supernode-cpu", f"bouquet-supernode:{base}-cpu", f"bouquet-supernode:{tag}-cpu"),
        Image("supernode", f"bouquet-supernode:{base}", f"bouquet-supernode:{tag}"),
    ]
    if there is None:
        return [superlink, *clients]
    clients = [image for image in clients if there(image.base)]
    if not clients or not there(superlink.base):
        raise UserError(
            f"there are no images bouquet-superlink:{base} and bouquet-supernode:{base}-cpu to build on: `make images`, or name "
            "the tag of those that are there (--base)"
        )
    return [superlink, *clients]


def _docker(*arguments: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            ["docker", *arguments],
            capture_output=True,
            text=True,
            env=with_variables({"DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}),
        )
    except FileNotFoundError:
        raise UserError(
            "`bouquet image` needs Docker; --print shows the Dockerfile, and `bouquet up` needs no image"
        ) from None


def _is_there(image: str) -> bool:
    return _docker("image", "inspect", image).returncode == 0


def _installed_in(image: str) -> Installed:
    done = _docker(
        "run", "--rm", "--network", "none", "--entrypoint", "python", image,
        "-m", "app.fleet.dependencies.requirements",
    )  # fmt: skip
    if done.returncode:
        raise UserError(f"{image} does not tell what is installed in it: {_last(done.stderr)}")
    return read_installed(done.stdout)


def _fill(context: Path, text: str, bundle: bytes, wheels: Path | None) -> None:
    """Put all that the Dockerfile names into ``context``. Raises UserError where this Python has no pip."""
    (context / "Dockerfile").write_text(text)
    (context / BUNDLE).write_bytes(bundle)
    (context / BUNDLE).chmod(0o644)
    (context / "pip.conf").write_text(pip_settings(_pip_config()))
    pip = find_spec("pip")
    if pip is None or pip.origin is None:
        raise UserError(
            f"`bouquet image` takes pip from {sys.executable}, which has none: python -m ensurepip"
        )
    shutil.copytree(Path(pip.origin).parent, context / "pip", ignore=shutil.ignore_patterns("__pycache__"))
    if wheels is None:
        (context / "wheels").mkdir()
    else:
        shutil.copytree(wheels, context / "wheels", copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _pip_config() -> str:
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    return done.stdout


def pip_settings(listed: str) -> str:
    """What `pip config list` prints, as a file for the build; paths of this machine mean nothing there."""
    found: dict[str, str] = {}
    for name, value in re.findall(r"^\S+?\.([\w-]+)=('.*'|\".*\")$", listed, re.MULTILINE):
        words = str(ast.literal_eval(value)).split()
        if name in PIP_SETTINGS and (kept := [word for word in words if not word.startswith("file:")]):
            found[name] = " ".join(kept)
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in found.items())


def _docker_build(image: Image, context: Path, settings: ImageSettings) -> None:
    done = _docker(
        "build", "--target", image.stage, "--tag", image.name, "--network", settings.build_network,
        "--secret", f"id=ca,src={settings.ca_certificates}", "--secret", f"id=pip,src={context / 'pip.conf'}",
        str(context),
    )  # fmt: skip
    if done.returncode:
        said = done.stdout + done.stderr
        told = re.search(r"error: (the app asks for .*|pip could not .*)", said)
        raise UserError(f"{image.name} cannot be built: {told[1] if told else _last(said)}")


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
