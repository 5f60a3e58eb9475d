-- What restores keep beside on hosts until they are finished or undone; a row stays once that has happened.
CREATE TABLE parked (
    job_id   TEXT NOT NULL PRIMARY KEY,
    vm_id    TEXT NOT NULL,
    host_id  TEXT NOT NULL,
    whole_vm BIGINT NOT NULL,
    files    BIGINT NOT NULL,
    bytes    BIGINT NOT NULL,
    since    BIGINT NOT NULL,
    until    BIGINT NOT NULL,
    state    TEXT NOT NULL,
    -- When the VM that came back was first seen running.
    ran      BIGINT,
    -- The job that undoes or finishes it, the last one asked for.
    by_job   TEXT,
    ended    BIGINT
);
CREATE INDEX parked_by_state ON parked (state, until);
CREATE INDEX parked_by_job ON parked (by_job);
