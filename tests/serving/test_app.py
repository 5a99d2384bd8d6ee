"""What the HTTP application answers and refuses."""

import asyncio
import contextlib
import json
import re
import sys
import threading
import time

import numpy as np
import pytest
import torch
from asgi import Client
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recommenders import make_recommender

from laser_peft.serving import ServingLimits, create_app
from laser_peft.serving.asking import read_request
from laser_peft.serving.refusals import Refused

LIMITS = ServingLimits(
    max_body_bytes=6000,
    max_histories=5,
    max_history_items=25,
    max_listed_items=30,
    max_id_length=9,
    max_k=17,
    max_batch_size=8,
    max_wait_ms=0,
    max_waiting=11,
    timeout_s=20,
)


@pytest.fixture(scope="module")
def recommender(lm_folder, encoder_folder, shop, tokenizer):
    return make_recommender(lm_folder, encoder_folder, shop, tokenizer)


async def until(holds):
    """Waits for a condition, not for ever."""
    ends = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < ends
        await asyncio.sleep(0.005)


@contextlib.contextmanager
def running(recommender, limits=LIMITS, *, until_ready=True):
    app = create_app(recommender, limits)
    worker = app.state.worker
    worker.start()
    try:
        if until_ready:
            asyncio.run(until(lambda: worker.is_ready))
        yield Client(app)
    finally:
        worker.stop()


@pytest.fixture(scope="module")
def client(recommender):
    with running(recommender) as client:
        yield client


@pytest.fixture
def held(recommender, monkeypatch):
    """Holds the model from ``go.clear()`` to ``go.set()``; notes what is computed together."""
    go, entered, read = threading.Event(), threading.Event(), recommender.read
    go.set()
    sizes = []

    def waits(histories, **options):
        sizes.append([tuple(map(int, history)) for history in histories])
        entered.set()
        assert go.wait(20)
        return read(histories, **options)

    monkeypatch.setattr(recommender, "read", waits)
    held = type("Held", (), {"go": go, "entered": entered, "batches": sizes})()
    yield held
    go.set()


def pairs(items):
    return [(item["item_id"], item["title"]) for item in items]


def expected(found):
    return [(item.item_id, item.title) for item in found]


def test_one_history_and_several_get_what_the_recommender_gives(client, recommender):
    status, headers, told = client.post({"history": ["i3", "i1"], "k": 4})
    alone = recommender.recommend(["i3", "i1"], 4)
    assert status == 200
    assert headers["x-content-type-options"] == "nosniff"
    assert pairs(told["items"]) == expected(alone)
    scores = [item["score"] for item in told["items"]]
    assert scores == pytest.approx([item.score for item in alone], abs=1e-4)
    several = [["i3"], [], ["i1", "i2"]]
    _, _, told = client.post({"histories": several, "k": 3, "exclude_seen": False, "deny": ["i5"]})
    for one, history in zip(told["results"], several, strict=True):
        alone = recommender.recommend(history, 3, exclude_seen=False, deny=["i5"])
        assert pairs(one["items"]) == expected(alone)
    _, _, told = client.post({"history": [], "allow": []})
    assert told == {"items": []}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (b"", "the body must be JSON: "),
        (b"\xff\xfe", "the body must be JSON: "),
        (b"[" * 2000, "the body must be JSON: "),
        (b"[]", "the body: Input should be an object, got \\[\\]"),
        ({}, "give either history, .* or histories"),
        ({"history": [], "histories": [[]]}, "give either history"),
        ({"histories": []}, "at least one history, got none"),
        ({"history": "i1"}, "history: Input should be a valid array, got 'i1'"),
        ({"history": ["i1", 7]}, r"history\.1: Input should be a valid string, got 7"),
        ({"histories": [["i1"], None]}, r"histories\.1: Input should be a valid array, got None"),
        ({"history": [], "k": 0}, r"k must lie in 1\.\.17, got 0"),
        ({"history": [], "k": 18}, r"k must lie in 1\.\.17, got 18"),
        ({"history": [], "k": "3"}, "k: Input should be a valid integer, got '3'"),
        ({"history": [], "k": 10**400}, r"k must lie in 1..17, got 10{78}…"),
        (b'{"history": [], "k": 1' + b"0" * 2900 + b"}", "k must lie in 1..17, got 1000"),
        (b'{"history": 1' + b"0" * 4900 + b"}", "JSON: .*number out of range"),
        (b'{"history": [], "k": 1' + b"0" * 4900 + b"}", "JSON: .*number out of range"),
        ({"history": [], "exclude_seen": 1}, "exclude_seen: Input should be a valid boolean"),
        ({"history": [], "users": 1}, "a request has history, .* deny, got 'users' too"),
        ({"history": ["i1"] * 26}, "may have 25 items, got 26; send the newest"),
        ({"histories": [[]] * 6}, "may have 5 histories, got 6"),
        ({"history": [], "deny": ["i1"] * 31}, "deny may have 30 items, got 31"),
        ({"history": ["i" * 10]}, "an item id may have 9 characters, got one of 10"),
        ({"history": [], "allow": ["i" * 10]}, "an item id may have 9 characters"),
    ],
)
def test_what_is_not_as_it_must_be_is_refused_with_its_reason(client, asked, message):
    status, _, told = client.post(asked)
    assert (status, told["error"]) == (422, "invalid")
    assert re.search(message, told["detail"])
    assert len(told["detail"]) < 400


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"history": ["i1", "<b>x"]}, "history: 1 of 2 .* of 23, the first is '<b>x'"),
        ({"histories": [["i1"], ["<b>x"]]}, r"histories\[1\]: 1 of 1 .*'<b>x'"),
        ({"history": [], "allow": ["<b>x"]}, "allow: 1 of 1 "),
        ({"history": [], "deny": ["<b>x"]}, "deny: 1 of 1 "),
    ],
)
def test_an_unknown_item_is_named_as_json_and_nothing_else(client, asked, where):
    status, headers, told = client.post(asked)
    assert (status, told["error"]) == (422, "unknown_item")
    assert headers["content-type"] == "application/json"
    assert re.search(where, told["detail"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
ITEMS = st.lists(st.sampled_from(["i0", "i5", "i22", "x", "", 3, None]), max_size=4) | JSON
FIELDS = {"history": ITEMS, "histories": st.lists(ITEMS, max_size=3) | JSON, "k": JSON}
FIELDS |= {"exclude_seen": JSON, "allow": ITEMS, "deny": ITEMS}
BODIES = (
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries({}, optional=FIELDS).map(lambda value: json.dumps(value).encode())
)


@settings(max_examples=100, deadline=None)
@example(body=b'{"history": ["\\ud800"]}')
@example(body=b'{"history": [], "k": NaN}')
@example(body=b'{"history": [], "history": ["i1"]}')
@given(body=BODIES)
def test_no_body_gets_anything_but_an_answer_or_a_reason(client, body):
    status, _, told = client.post(body)
    assert status in (200, 422)
    assert set(told) in ({"items"}, {"results"}, {"error", "detail"})


def test_too_large_a_body_is_refused_before_it_is_read(client):
    client.taken = 0
    status, _, told = client.post([b" "] * 3, headers=[("content-length", "6001")])
    assert (status, told["error"], client.answered_after) == (413, "too_large", 0)
    client.taken = 0
    status, _, told = client.post([b" " * 1000] * 50)  # as with chunked encoding: no length is said
    assert (status, told["error"], client.answered_after) == (413, "too_large", 7)
    assert client.taken == 50  # thrown away: else the line would break before it is answered
    assert "may have 6,000 bytes" in told["detail"]
    body = json.dumps({"history": ["i1"]}).encode()
    assert client.post([body, b" " * (6000 - len(body))])[0] == 200


def test_requests_that_wait_are_computed_together_and_each_gets_its_own(recommender, held):
    asked = [
        {"history": ["i3"], "k": 4},
        {"histories": [["i1", "i2"], []], "k": 7},
        {"history": ["i3"], "k": 2, "exclude_seen": False},
        {"history": ["i5"], "k": 3, "allow": ["i1", "i5", "i9"], "deny": ["i9"]},
    ]
    with running(recommender) as client:
        held.batches.clear()
        held.go.clear()

        async def all_at_once():
            first = asyncio.ensure_future(client.posted({"history": ["i9"]}))
            await until(lambda: held.batches)
            others = [asyncio.ensure_future(client.posted(one)) for one in asked]
            await until(lambda: client.app.state.worker.line.waiting >= 5)
            held.go.set()
            await first
            return await asyncio.gather(*others)

        answers = asyncio.run(all_at_once())
    assert [len(batch) for batch in held.batches] == [1, 5]
    for one, (status, _, told) in zip(asked, answers, strict=True):
        assert status == 200
        options = {name: one[name] for name in ("exclude_seen", "allow", "deny") if name in one}
        histories = one.get("histories") or [one["history"]]
        for history, found in zip(histories, told.get("results", [told]), strict=True):
            alone = recommender.recommend(history, one["k"], **options)
            assert pairs(found["items"]) == expected(alone)
            scores = [item["score"] for item in found["items"]]
            assert scores == pytest.approx([item.score for item in alone], abs=1e-4)


def test_what_no_one_waits_for_is_not_computed_and_a_full_line_says_come_again(recommender, held):
    with running(recommender) as client:
        held.batches.clear()
        held.go.clear()
        line = client.app.state.worker.line

        async def story():
            first = asyncio.ensure_future(client.posted({"history": ["i9"]}))
            await until(lambda: held.batches)
            goes = asyncio.Event()
            leaving = asyncio.ensure_future(client.posted({"histories": [["i1"]] * 5}, goes=goes))
            staying = [
                asyncio.ensure_future(client.posted({"histories": [["i2"]] * size}))
                for size in (5, 1)
            ]
            await until(lambda: line.waiting >= 11)
            refused = await client.posted({"history": ["i4"]})
            goes.set()
            left = await leaving
            more = asyncio.ensure_future(client.posted({"history": ["i4"]}))  # there is room now
            await asyncio.sleep(0.05)
            held.go.set()
            return refused, left, await asyncio.gather(first, *staying, more)

        (status, headers, told), left, answered = asyncio.run(story())
    assert (status, told["error"], headers["retry-after"]) == (503, "busy", "1")
    assert "11 histories wait already" in told["detail"]
    assert left[0] == 499
    assert [status for status, _, _ in answered] == [200] * 4
    i1, i2, i4 = 2, 3, 5
    assert held.batches[1:] == [[(i2,)] * 6 + [(i4,)]]
    assert (i1,) not in sum(held.batches, [])


def test_a_request_is_given_up_in_time(recommender, held):
    limits = ServingLimits(timeout_s=0.05, max_wait_ms=0)
    with running(recommender, limits) as client:
        held.go.clear()
        first = client.post({"history": ["i9"]})
        second = client.post({"history": ["i8"]})
        held.go.set()
    for status, headers, told in (first, second):
        assert (status, told["error"], headers["retry-after"]) == (503, "timeout", "1")
        assert "no answer within 0.05 s" in told["detail"]
    assert [(9,)] not in held.batches  # i8: it was taken out of the line


def test_of_requests_computed_together_only_the_one_that_fails_is_told_so(
    recommender, held, monkeypatch
):
    waits = recommender.read

    def poisoned(histories, **options):
        users = waits(histories, **options).clone()
        bad = [row for row, history in enumerate(histories) if 8 in history]  # i7
        users[bad] = torch.nan
        return users

    monkeypatch.setattr(recommender, "read", poisoned)
    with running(recommender) as client:
        held.go.clear()

        async def three():
            first = asyncio.ensure_future(client.posted({"history": ["i9"]}))
            await until(lambda: held.batches[1:])
            others = [
                asyncio.ensure_future(client.posted({"history": [item]})) for item in ("i3", "i7")
            ]
            await until(lambda: client.app.state.worker.line.waiting >= 2)
            held.go.set()
            return await asyncio.gather(first, *others)

        answers = asyncio.run(three())
        assert [status for status, _, _ in answers] == [200, 200, 500]
        assert answers[2][2] == {
            "error": "failed",
            "detail": "the recommender failed; the server's log says why",
        }
        assert client.get("/health")[0] == 200
        assert 'laser_peft_errors_total{kind="failed"} 1.0' in client.get("/metrics")[2].decode()


def test_it_is_healthy_at_once_and_ready_when_it_has_recommended(recommender, held):
    held.go.clear()
    with running(lambda: recommender, until_ready=False) as client:
        assert held.entered.wait(20)
        assert client.get("/health")[:3:2] == (200, {"status": "ok"})
        assert client.get("/ready")[:3:2] == (503, {"status": "not ready"})
        status, headers, told = client.post({"history": ["i1"]})
        assert (status, told["error"], headers["retry-after"]) == (503, "loading", "5")
        held.go.set()
        asyncio.run(until(lambda: client.app.state.worker.is_ready))
        assert client.get("/ready")[:3:2] == (200, {"status": "ready"})
        client.app.state.worker.drain()
        assert client.get("/ready")[0] == 503
        assert client.post({"history": ["i1"]})[0] == 200
    status, _, told = client.post({"history": ["i1"]})
    assert (status, told["error"]) == (503, "stopping")


@pytest.mark.parametrize("error", [ValueError("no such folder"), SystemExit(3)])
def test_what_cannot_be_loaded_is_not_healthy(error):
    def load():
        raise error

    with running(load, until_ready=False) as client:
        asyncio.run(until(lambda: not client.app.state.worker.is_healthy))
        assert client.get("/health")[:3:2] == (503, {"status": "failed"})
        assert client.get("/ready")[0] == 503
        assert client.post({"history": []})[2]["error"] == "failed"


def test_a_worker_that_dies_leaves_nobody_waiting(recommender, held, monkeypatch):
    with running(recommender) as client:
        held.batches.clear()
        held.go.clear()

        def dies(*_, **__):
            held.batches.append([])
            held.go.wait(20)
            raise SystemExit("killed")

        monkeypatch.setattr(recommender, "read", dies)

        async def two():
            first = asyncio.ensure_future(client.posted({"history": ["i1"]}))
            await until(lambda: held.batches)
            second = asyncio.ensure_future(client.posted({"history": ["i2"]}))
            await until(lambda: client.app.state.worker.line.waiting)
            held.go.set()
            return await asyncio.gather(first, second)

        answers = asyncio.run(two())
        assert [(status, told["error"]) for status, _, told in answers] == [(503, "failed")] * 2
        assert client.get("/health")[0] == 503


def test_metrics_count_requests_errors_and_batches(recommender):
    with running(recommender) as client:
        client.post({"histories": [["i1"], ["i2"]]})
        client.post({"history": ["nothing"]})
        status, headers, text = client.get("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    lines = text.decode().splitlines()
    for line in (
        'laser_peft_requests_total{status="200"} 1.0',
        'laser_peft_requests_total{status="422"} 1.0',
        'laser_peft_errors_total{kind="unknown_item"} 1.0',
        "laser_peft_request_seconds_count 2.0",
        "laser_peft_batch_histories_count 1.0",
        "laser_peft_batch_histories_sum 2.0",
        "laser_peft_waiting_histories 0.0",
        "laser_peft_ready 1.0",
    ):
        assert line in lines


def test_the_description_of_the_interface_has_the_fields_of_a_request(client):
    _, _, told = client.get("/openapi.json")
    content = told["paths"]["/recommend"]["post"]["requestBody"]["content"]
    assert set(content["application/json"]["schema"]["properties"]) == {
        *("history", "histories", "k", "exclude_seen", "allow", "deny")
    }


def test_without_the_extra_it_says_what_to_install(recommender, monkeypatch):
    monkeypatch.delitem(sys.modules, "laser_peft.serving.app")
    monkeypatch.delitem(sys.modules, "laser_peft.serving.metrics")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(
        ImportError, match=r"'prometheus_client': pip install 'laser-peft\[serve\]'"
    ):
        create_app(recommender)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_k": 0}, "max_k must be at least 1, got 0"),
        ({"max_wait_ms": -1}, "max_wait_ms must be at least 0, got -1"),
        ({"timeout_s": np.inf}, "timeout_s must be at least 0.001, got inf"),
    ],
)
def test_limits_that_cannot_be_say_so(options, message):
    with pytest.raises(ValueError, match=message):
        ServingLimits(**options)


def test_a_large_body_of_wrong_ids_is_refused_at_its_first():
    body = b'{"history": [' + b",".join([b"1"] * 400_000) + b"]}"
    with pytest.raises(Refused, match="history.0: Input should be a valid string, got 1"):
        read_request(body, ServingLimits())
    many = b"{" + b",".join(b'"x%d": 1' % number for number in range(50_000)) + b"}"
    with pytest.raises(Refused, match="deny, got 'x0' too"):
        read_request(many, ServingLimits())


@pytest.mark.parametrize(
    ("path", "status", "kind"), [("/nothing", 404, "not_found"), ("/recommend", 405, "method")]
)
def test_what_is_not_here_is_said_as_every_refusal(client, path, status, kind):
    got, _, told = client.get(path)
    assert (got, told["error"]) == (status, kind)
    assert "POST /recommend takes histories" in told["detail"]
