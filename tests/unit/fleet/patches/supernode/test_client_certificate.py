"""A channel with a new certificate takes over before the old one expires."""

from typing import Any

from app.fleet.patches.supernode.client_certificate import RenewedChannel


class _Channel:
    def __init__(self, number: int) -> None:
        self.number, self.closed = number, False

    def unary_unary(self, method: str) -> Any:
        return self.number, method

    def close(self) -> None:
        self.closed = True


def test_each_call_takes_the_latest_channel_and_the_one_before_stays_open() -> None:
    made: list[_Channel] = []
    now = [0.0]

    def make() -> _Channel:
        made.append(_Channel(len(made)))
        return made[-1]

    channel = RenewedChannel(make, renew_s=10.0, clock=lambda: now[0])
    assert channel.unary_unary("a") == (0, "a")
    now[0] = 9.9
    assert channel.unary_unary("a") == (0, "a")
    now[0] = 10.0
    assert channel.unary_unary("b") == (1, "b") == channel.unary_unary("b")
    assert not made[0].closed, "a call of it may be under way"
    now[0] = 20.0
    assert channel.unary_unary("c") == (2, "c")
    assert [each.closed for each in made] == [True, False, False]
    channel.close()
    assert all(each.closed for each in made)
