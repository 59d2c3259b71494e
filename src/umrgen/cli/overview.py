"""The overview of `umrgen --help`: the commands by their purpose, each in one sentence, without importing them."""

__all__ = ["SECTIONS", "summary_of"]

SECTIONS: dict[str, dict[str, str]] = {
    "Draw": {
        "generate": "Draw an image from a prompt, and save it.",
        "submit": "Create a job, and print its id.",
        "upload": "Upload a reference image; list and delete those there are.",
    },
    "Jobs": {
        "jobs": "List the jobs, newest first.",
        "status": "Print the status of a job.",
        "watch": "Print each change of a job until it is over.",
        "wait": "Wait until jobs are over.",
        "fetch": "Save the image of a job.",
        "cancel": "Cancel a job.",
        "delete": "Delete jobs and their images from the server.",
        "resume": "Finish the jobs of interrupted commands.",
        "forget": "Drop unfinished jobs from the journal of this machine.",
    },
    "Image files": {
        "show": "Print how an image file was made, and show it.",
        "verify": "Check the mark and the signature of image files.",
    },
    "This machine": {
        "login": "Store a server's address and a key for it.",
        "logout": "Remove a stored address and key.",
        "config": "Show the settings in force; check a settings file.",
        "doctor": "Check the settings, this machine and the server.",
        "completion": "Print the completion of commands for a shell.",
        "mcp": "Serve image tools to an agent on this machine.",
        "bench": "Measure a server under a fixed load.",
    },
    "A server of your own": {
        "setup": "Set up a server on this machine.",
        "serve": "Start the server.",
        "work": "Draw the jobs of a ledger, for servers elsewhere.",
        "studio": "Print a link that opens the studio.",
        "engine": "Check, plan and release engines.",
        "keys": "Create, list and revoke API keys.",
        "ledger": "Check, back up, copy and compact the ledger.",
        "provenance": "Make and check the certificate that signs images.",
    },
}
"""Commands that are not listed here appear below the last section."""


def summary_of(name: str) -> str:
    """Return the sentence about a command; "" when it has none here."""
    return next((commands[name] for commands in SECTIONS.values() if name in commands), "")
