//! The typed client of the server's API.
