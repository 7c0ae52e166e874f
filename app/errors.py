"""The errors that a person is meant to read, and how a run tells its result to the command that started it."""

# A ServerApp's output is all that reaches `bouquet train`. Lines of these forms give the command's exit status, and the
# result of an evaluation as JSON. They are not shown.
STATUS_LINE = "bouquet: the exit status is "
EVALUATION_LINE = "bouquet: the evaluation is "
FAILED, WRONG_INPUT, SUBSET, DRAINED = 1, 2, 3, 75


def printable(text: str) -> str:
    """``text`` with an escape in the place of each character that does more to a terminal than to be seen."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


class UserError(Exception):
    """A mistake the person at the keyboard can mend.

    The message is one line: it names the setting or file and says what to do. The command line
    prints it without a traceback and exits with status 2. It may hold names from outside, so it is made printable.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class RunStopped(UserError):
    """A run that cannot go on, though its settings are right: too few clients, no space. The exit status is 1."""


class Drained(RunStopped):
    """A run that was asked to make room (`bouquet drain`); it goes on when it is submitted again."""
