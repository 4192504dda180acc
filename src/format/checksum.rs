//! The two checksums of the format, each behind one function, so that the crate behind it can change in one
//! place.

/// CRC-32C (Castagnoli), which guards v2 batches and producer snapshots.
///
/// ```
/// assert_eq!(annals::format::crc32c(b"123456789"), 0xe306_9283);
/// ```
pub fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// CRC-32 (IEEE, zlib's), which guards messages of magic 0 and 1.
///
/// ```
/// assert_eq!(annals::format::crc32(b"123456789"), 0xcbf4_3926);
/// ```
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}
