"""The one error that a person is meant to read."""


class UserError(Exception):
    """A mistake the person at the keyboard can mend.

    The message is one line: it names the setting or file and says what to do. The command line
    prints it without a traceback and exits with status 2.
    """
