"""This client's data has the shape and the classes of the server's."""

from app.watch.doctor.data.splits import open_store
from app.watch.doctor.network.told import told
from app.watch.doctor.rule import CLIENT, Finding, Rule, good, skipped
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Compare the store with what the SuperLink says of its own."""
    store = open_store(site)
    if store is None:
        return skipped("there is no prepared data here")
    answer = told(site)
    if isinstance(answer, Finding):
        return answer
    if answer.shape is None or answer.classes is None:
        return skipped("the SuperLink has no data to compare with")
    store.require(answer.shape, answer.classes)
    return good("x".join(map(str, answer.shape)) + f", {len(answer.classes)} classes")


RULE = Rule(
    name="shape",
    phase="data",
    promise="shape and classes are those of the server's data",
    roles=frozenset({CLIENT}),
    check=check,
    needs=("settings", "store", "certificate", "key", "enrolment"),
)
