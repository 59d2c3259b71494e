"""The waiting rules as shared test vectors, derived by playing this package's own flows.

    python tests/vectors/make.py        writes tests/vectors/*.json anew

A vector says: given these answers, these requests at these moments, this outcome. `tests/unit/test_vectors.py` checks
that the flows still give what is on file; the JavaScript client's tests run the same files. Chance is fixed at the
middle, times are seconds since the start, option names are Python's.
"""

import base64
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

from umrgen.client.flow import CallContext, Event, Flow, Options, Reply, TransportFailure
from umrgen.client.flows.download import PartialState, classify_response, expected_size, resolve_output
from umrgen.client.flows.submit import submit
from umrgen.client.flows.wait import StatusPoller
from umrgen.client.flows.wait_many import BatchPoller
from umrgen.errors import UmrgenError
from umrgen.image_files import digest_from_headers, verify
from umrgen.model import Status
from umrgen.testing import play, png_bytes, reply

FOLDER = Path(__file__).parent
JOB = "ext_1"
KEY = "key-1"
IMAGE = "/outputs/s/a.png?session_id=s"
DONE = {"state": "completed", "image_url": IMAGE}

Json = dict[str, Any]


# --- answers, as they stand in the files ------------------------------------------------------------


def says(body: Json | str, status: int = 200, headers: Mapping[str, str] | None = None, after: float = 0.0) -> Json:
    """An answer `after` seconds: a JSON object, or a text as it is."""
    told: Json = {"status": status, "body": body}
    return told | ({"headers": dict(headers)} if headers else {}) | ({"after": after} if after else {})


def job(state: str = "running", headers: Mapping[str, str] | None = None, after: float = 0.0, **fields: Any) -> Json:
    return says({"state": state} | fields, 200, headers, after)


def fails(after: float = 0.0, *, sent: bool = False) -> Json:
    """No answer; `sent` is False when the request provably never arrived."""
    return {"fails": "reset" if sent else "refused", "sent": sent} | ({"after": after} if after else {})


DONE_ANSWER = says(DONE)
RECEIPT = says({"success": True, "job_id": JOB}, 202)
HEALTHY = says({"status": "ok"})
OLD_404 = says("<html>Cannot GET /healthz</html>", 404, {"Content-Type": "text/html"})
NOT_FOUND = says({"error": "Job not found"}, 404)
HELD = {"Preference-Applied": "wait=25"}
DATE = {"Date": "Tue, 24 Nov 2026 08:00:00 GMT"}


def played(answer: Json) -> Reply | TransportFailure:
    after = answer.get("after", 0.0)
    if "fails" in answer:
        return TransportFailure(answer["fails"], at=after, sent=answer["sent"])
    return reply(answer["body"], answer["status"], answer.get("headers"), elapsed=after)


def supply(case: Json) -> Iterator[Reply | TransportFailure]:
    """The case's answers; with `repeat`, the last one over and over."""
    answers = [played(answer) for answer in case["answers"]]
    yield from answers
    if case.get("repeat"):
        yield from repeat(answers[-1])


# --- what a flow does with them ---------------------------------------------------------------------

TOLD_HEADERS = ("Prefer", "If-None-Match", "Idempotency-Key")


def request(at: float, step: Any) -> Json:
    headers = {name: step.headers[name] for name in TOLD_HEADERS if name in step.headers}
    body = {} if step.body is None else {"body": json.loads(step.body)}
    return {"at": round(at, 3), "method": step.method, "path": step.path, "headers": headers} | body


def outcome_of(result: Any) -> Json:
    if isinstance(result, UmrgenError):
        status = getattr(result, "status", None)
        return {
            "error": type(result).__name__,
            "code": result.code,
            "retryable": result.retryable,
            "job_id": result.job_id,
            "status": status,
            "sent": result.sent,
        }
    if isinstance(result, Status):
        names = ("state", "images", "error", "error_code", "queue_position", "eta_seconds", "step", "total_steps")
        return {name: getattr(result, name) for name in (*names, "seed", "engine", "retry_after_ms")}
    return {"job_id": result["job_id"]}


def waiting(run: CallContext) -> "Flow[Status]":
    return StatusPoller(run, JOB).result()


def watching(run: CallContext) -> "Flow[Status]":
    """Every change, one after the other."""
    watch = StatusPoller(run, JOB)
    while True:
        status = yield from watch.next_change()
        if status.over:
            return status


def many(run: CallContext) -> "Flow[list[Json]]":
    watch, over = BatchPoller(run, ["ext_0", "ext_1", "ext_2"]), []
    while watch.pending:
        found = yield from watch.next_finished()
        over += [{"job_id": job_id} | outcome_of(result) for job_id, result in found.items()]
    return over


FLOWS: Mapping[str, Callable[[CallContext], "Flow[Any]"]] = {
    "wait": waiting,
    "watch": watching,
    "submit": lambda run: submit(run, {"prompt": "x"}, KEY),
    "submit_for_slot": lambda run: submit(run, {"prompt": "x"}, KEY, wait_for_slot=True),
    "many": many,
}


def vector(case: Json) -> Json:
    """`case` with what the Python flow makes of it."""
    events: list[Event] = []
    run = CallContext(Options(**case.get("options", {})), 0.0, notify=events.append, random=lambda: 0.5)
    done = play(FLOWS[case["flow"]](run), supply(case))
    told = done.outcome if isinstance(done.outcome, list) else outcome_of(done.outcome)
    return case | {
        "requests": [request(sent.at, sent.step) for sent in done.sent],
        "events": [event.kind for event in events],
        "outcome": told,
    }


def case(name: str, flow: str, *answers: Json, again: bool = False, **options: Any) -> Json:
    told: Json = {"name": name, "flow": flow}
    return (
        told
        | ({"options": options} if options else {})
        | {"answers": list(answers)}
        | ({"repeat": True} if again else {})
    )


# --- the cases --------------------------------------------------------------------------------------


def pace() -> list[Json]:
    later = "Tue, 24 Nov 2026 08:00:09 GMT"
    words: list[tuple[str, Mapping[str, str], Json]] = [
        ("Retry-After in seconds", {"Retry-After": "7"}, {}),
        ("Retry-After as a date", {"Retry-After": later} | DATE, {}),
        ("Retry-After as a date that is over", {"Retry-After": "Tue, 24 Nov 2020 08:00:00 GMT"} | DATE, {}),
        ("Retry-After as a date without a Date, by the clock", {"Retry-After": "Fri, 15 Jan 2027 08:00:20 GMT"}, {}),
        ("Retry-After beyond reason is capped", {"Retry-After": "86400"}, {}),
        ("Retry-After 0 is no licence to storm", {"Retry-After": "0"}, {}),
        ("Retry-After that is no number or date", {"Retry-After": "soon"}, {}),
        ("Retry-After that a lenient date parser would take", {"Retry-After": "7.5"}, {}),
        ("a negative Retry-After", {"Retry-After": "-5"}, {}),
        ("retry_after_ms", {}, {"retry_after_ms": 4000}),
        ("a negative retry_after_ms", {}, {"retry_after_ms": -4000}),
        ("retry_after_ms of a wrong type", {}, {"retry_after_ms": "4000"}),
        ("Retry-After before retry_after_ms", {"Retry-After": "7"}, {"retry_after_ms": 4000}),
        ("an ETA", {}, {"eta_seconds": 10}),
        ("an ETA that is far off", {}, {"eta_seconds": 400}),
        ("an ETA that is near", {}, {"eta_seconds": 1}),
        ("an ETA that is true or false", {}, {"eta_seconds": True}),
    ]
    return [
        case(
            "without a word: 3 s queued, 2 s running",
            "wait",
            *[job("queued"), job("queued"), job(), job(), DONE_ANSWER],
        ),
        *[case(name, "wait", job("running", headers, **more), DONE_ANSWER) for name, headers, more in words],
        case(
            "an old server's ETA repeats itself: its first word counts", "wait", *[job(eta_seconds=40)] * 8, DONE_ANSWER
        ),
        case("an ETA leaves room for one more look", "wait", *[job(eta_seconds=400)] * 4, DONE_ANSWER, timeout=30),
        case(
            "a new state has an ETA of its own",
            "wait",
            job("queued", eta_seconds=20),
            *[job(eta_seconds=20)] * 3,
            DONE_ANSWER,
        ),
        case(
            "a server that holds is asked again at once",
            "wait",
            job("queued", HELD, 25.0),
            job("running", HELD, 25.0),
            says(DONE, 200, HELD),
        ),
        case("a server that says it holds and does not", "wait", *[job("running", HELD)] * 3, DONE_ANSWER),
        case("no hold is asked for with wait 0", "wait", job(), DONE_ANSWER, wait=0),
        case(
            "the options' own intervals",
            "wait",
            job("queued"),
            job(),
            DONE_ANSWER,
            queued_interval=8,
            running_interval=5,
        ),
        case(
            "every change is asked for by version",
            "watch",
            job("queued", {"ETag": '"1"'}, queue_position=2),
            job("queued", {"ETag": '"2"'} | HELD, 4.0, queue_position=1),
            says("", 304, {"ETag": '"2"'} | HELD, 25.0),
            job("running", {"ETag": '"3"'} | HELD, 1.0, progress={"step": 1, "total": 4}),
            job("running", {"ETag": '"4"'} | HELD, 1.0, progress={"step": 3, "total": 4}),
            says(DONE, 200, {"ETag": '"5"'} | HELD, 1.0),
        ),
        case("every change on an old server", "watch", job("queued"), job("queued"), job(), job(), DONE_ANSWER),
        case(
            "follow asks for every change too",
            "wait",
            job("queued", {"ETag": '"1"'}),
            says(DONE, 200, HELD, 3.0),
            follow=True,
        ),
        case("the caller's own pace in an id", "wait", job(), DONE_ANSWER, running_interval=30, jitter=0),
    ]


def patience() -> list[Json]:
    trouble = [fails(), says("", 500), says("<html>", 502), says("", 503), says("", 504), fails(sent=True)]
    garbage = says("<html>hello</html>")
    cut = says('{"state": "run')
    limited = says({"error": "too many"}, 429)
    full = says({"error": "the queue is full", "code": "queue_full"}, 429, {"Retry-After": "5"})
    return [
        case("a status outlasts minutes of trouble", "wait", *trouble, garbage, cut, DONE_ANSWER),
        case("it ends and says so", "wait", fails(), again=True),
        case("it ends with the server's own trouble", "wait", job(), says("", 502), again=True, patience=20),
        case("a good answer starts it anew", "wait", *[fails()] * 8, job(), *[fails()] * 8, DONE_ANSWER, patience=100),
        case("silence is cut off by the request's own time-out", "wait", fails(1000, sent=True), DONE_ANSWER),
        case("a slow answer too", "wait", job(after=1000.0), DONE_ANSWER),
        *[
            case(f"Retry-After {asked} of a 503", "wait", says("", 503, {"Retry-After": asked}), DONE_ANSWER)
            for asked in ("9", "86400", "0")
        ],
        case("408 and 425 may pass", "wait", says("", 408), says("", 425), DONE_ANSWER),
        case("501 will not", "wait", says("", 501)),
        case("a 429 without a word is waited out", "wait", *[limited] * 4, DONE_ANSWER),
        case("a 429 with Retry-After", "wait", full, full, DONE_ANSWER),
        case("after a 429 there is a budget", "wait", limited, *[job()] * 12, DONE_ANSWER, requests_a_minute=5),
        case("a server never understood is not UMRGEN", "wait", garbage, again=True),
        case("nor one that says nothing", "wait", says(""), again=True),
        case(
            "nor JSON that is no object, nor one without a state",
            "wait",
            says("[]"),
            says({"success": True}),
            again=True,
        ),
        case(
            "once understood, it gets more patience", "wait", job(), garbage, cut, says(""), *[garbage] * 5, DONE_ANSWER
        ),
        case("401", "wait", says({"error": "Unauthorized: bad key"}, 401)),
        case(
            "401 in the middle",
            "wait",
            job(),
            says({"error": "bad key", "code": "unauthorized", "success": False}, 401),
        ),
        case("403", "wait", says("", 403)),
        case("403 as an HTML page", "wait", says("<html>tunnel", 403)),
        case("a redirect", "wait", says("", 302, {"Location": "https://evil.example/x"})),
        case("400", "wait", says({"error": "bad id"}, 400)),
        case("a code the client does not know", "wait", says({"error": "no", "code": "on_strike"}, 418)),
        case("a code that names a thing of the language", "wait", says({"error": "no", "code": "constructor"}, 418)),
        case("404 on a job never seen", "wait", NOT_FOUND),
        case("404 on a job that was there", "wait", job(), NOT_FOUND),
        case("404 as an HTML page is not this API's", "wait", OLD_404),
        case("JSON is JSON, whatever its type says", "wait", NOT_FOUND | {"headers": {"Content-Type": "text/html"}}),
    ]


def deadline() -> list[Json]:
    return [
        case("it is kept and names the job", "wait", job(), again=True, timeout=10),
        case("held calls are cut to what is left", "wait", job("running", HELD, 25.0), again=True, timeout=40),
        case("a hang is cut to it", "wait", job(), fails(1000, sent=True), again=True, timeout=20),
        case("trouble until it ends", "wait", fails(), again=True, timeout=12),
        case("the queue has its own", "wait", job("queued"), again=True, queue_timeout=10),
        case(
            "a hold is cut to that too",
            "wait",
            job("queued", {"Preference-Applied": "wait=10"}, 10.0),
            again=True,
            queue_timeout=10,
        ),
        case("which ends with the queue", "wait", *[job("queued")] * 3, *[job()] * 6, DONE_ANSWER, queue_timeout=10),
        case(
            "without one it waits on", "wait", *[job("running", {"Retry-After": "60"})] * 20, DONE_ANSWER, timeout=None
        ),
    ]


def meaning() -> list[Json]:
    empty = job("completed", results={"images": []}, image_url=None)
    batch = [{"url": IMAGE}, "/outputs/s/b.png", {"no": 1}, 7, {"url": "/outputs/s/c.png"}]
    steps = [job("running", progress={"step": n, "total": 40}) for n in range(40)]
    return [
        case("a stall is told once and ends nothing", "wait", *[job()] * 45, DONE_ANSWER),
        case("a stall may be raised", "wait", job(), again=True, on_stall="raise", stall_after=30),
        case("progress is no stall", "wait", *steps, DONE_ANSWER, on_stall="raise"),
        case(
            "a stall that ended may be told again",
            "wait",
            *[job()] * 4,
            steps[3],
            *[job()] * 6,
            DONE_ANSWER,
            stall_after=4,
        ),
        case(
            "an unknown state is waited through and told once",
            "wait",
            job("paused"),
            job("paused"),
            job("odd"),
            DONE_ANSWER,
        ),
        case("a state may go backwards", "wait", job(), job("queued"), job(), DONE_ANSWER),
        case("completed without an image gets one more look", "wait", empty, DONE_ANSWER),
        case("and is missing after it", "wait", empty, empty),
        case("an old server's first minute", "wait", job("completed", results={"images": [{"url": IMAGE}]})),
        case(
            "that look asks for the whole, not for a change",
            "wait",
            job("queued", {"ETag": '"1"'}),
            job("completed", {"ETag": '"2"'}, results={"images": []}),
            DONE_ANSWER,
            follow=True,
        ),
        case("every image of a batch", "wait", job("completed", image_url=IMAGE, results={"images": batch})),
        case("results of wrong types", "wait", job("completed", image_url=7, results=[IMAGE]), empty),
        case("failed, with its reason", "wait", job("failed", error="out of memory", error_code="engine_failed")),
        case("failed, without one", "wait", job("failed")),
        case(
            "every field of a status",
            "watch",
            job(
                "completed",
                image_url=IMAGE,
                queue_position=0,
                eta_seconds=1.5,
                progress={"step": 4.0, "total": 4},
                seed=847291,
                engine="procedural",
                retry_after_ms=2000,
            ),
        ),
        case(
            "fields of wrong types are not there",
            "watch",
            job(
                "failed",
                error=7,
                error_code="",
                queue_position="1",
                eta_seconds=-1,
                progress=[4, 4],
                seed=None,
                engine={},
            ),
        ),
    ]


def submitting() -> list[Json]:
    draining = says({"success": False, "error": "stopping", "code": "draining"}, 503, {"Retry-After": "5"})
    limited = says({"error": "slow down"}, 429, {"Retry-After": "20"})
    taken = says({"error": "CONCURRENT_LIMIT", "job_id": "ext_9"}, 429)
    newer = says({"error": "one at a time", "code": "concurrent_limit", "job_id": "ext_9"}, 429)
    unclear = {
        "a reset": fails(sent=True),
        "silence": fails(1000, sent=True),
        "500": says("", 500),
        "502": says("<html>", 502),
        "503 without a code": says("", 503),
        "504": says("", 504),
        "a receipt that cannot be read": says("<html>", 202),
    }
    return [
        case("once and under a key", "submit", RECEIPT),
        case("200 and 201 are receipts too", "submit", says({"job_id": JOB}, 201)),
        case("what never arrived is sent again under the same key", "submit", fails(), fails(), RECEIPT),
        *[
            case(f"after {name}, again where keys are kept", "submit", answer, HEALTHY, RECEIPT)
            for name, answer in unclear.items()
        ],
        *[
            case(f"after {name}, never on an older server", "submit", answer, OLD_404)
            for name, answer in unclear.items()
        ],
        case("/healthz that is not ours", "submit", fails(sent=True), says({"status": "green"})),
        case(
            "while that is unknown nothing is repeated",
            "submit",
            fails(sent=True),
            fails(),
            says("", 503),
            HEALTHY,
            RECEIPT,
        ),
        case("when the deadline ends it, its reason stays", "submit", fails(sent=True), timeout=0.4),
        case("nor when it stays unknown", "submit", fails(sent=True), fails(), again=True),
        case("a refusal with a code was not looked at", "submit", draining, RECEIPT),
        case("a rate limit is waited out", "submit", limited, limited, RECEIPT),
        case("one without a time as well", "submit", says({"error": "slow down"}, 429), RECEIPT),
        case("up to the deadline, whose reason it is", "submit", limited, again=True, timeout=50),
        case("a slot taken is said", "submit", taken),
        case("in a newer server's words", "submit", newer),
        case("or waited for", "submit_for_slot", taken, job(), DONE_ANSWER, RECEIPT),
        case("also when its job is gone", "submit_for_slot", taken, NOT_FOUND, RECEIPT),
        case("without a storm when it stays taken", "submit_for_slot", taken, DONE_ANSWER, taken, taken, RECEIPT),
        case("within the deadline", "submit_for_slot", taken, job(), again=True, timeout=20),
        case("no answer at all ends soon", "submit", fails(), again=True),
        case("and the deadline may come first", "submit", fails(), again=True, timeout=3),
        case("a receipt must name a job", "submit", says({"success": True})),
        case("and be JSON", "submit", says("<html>")),
        case("401", "submit", says({"error": "Unauthorized: bad key"}, 401)),
        case("400", "submit", says({"error": "prompt: too long", "code": "invalid_request", "field": "prompt"}, 400)),
        case("a prompt that is refused", "submit", says({"error": "no", "code": "content_policy"}, 400)),
        case("a key used for another request", "submit", says({"error": "no", "code": "idempotency_conflict"}, 422)),
        case("a redirect", "submit", says("", 307, {"Location": "https://evil.example/"})),
    ]


def together() -> list[Json]:
    done = [DONE | {"job_id": f"ext_{n}"} for n in range(3)]

    def batch(jobs: list[Json], cursor: str = "1", unknown: list[str] | None = None, after: float = 0.0) -> Json:
        return says({"jobs": jobs, "cursor": cursor, "unknown": unknown or []}, 200, HELD, after)

    lost = says("<html>Cannot POST</html>", 404)
    running = {"job_id": "ext_1", "state": "running"}
    return [
        case(
            "one call for all",
            "many",
            batch([done[1]], "5"),
            batch([], "5", after=25.0),
            batch([done[0], done[2]], "7"),
        ),
        case("what the server does not know", "many", batch([done[0], done[2]], "5", ["ext_1", "ext_7"])),
        case("a server that repeats itself is not stormed", "many", *[batch([running])] * 4, batch(done)),
        case("an answer that is cut off", "many", says('{"jobs": ['), batch(done)),
        case("trouble in between", "many", batch([done[0]]), fails(), says("", 502), batch(done)),
        case("in turns on an older server", "many", lost, *[job()] * 12, DONE_ANSWER, NOT_FOUND, DONE_ANSWER),
        case("405 is an older server too", "many", says("", 405), *[DONE_ANSWER] * 3),
        case("the deadline is for all of them", "many", batch([]), again=True, timeout=20),
        case("a refused key concerns them all", "many", says({"error": "bad key"}, 401)),
    ]


def waits() -> Json:
    groups = {
        "pace": pace(),
        "patience": patience(),
        "deadline": deadline(),
        "meaning": meaning(),
        "submitting": submitting(),
        "many": together(),
    }
    return {name: [vector(item) for item in items] for name, items in groups.items()}


# --- addresses, downloads, images: plain functions --------------------------------------------------


def addresses() -> list[Json]:
    host, prefix = "https://host.example", "https://host.example/umrgen/"
    urls = [
        *[
            (host, IMAGE),
            (host + "/", IMAGE),
            (prefix, IMAGE),
            (host, "/"),
            (host, "/a b.png"),
            (host, "/\u00e9.png?q=\u00e9#x"),
        ],
        *[(host, f"{host}/outputs/a.png"), (host, "HTTPS://HOST.example:443/a.png"), (host, f"{host}:8443/a.png")],
        *[(host, "http://host.example/a.png"), (host, "https://evil.example/a.png"), (host, "//evil.example/a.png")],
        *[(host, "/\\evil.example/a.png"), (host, "\\\\evil.example"), (host, "https://host.example\\@evil.example/")],
        *[(host, "https://host.example.evil.example/"), (host, "https:/evil.example"), (host, "file:///etc/passwd")],
        *[(host, "data:image/png;base64,AAAA"), (host, "javascript:alert(1)"), (host, "outputs/a.png"), (host, "")],
        *[(host, " /a.png"), (host, "https://evil.example/a b"), (host, "ht\ntps://evil.example")],
        *[("http://127.0.0.1:3088", IMAGE), ("http://127.0.0.1:3088", "http://127.0.0.1:3089/a.png")],
    ]
    cases = []
    for base, url in urls:
        for foreign in (False, True):
            try:
                full, with_key = resolve_output(base, url, follow_foreign=foreign)
                told: Json = {"url": full, "with_key": with_key}
            except UmrgenError as error:
                told = {"error": type(error).__name__, "code": error.code}
            cases.append({"base_url": base, "image_url": url, "follow_foreign": foreign, "outcome": told})
    return cases


def downloads() -> list[Json]:
    half = PartialState(500, '"v1"')
    weak = PartialState(500, 'W/"v1"')
    partial = {"Content-Range": "bytes 500-999/1000", "ETag": '"v1"'}
    digest = "sha-256=:" + base64.b64encode(bytes(range(32))).decode() + ":"
    answers: list[tuple[int, dict[str, str], PartialState]] = [
        (200, {"Content-Length": "1000", "ETag": '"v1"'}, PartialState()),
        (200, {"Content-Length": "1000", "ETag": '"v2"'}, half),
        (200, {"Content-Length": "77", "Content-Encoding": "gzip"}, PartialState()),
        (200, {"Content-Length": "-1"}, PartialState()),
        (200, {"Repr-Digest": digest}, PartialState()),
        (200, {"Content-Digest": f"md5=:AA==:, {digest}"}, PartialState()),
        (200, {"Repr-Digest": "sha-256=:AAAA:"}, PartialState()),
        (200, {"Repr-Digest": "sha-512=:AA==:, sha-256"}, PartialState()),
        (206, partial, half),
        (206, partial | {"Content-Digest": digest}, half),
        (206, partial | {"Repr-Digest": digest}, half),
        (206, partial, weak),
        (206, partial | {"ETag": 'W/"v1"'}, weak),
        (206, partial | {"ETag": '"v2"'}, half),
        (206, partial | {"Content-Range": "bytes 400-999/1000"}, half),
        (206, partial | {"Content-Range": "bytes 500-999/*"}, half),
        (206, {"ETag": '"v1"'}, half),
        (206, {"Last-Modified": "x", "Content-Range": "bytes 500-999/1000"}, PartialState(500, "x")),
        *[(status, {}, half) for status in (400, 401, 403, 404, 410, 416, 418, 429, 500, 503)],
    ]
    cases = []
    for status, headers, have in answers:
        lower = {name.lower(): value for name, value in headers.items()}
        try:
            told: Json = {"continues": classify_response(status, lower, have) == "append"}
            told |= {"size": expected_size(status, lower), "sha256": digest_from_headers(lower, partial=status == 206)}
        except ValueError:
            told = {"error": "stale"}
        except UmrgenError as error:
            told = {"error": type(error).__name__, "code": error.code}
        before = {"size": have.size, "validator": have.validator}
        asked = {name: value for name, value in have.headers().items() if "Range" in name}
        cases.append({"status": status, "headers": headers, "have": before, "asked": asked, "outcome": told})
    return cases


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def images() -> list[Json]:
    png = png_bytes(300)
    magic, header, end = png[:8], png[8:33], png[-12:]
    # The smallest frames that say their size; the picture itself is not decoded.
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, 24, 40, 1) + b"\1\x11\0"
    jpeg = b"\xff\xd8\xff\xe0" + struct.pack(">H", 6) + b"JFIF" + frame + b"\xff\xda\0\2\x12\x34\xff\xd9"

    def webp(kind: bytes, body: bytes) -> bytes:
        inner = b"WEBP" + kind + struct.pack("<I", len(body)) + body
        return b"RIFF" + struct.pack("<I", len(inner)) + inner

    lossy = webp(b"VP8 ", b"\x30\1\0\x9d\1\x2a" + struct.pack("<HH", 40, 24) + bytes(4))
    lossless = webp(b"VP8L", b"\x2f" + struct.pack("<I", 39 | 23 << 14) + bytes(9))
    extended = webp(b"VP8X", bytes(4) + (39).to_bytes(3, "little") + (23).to_bytes(3, "little") + bytes(6))
    broken = bytearray(png)
    broken[60] ^= 1
    files: list[tuple[str, bytes, Json]] = [
        ("a PNG", png, {"length": len(png)}),
        ("a PNG of another length", png, {"length": len(png) - 1}),
        ("a PNG of another digest", png, {"sha256": "00" * 32}),
        ("a PNG with its digest", png, {"sha256": verify(png).sha256}),
        ("a PNG with a changed byte", bytes(broken), {}),
        *[(f"a PNG cut to {size}", png[:size], {}) for size in (1, 8, 13, 40, len(png) - 12, len(png) - 1)],
        ("a PNG with more after its end", png + b"x", {}),
        ("a PNG without a picture", magic + header + end, {}),
        ("a PNG without a header", magic + chunk(b"IDAT", b"x") + end, {}),
        ("a PNG whose header is short", magic + chunk(b"IHDR", b"x") + chunk(b"IDAT", b"x") + end, {}),
        ("a PNG with a chunk longer than all", magic + b"\xff\xff\xff\xffIHDR" + bytes(20), {}),
        ("a JPEG", jpeg, {}),
        ("a JPEG that is padded", jpeg + bytes(3), {}),
        ("a JPEG without its end", jpeg[:-1], {}),
        ("a JPEG without a frame", b"\xff\xd8\xff\xd9" + b"\xff\xd9", {}),
        ("a lossy WebP", lossy, {}),
        ("a lossless WebP", lossless, {}),
        ("an extended WebP", extended, {}),
        ("a WebP that is cut", lossy[:-1], {}),
        ("a WebP with more", lossy + b"x", {}),
        ("a WebP without a picture", webp(b"ALPH", bytes(20)), {}),
        ("a WebP of a head alone", webp(b"", b"")[:12], {}),
        ("nothing", b"", {}),
        ("an HTML page", b"<!doctype html><p>hello", {}),
        ("JSON", b' {"error": "gone"}', {}),
        ("a GIF", b"GIF89a" + bytes(20), {}),
    ]
    cases = []
    for name, data, promised in files:
        try:
            facts = verify(data, **promised)
            told: Json = {name: getattr(facts, name) for name in ("media_type", "sha256", "width", "height")}
        except UmrgenError as error:
            told = {"error": type(error).__name__, "code": error.code}
        encoded = base64.b64encode(data).decode()
        cases.append({"name": name, "base64": encoded, "promised": promised, "outcome": told})
    return cases


FILES: Mapping[str, Callable[[], Any]] = {
    "waits": waits,
    "addresses": addresses,
    "downloads": downloads,
    "images": images,
}


def text(name: str) -> str:
    """A file as it should stand: one case a line, so that a change of a rule shows in a diff."""
    data = FILES[name]()
    groups = data if isinstance(data, dict) else {name: data}
    lines = [
        f"{json.dumps(group)}: [\n" + ",\n".join(json.dumps(item, ensure_ascii=True) for item in items) + "\n]"
        for group, items in groups.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    for name in FILES:
        (FOLDER / f"{name}.json").write_text(text(name))
