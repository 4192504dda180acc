//! Named partitions in a directory.
