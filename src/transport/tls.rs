//! TLS configuration shared by the transports.
