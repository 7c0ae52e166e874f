"""What is wrong with an app, found before anything starts: Flower finds it when the first message comes, or never."""

import ast
import io
import tomllib
import zipfile
from collections.abc import Iterator, Mapping

from app.errors import UserError


def check_app(bundle: bytes) -> None:
    """Read the app in a bundle as Python would, without running it.

    Raises:
        UserError: a file is no Python, or a component that ``pyproject.toml`` names is not there.
    """
    with zipfile.ZipFile(io.BytesIO(bundle)) as files:
        modules = {name: _parse(name, files.read(name)) for name in files.namelist() if name.endswith(".py")}
        toml = tomllib.loads(files.read("pyproject.toml").decode())
    for component, reference in toml["tool"]["flwr"]["app"].get("components", {}).items():
        _check_component(component, str(reference), modules)


def _parse(name: str, content: bytes) -> ast.Module:
    try:
        return ast.parse(content)
    except SyntaxError as error:
        raise UserError(
            f"the app's {name}, line {error.lineno or 1}: {error.msg}; mend it, and run again"
        ) from None
    except ValueError as error:
        raise UserError(f"the app's {name} is no Python: {error}; mend it, and run again") from None


def _check_component(component: str, reference: str, modules: Mapping[str, ast.Module]) -> None:
    module, _, attribute = reference.partition(":")
    place = module.replace(".", "/")
    name = next((name for name in (f"{place}.py", f"{place}/__init__.py") if name in modules), None)
    if name is None:
        # Not in the app: it may be installed, unless the app has a package of that name.
        if any(other.startswith(f"{place.partition('/')[0]}/") for other in modules):
            raise UserError(
                f"{component} = {reference!r} in pyproject.toml: the app has no module {module}; mend it"
            )
        return
    bound = set(_bound(modules[name].body))
    if attribute.partition(".")[0] not in bound and "*" not in bound:
        raise UserError(f"{component} = {reference!r} in pyproject.toml: {name} has no {attribute}; mend it")


def _bound(statements: list[ast.stmt]) -> Iterator[str]:
    """The names that a module's statements bind, also below ``if``, ``try`` and ``with``; ``*`` for all of another's."""
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in statement.names)
        else:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id
                elif isinstance(node, ast.stmt) and node is not statement:
                    yield from _bound([node])
