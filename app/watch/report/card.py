"""The model card: what a model was made from, what it can do and cannot, and how it is loaded, in one page of Markdown."""

import re

from app.watch.report.examined import Examined
from app.watch.report.gather import Run
from app.watch.report.page import moment, number

FILE = "model.md"
# What a reader of a model wants to know of its settings; the report has all.
_SETTINGS = (
    "model", "norm", "strategy", "num-server-rounds", "local-epochs", "batch-size", "learning-rate", "optimizer",
    "personal-layers", "seed",
)  # fmt: skip


def card(run: Run, found: Examined) -> str:
    """The card of a run's last model."""
    started, last = run.started, run.rounds[-1] if run.rounds else None
    shape = "x".join(str(each) for each in started.get("shape") or [])
    asked = run.settings.get("num-server-rounds", "?")
    facts = [
        ("Model", f"{_text(run.settings.get('model', '?'))}, `model.safetensors`"),
        ("SHA-256", f"`{found.model_hash}`" if found.model_hash else "unknown"),
        ("Data", f"{_text(started.get('dataset', '?'))}, pictures of {shape}"),
        ("Checksum of the data", f"`{_text(started.get('checksum', ''))}`"),
        ("Classes", ", ".join(map(_text, run.classes))),
        ("Rounds", f"{len(run.rounds)} of {asked}"),
        ("Clients", f"{len(run.clients)}: {_text(run.finished.get('participation') or 'the run has told no end')}"),
        ("Accuracy, loss", f"{number(last.accuracy)}, {number(last.loss)} on the server's test split" if last else "unknown"),
        ("Privacy", _privacy(run)),
        ("Trained", f"{moment(run.began)} to {moment(run.ended)}"),
    ]  # fmt: skip
    if run.best:
        facts.append(("Best round", f"{run.best.get('round')}: `model-best.safetensors`"))
    lines = [f"# Model of run {_text(run.name)}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts]
    lines += ["", "## Use", "", "```python", *usage(run), "```", ""]
    lines += [
        "A picture is float32 [N, C, H, W], each byte x as x / 127.5 - 1; the model gives logits.",
        f"`bouquet predict --run {_text(run.name)} FILE` asks it about pictures, and `bouquet export` writes it as ONNX or TorchScript.",
    ]
    lines += [*_per_class(found), *_limits(run, found), *_settings(run)]
    return "\n".join(lines) + "\n"


def usage(run: Run) -> list[str]:
    """How the model is loaded, and asked about a picture."""
    return [
        "import torch",
        "from bouquet import load_model",
        f"trained = load_model({f'{run.folder.parent.name}/{run.name}'!r}, 'last')",
        "picture = torch.randint(0, 256, (1, *trained.shape))  # a picture of yours",
        "print(trained.classes[trained.model(picture / 127.5 - 1).argmax()])",
    ]


def _privacy(run: Run) -> str:
    if not run.privacy:
        return "none: no noise was added"
    told = run.privacy
    spent = number(told["epsilon"]) if isinstance(told.get("epsilon"), int | float) else "unknown"
    delta = number(told["delta"]) if isinstance(told.get("delta"), int | float) else "unknown"
    return f"{_text(told.get('mechanism', '?'))}: epsilon {spent}, delta {delta}"


def _per_class(found: Examined) -> list[str]:
    if not found.per_class:
        return []
    rows = [f"| {_text(name)} | {count} | {number(value)} |" for name, count, value in found.per_class]
    head = [
        "",
        "## Accuracy per class",
        "",
        "On the server's test split.",
        "",
        "| class | pictures | accuracy |",
        "|---|---|---|",
    ]
    return head + rows


def _limits(run: Run, found: Examined) -> list[str]:
    lines = [
        "- It knows the classes above and nothing else: any picture gets one of them.",
        "- Its figures are of a test split like its training data; pictures of another source can give others.",
    ]
    weak = [(value, name) for name, _, value in found.per_class if value is not None]
    if weak:
        lines.append(
            f"- It is worst at {_text(min(weak)[1])}: it knows {number(min(weak)[0])} of those pictures."
        )
    if run.settings.get("personal-layers"):
        lines.append("- It is no whole model: the clients keep the layers of personal-layers to themselves.")
    if run.status == "subset":
        lines.append("- Some clients missed rounds, so their data counts for less.")
    if run.status in ("running", "interrupted", "failed"):
        lines.append(f"- The run has not come to its end (status {run.status}).")
    if not run.privacy:
        lines.append("- Without privacy a model can give away what it was trained on.")
    return ["", "## Limits", "", *lines]


def _settings(run: Run) -> list[str]:
    rows = [
        f"| `{key}` | {_text(run.settings[key])} |"
        for key in _SETTINGS
        if run.settings.get(key) not in (None, "")
    ]
    versions = run.started.get("versions")
    rows += [
        f"| {_text(k)} | {_text(v)} |" for k, v in (versions.items() if isinstance(versions, dict) else ())
    ]
    return ["", "## Settings and versions", "", "| | |", "|---|---|", *rows]


def _text(value: object) -> str:
    """Text from outside, on one line, which is no Markdown and no HTML."""
    plain = "".join(letter if letter.isprintable() else " " for letter in str(value))
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", plain)
