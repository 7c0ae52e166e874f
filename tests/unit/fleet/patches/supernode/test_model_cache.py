"""A model that was just received is not fetched again."""

from app.fleet.patches.supernode import model_cache


def test_a_model_is_fetched_once_and_a_new_one_replaces_it() -> None:
    cache = model_cache.ModelCache()
    fetched: list[str] = []

    def pull(_run: int, object_id: str) -> bytes:
        fetched.append(object_id)
        return object_id.encode() * (model_cache.WORTH_KEEPING if object_id.startswith("model") else 1)

    for objects in (
        ["model-1", "small"],
        ["model-1", "small"],
        ["small"],
        ["model-1"],
        ["model-2"],
        ["model-1"],
    ):
        cache.begin()
        for object_id in objects:
            assert cache.pulling(pull)(1, object_id) == pull(1, object_id) and fetched.pop() == object_id
        cache.end()
    assert fetched == ["model-1", "small", "small", "small", "model-2", "model-1"]
