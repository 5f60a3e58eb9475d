//! WS-Management and CIM messages: envelopes, faults, enumeration, invocation.
