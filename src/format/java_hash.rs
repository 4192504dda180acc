//! The hash of text that decides where coordinators keep things: Java's `String.hashCode`.

/// The hash that Java has for a text: over its UTF-16 code units, `31 * hash + unit`, wrapping.
///
/// ```
/// use annals::format::java_hash;
/// assert_eq!(java_hash(""), 0);
/// assert_eq!(java_hash("hello"), 99_162_322);
/// assert_eq!(java_hash("polygenelubricants"), i32::MIN);
/// ```
pub fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// The partition, of so many, in which a coordinator's topic keeps what belongs to an id: of groups in
/// `__consumer_offsets`, of transactional ids in `__transaction_state`. 0 if there are none.
///
/// ```
/// use annals::format::coordinator_partition;
/// assert_eq!(coordinator_partition("hello", 50), 22);
/// // Kafka's `Utils.abs`: the smallest number has no positive counterpart.
/// assert_eq!(coordinator_partition("polygenelubricants", 50), 0);
/// ```
pub fn coordinator_partition(id: &str, partitions: u32) -> u32 {
    let positive = java_hash(id).checked_abs().unwrap_or(0).unsigned_abs();
    positive.checked_rem(partitions).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_by_utf16_units_and_not_by_bytes_or_characters() {
        // U+1F600 is the pair d83d de00.
        assert_eq!(java_hash("\u{1f600}"), 0xd83d * 31 + 0xde00);
        assert_eq!(java_hash("\u{e9}"), 0xe9);
        assert_eq!(java_hash("ab"), 97 * 31 + 98);
    }

    #[test]
    fn a_negative_hash_gives_a_partition_too() {
        assert_eq!(java_hash("invoice-writer"), -574_730_477);
        assert_eq!(coordinator_partition("invoice-writer", 50), 27);
        assert_eq!(coordinator_partition("invoice-writer", 1), 0);
        assert_eq!(coordinator_partition("x", 0), 0);
    }
}
