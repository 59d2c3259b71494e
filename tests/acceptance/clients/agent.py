"""The calls of a model that has read the tools' descriptions: it draws, repeats a call that was cut off, and waits.

A script that imports this gets its settings as JSON in its first argument, and prints one line when it is connected and
one with the outcome.
"""

import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

__all__ = ["SETTINGS", "draw"]

SETTINGS: Mapping[str, Any] = json.loads(sys.argv[1])
MOST_CALLS = 200

Call = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Calls a tool by its name; returns the structured half of the answer. Raises TimeoutError when the host cut it off."""


async def draw(call: Call) -> None:
    print(json.dumps({"connected": True}), flush=True)
    cut, states = 0, []
    answer: Mapping[str, Any] = {}
    for calls in range(1, MOST_CALLS + 1):
        try:
            if "job_id" in answer:
                answer = await call("wait_for_job", {"job_id": answer["job_id"]})
            else:
                answer = await call("generate_image", SETTINGS["request"])
            states.append(answer["state"])
        except TimeoutError:
            cut += 1
        if answer.get("state") == "completed":
            print(json.dumps({"calls": calls, "cut": cut, "states": states, "answer": answer}))
            return
    raise RuntimeError(f"not completed after {MOST_CALLS} calls")
