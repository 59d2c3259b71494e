"""`/api/v1/jobs`: the list of jobs, favorites, and deletion."""

import re

from starlette.requests import Request
from starlette.responses import Response

from umrgen.server.http import Services
from umrgen.server.http.api.batch import MAX_BODY, read_cursor, read_job_ids
from umrgen.server.http.api.responses import (
    DeletedJob,
    DeletedJobsAnswer,
    JobsPage,
    ListedJobAnswer,
    WebhookAnswer,
    json_response,
)
from umrgen.server.http.api.schemas import read_object, short
from umrgen.server.http.api.status import wire
from umrgen.server.http.problems import Problem
from umrgen.server.services.caller import Caller
from umrgen.server.services.job_search import job_filter
from umrgen.server.services.job_waits import JobListing

__all__ = ["MAX_PAGE", "delete", "delete_many", "jobs", "set_favorite"]

MAX_PAGE = 200
MAX_EDIT = 4096
"""Bytes of the body of `set_favorite`."""


async def jobs(services: Services, request: Request, caller: Caller) -> Response:
    """Return a page of the session's jobs, newest first."""
    query = request.query_params
    where = job_filter(query)
    limit = query.get("limit", "50")
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= MAX_PAGE:
        raise Problem("invalid_request", f"limit must be 1 to {MAX_PAGE}; got {short(limit)}", field="limit")
    found, cursor = await services.job_waits.page(
        caller, where=where, limit=int(limit), before=read_cursor(query.get("cursor"), "cursor") or None
    )
    listed = [_listed(services, each) for each in found]
    return json_response(JobsPage(jobs=listed, next_cursor=None if cursor is None else str(cursor)))


def _listed(services: Services, listing: JobListing) -> ListedJobAnswer:
    request = listing.view.job.request
    answer = wire(services, listing.view)
    return ListedJobAnswer(**answer, prompt=request.prompt, request=request, webhook=_webhook(listing))


def _webhook(listing: JobListing) -> WebhookAnswer | None:
    webhook = listing.webhook
    if webhook is None:
        return None
    return WebhookAnswer(webhook.state.value, webhook.attempts, webhook.last_error, webhook.next_at)


async def set_favorite(services: Services, request: Request, caller: Caller) -> Response:
    """Make the job a favorite, or not, and return it."""
    favorite = (await read_object(request, MAX_EDIT)).get("favorite")
    if not isinstance(favorite, bool):
        raise Problem("invalid_request", "favorite is required, and must be true or false", field="favorite")
    job = await services.job_edits.set_favorite(caller, request.path_params["job_id"], favorite)
    return json_response(wire(services, await services.job_waits.view(job)))


async def delete(services: Services, request: Request, caller: Caller) -> Response:
    """Delete the job, which is cancelled if it is not over."""
    job_id = request.path_params["job_id"]
    await services.job_edits.delete(caller, job_id)
    return json_response(DeletedJob(job_id=job_id))


async def delete_many(services: Services, request: Request, caller: Caller) -> Response:
    """Delete jobs; ids that are not jobs of the caller are listed, and change nothing."""
    job_ids = read_job_ids(await read_object(request, MAX_BODY))
    result = await services.job_edits.delete_many(caller, job_ids)
    return json_response(DeletedJobsAnswer(deleted=result.deleted, unknown=result.unknown))
