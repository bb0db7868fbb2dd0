//! The handshake that admits a connection to a session.
