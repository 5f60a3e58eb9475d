//! What we ask of a Hyper-V host, over WS-Management and its files.
