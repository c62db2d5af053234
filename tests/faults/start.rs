//! Starts: many at once, and with the database away.
