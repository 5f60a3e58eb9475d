//! What goes over HTTP between people, agents and the server.
