"""The promises of the documents, the line that keeps each of them, and the test that fails when it is broken."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["MUTATIONS", "Mutation", "table"]


@dataclass(frozen=True)
class Mutation:
    """One line of the sources, broken."""

    name: str
    promise: str
    """What is promised, in short; the first word names the document: README, reliability, security, webhooks,
    contract."""
    file: str
    old: str
    """Stands in the file exactly once."""
    new: str
    tests: tuple[str, ...]
    """Ids of tests of which one fails at least."""


def _server(name: str, promise: str, file: str, old: str, new: str, *tests: str) -> Mutation:
    return Mutation(name, promise, f"src/umrgen/server/{file}", old, new, tests)


def _client(name: str, promise: str, file: str, old: str, new: str, *tests: str) -> Mutation:
    return Mutation(name, promise, f"src/umrgen/{file}", old, new, tests)


JOBS = "tests/unit/test_jobs.py::TestLeasesAndTimes"
KEYS = "tests/unit/test_keys.py"
LEDGER = "tests/conformance/test_ledger.py"
ATTEMPTS = "tests/unit/test_attempts.py"
ADDRESSES = "tests/unit/test_webhook_addresses.py"
COURIER = "tests/unit/test_courier.py"
OUTPUTS = "tests/integration/test_outputs.py"
DOORS = "tests/integration/test_doors.py"
WAITING = "tests/unit/test_waiting_rules.py"
IMAGES = "tests/unit/test_images.py"
VECTORS = "tests/unit/test_vectors.py"
DURABLE = "tests/unit/test_durability.py"
FAULTS = "tests/integration/test_faults.py"

MUTATIONS = (
    # --- the life of a job ---
    _client(
        "token-after-requeue",
        "reliability: a worker that lost its lease changes nothing, also while the job is queued again",
        "jobs.py",
        "if token is not None and (token != job.token or job.state is not State.RUNNING):",
        "if token is not None and token != job.token:",
        f"{JOBS}::test_a_token_is_worth_nothing_once_the_job_is_queued_again",
    ),
    _client(
        "fencing-token",
        "reliability: an earlier lease's token changes nothing",
        "jobs.py",
        "if token is not None and (token != job.token or job.state is not State.RUNNING):",
        "if token is not None and job.state is not State.RUNNING:",
        f"{JOBS}::test_an_earlier_lease_changes_nothing",
    ),
    _client(
        "new-token",
        "reliability: each claim has a new fencing token",
        "jobs.py",
        '"token": job.token + 1,',
        '"token": job.token,',
        f"{JOBS}::test_an_earlier_lease_changes_nothing",
    ),
    _client(
        "completed-at",
        "reliability: a clock that is set back lets no job end before it began",
        "jobs.py",
        'values["completed_at"] = max(now, job.created_at, job.claimed_at or 0)',
        'values["completed_at"] = now',
        f"{JOBS}::test_the_end_is_never_before_the_beginning",
    ),
    _client(
        "step-of-queued",
        "contract: a queued job has no step",
        "jobs.py",
        '    if state is State.QUEUED:\n        values["step"] = 0\n',
        "",
        f"{JOBS}::test_a_job_in_the_queue_has_no_step",
    ),
    _client(
        "started-at",
        "contract: started_at is the time of the first claim",
        "jobs.py",
        '"started_at": job.started_at or now,',
        '"started_at": now,',
        f"{JOBS}::test_it_started_when_it_was_claimed_first",
    ),
    _client(
        "final-states",
        "reliability: a job ends exactly once",
        "jobs.py",
        "    (State.RUNNING, Change.CANCEL): State.FAILED,",
        "    (State.RUNNING, Change.CANCEL): State.FAILED,\n    (State.COMPLETED, Change.CANCEL): State.FAILED,",
        "tests/unit/test_jobs.py::test_nothing_leads_out_of_a_final_state",
    ),
    _server(
        "announced-to-sweep",
        "reliability: the sweep takes no image that is on its way to its record",
        "attempts.py",
        "        self._shop.storing.add(output.name)\n",
        "",
        f"{ATTEMPTS}::test_an_image_is_announced_to_the_sweep_and_stored_before_its_job_is_completed",
    ),
    _server(
        "stored-before-completed",
        "README: an image is stored before its job is called completed",
        "attempts.py",
        """            await self._store(output, picture.data)
            await self._end_with(Change.COMPLETE, outputs=(output,), step=job.spec.steps)""",
        """            await self._end_with(Change.COMPLETE, outputs=(output,), step=job.spec.steps)
            await self._store(output, picture.data)""",
        f"{ATTEMPTS}::test_an_image_is_announced_to_the_sweep_and_stored_before_its_job_is_completed",
    ),
    _server(
        "cancel-reaches-engine",
        "reliability: the engine of a cancelled job stops",
        "attempts.py",
        "{drawing, beating, ended}, return_when",
        "{drawing, beating}, return_when",
        f"{ATTEMPTS}::test_a_cancel_reaches_the_engine_while_progress_rests",
    ),
    _server(
        "three-attempts",
        "reliability: a job is tried 3 times in all",
        "attempts.py",
        "if self.job.tries >= self._shop.policy.max_attempts:",
        "if self.job.tries > self._shop.policy.max_attempts:",
        f"{ATTEMPTS}::test_a_worker_that_fell_silent_is_a_crash_and_three_are_the_end",
    ),
    _server(
        "spoken-up-since",
        "reliability: a worker whose lease was renewed meanwhile keeps its job",
        "attempts.py",
        '        self._guard["version"] = self.job.version\n',
        "",
        f"{ATTEMPTS}::test_a_worker_that_spoke_up_meanwhile_keeps_its_job",
    ),
    _server(
        "interruptions-do-not-count",
        "reliability: a restart is not counted as an attempt",
        "attempts.py",
        'what, interruptions = "the server was stopped while it ran", self.job.interruptions + 1',
        'what, interruptions = "the server was stopped while it ran", self.job.interruptions',
        f"{ATTEMPTS}::test_a_start_takes_back_every_lease_whatever_clock_it_was_given_by",
    ),
    _server(
        "nobody-elses-lease",
        "reliability: whatever an attempt meets, its job has an owner or is queued",
        "attempts.py",
        '            await self._try_again("engine_crashed", f"the attempt failed: {type(error).__name__}")\n',
        "",
        f"{ATTEMPTS}::test_what_nobody_thought_of_is_no_job_without_an_owner",
    ),
    _server(
        "same-step",
        "reliability: an engine that repeats a step gets no further",
        "executors/process.py",
        "if step > furthest:",
        "if step >= furthest:",
        "tests/conformance/test_executors.py::TestLocal::test_one_that_says_the_same_step_again_makes_no_progress",
    ),
    _server(
        "engine-verified",
        "README: what an engine gives is verified; nonsense is no picture",
        "executors/__init__.py",
        "    if (facts.width, facts.height) != (request.width, request.height):\n",
        "    if False:\n",
        "tests/unit/test_engine_pictures.py::test_another_size_is_refused",
    ),
    _server(
        "turns",
        "README: every key gets its turn",
        "ledger/sqlite.sql",
        "ORDER BY served, id LIMIT 1;",
        "ORDER BY id LIMIT 1;",
        f"{LEDGER}::test_sessions_take_turns_and_a_newcomer_does_not_wait_behind_a_backlog",
    ),
    _server(
        "priority",
        "reliability: within a session the highest priority is next, then the oldest",
        "ledger/sqlite.sql",
        "ORDER BY priority DESC, seq LIMIT 1;",
        "ORDER BY seq LIMIT 1;",
        f"{LEDGER}::test_a_priority_orders_its_own_session_alone",
    ),
    _server(
        "idempotency-digest",
        "contract: one Idempotency-Key with another body is a conflict",
        "ledger/sqlite.py",
        '    if row["digest"] != idempotency.digest:',
        "    if False:",
        f"{LEDGER}::test_a_key_with_another_body_is_a_conflict_for_a_day",
    ),
    _server(
        "idempotency-kept",
        "reliability: one Idempotency-Key and one body make one job",
        "ledger/sqlite.py",
        "            if idempotency is not None:\n                _remember(transaction, job, idempotency, now)\n",
        "",
        f"{LEDGER}::test_one_key_and_body_make_one_job",
    ),
    _server(
        "webhook-with-the-end",
        "reliability: a webhook is written in the transaction that ends its job",
        "ledger/sqlite.py",
        '        enter_webhook(transaction, changed, now=values["now"])',
        "        pass",
        f"{LEDGER}::TestWebhooks::test_one_is_due_when_its_job_is_over_however_it_ends",
    ),
    _server(
        "newer-ledger",
        "operations: a ledger of a newer program is refused, not changed",
        "ledger/sqlite.py",
        "    if version > len(migrations):",
        "    if False:",
        f"{LEDGER}::TestSqliteFile::test_a_newer_file_is_refused",
    ),
    _server(
        "failed-halfway",
        "reliability: a change that fails halfway changes nothing",
        "ledger/writer.py",
        'transaction.connection.execute("ROLLBACK TO operation")',
        'transaction.connection.execute("SELECT 1")',
        f"{LEDGER}::test_a_change_that_fails_halfway_changes_nothing",
    ),
    _server(
        "partial-put",
        "reliability: a put that fails leaves no file",
        "storage/local.py",
        "                Path(partial.name).unlink(missing_ok=True)\n",
        "",
        "tests/conformance/test_storage.py::test_a_failed_put_leaves_nothing",
    ),
    # --- what is synced, and when ---
    _server(
        "commits-are-synced",
        "README: a job that was acknowledged is on disk, synced",
        "ledger/sqlite.py",
        'connection.execute("PRAGMA synchronous = FULL")',
        'connection.execute("PRAGMA synchronous = OFF")',
        f"{DURABLE}::test_every_connection_to_the_ledger_syncs_each_commit",
    ),
    _server(
        "image-synced",
        "README: an image is on disk, synced, before its job is called completed",
        "storage/local.py",
        "                os.fsync(partial.fileno())\n",
        "",
        f"{DURABLE}::test_an_image_is_stored_before_its_job_is_completed",
    ),
    _server(
        "image-name-synced",
        "README: so is its name in its folder",
        "storage/local.py",
        "        sync_folder(path.parent)\n",
        "",
        f"{DURABLE}::test_a_stored_image_is_stored_when_put_returns",
    ),
    _client(
        "saved-synced",
        "README: a file under its final name is whole, also after a power cut",
        "partial.py",
        "        os.fsync(self._file.fileno())\n",
        "",
        f"{DURABLE}::test_an_image_is_stored_before_it_is_called_saved",
    ),
    _client(
        "saved-name-synced",
        "contract: a saved image's name is synced",
        "partial.py",
        "        sync_folder(target.parent)\n",
        "",
        f"{DURABLE}::test_an_image_is_stored_before_it_is_called_saved",
    ),
    _client(
        "journal-synced",
        "contract: a job's id is in the journal, synced, before it is waited on",
        "journal.py",
        "        file.flush()\n        os.fsync(file.fileno())\n",
        "        file.flush()\n",
        f"{DURABLE}::test_each_line_of_the_journal_is_stored",
    ),
    # --- keys, sessions, names ---
    _server(
        "expired-key",
        "security: a key is refused from its end on",
        "keys.py",
        "return key.revoked_at is None and (key.expires_at is None or self._clock.now() < key.expires_at)",
        "return key.revoked_at is None",
        f"{KEYS}::test_a_key_is_refused_from_its_end_on",
    ),
    _server(
        "revoked-key",
        "security: a revoked key is refused",
        "keys.py",
        "return key.revoked_at is None and (",
        "return (",
        f"{KEYS}::test_what_this_process_revokes_is_refused_at_once",
    ),
    _server(
        "revoked-within-a-second",
        "security: revoked means refused within a second",
        "keys.py",
        "TRUSTED_SECONDS = 0.5",
        "TRUSTED_SECONDS = 5.0",
        f"{KEYS}::test_what_another_process_revokes_is_believed_for_half_a_second",
    ),
    _server(
        "guide-key",
        "security: the key that the guide prints is refused at start",
        "keys.py",
        "        raise PublicKey\n",
        "        pass\n",
        "tests/integration/test_serve.py::test_a_key_that_everybody_can_read_is_refused",
    ),
    _server(
        "guide-key-on-record",
        "security: the key that the guide prints is refused in calls",
        "keys.py",
        "        if hmac.compare_digest(hashed, _PRINTED_IN_THE_GUIDE):\n            return None\n",
        "",
        f"{KEYS}::test_a_key_that_is_printed_in_the_guide_is_refused_even_when_it_is_on_record",
    ),
    _server(
        "key-of-the-settings",
        "security: a key of the settings ends with them",
        "keys.py",
        "                await self._ledger.revoke_key(key.id, now=self._clock.now())\n",
        "                pass\n",
        f"{KEYS}::test_a_key_of_the_settings_ends_with_them",
    ),
    _server(
        "host",
        "security: a request for a foreign host is 421",
        "http/middleware.py",
        '            raise Problem("forbidden_host")\n',
        "            pass\n",
        f"{DOORS}::TestNames::test_a_foreign_host_is_refused_on_every_call",
        f"{DOORS}::TestNames::test_a_foreign_host_learns_nothing_of_a_job",
    ),
    _server(
        "disconnect-ends-a-wait",
        "architecture: a client's disconnect ends its long poll",
        "http/disconnect.py",
        "        task.cancel()\n",
        "        pass\n",
        "tests/integration/test_status.py::test_a_disconnect_ends_a_long_poll",
    ),
    _server(
        "cached-response-of-its-wait",
        "contract: Preference-Applied names the wait that was asked for",
        "http/terminal_responses.py",
        "        self._kept[job.id, wait] = (job, answer)\n",
        "        self._kept.update({(job.id, w): (job, answer) for w in (None, *range(61))})\n",
        "tests/integration/test_status.py::test_a_cached_response_is_of_its_own_wait",
    ),
    _server(
        "one-server-a-port",
        "operations: a port that another server listens on is refused",
        "http/server.py",
        "_bound(family, socket.SO_REUSEADDR, host, port)",
        "_bound(family, socket.SO_REUSEPORT, host, port)",
        "tests/integration/test_serve.py::test_a_port_that_is_taken_is_refused",
    ),
    _server(
        "origin",
        "security: a page of another origin changes nothing",
        "http/middleware.py",
        '            raise Problem("forbidden_origin")\n',
        "            pass\n",
        f"{DOORS}::TestNames::test_a_foreign_origin_changes_nothing",
    ),
    _server(
        "key-in-url",
        "security: a key in a URL is refused",
        "http/middleware.py",
        '            raise Problem("key_in_url")\n',
        "            pass\n",
        f"{DOORS}::TestOutsiders::test_a_key_in_a_query_is_refused_and_not_logged",
    ),
    _server(
        "addresses-are-bounded",
        "security: an IPv6 /64 counts as one address",
        "limits.py",
        "return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))",
        "return str(parsed.ipv4_mapped or parsed)",
        "tests/unit/test_limits.py::TestManners::test_a_house_is_one_address",
    ),
    _server(
        "rate",
        "security: a key makes no more requests than it may",
        "limits.py",
        "        if full_at - now > MINUTE + 1e-6:\n            return False\n",
        "",
        "tests/unit/test_limits.py::TestBuckets::test_a_minutes_worth_at_once_and_no_more",
    ),
    _server(
        "output-session",
        "contract: an output without its session_id is 403",
        "http/outputs.py",
        'if query.getlist("session_id") != [session_id]:',
        "if False:",
        f"{OUTPUTS}::test_a_missing_or_wrong_session_is_forbidden",
    ),
    _server(
        "unguessable-outputs",
        "security: an image URL holds 128 random bits",
        "attempts.py",
        'name=f"umrgen_{job.spec.seed}_{secrets.token_hex(16)}.png"',
        'name=f"umrgen_{job.spec.seed}_{secrets.token_hex(4)}.png"',
        f"{OUTPUTS}::test_a_name_cannot_be_guessed",
    ),
    _server(
        "signed-urls",
        "security: a signed URL cannot be changed",
        "signatures.py",
        'return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))',
        "return bool(expected)",
        "tests/unit/test_signatures.py::test_nothing_else_is",
    ),
    _server(
        "plain-names",
        "security: no path is made of what a caller names",
        "storage/local.py",
        '                raise ValueError("not a plain name")\n',
        "                pass\n",
        "tests/conformance/test_storage.py::test_only_plain_names_are_taken",
    ),
    _server(
        "ticket-once",
        "security: a studio link opens once",
        "tickets.py",
        "until = self._until.pop(_hash(ticket), None)",
        "until = self._until.get(_hash(ticket))",
        "tests/unit/test_tickets.py::test_a_ticket_is_taken_once",
    ),
    _server(
        "ticket-ends",
        "security: a studio link is taken within ten minutes",
        "tickets.py",
        "return until is not None and self._clock.monotonic() < until",
        "return until is not None",
        "tests/unit/test_tickets.py::test_a_ticket_ends_after_ten_minutes",
    ),
    # --- uploads and engines ---
    _server(
        "decoder-environment",
        "security: the upload decoder gets no secret of the server's environment",
        "uploads.py",
        "env={name: os.environ[name] for name in _NEEDED if name in os.environ},",
        "env=dict(os.environ),",
        "tests/unit/test_upload_decoder.py::test_it_has_nothing_of_the_servers_environment_but_what_it_needs",
    ),
    _server(
        "decoder-memory",
        "security: an upload is decoded with a limit of memory",
        "reencode.py",
        "    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))\n",
        "",
        "tests/unit/test_upload_decoder.py::test_it_has_little_memory_little_time_and_no_files",
    ),
    _server(
        "decoder-time",
        "security: an upload is decoded with a limit of time",
        "reencode.py",
        "    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))\n",
        "",
        "tests/unit/test_upload_decoder.py::test_it_has_little_memory_little_time_and_no_files",
    ),
    _server(
        "engine-environment",
        "security: an engine gets no key",
        "executors/process.py",
        "env={name: value for name, value in os.environ.items() if name not in SECRETS},",
        "env=dict(os.environ),",
        "tests/conformance/test_executors.py::TestLocal::test_the_engine_gets_no_key",
    ),
    # --- webhooks ---
    _server(
        "webhook-addresses",
        "security: webhooks go to public addresses only",
        "webhooks/pinned.py",
        "if not self._allow.all(host, addresses):",
        "if False:",
        f"{ADDRESSES}::TestPinning::test_a_name_that_changes_its_mind_is_refused_the_second_time",
    ),
    _server(
        "webhook-every-address",
        "security: every address of a receiver's name is checked",
        "webhooks/addresses.py",
        "return self.name(host) or all(map(self.address, addresses))",
        "return self.name(host) or any(map(self.address, addresses))",
        f"{ADDRESSES}::TestAllowing::test_one_bad_address_spoils_a_name",
    ),
    _server(
        "webhook-redirects",
        "security: a webhook's redirect is not followed and not success",
        "webhooks/outcomes.py",
        "    if 200 <= status < 300:",
        "    if 200 <= status < 400:",
        "tests/unit/test_delivery_answers.py",
    ),
    _server(
        "webhook-a-day",
        "webhooks: a delivery is given up a day after its job's end",
        "webhooks/patience.py",
        "return at if at <= ended_at + DAY_MS else None",
        "return at",
        f"{COURIER}::TestPatience::test_it_is_never_at_once_and_never_after_the_day",
    ),
    _server(
        "webhook-signature",
        "webhooks: a message is signed with its timestamp",
        "webhooks/signing.py",
        'b"%b.%d.%b" % (webhook_id.encode(), timestamp, body)',
        'b"%b.%b" % (webhook_id.encode(), body)',
        "tests/unit/test_webhook_signing.py",
    ),
    _server(
        "mapped-address",
        "security: an IPv4-mapped address is judged as the IPv4 address it is",
        "webhooks/addresses.py",
        'return getattr(address, "ipv4_mapped", None) or address',
        "return address",
        f"{ADDRESSES}",
    ),
    # --- the client ---
    _client(
        "key-to-its-origin",
        "README: the API key goes to the server's origin only",
        "downloads.py",
        "            return image_url, False\n",
        "            return image_url, True\n",
        VECTORS,
    ),
    _client(
        "foreign-outputs",
        "contract: an image elsewhere is followed only when it is allowed",
        "downloads.py",
        "        if follow_foreign:\n",
        "        if True:\n",
        VECTORS,
    ),
    _client(
        "checksums",
        "README: a file under its final name is verified: PNG checksums",
        "images.py",
        "        if zlib.crc32(view[at + 4 : end - 4]) != crc:\n",
        "        if False:\n",
        f"{IMAGES}::TestVerifying::test_any_changed_byte_of_a_png_is_seen",
    ),
    _client(
        "promised-digest",
        "contract: a digest that the server promises is checked",
        "images.py",
        "    if sha256 is not None and sha256 != actual:",
        "    if False:",
        f"{IMAGES}::TestVerifying::test_more_than_was_announced_or_another_digest",
    ),
    _client(
        "never-overwritten",
        "README: a file is never replaced unless that is allowed",
        "partial.py",
        "            _rename_without_replacing(self._path, target)\n",
        "            os.replace(self._path, target)\n",
        FAULTS + "::test_while_downloading",
    ),
    _client(
        "key-not-shown",
        "README: the API key goes into no error: it is not part of what is shown of a server",
        "address.py",
        "key: str | None = field(default=None, repr=False)",
        "key: str | None = field(default=None)",
        "tests/unit/test_server_address.py",
    ),
    _client(
        "idempotency-key-sent",
        "contract: a submit is repeated under one Idempotency-Key only",
        "submission.py",
        '{"Content-Type": "application/json", "Idempotency-Key": key}',
        '{"Content-Type": "application/json"}',
        f"{WAITING}::TestSubmitting::test_once_and_under_a_key",
    ),
    _client(
        "unclear-submit",
        "contract: a submit that may have arrived is not repeated where keys are not kept",
        "submission.py",
        "            yield from _check_repeatable(self._run, error, self._patience)\n",
        "            yield from ()\n",
        f"{WAITING}::TestSubmitting::test_what_may_have_arrived_is_repeated_only_where_keys_are_kept",
    ),
    _client(
        "one-more-look",
        "contract: completed without an image gets one more look",
        "watch.py",
        "        if status.state == State.COMPLETED and not status.images:\n",
        "        if False:\n",
        f"{WAITING}::TestWhatAStatusMeans::test_completed_without_an_image_gets_one_more_look",
    ),
)


def _rows() -> Iterator[str]:
    for mutation in MUTATIONS:
        document, _, promise = mutation.promise.partition(": ")
        tests = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in mutation.tests)
        yield f"| {promise} | {document} | `{mutation.name}` | {tests} |"


def table() -> str:
    """The table of docs/reliability.md."""
    head = ["| promise | where it stands | mutation | caught by |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *_rows()])
