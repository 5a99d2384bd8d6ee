"""The line in which requests wait."""

import threading
import time

import pytest

from laser_peft.serving import ServingLimits
from laser_peft.serving.answering import Query
from laser_peft.serving.refusals import Refused
from laser_peft.serving.waiting import Line


def line(**options):
    return Line(ServingLimits(**{"max_wait_ms": 0} | options))


def query(size):
    return Query([[1]] * size)


def sizes(jobs):
    return [len(job.query) for job in jobs]


def test_jobs_are_taken_in_their_order_and_never_divided():
    waits = line(max_batch_size=5)
    for size in (2, 3, 1, 7, 4):
        waits.put(query(size))
    assert waits.waiting == 17
    waits.close()
    assert [sizes(waits.take()) for _ in range(4)] == [[2, 3], [1], [7], [4]]
    assert waits.waiting == 0


def test_cancelled_ones_are_passed_by_even_if_they_are_all():
    waits = line(max_batch_size=2)
    jobs = [waits.put(query(1)) for _ in range(5)]
    for job in jobs[:4]:
        job.answer.cancel()
    assert waits.take() == [jobs[4]]


def test_it_waits_on_where_all_were_cancelled():
    waits, taken = line(), []
    waits.put(query(1)).answer.cancel()
    thread = threading.Thread(target=lambda: taken.extend(waits.take()), daemon=True)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    job = waits.put(query(2))
    thread.join(10)
    assert taken == [job]


def test_it_is_full_by_histories_but_takes_one_of_any_size_when_empty():
    waits = line(max_waiting=4)
    large = waits.put(query(6))
    with pytest.raises(Refused, match="6 histories wait already, and no more than 4 may"):
        waits.put(query(1))
    large.answer.cancel()
    waits.put(query(4))
    assert waits.waiting == 4


def test_a_closed_line_gives_what_it_has_and_then_nothing():
    waits = line()
    job = waits.put(query(1))
    waits.close()
    with pytest.raises(Refused, match="the server stops"):
        waits.put(query(1))
    assert waits.take() == [job]
    assert waits.take() == []


def test_who_waits_when_it_fails_is_told():
    waits = line()
    jobs = [waits.put(query(1)) for _ in range(2)]
    jobs[0].answer.cancel()
    refusal = Refused(503, "failed", "no")
    waits.refuse_all(refusal)
    assert jobs[1].answer.exception(1) is refusal
    assert waits.take() == []


def test_a_free_model_waits_for_more_until_it_is_time_or_they_are_enough():
    waits = line(max_wait_ms=60_000, max_batch_size=3)
    threading.Timer(0.05, lambda: [waits.put(query(1)) for _ in range(3)]).start()
    started = time.monotonic()
    assert sizes(waits.take()) == [1, 1, 1]
    assert time.monotonic() - started < 30
    waits = line(max_wait_ms=20, max_batch_size=3)
    waits.put(query(1))
    started = time.monotonic()
    assert sizes(waits.take()) == [1]
    assert time.monotonic() - started >= 0.019
