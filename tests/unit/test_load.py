"""The figures of `umrgen bench`."""

from umrgen.client.load import Load, LoadResult


def test_new_prompts_differ_and_a_repeated_one_has_new_seeds() -> None:
    new = list(Load(images=100, request={"width": 512}).requests())
    assert len({request["prompt"] for request in new}) == 100
    assert all(request["width"] == 512 for request in new)
    repeated = list(Load(images=100, repeated=True).requests())
    assert len({request["prompt"] for request in repeated}) == 1
    assert len({request["seed"] for request in repeated}) == 100


def test_two_runs_have_the_same_requests() -> None:
    assert list(Load().requests()) == list(Load().requests())


def test_percentiles_are_values_that_were_measured() -> None:
    result = LoadResult(seconds=10, to_image=[float(value) for value in range(100, 0, -1)])
    figures = result.as_dict()
    assert figures["time_to_image"] == {"p50": 50.0, "p95": 95.0}
    assert (figures["images"], figures["images_per_second"], figures["queue_time"]) == (100, 10.0, None)


def test_failures_are_counted_by_their_code() -> None:
    result = LoadResult(seconds=1)
    result.failures.update(["engine_failed", "engine_failed", "rate_limited"])
    assert result.as_dict()["failures"] == {"engine_failed": 2, "rate_limited": 1}
