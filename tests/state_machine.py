"""Print docs/state-machine.md from the transition table: `python tests/state_machine.py > docs/state-machine.md`."""

from umrgen.model import State
from umrgen.server.domain.job import TRANSITIONS, Change

__all__ = ["page"]

MEANINGS = {
    Change.CLAIM: "a worker takes a lease on the job, with a new fencing token",
    Change.PROGRESS: "the worker reports a step, or renews the lease",
    Change.COMPLETE: "the images are in the blob store, synced, and recorded",
    Change.FAIL: "the engine cannot draw it, or the last attempt failed",
    Change.RELEASE: "the worker releases the job, or its lease has expired",
    Change.CANCEL: "the caller cancels it",
}


def page() -> str:
    """Return the page as Markdown, with a diagram in Mermaid."""
    lines = [
        "# The state machine of a job",
        "",
        "Printed by `tests/state_machine.py` from `TRANSITIONS` in `src/umrgen/server/domain/job.py`; a test compares",
        "them. `advance` is the only function that changes a state. `completed` and `failed` are final.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        f"    [*] --> {State.QUEUED}: submit",
    ]
    lines += [f"    {before} --> {after}: {change}" for (before, change), after in TRANSITIONS.items()]
    lines += [f"    {state} --> [*]" for state in State if state.over]
    lines += ["```", "", "| from | change | to | when |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {before} | {change} | {after} | {MEANINGS[change]} |" for (before, change), after in TRANSITIONS.items()
    ]
    lines += ["", "Every other change of a state is a `Conflict`, and changes nothing."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
