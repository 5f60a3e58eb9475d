//! Tests of the whole system: server, agent and simulated host.
