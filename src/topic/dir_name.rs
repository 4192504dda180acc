//! The names of the directories in a store: which of them are partitions, and which are on their way out or in.
//!
//! ```text
//!  <topic>-<partition>
//!  <topic>-<partition>.<32 hexadecimal digits>-delete    topic cut so that the name has at most 255 characters
//!  <topic>-<partition>.<32 hexadecimal digits>-stray     likewise
//!  <topic>-<partition>.<32 hexadecimal digits>-future    topic whole
//! ```

use std::ffi::OsStr;

use crate::types::{TopicPartition, Uuid};

/// The longest name of a file or directory.
const NAME_BYTES_MAX: usize = 255;
const DELETE: &str = "-delete";
const STRAY: &str = "-stray";
const FUTURE: &str = "-future";

type Form = fn(TopicPartition) -> DirName;
const FORMS: [(&str, Form); 3] =
    [(DELETE, DirName::Delete), (STRAY, DirName::Stray), (FUTURE, DirName::Future)];

/// The metadata log of a Kafka controller, which may lie beside the partitions and is none.
const CLUSTER_METADATA: &str = "__cluster_metadata";

/// What the name of a directory in a store says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DirName {
    /// A partition.
    Partition(TopicPartition),
    /// A partition that was deleted and only has to be removed. The topic may be cut.
    Delete(TopicPartition),
    /// A partition that its cluster no longer knew; kept until somebody decides. The topic may be cut.
    Stray(TopicPartition),
    /// A copy of a partition that was being moved here from another directory.
    Future(TopicPartition),
    /// Nothing of ours: left alone, and reported.
    Other,
}

impl DirName {
    /// Reads a name. What is not exactly of a form above is [`Other`](DirName::Other): where a name decides that
    /// files are removed, a guess will not do.
    pub(crate) fn parse(name: impl AsRef<OsStr>) -> DirName {
        name.as_ref().to_str().and_then(parse).unwrap_or(DirName::Other)
    }
}

fn parse(name: &str) -> Option<DirName> {
    for (suffix, form) in FORMS {
        if let Some(rest) = name.strip_suffix(suffix) {
            let (partition, id) = rest.rsplit_once('.')?;
            let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            return if is_id { parse_partition(partition).map(form) } else { None };
        }
    }
    parse_partition(name).map(DirName::Partition)
}

fn parse_partition(name: &str) -> Option<TopicPartition> {
    TopicPartition::from_dir_name(name).filter(|partition| partition.topic.as_str() != CLUSTER_METADATA)
}

/// The name that a partition's directory gets before its files are removed; the id keeps it apart from others of
/// the same partition.
pub(crate) fn delete_name(partition: &TopicPartition, id: Uuid) -> String {
    let end = format!("-{}.{:032x}{DELETE}", partition.partition, u128::from_be_bytes(id.0));
    let topic = partition.topic.as_str();
    let kept = topic.len().min(NAME_BYTES_MAX.saturating_sub(end.len()));
    // A topic's name is ASCII, so it can be cut anywhere.
    format!("{}{end}", topic.get(..kept).unwrap_or(topic))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::TopicName;

    const HEX: &str = "0123456789abcdef0123456789ABCDEF";

    fn partition(topic: &str, partition: u32) -> TopicPartition {
        TopicPartition { topic: TopicName::new(topic).unwrap(), partition }
    }

    #[test]
    fn every_form_is_told_apart() {
        let a = || partition("a-1.b", 7);
        let cases = [
            ("a-1.b-7".to_owned(), DirName::Partition(a())),
            (format!("a-1.b-7.{HEX}-delete"), DirName::Delete(a())),
            (format!("a-1.b-7.{HEX}-stray"), DirName::Stray(a())),
            (format!("a-1.b-7.{HEX}-future"), DirName::Future(a())),
            // Topics may be named like the other forms: what counts is how the directory's name ends.
            ("x-delete-0".to_owned(), DirName::Partition(partition("x-delete", 0))),
            (format!("x-0.{HEX}-delete-3"), DirName::Partition(partition(&format!("x-0.{HEX}-delete"), 3))),
            (
                format!("x-0.{HEX}-delete-3.{HEX}-stray"),
                DirName::Stray(partition(&format!("x-0.{HEX}-delete"), 3)),
            ),
        ];
        for (name, expected) in cases {
            assert_eq!(DirName::parse(&name), expected, "{name}");
        }
    }

    #[test]
    fn anything_else_is_left_alone() {
        let names = [
            "".to_owned(),
            "lost+found".to_owned(),
            "remote-log-index-cache".to_owned(),
            "__cluster_metadata-0".to_owned(),
            format!("__cluster_metadata-0.{HEX}-delete"),
            "a-0-delete".to_owned(),
            "a-0.-delete".to_owned(),
            "-delete".to_owned(),
            format!(".{HEX}-delete"),
            format!("a.{HEX}-delete"),
            format!("-0.{HEX}-delete"),
            format!("a-0.{}-delete", &HEX[1..]),
            format!("a-0.{HEX}0-delete"),
            format!("a-0.{}g-delete", &HEX[1..]),
            format!("a-0.{HEX}-Delete"),
            format!("a-0.{HEX}-delete "),
            format!("a-0.{HEX}-deleted"),
            format!("a-00.{HEX}-delete"),
            format!("a-2147483648.{HEX}-delete"),
            format!("a/b-0.{HEX}-delete"),
            format!("a\0-0.{HEX}-delete"),
            format!("{}-0", "a".repeat(250)),
        ];
        for name in names {
            assert_eq!(DirName::parse(&name), DirName::Other, "{name:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_is_not_utf_8_is_left_alone() {
        use std::os::unix::ffi::OsStrExt;
        assert_eq!(DirName::parse(OsStr::from_bytes(b"a\xff-0")), DirName::Other);
    }

    #[test]
    fn a_short_name_is_kept_whole() {
        let id = Uuid([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        let name = delete_name(&partition("clicks", 3), id);
        assert_eq!(name, "clicks-3.000102030405060708090a0b0c0d0eff-delete");
    }

    #[test]
    fn a_random_id_says_so_in_the_name() {
        for (high, low) in [(0, 0), (u64::MAX, u64::MAX), (0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210)] {
            let name = delete_name(&partition("a", 0), Uuid::from_random(high, low));
            let digits = &name.as_bytes()["a-0.".len()..];
            assert_eq!(digits[12], b'4', "version 4 in {name}");
            assert!(b"89ab".contains(&digits[16]), "the variant in {name}");
        }
    }

    proptest! {
        #[test]
        fn a_deleted_partition_is_recognised(
            topic in "[a-zA-Z0-9._-]{3,249}", number in 0..=i32::MAX as u32, id in any::<[u8; 16]>(),
        ) {
            let deleted = partition(&topic, number);
            let name = delete_name(&deleted, Uuid(id));
            prop_assert!(name.len() <= NAME_BYTES_MAX);
            match DirName::parse(&name) {
                DirName::Delete(read) => {
                    prop_assert_eq!(read.partition, number);
                    prop_assert!(topic.starts_with(read.topic.as_str()));
                    let cut = read.topic.as_str().len() < topic.len();
                    prop_assert!(!cut || name.len() == NAME_BYTES_MAX, "cut no more than needed");
                }
                other => prop_assert!(false, "{name} gave {other:?}"),
            }
        }

        #[test]
        fn any_name_is_read_without_panic(name in ".*") {
            let _ = DirName::parse(&name);
        }
    }
}
