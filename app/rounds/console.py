"""The events of a run as lines for people. The SuperLink passes what a ServerApp prints on to whoever follows the run."""

from typing import Any

from app.rounds import events


class Console:
    """Prints a line for what people want to know: each round, each client that is left out, and at the end who took part."""

    def __init__(self, folder: str = "") -> None:
        self._folder = folder

    def take(self, event: events.Event, record: dict[str, Any]) -> None:
        """Print the event's line, if it has one."""
        if line := line_of(event, self._folder):
            print(line, flush=True)


def line_of(event: events.Event, folder: str) -> str:
    """An event as the line that people read; empty for one that they need not."""
    match event:
        case events.ClientsAwaited():
            missing = f"; missing: {', '.join(event.missing)}" if event.missing else ""
            return f"waiting for clients: {event.connected} of {event.wanted} connected{missing}"
        case events.ClientsConnected():
            return f"{len(event.clients)} clients connected"
        case events.PhaseStarted(round=0):
            return f"{'client':24} {'examples':>8} {'loss':>8} {'accuracy':>8}"
        case events.ReplyAccepted(round=0):
            return _row(event.client.label, event.num_examples, event.loss, event.accuracy)
        case events.ModelEvaluated():
            return _row("server's test split", None, event.loss, event.accuracy)
        case events.ReplyRejected() | events.ReplyLate():
            return f"round {event.round}: {event.phase} goes on without {event.client.label}: {event.reason}"
        case events.ReplyLimited():
            return f"round {event.round}: {event.phase} limits {event.client.label}: {event.reason}"
        case events.AverageRefused():
            return f"round {event.round}: {event.reason}; the model stays as it was"
        case events.ClientLost():
            return f"round {event.round}: {event.client.label} is offline ({event.phase})"
        case events.ClientReturned():
            return f"round {event.round}: {event.client.label} is back, and asked again ({event.phase})"
        case events.PhaseRetried():
            return (
                f"round {event.round}: {event.phase} has {event.accepted} usable replies of {event.needed} needed; "
                f"further try {event.attempt} of {event.attempts}"
            )
        case events.PhaseFinished(arrived_late=late) if late:
            return f"round {event.round}: {late} replies to earlier phases came too late, and were left out"
        case events.PhaseFinished(phase="train"):
            replies = f"{event.accepted} of {event.accepted + event.rejected + event.late} replies"
            return f"round {event.round}: train has {replies} after {event.seconds:.1f} s"
        case events.RunResumed():
            damaged = "".join(f"warning: {reason}\n" for reason in event.damaged)
            return f"{damaged}goes on after round {event.round} from {event.checkpoint} (resume='never' begins anew)"
        case events.RunPassedOver():
            reasons = "; ".join(event.differences)
            return f"begins anew: {event.folder} is of another app ({reasons}); the installation that began it goes on with it"
        case events.RunFinished(status="completed" | "subset"):
            return _last_line(event, folder)
        case events.PrivacyBudgetSpent():
            return f"round {event.round}: not run, the privacy budget is spent: {event.reason}"
        case events.RoundFinished():
            return _round_line(event)
    return ""


def _row(label: str, examples: int | None, loss: float | None, accuracy: float | None) -> str:
    numbers = ["-" if number is None else f"{number:.4f}" for number in (loss, accuracy)]
    return f"{label:24} {'' if examples is None else examples:>8} {numbers[0]:>8} {numbers[1]:>8}"


def _last_line(event: events.RunFinished, folder: str) -> str:
    ended = "finished" if event.status == "completed" else "finished on a subset of the clients"
    accuracy = "not evaluated" if event.accuracy is None else f"accuracy {event.accuracy:.4f}"
    early = f" ({event.reason})" if event.reason else ""
    after = f" after round {event.rounds}" if event.rounds else ""
    return f"{ended}: {event.participation}; {accuracy}{after}{early}, results in {folder}"


def _round_line(event: events.RoundFinished) -> str:
    parts = [f"round {event.round}/{event.rounds}  accuracy {event.accuracy:.4f}  loss {event.loss:.4f}"]
    if event.train_loss is not None:
        parts.append(f"training loss {event.train_loss:.4f}")
    if event.client_accuracy is not None:
        parts.append(f"clients' accuracy {event.client_accuracy:.4f}")
    parts.append(f"{event.seconds:.1f} s  ({event.trained} trained, {event.evaluated} evaluated)")
    return "  ".join(parts)
