"""Which engine answers for a version: found by another process, and kept in the state folder."""
