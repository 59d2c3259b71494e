"""Examples of requests and responses for the OpenAPI document. A test decodes each by its type."""

from typing import Any

__all__ = ["EXAMPLES", "IMAGE", "SESSION"]

_JOB = "ext_3b5d5c37129550420c1b2f6f0a4a0b7e"
SESSION = "sid_1c7f5e0b9a3d4826b5f0e2d17c9a8841"
IMAGE = "umrgen_847291_9f86d081884c7d659a2feaa0c55ad015.png"
_URL = f"/outputs/{SESSION}/{IMAGE}?session_id={SESSION}"
_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

_DONE: dict[str, Any] = {
    "success": True,
    "job_id": _JOB,
    "state": "completed",
    "image_url": _URL,
    "results": {
        "images": [
            {
                "url": _URL,
                "thumbnail_url": f"/outputs/{SESSION}/{IMAGE}.thumb.webp?session_id={SESSION}",
                "filename": IMAGE,
                "bytes": 1_482_113,
                "sha256": _DIGEST,
                "width": 1024,
                "height": 1024,
                "media_type": "image/png",
            }
        ]
    },
    "error": None,
    "error_code": None,
    "queue_position": None,
    "eta_seconds": None,
    "progress": {"step": 4, "total": 4},
    "created_at": 1795329417360,
    "started_at": 1795329417402,
    "completed_at": 1795329421118,
    "engine": "procedural",
    "seed": 847291,
    "priority": 0,
    "favorite": False,
    "attempt": 1,
    "retry_after_ms": None,
    "next": "Append image_url to the base URL exactly as it is, and download it.",
}

EXAMPLES: dict[str, Any] = {
    "GenerationRequest": {"prompt": "a lighthouse on a cliff at dusk", "width": 1024, "height": 1024, "steps": 4},
    "StatusRequest": {"job_ids": [_JOB], "since": "18"},
    "JobAnswer": _DONE,
    "Changes": {"success": True, "jobs": [_DONE], "unknown": [], "cursor": "19"},
    "ProblemAnswer": {
        "type": "about:blank",
        "title": "No such job",
        "status": 404,
        "detail": "the job does not exist, was deleted, or belongs to another session",
        "success": False,
        "error": "the job does not exist, was deleted, or belongs to another session",
        "code": "job_not_found",
        "retryable": False,
        "next": "Check the job id; a job belongs to the key that made it.",
    },
    "Receipt": {
        "success": True,
        "job_id": _JOB,
        "state": "queued",
        "message": "Job accepted.",
        "status_url": f"/api/v1/status/{_JOB}",
        "retry_after_ms": 3000,
        "next": f"GET /api/v1/status/{_JOB} until state is completed or failed.",
        "warnings": [],
    },
}
