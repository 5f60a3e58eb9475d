-- Times are milliseconds since 1970 (BIGINT), ids text, structures JSON text, truth values 0 or 1: the same on every engine.

CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- Numbers that only grow, taken inside the writing transaction so that they are committed in order.
CREATE TABLE counters (
    name  TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);

CREATE TABLE audit (
    sequence  BIGINT NOT NULL PRIMARY KEY,
    at        BIGINT NOT NULL,
    actor     TEXT NOT NULL,
    action    TEXT NOT NULL,
    subject   TEXT NOT NULL,
    detail    TEXT NOT NULL,
    prev_hash TEXT NOT NULL,
    hash      TEXT NOT NULL
);

CREATE TABLE users (
    id            TEXT NOT NULL PRIMARY KEY,
    name          TEXT NOT NULL,
    name_key      TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    role          TEXT NOT NULL,
    created       BIGINT NOT NULL
);

CREATE TABLE api_tokens (
    id        TEXT NOT NULL PRIMARY KEY,
    user_id   TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name      TEXT NOT NULL,
    hash      TEXT NOT NULL UNIQUE,
    role      TEXT NOT NULL,
    created   BIGINT NOT NULL,
    expires   BIGINT NOT NULL,
    last_used BIGINT
);
CREATE INDEX api_tokens_by_user ON api_tokens (user_id);

CREATE TABLE enrolment_tokens (
    hash    TEXT NOT NULL PRIMARY KEY,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    used    BIGINT,
    used_by TEXT
);

CREATE TABLE agents (
    id                  TEXT NOT NULL PRIMARY KEY,
    machine             TEXT NOT NULL,
    fingerprint         TEXT NOT NULL UNIQUE,
    certificate_expires BIGINT NOT NULL,
    enrolled            BIGINT NOT NULL,
    revoked             BIGINT,
    host_id             TEXT,
    host_name           TEXT,
    os_version          TEXT,
    version             TEXT NOT NULL,
    instance            TEXT,
    instance_before     TEXT,
    last_poll           BIGINT,
    not_ready           TEXT,
    facts               TEXT NOT NULL
);
CREATE UNIQUE INDEX agents_by_host ON agents (host_id) WHERE revoked IS NULL;

CREATE TABLE vms (
    host_id    TEXT NOT NULL,
    vm_id      TEXT NOT NULL,
    name       TEXT NOT NULL,
    summary    TEXT NOT NULL,
    first_seen BIGINT NOT NULL,
    seen       BIGINT NOT NULL,
    gone       BIGINT,
    PRIMARY KEY (host_id, vm_id)
);
CREATE INDEX vms_by_id ON vms (vm_id);
CREATE INDEX vms_by_name ON vms (name);

CREATE TABLE policies (
    id            TEXT NOT NULL PRIMARY KEY,
    name          TEXT NOT NULL UNIQUE,
    interval_secs BIGINT,
    enabled       BIGINT NOT NULL,
    method        TEXT,
    consistency   TEXT NOT NULL,
    retention     TEXT NOT NULL,
    created       BIGINT NOT NULL
);

CREATE TABLE protections (
    vm_id     TEXT NOT NULL PRIMARY KEY,
    vm_name   TEXT NOT NULL,
    host_id   TEXT NOT NULL,
    policy_id TEXT NOT NULL REFERENCES policies (id),
    excluded  TEXT NOT NULL,
    paused    BIGINT NOT NULL,
    next_due  BIGINT,
    created   BIGINT NOT NULL
);
CREATE INDEX protections_by_policy ON protections (policy_id);
CREATE INDEX protections_by_due ON protections (next_due);

CREATE TABLE jobs (
    id               TEXT NOT NULL PRIMARY KEY,
    kind             TEXT NOT NULL,
    rank             BIGINT NOT NULL,
    vm_id            TEXT,
    vm_name          TEXT,
    host_id          TEXT,
    host_name        TEXT,
    point_id         TEXT,
    request          TEXT NOT NULL,
    requested_by     TEXT NOT NULL,
    created          BIGINT NOT NULL,
    state            TEXT NOT NULL,
    cause            TEXT,
    cause_reason     TEXT,
    not_before       BIGINT,
    expires          BIGINT NOT NULL,
    fence            BIGINT NOT NULL,
    attempt          BIGINT NOT NULL,
    failures         BIGINT NOT NULL,
    lease_owner      TEXT,
    lease_ends       BIGINT,
    cancel_requested BIGINT,
    started          BIGINT,
    ended            BIGINT,
    error            TEXT,
    warnings         TEXT NOT NULL,
    bytes_done       BIGINT NOT NULL,
    bytes_total      BIGINT NOT NULL,
    bytes_read       BIGINT NOT NULL,
    bytes_sent       BIGINT NOT NULL,
    bytes_stored     BIGINT NOT NULL,
    bytes_reused     BIGINT NOT NULL,
    last_event       BIGINT NOT NULL,
    last_line        BIGINT NOT NULL,
    change           BIGINT NOT NULL
);
CREATE INDEX jobs_by_state ON jobs (state, rank, created);
CREATE INDEX jobs_by_created ON jobs (created, id);
CREATE INDEX jobs_by_vm ON jobs (vm_id, created);
-- At most one backup of a VM waits or runs.
CREATE UNIQUE INDEX jobs_one_backup_per_vm ON jobs (vm_id) WHERE kind = 'backup' AND state IN ('queued', 'running');

CREATE TABLE job_steps (
    job_id   TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    attempt  BIGINT NOT NULL,
    name     TEXT NOT NULL,
    position BIGINT NOT NULL,
    state    TEXT NOT NULL,
    started  BIGINT NOT NULL,
    ended    BIGINT,
    detail   TEXT,
    PRIMARY KEY (job_id, attempt, name)
);

CREATE TABLE job_log (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    line   BIGINT NOT NULL,
    at     BIGINT NOT NULL,
    level  TEXT NOT NULL,
    text   TEXT NOT NULL,
    PRIMARY KEY (job_id, line)
);

CREATE TABLE idempotency (
    key       TEXT NOT NULL PRIMARY KEY,
    body_hash TEXT NOT NULL,
    response  TEXT NOT NULL,
    created   BIGINT NOT NULL
);
CREATE INDEX idempotency_by_created ON idempotency (created);

CREATE TABLE sessions (
    id      TEXT NOT NULL PRIMARY KEY,
    job_id  TEXT NOT NULL REFERENCES jobs (id),
    fence   BIGINT NOT NULL,
    kind    TEXT NOT NULL,
    opened  BIGINT NOT NULL,
    closed  BIGINT
);
CREATE INDEX sessions_by_job ON sessions (job_id);
CREATE INDEX sessions_open ON sessions (closed, opened);

CREATE TABLE points (
    id            TEXT NOT NULL PRIMARY KEY,
    vm_id         TEXT NOT NULL,
    vm_name       TEXT NOT NULL,
    host_id       TEXT NOT NULL,
    host_name     TEXT NOT NULL,
    job_id        TEXT NOT NULL,
    fence         BIGINT NOT NULL,
    parent_id     TEXT,
    created       BIGINT NOT NULL,
    committed     BIGINT NOT NULL,
    method        TEXT NOT NULL,
    kind          TEXT NOT NULL,
    consistency   TEXT NOT NULL,
    size_bytes    BIGINT NOT NULL,
    changed_bytes BIGINT NOT NULL,
    stored_bytes  BIGINT NOT NULL,
    state         TEXT NOT NULL,
    locked_until  BIGINT,
    verified      BIGINT,
    body          TEXT NOT NULL
);
CREATE INDEX points_by_vm ON points (vm_id, created, id);
CREATE INDEX points_by_state ON points (state, vm_id, created, id);
CREATE INDEX points_by_created ON points (created, id);
CREATE INDEX points_by_job ON points (job_id, fence);

-- A point an open session builds on or reads: it may not be deleted.
CREATE TABLE session_points (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    point_id   TEXT NOT NULL,
    PRIMARY KEY (session_id, point_id)
);
CREATE INDEX session_points_by_point ON session_points (point_id);

CREATE TABLE packs (
    sequence     BIGINT NOT NULL PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    state        TEXT NOT NULL,
    size_bytes   BIGINT NOT NULL,
    plain_bytes  BIGINT NOT NULL,
    entries      BIGINT NOT NULL,
    generation   BIGINT NOT NULL,
    session_id   TEXT,
    registered   BIGINT NOT NULL,
    condemned    BIGINT
);
CREATE INDEX packs_by_session ON packs (session_id);

-- A pack an open session counts on: it may not be condemned.
CREATE TABLE session_packs (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    sequence   BIGINT NOT NULL,
    PRIMARY KEY (session_id, sequence)
);
CREATE INDEX session_packs_by_pack ON session_packs (sequence);

CREATE TABLE publishing (
    point_id     TEXT NOT NULL PRIMARY KEY,
    session_id   TEXT NOT NULL,
    job_id       TEXT NOT NULL,
    fence        BIGINT NOT NULL,
    vm_id        TEXT NOT NULL,
    begun        BIGINT NOT NULL,
    body         TEXT NOT NULL
);
CREATE INDEX publishing_by_job ON publishing (job_id);

-- Pins without expiry: settled, never timed out.
CREATE TABLE publishing_packs (
    point_id TEXT NOT NULL REFERENCES publishing (point_id) ON DELETE CASCADE,
    sequence BIGINT NOT NULL,
    PRIMARY KEY (point_id, sequence)
);
CREATE INDEX publishing_packs_by_pack ON publishing_packs (sequence);

CREATE TABLE publishing_points (
    point_id TEXT NOT NULL REFERENCES publishing (point_id) ON DELETE CASCADE,
    base_id  TEXT NOT NULL,
    PRIMARY KEY (point_id, base_id)
);
CREATE INDEX publishing_points_by_base ON publishing_points (base_id);

-- Points that were given up or deleted: no late publish may bring them back.
CREATE TABLE voided_points (
    point_id TEXT NOT NULL PRIMARY KEY,
    at       BIGINT NOT NULL
);

CREATE TABLE bases (
    vm_id           TEXT NOT NULL,
    disk_id         TEXT NOT NULL,
    host_id         TEXT NOT NULL,
    size_bytes      BIGINT NOT NULL,
    point_id        TEXT NOT NULL,
    reference_point TEXT NOT NULL,
    rct_id          TEXT NOT NULL,
    recorded        BIGINT NOT NULL,
    PRIMARY KEY (vm_id, disk_id)
);

-- When disks of a VM were last rewritten from outside; an empty disk id stands for all of them.
CREATE TABLE base_voids (
    vm_id   TEXT NOT NULL,
    disk_id TEXT NOT NULL,
    at      BIGINT NOT NULL,
    reason  TEXT NOT NULL,
    PRIMARY KEY (vm_id, disk_id)
);

CREATE TABLE damage (
    id       TEXT NOT NULL PRIMARY KEY,
    pack_id  TEXT NOT NULL,
    entry    TEXT,
    what     TEXT NOT NULL,
    found    BIGINT NOT NULL,
    healed   BIGINT
);
CREATE INDEX damage_by_pack ON damage (pack_id);
