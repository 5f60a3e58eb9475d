//! Metadata in SQL: jobs, agents, points, packs, users, audit.
