"""Guarantees of the documentation: for each, a line of code that implements it, and tests that fail without it."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["MUTATIONS", "Mutation", "table"]


@dataclass(frozen=True)
class Mutation:
    """A change of one line, which breaks a guarantee."""

    name: str
    promise: str
    """The guarantee, in short, after the name of its document: README, architecture, reliability, security,
    webhooks, extending or contract."""
    file: str
    old: str
    """A part of the file that occurs once."""
    new: str
    tests: tuple[str, ...]
    """Ids of tests; at least one of them must fail."""


def _server(name: str, promise: str, file: str, old: str, new: str, *tests: str) -> Mutation:
    return Mutation(name, promise, f"src/umrgen/server/{file}", old, new, tests)


def _client(name: str, promise: str, file: str, old: str, new: str, *tests: str) -> Mutation:
    return Mutation(name, promise, f"src/umrgen/{file}", old, new, tests)


JOBS = "tests/unit/test_jobs.py::TestLeasesAndTimes"
KEYS = "tests/unit/test_keys.py"
LEDGER = "tests/conformance/test_ledger.py"
ATTEMPTS = "tests/unit/test_attempts.py"
ADDRESSES = "tests/unit/test_webhook_addresses.py"
DELIVERER = "tests/unit/test_webhook_deliverer.py"
OUTPUTS = "tests/integration/test_outputs.py"
SECURITY = "tests/integration/test_security.py"
WAITING = "tests/unit/test_waiting_rules.py"
IMAGES = "tests/unit/test_images.py"
LEGACY_PACE = "tests/integration/test_legacy_server.py::test_a_job_of_15_minutes_in_simulated_time"
VECTORS = "tests/unit/test_vectors.py"
DURABLE = "tests/unit/test_durability.py"
FAULTS = "tests/integration/faults/test_download.py"
ISOLATION = f"{SECURITY}::TestSessionIsolation::test_no_call_discloses_data_of_another_session"
REFUSALS = "tests/unit/test_refusals.py"
LOGS = "tests/integration/test_operations.py::TestLogs::test_json_lines_have_no_prompts_keys_or_queries"

MUTATIONS = (
    # --- the states of a job ---
    _server(
        "token-after-requeue",
        "reliability: a worker that lost its lease changes nothing, also while the job is queued again",
        "domain/job.py",
        "if token is not None and (token != job.token or job.state is not State.RUNNING):",
        "if token is not None and token != job.token:",
        f"{JOBS}::test_a_token_is_refused_after_the_job_was_queued_again",
    ),
    _server(
        "fencing-token",
        "reliability: an earlier lease's token changes nothing",
        "domain/job.py",
        "if token is not None and (token != job.token or job.state is not State.RUNNING):",
        "if token is not None and job.state is not State.RUNNING:",
        f"{JOBS}::test_a_change_with_the_token_of_an_earlier_lease_is_refused",
    ),
    _server(
        "new-token",
        "reliability: each claim has a new fencing token",
        "domain/job.py",
        '"token": job.token + 1,',
        '"token": job.token,',
        f"{JOBS}::test_a_change_with_the_token_of_an_earlier_lease_is_refused",
    ),
    _server(
        "completed-at",
        "reliability: a clock that is set back lets no job end before it began",
        "domain/job.py",
        'values["completed_at"] = max(now, job.created_at, job.claimed_at or 0)',
        'values["completed_at"] = now',
        f"{JOBS}::test_the_time_of_the_end_is_not_before_the_start",
    ),
    _server(
        "step-of-queued",
        "contract: a queued job has no step",
        "domain/job.py",
        '    if state is State.QUEUED:\n        values["step"] = 0\n',
        "",
        f"{JOBS}::test_the_step_of_a_queued_job_is_0",
    ),
    _server(
        "started-at",
        "contract: started_at is the time of the first claim",
        "domain/job.py",
        '"started_at": job.started_at or now,',
        '"started_at": now,',
        f"{JOBS}::test_started_at_is_the_time_of_the_first_claim",
    ),
    _server(
        "final-states",
        "reliability: a job ends exactly once",
        "domain/job.py",
        "    (State.RUNNING, Change.CANCEL): State.FAILED,",
        "    (State.RUNNING, Change.CANCEL): State.FAILED,\n    (State.COMPLETED, Change.CANCEL): State.FAILED,",
        "tests/unit/test_jobs.py::test_a_final_state_has_no_transition",
    ),
    _server(
        "late-files",
        "reliability: a file of an attempt that ended without its record is deleted",
        "ledger/sql/jobs.py",
        '            _discard_outputs(connection, job, values["now"])\n',
        "            pass\n",
        f"{ATTEMPTS}::test_the_possible_files_of_an_attempt_are_obsolete_an_hour_after_its_end",
    ),
    _server(
        "own-jobs-only",
        "reliability: a start requeues the interrupted jobs of this server, and not those of other servers",
        "ledger/sql/statements.sql",
        "(lease_until < :now OR worker = :worker);",
        "(lease_until < :now OR worker = :worker OR true);",
        f"{ATTEMPTS}::test_a_start_requeues_the_jobs_of_its_worker_at_any_time_of_the_clock",
    ),
    _server(
        "stored-before-completed",
        "README: an image is stored before its job is called completed",
        "scheduler/attempt.py",
        """            for output, image in zip(outputs, images, strict=True):
                await self._store(output, image.data)
            await self._end_with(Change.COMPLETE, outputs=outputs, step=job.request.steps)""",
        """            await self._end_with(Change.COMPLETE, outputs=outputs, step=job.request.steps)
            for output, image in zip(outputs, images, strict=True):
                await self._store(output, image.data)""",
        f"{ATTEMPTS}::test_images_are_stored_before_their_job_is_completed",
    ),
    _server(
        "cancel-reaches-engine",
        "reliability: the engine of a cancelled job stops",
        "scheduler/attempt.py",
        "{drawing, heartbeat, over}, return_when",
        "{drawing, heartbeat}, return_when",
        f"{ATTEMPTS}::test_a_cancellation_stops_the_engine_between_two_writes_of_progress",
    ),
    _server(
        "three-attempts",
        "reliability: a job is tried 3 times in all",
        "scheduler/attempt.py",
        "if self.job.tries >= self._context.policy.max_attempts:",
        "if self.job.tries > self._context.policy.max_attempts:",
        f"{ATTEMPTS}::test_an_expired_lease_counts_as_a_crash_and_the_third_fails_the_job",
    ),
    _server(
        "spoken-up-since",
        "reliability: a worker that renewed its lease keeps its job",
        "scheduler/attempt.py",
        '        self._guard["version"] = self.job.version\n',
        "",
        f"{ATTEMPTS}::test_a_worker_that_renews_its_lease_in_time_keeps_its_job",
    ),
    _server(
        "interruptions-do-not-count",
        "reliability: a restart is not counted as an attempt",
        "scheduler/attempt.py",
        'reason, interruptions = "the server was stopped while the job ran", self.job.interruptions + 1',
        'reason, interruptions = "the server was stopped while the job ran", self.job.interruptions',
        f"{ATTEMPTS}::test_a_start_requeues_the_jobs_of_its_worker_at_any_time_of_the_clock",
    ),
    _server(
        "nobody-elses-lease",
        "reliability: after any failure of an attempt, its job is running under a lease, queued again, or over",
        "scheduler/attempt.py",
        '            await self._retry("engine_crashed", f"the attempt failed: {type(error).__name__}")\n',
        "",
        f"{ATTEMPTS}::test_a_job_is_queued_again_after_an_unexpected_exception",
    ),
    _server(
        "same-step",
        "reliability: a repeated step is not progress",
        "executors/watchdog.py",
        "if step > self._furthest:",
        "if step >= self._furthest:",
        "tests/conformance/test_executors.py::TestLocal::test_a_repeated_step_is_no_progress",
    ),
    _server(
        "engine-verified",
        "README: the output of an engine is verified before it counts as an image",
        "executors/__init__.py",
        "        facts = verify(data)\n",
        "        from umrgen.image_files import ImageFacts\n\n"
        "        facts = ImageFacts('image/png', len(data), '', 1, 1)\n",
        "tests/unit/test_engine_images.py::test_data_that_is_not_one_whole_image_is_refused",
    ),
    _server(
        "turns",
        "README: sessions take turns",
        "ledger/sql/statements.sql",
        "ORDER BY served, id LIMIT 1;",
        "ORDER BY id LIMIT 1;",
        f"{LEDGER}::test_sessions_take_turns_and_a_new_session_does_not_wait_for_a_backlog",
    ),
    _server(
        "priority",
        "reliability: within a session the highest priority is next, then the oldest",
        "ledger/sql/statements.sql",
        "ORDER BY priority DESC, seq LIMIT 1;",
        "ORDER BY seq LIMIT 1;",
        f"{LEDGER}::test_a_priority_orders_only_the_jobs_of_its_session",
    ),
    _server(
        "idempotency-digest",
        "contract: one Idempotency-Key with another body is a conflict",
        "ledger/sql/jobs.py",
        "    if bytes(digest) != idempotency.digest:",
        "    if False:",
        f"{LEDGER}::test_an_idempotency_key_with_another_body_is_a_conflict_for_a_day",
    ),
    _server(
        "idempotency-kept",
        "reliability: one Idempotency-Key and one body make one job",
        "ledger/sql/jobs.py",
        "        _remember_idempotency(transaction.connection, job, idempotency, now)\n",
        "        pass\n",
        f"{LEDGER}::test_concurrent_submits_with_one_idempotency_key_create_one_job",
    ),
    _server(
        "webhook-with-the-end",
        "reliability: a webhook is written in the transaction that ends its job",
        "ledger/sql/jobs.py",
        '        enter_webhook(connection, changed, now=values["now"])',
        "        pass",
        f"{LEDGER}::TestWebhooks::test_each_end_of_a_job_makes_its_webhook_due",
    ),
    _server(
        "newer-ledger",
        "operations: a ledger of a newer program is refused, not changed",
        "ledger/sqlite/connection.py",
        "    if version > schema_version():",
        "    if False:",
        f"{LEDGER}::TestSqliteFile::test_a_newer_file_is_refused",
    ),
    _server(
        "failed-halfway",
        "reliability: a change that fails halfway changes nothing",
        "ledger/sqlite/connection.py",
        'self._control("ROLLBACK TO operation")',
        "pass",
        f"{LEDGER}::test_a_change_that_fails_after_its_first_statement_is_rolled_back",
    ),
    _server(
        "partial-put",
        "reliability: a put that fails leaves no file",
        "blobs/local.py",
        "            partial.unlink(missing_ok=True)\n",
        "",
        "tests/conformance/test_blobs.py::TestLocal::test_a_failed_put_leaves_no_file",
    ),
    # --- syncing ---
    _server(
        "commits-are-synced",
        "README: a job that was acknowledged is on disk, synced",
        "ledger/sqlite/connection.py",
        'connection.execute("PRAGMA synchronous = FULL")',
        'connection.execute("PRAGMA synchronous = OFF")',
        f"{DURABLE}::test_every_connection_to_the_ledger_syncs_each_commit",
    ),
    _server(
        "image-synced",
        "README: an image is on disk, synced, before its job is called completed",
        "blobs/local.py",
        "                os.fsync(file.fileno())\n",
        "",
        f"{DURABLE}::test_an_image_is_stored_before_its_job_is_completed",
    ),
    _server(
        "image-name-synced",
        "README: the name of an image is synced in its folder",
        "blobs/local.py",
        "        sync_folder(path.parent)\n",
        "",
        f"{DURABLE}::test_a_stored_image_is_stored_when_put_returns",
    ),
    _client(
        "saved-synced",
        "README: a file under its final name is complete, also after a power cut",
        "client/partial.py",
        "        os.fsync(self._file.fileno())\n",
        "",
        f"{DURABLE}::test_an_image_is_stored_before_the_event_saved",
    ),
    _client(
        "saved-name-synced",
        "contract: a saved image's name is synced",
        "client/partial.py",
        "        sync_folder(target.parent)\n",
        "",
        f"{DURABLE}::test_an_image_is_stored_before_the_event_saved",
    ),
    _client(
        "journal-synced",
        "contract: a job's id is in the journal, synced, before it is waited on",
        "client/journal.py",
        "        file.flush()\n        os.fsync(file.fileno())\n",
        "        file.flush()\n",
        f"{DURABLE}::test_each_line_of_the_journal_is_stored",
    ),
    # --- keys, sessions, names ---
    _server(
        "expired-key",
        "security: an expired key is refused",
        "services/api_keys.py",
        "return key.revoked_at is None and (key.expires_at is None or self._clock.now() < key.expires_at)",
        "return key.revoked_at is None",
        f"{KEYS}::test_an_expired_key_is_refused",
    ),
    _server(
        "revoked-key",
        "security: a revoked key is refused",
        "services/api_keys.py",
        "return key.revoked_at is None and (",
        "return (",
        f"{KEYS}::test_a_revocation_by_this_process_takes_effect_immediately",
    ),
    _server(
        "revoked-within-a-second",
        "security: a revoked key is refused within a second",
        "services/api_keys.py",
        "CACHE_SECONDS = 0.5",
        "CACHE_SECONDS = 5.0",
        f"{KEYS}::test_a_revocation_by_another_process_takes_effect_within_a_second",
    ),
    _server(
        "guide-key",
        "security: the key that the guide prints is refused at start",
        "services/api_keys.py",
        "        raise PublicKey\n",
        "        pass\n",
        "tests/integration/test_serve.py::test_a_published_key_is_refused",
    ),
    _server(
        "guide-key-on-record",
        "security: the key that the guide prints is refused in calls",
        "services/api_keys.py",
        "        if hmac.compare_digest(hashed, _PRINTED_IN_THE_GUIDE):\n            return None\n",
        "",
        f"{KEYS}::test_the_published_key_is_refused_even_with_a_record",
    ),
    _server(
        "key-of-the-settings",
        "security: a key of the settings is revoked when they change",
        "services/api_keys.py",
        "                await self._keys.revoke(key.id, now=self._clock.now())\n",
        "                pass\n",
        f"{KEYS}::test_a_key_of_the_settings_is_revoked_when_they_change",
    ),
    _server(
        "host",
        "security: a request for a foreign host is 421",
        "http/middleware.py",
        '            raise Problem("forbidden_host")\n',
        "            pass\n",
        f"{SECURITY}::TestHostsAndOrigins::test_a_foreign_host_is_refused_on_every_call",
        f"{SECURITY}::TestHostsAndOrigins::test_a_foreign_host_receives_no_job_data",
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
        "contract: Preference-Applied names the requested wait",
        "http/terminal_responses.py",
        "        self._kept[job.id, wait] = (job, answer)\n",
        "        self._kept.update({(job.id, w): (job, answer) for w in (None, *range(61))})\n",
        "tests/integration/test_status.py::test_responses_are_cached_by_wait",
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
        "security: a page of another origin can change nothing",
        "http/middleware.py",
        '            raise Problem("forbidden_origin")\n',
        "            pass\n",
        f"{SECURITY}::TestHostsAndOrigins::test_a_foreign_origin_is_refused_on_every_change",
    ),
    _server(
        "key-in-url",
        "security: a key in a URL is refused",
        "http/middleware.py",
        '            raise Problem("key_in_url")\n',
        "            pass\n",
        f"{SECURITY}::TestUnauthenticatedClients::test_a_key_in_a_query_is_refused_and_not_logged",
    ),
    _server(
        "addresses-are-bounded",
        "security: an IPv6 /64 counts as one address",
        "services/limits.py",
        "return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))",
        "return str(parsed.ipv4_mapped or parsed)",
        "tests/unit/test_limits.py::TestFailureThrottle::test_an_ipv6_subscriber_is_one_address",
    ),
    _server(
        "rate",
        "security: a key cannot exceed its rate limit",
        "services/limits.py",
        "        if full_at - now > MINUTE + 1e-6:\n            return False\n",
        "",
        "tests/unit/test_limits.py::TestGcraLimiter::test_the_burst_is_the_requests_of_one_minute",
    ),
    _server(
        "output-session",
        "contract: an output without its session_id is 403",
        "services/outputs.py",
        "        if link.shown_session_id != link.session_id:\n",
        "        if False:\n",
        f"{OUTPUTS}::test_a_missing_or_wrong_session_is_forbidden",
    ),
    _server(
        "unguessable-outputs",
        "security: an image URL cannot be guessed: its name is 128 bits of a hash of the job's random id",
        "domain/job.py",
        ".hexdigest()[:32]",
        ".hexdigest()[:8]",
        f"{OUTPUTS}::test_names_have_128_random_bits",
    ),
    _server(
        "signed-urls",
        "security: a signed URL cannot be altered",
        "services/signatures.py",
        'return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))',
        "return bool(expected)",
        "tests/unit/test_signatures.py::test_any_other_signature_is_invalid",
    ),
    _server(
        "plain-names",
        "security: a caller's text never becomes a path",
        "blobs/__init__.py",
        '        raise ValueError("not a plain name")\n',
        "        pass\n",
        "tests/conformance/test_blobs.py::test_only_plain_names_are_accepted",
    ),
    _server(
        "ticket-once",
        "security: a studio link opens once",
        "services/one_time_links.py",
        "until = self._until.pop(_hash(ticket), None)",
        "until = self._until.get(_hash(ticket))",
        "tests/unit/test_one_time_links.py::test_a_ticket_is_valid_once",
    ),
    _server(
        "ticket-ends",
        "security: a studio link is valid for ten minutes",
        "services/one_time_links.py",
        "return until is not None and self._clock.monotonic() < until",
        "return until is not None",
        "tests/unit/test_one_time_links.py::test_a_ticket_expires_after_ten_minutes",
    ),
    # --- uploads and engines ---
    _server(
        "decoder-environment",
        "security: the upload decoder's environment has no secrets",
        "services/uploads.py",
        "env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},",
        "env=dict(os.environ),",
        "tests/unit/test_upload_decoder.py::test_the_decoder_has_only_the_environment_variables_that_it_needs",
    ),
    _server(
        "decoder-memory",
        "security: the decoding of an upload has a memory limit",
        "reencode.py",
        "    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))\n",
        "",
        "tests/unit/test_upload_decoder.py::test_the_decoder_is_limited_in_memory_cpu_time_and_file_size",
    ),
    _server(
        "decoder-time",
        "security: the decoding of an upload has a time limit",
        "reencode.py",
        "    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))\n",
        "",
        "tests/unit/test_upload_decoder.py::test_the_decoder_is_limited_in_memory_cpu_time_and_file_size",
    ),
    _server(
        "engine-environment",
        "security: an engine's environment has no keys",
        "executors/subprocess/process.py",
        "env={name: value for name, value in os.environ.items() if name not in SECRETS}",
        "env=dict(os.environ)",
        "tests/conformance/test_executors.py::TestLocal::test_the_environment_of_the_engine_has_no_api_key",
    ),
    # --- webhooks ---
    _server(
        "webhook-addresses",
        "security: webhooks go to public addresses only",
        "webhooks/pinned.py",
        "if not self._allow.all(host, addresses):",
        "if False:",
        f"{ADDRESSES}::TestPinning::test_a_name_that_resolves_to_another_address_later_is_refused",
    ),
    _server(
        "webhook-every-address",
        "security: every address of a receiver's name is checked",
        "webhooks/address_policy.py",
        "return self.name(host) or all(map(self.address, addresses))",
        "return self.name(host) or any(map(self.address, addresses))",
        f"{ADDRESSES}::TestAllowing::test_a_name_with_one_private_address_is_refused",
    ),
    _server(
        "webhook-redirects",
        "security: a webhook's redirect is not followed and not success",
        "webhooks/delivery_result.py",
        "    if 200 <= status < 300:",
        "    if 200 <= status < 400:",
        "tests/unit/test_delivery_result.py",
    ),
    _server(
        "webhook-a-day",
        "webhooks: a delivery is given up a day after its job's end",
        "webhooks/retry_schedule.py",
        "return at if at <= ended_at + DAY_MS else None",
        "return at",
        f"{DELIVERER}::TestRetrySchedule::test_a_retry_is_at_least_4_s_later_and_within_the_day",
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
        "security: an IPv4-mapped IPv6 address is checked as IPv4",
        "webhooks/address_policy.py",
        'return getattr(address, "ipv4_mapped", None) or address',
        "return address",
        f"{ADDRESSES}",
    ),
    # --- the client ---
    _client(
        "key-to-its-origin",
        "README: the API key is sent only to the server's origin",
        "client/flows/download.py",
        "            return image_url, False\n",
        "            return image_url, True\n",
        VECTORS,
    ),
    _client(
        "foreign-outputs",
        "contract: an image of another origin is downloaded only when that is allowed",
        "client/flows/download.py",
        "        if follow_foreign:\n",
        "        if True:\n",
        VECTORS,
    ),
    _client(
        "checksums",
        "README: a file under its final name is verified: PNG checksums",
        "image_files.py",
        "        if zlib.crc32(view[at + 4 : end - 4]) != crc:\n",
        "        if False:\n",
        f"{IMAGES}::TestVerifying::test_any_changed_byte_of_a_png_is_detected",
    ),
    _client(
        "promised-digest",
        "contract: the server's digest of an image is checked",
        "image_files.py",
        "    if sha256 is not None and sha256 != actual:",
        "    if False:",
        f"{IMAGES}::TestVerifying::test_another_length_or_digest_than_announced_is_corrupt",
    ),
    _client(
        "never-overwritten",
        "README: a file is not replaced unless that is allowed",
        "client/partial.py",
        "            _rename_without_replacing(self._path, target)\n",
        "            os.replace(self._path, target)\n",
        FAULTS + "::test_a_fault_while_downloading",
    ),
    _client(
        "key-not-shown",
        "README: no error contains the API key",
        "client/address.py",
        "key: str | None = field(default=None, repr=False)",
        "key: str | None = field(default=None)",
        "tests/unit/test_server_address.py",
    ),
    _client(
        "idempotency-key-sent",
        "contract: a submit is repeated under one Idempotency-Key only",
        "client/flows/submit.py",
        '{"Content-Type": "application/json", "Idempotency-Key": key}',
        '{"Content-Type": "application/json"}',
        f"{WAITING}::TestSubmitting::test_a_submit_sends_an_idempotency_key",
    ),
    _client(
        "unclear-submit",
        "contract: a submit that may have arrived is not repeated on a server without idempotency",
        "client/flows/submit.py",
        "            yield from _check_repeatable(self._context, error, self._retries)\n",
        "            yield from ()\n",
        f"{WAITING}::TestSubmitting::test_a_sent_submit_is_repeated_only_with_idempotency_support",
    ),
    _client(
        "one-more-look",
        "contract: a completed job without an image is polled once again",
        "client/flows/wait.py",
        "        if status.state == State.COMPLETED and not status.images:\n",
        "        if False:\n",
        f"{WAITING}::TestStatusHandling::test_completed_without_an_image_is_polled_again",
    ),
    # --- responses, access, limits, replaced files ---
    _server(
        "answer-after-commit",
        "reliability: a 202 is sent after the job is on disk",
        "ledger/sql/writer.py",
        "            begun = time.perf_counter()\n",
        "            self._loop.call_soon_threadsafe(self._settle, (done, []))\n"
        "            done = []\n"
        "            begun = time.perf_counter()\n",
        f"{DURABLE}::test_a_202_is_sent_after_the_commit",
    ),
    _server(
        "isolation-jobs",
        "security: a job of another session is 404",
        "services/job_lookup.py",
        "if job is None or job.session_id != session_id:",
        "if job is None:",
        ISOLATION,
    ),
    _server(
        "isolation-batch",
        "security: a batch call returns no job of another session",
        "services/job_waits.py",
        "changes.items() if session_id == caller.session_id}",
        "changes.items()}",
        ISOLATION,
    ),
    _server(
        "isolation-list",
        "security: a list has only jobs of the caller's session",
        "ledger/sql/statements.sql",
        "SELECT {job}, seq FROM jobs WHERE session_id = :session_id AND seq < :before ORDER BY",
        "SELECT {job}, seq FROM jobs WHERE seq < :before ORDER BY",
        ISOLATION,
    ),
    _server(
        "isolation-references",
        "security: a list has only reference images of the caller's session",
        "ledger/sql/statements.sql",
        "WHERE session_id = :session_id AND stored = 1 ORDER BY created_at, name;",
        "WHERE stored = 1 ORDER BY created_at, name;",
        ISOLATION,
    ),
    _server(
        "isolation-outputs",
        "security: an image of another session is 404",
        "ledger/sql/statements.sql",
        "expired_at FROM outputs\nWHERE name = :name AND session_id = :session_id;",
        "expired_at FROM outputs\nWHERE name = :name;",
        ISOLATION,
    ),
    _server(
        "key-hash",
        "security: the ledger has only the SHA-256 of a key",
        "services/api_keys.py",
        "    return hashlib.sha256(key.encode()).digest()",
        "    return key.encode()",
        f"{KEYS}::test_the_ledger_stores_only_the_hash_of_a_key",
    ),
    _server(
        "wrong-keys",
        "security: wrong keys are throttled by address",
        "services/authentication.py",
        "        self.failures.record_failure(address)\n",
        "",
        f"{SECURITY}::TestLimits::test_failed_logins_are_throttled_and_a_valid_key_is_not",
    ),
    _server(
        "guesses",
        "security: guesses of image names are throttled by address",
        "services/outputs.py",
        "            self.guesses.record_failure(address)\n",
        "            pass\n",
        "tests/integration/test_attacks.py::TestGuessing::test_guessing_image_names_is_throttled",
    ),
    _server(
        "loopback",
        "security: a server without a key listens only on loopback",
        "serve.py",
        "    if not settings.loopback:\n",
        "    if False:\n",
        "tests/unit/test_server_opening.py::test_without_a_key_it_listens_only_on_loopback",
    ),
    _server(
        "public-asgi",
        "architecture: the ASGI application is public, and runs jobs under any ASGI server",
        "asgi.py",
        "            self._app = application.app()\n",
        "            application.app()\n",
        "tests/integration/test_asgi.py::test_it_serves_requests_and_runs_jobs",
    ),
    _server(
        "short-key",
        "security: a server does not start with a short key",
        "services/api_keys.py",
        "if len(key) < MIN_LENGTH or not",
        "if not",
        f"{KEYS}::test_a_key_that_is_easy_to_guess_is_refused",
    ),
    _server(
        "upload-encoded-anew",
        "security: only the pixels of an upload are kept: no EXIF",
        "reencode.py",
        "HEAD.pack(*plain.size) + encoded)",
        "HEAD.pack(*plain.size) + data)",
        "tests/integration/test_uploads.py::TestAccepted::test_only_pixels_are_kept",
    ),
    _server(
        "upload-pixels",
        "security: the size of an upload is checked before it is decoded",
        "reencode.py",
        "    if image.width * image.height > MAX_PIXELS:\n",
        "    if False:\n",
        "tests/unit/test_upload_decoder.py::test_an_image_above_the_size_limit_is_refused_before_decoding",
    ),
    _server(
        "ten-references",
        "contract: a session has at most 10 reference images",
        "ledger/sql/uploads.py",
        "        raise UploadsFull\n",
        "        pass\n",
        f"{LEDGER}::test_uploads_are_visible_in_their_session_only_and_limited_in_number",
    ),
    _server(
        "webhook-answers",
        "security: at most 64 KiB of a webhook's response are read",
        "webhooks/sender.py",
        "                if taken >= self._response_bytes:\n",
        "                if False:\n",
        "tests/integration/test_webhooks.py::TestHostileReceivers::test_an_endless_body_is_not_read_to_its_end",
    ),
    _server(
        "log-query",
        "security: a log has no query string",
        "http/middleware.py",
        '"path": _loggable_path(scope["path"]),',
        '"path": _loggable_path(scope["path"] + "?" + scope["query_string"].decode()),',
        LOGS,
    ),
    _server(
        "log-prompt",
        "security: prompts are logged only when enabled",
        "services/submissions.py",
        "        if new and self.log_prompts:\n",
        "        if new:\n",
        LOGS,
    ),
    _server(
        "log-lines",
        "security: a caller's text cannot start a log line",
        "logs.py",
        "return _printable(line) + trace",
        "return line + trace",
        "tests/unit/test_logs.py::test_a_text_line_is_one_line_of_printable_characters",
    ),
    _server(
        "output-sandbox",
        "security: the response of an image has a sandbox policy",
        "http/api/outputs.py",
        '        "Content-Security-Policy": "default-src \'none\'; sandbox",\n',
        "",
        f"{OUTPUTS}::test_an_image_needs_no_key_and_matches_its_digest",
    ),
    _server(
        "nosniff",
        "security: the response of an image has nosniff",
        "http/middleware.py",
        '(b"x-content-type-options", b"nosniff"), ',
        "",
        f"{OUTPUTS}::test_an_image_needs_no_key_and_matches_its_digest",
    ),
    _server(
        "range",
        "contract: a range of an image can be requested",
        "http/api/outputs.py",
        "memoryview(data)[start : end + 1]",
        "memoryview(data)[start:]",
        f"{OUTPUTS}::test_ranges",
    ),
    _server(
        "stall-after",
        "reliability: an engine without a step for stall_after is replaced",
        "executors/watchdog.py",
        "self._timeout = asyncio.timeout(limits.stall_after)",
        "self._timeout = asyncio.timeout(None)",
        "tests/conformance/test_executors.py::TestLocal::test_a_process_that_does_not_read_its_pipe_is_replaced",
    ),
    _server(
        "phases-are-signs-of-life",
        "extending: an engine that compiles is not stopped while it reports no step",
        "executors/watchdog.py",
        "self.extend(self._limits.load_timeout if slow else self._limits.stall_after)",
        "pass",
        "tests/conformance/test_executors.py::test_compiling_may_take_longer_than_a_step",
    ),
    _server(
        "abandoned-drawings",
        "extending: a drawing that does not stop uses capacity",
        "executors/remote.py",
        "        self._abandoned.add(drawing)\n",
        "",
        "tests/conformance/test_executors.py::TestRemote::test_a_cancelled_task_uses_capacity_until_its_engine_stops",
    ),
    _server(
        "capacity-grows",
        "extending: a remote engine whose capacity grows gets jobs immediately",
        "executors/remote.py",
        "await self._engine.load(self._grow)",
        "await self._engine.load(lambda: None)",
        "tests/conformance/test_executors.py::TestRemote::test_a_capacity_that_the_engine_increases_is_reported",
    ),
    _server(
        "crash-tried-again",
        "README: the job of a crashed engine is retried",
        "scheduler/attempt.py",
        'await self._retry(crash.code, f"the engine failed: {crash}")',
        'await self._fail(crash.code, f"the engine failed: {crash}")',
        f"{ATTEMPTS}::test_a_job_is_queued_again_after_a_failure_of_its_engine",
    ),
    _server(
        "picture-kept",
        "reliability: the storing of an image is retried",
        "scheduler/attempt.py",
        "                if waited >= self._context.policy.storage_timeout:\n",
        "                if True:\n",
        f"{ATTEMPTS}::test_an_image_is_kept_in_memory_until_it_can_be_stored",
    ),
    _server(
        "engine-unavailable",
        "reliability: submits are 503 while no engine starts",
        "services/admission.py",
        "        if self._executor.trouble:\n",
        "        if False:\n",
        "tests/integration/test_serve.py::test_no_job_is_accepted_while_the_engine_cannot_start",
    ),
    _server(
        "draining",
        "reliability: a draining server accepts no job",
        "services/admission.py",
        "        if self.draining:\n",
        "        if False:\n",
        f"{REFUSALS}::test_a_server_that_drains_accepts_no_job",
    ),
    _server(
        "cancel-twice",
        "contract: a cancel may be repeated",
        "services/cancellations.py",
        "        with suppress(Conflict):\n",
        "        if True:\n",
        "tests/integration/test_client.py::test_cancel",
    ),
    _server(
        "not-modified",
        "contract: a matching ETag is answered 304",
        "http/api/status.py",
        "    if known is not None and view.is_known(known):\n",
        "    if False:\n",
        "tests/integration/test_api.py::TestStatus::test_a_matching_etag_is_answered_304",
    ),
    _server(
        "longest-wait",
        "contract: a long poll takes 60 s at most",
        "services/job_waits.py",
        "        return min(seconds, int(self._longest_wait))",
        "        return seconds",
        f"{REFUSALS}::test_a_long_poll_is_no_longer_than_the_server_allows",
    ),
    _server(
        "thousand-jobs",
        "contract: a call names at most 1000 jobs",
        "http/api/batch.py",
        "    if not 1 <= len(job_ids) <= MAX_JOBS:\n",
        "    if not job_ids:\n",
        f"{REFUSALS}::test_a_call_names_a_thousand_jobs_at_most",
    ),
    _client(
        "one-deadline",
        "contract: the timeout of each request ends with the deadline",
        "client/flow.py",
        "timeout = min(left, self.options.request_timeout + long_poll)",
        "timeout = self.options.request_timeout + long_poll",
        f"{WAITING}::TestDeadline::test_requests_are_limited_to_the_time_left",
    ),
    _client(
        "longest-delay",
        "contract: Retry-After is capped at 60 s",
        "client/flow.py",
        "return min(seconds * (1 + self.options.jitter * self.random()), self.options.longest_delay)",
        "return seconds * (1 + self.options.jitter * self.random())",
        f"{WAITING}::TestRetries::test_retry_after_of_a_503_is_kept_up_to_a_cap",
    ),
    _client(
        "next-minute",
        "retrieval: a rate limit without Retry-After costs at most a minute",
        "client/flow.py",
        "return 60.0 - server_time(reply) % 60.0",
        "return 100.0",
        f"{WAITING}::TestRetries::test_a_429_is_retried_in_the_next_minute_then_every_ten_seconds",
    ),
    _client(
        "one-pause",
        "retrieval: a limited minute pauses every call of the client",
        "client/protocol.py",
        "    context.budget.pause(context.now + delay)\n",
        "",
        f"{WAITING}::TestRetries::test_a_pause_applies_to_every_call_of_the_client",
    ),
    _client(
        "weak-tags",
        "retrieval: a weak ETag is not taken for a sign of long polls",
        "client/flows/wait.py",
        "(tag.startswith('\"') or (tag and applied))",
        "tag",
        LEGACY_PACE,
    ),
    _client(
        "retry-after",
        "contract: Retry-After is respected",
        "client/flows/wait.py",
        "        requested = retry_after(reply)\n",
        "        requested = None\n",
        f"{WAITING}::TestInterval::test_the_delay_that_the_server_requests_is_kept",
    ),
    _client(
        "stall-reported",
        "contract: a stall is reported, and the wait continues",
        "client/flows/wait.py",
        '        if self.context.options.on_stall == "raise":\n',
        "        if True:\n",
        f"{WAITING}::TestStatusHandling::test_a_stall_is_reported_once_and_the_wait_continues",
    ),
    _client(
        "journalled",
        "contract: a job id is in the journal before the job is waited on",
        "client/async_client.py",
        '            journal.submitted(entry, response["job_id"])\n',
        "            pass\n",
        "tests/integration/test_client.py::test_a_submitted_job_is_in_the_journal",
    ),
    _client(
        "no-redirects",
        "README: the API key is not sent to the target of a redirect",
        "client/transport.py",
        "follow_redirects=False",
        "follow_redirects=True",
        "tests/unit/test_transport.py::test_a_redirect_is_not_followed",
    ),
    _client(
        "if-range",
        "contract: a download is resumed with If-Range",
        "client/flows/download.py",
        '                headers["If-Range"] = self.validator\n',
        "                pass\n",
        VECTORS,
    ),
    _server(
        "cancel-one-job",
        "contract: a cancel affects no other job",
        "services/cancellations.py",
        "        job = await find_job(self.jobs, caller.session_id, job_id)\n        with suppress",
        "        job = await find_job(self.jobs, caller.session_id, job_id)\n"
        "        for other in (await self.jobs.page(caller.session_id, state=None, limit=9, before=None))[0]:\n"
        "            if not other.over and other.id != job_id:\n"
        "                await self.jobs.change(other.id, Change.CANCEL, now=0, error_code='cancelled')\n"
        "        with suppress",
        "tests/integration/test_transports.py::test_cancelling",
    ),
    _server(
        "disconnect-cancels-nothing",
        "reliability: a caller that disconnects cancels nothing",
        "services/job_waits.py",
        "                if not await subscription.wait(until):\n                    return",
        "                try:\n"
        "                    changed = await subscription.wait(until)\n"
        "                except asyncio.CancelledError:\n"
        "                    from umrgen.server.domain.job import Change\n\n"
        "                    await self._jobs.change(job.id, Change.CANCEL, now=0, error_code='cancelled')\n"
        "                    raise\n"
        "                if not changed:\n"
        "                    return",
        "tests/integration/test_api.py::test_a_disconnect_does_not_cancel_the_job",
    ),
    *(
        _client(
            f"exit-code-{code}",
            f"contract: the exit code for {error} is {code}",
            "cli/common.py",
            f"    (errors.{error}, {code}),",
            f"    (errors.{error}, 1),",
            "tests/unit/test_docs.py::test_every_error_is_documented_with_its_code_and_exit_code",
        )
        for error, code in (
            ("WaitTimeout", 3),
            ("Unauthorized", 4),
            ("JobFailed", 5),
            ("OutputMissing", 6),
            ("ConnectionFailed", 7),
        )
    ),
)


def _rows() -> Iterator[str]:
    for mutation in MUTATIONS:
        document, _, promise = mutation.promise.partition(": ")
        tests = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in mutation.tests)
        yield f"| {promise} | {document} | `{mutation.name}` | {tests} |"


def table() -> str:
    """Return the table of docs/reliability.md."""
    head = ["| promise | where it stands | mutation | caught by |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *_rows()])
