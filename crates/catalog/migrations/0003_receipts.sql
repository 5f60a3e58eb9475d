-- What a restore proved, written with its end; the signed receipt made from it, once it is made. Neither ever changes.
CREATE TABLE receipts (
    job_id   TEXT NOT NULL PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    evidence TEXT NOT NULL,
    receipt  TEXT
);
