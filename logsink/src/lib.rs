//! Syslog sink, journal, hash chain, store and queries.
