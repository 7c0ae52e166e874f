"""A run whose server died is submitted again. An app with checkpoints goes on, any other begins anew.

What ends by its own doing is not tried again: an app that failed, a run that was stopped, wrong input. What was killed
is: the ServerApp, or the SuperLink with it. The same submission never runs twice. While a run of the same app with the
same settings is under way on the SuperLink, it is followed instead: the first try may have reached the SuperLink though
its answer was lost, and ``bouquet train`` itself may have been killed and started again. All attempts of Bouquet's own app
bear one random text, by which it finds the run that an earlier attempt has begun, or ended, in the results.
"""

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.errors import DRAINED, UserError
from app.fleet.control import ConnectionLost
from app.fleet.runs import submit
from app.fleet.runs.submit import Outcome, Submission

MOST_ATTEMPTS = 5  # in a row in which no round was finished
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
DRAINED_PAUSE_S = 20.0  # a server that is being drained is asked again
BACK_WITHIN_S = 1800.0  # a SuperLink that has gone
CLIENTS_WITHIN_S = 60.0  # the clients of a SuperLink that is back
# What is said of a round that is kept. Of an app without checkpoints no line begins so.
_ROUND = re.compile(r"^round \d+/\d+ ")


@dataclass
class _Attempts:
    """Counts the attempts in which nothing was done.

    Attributes:
        has_checkpoints: whether the app is known to keep them.
        failed: how many in a row.
    """

    echo: Callable[[str], None]
    has_checkpoints: bool
    failed: int = 0

    def heard(self, line: str) -> None:
        """Pass a line of the run on; one that tells of a finished round begins the count anew."""
        if _ROUND.match(line):
            self.failed, self.has_checkpoints = 0, True
        self.echo(line)

    def pause(self, reason: str) -> None:
        """Wait before the next attempt. Raises UserError where there have been too many."""
        self.failed += 1
        if self.failed >= MOST_ATTEMPTS:
            raise UserError(
                f"the run was cut off {self.failed} times before it finished a round: {reason}; "
                "look at the SuperLink's log, then start it again: it goes on from its checkpoint, where it has one"
            )
        pause_s = min(SHORTEST_PAUSE_S * 2 ** (self.failed - 1), LONGEST_PAUSE_S)
        how = (
            "it goes on from its checkpoint"
            if self.has_checkpoints
            else "it begins anew, for it keeps no checkpoint,"
        )
        self.echo(f"the run was cut off: {reason}; {how} in {pause_s:g} s")
        time.sleep(pause_s)


def submit_until_ended(
    submission: Submission,
    echo: Callable[[str], None],
    begun: Callable[[int], None] = lambda _: None,
    *,
    back_within_s: float = BACK_WITHIN_S,
) -> Outcome:
    """As :func:`submit.submit`, and again where the server died.

    Args:
        submission: what to run.
        echo: takes each line of the run's log.
        begun: called each time with Flower's id of the run when it has been submitted.
        back_within_s: how long a SuperLink that has gone is waited for.

    Raises:
        UserError: the SuperLink did not come back, or the run was cut off again and again.
    """
    attempts = _Attempts(echo, submission.resumes)
    if submission.resumes:
        token = {submit.SUBMISSION: secrets.token_hex(8)}
        submission = replace(submission, run_config={**submission.run_config, **token})
    clients = 0
    while True:
        try:
            if not submission.resumes:  # Bouquet's own app waits for its clients
                clients = submit.wait_for_as_many(submission, clients, CLIENTS_WITHIN_S)
            outcome = submit.submit(submission, attempts.heard, begun)
        except ConnectionLost as error:
            attempts.pause(str(error))
            submit.wait_for_control_api(submission.control_address, back_within_s)
            continue
        if outcome.status == DRAINED:
            time.sleep(DRAINED_PAUSE_S)
            continue
        if not outcome.cut_off:
            return outcome
        attempts.pause("the ServerApp was killed (out of memory?)")
