//! Which names may be used: topics, the directories of partitions, and the text form of ids.

use std::collections::HashSet;

use annals::{Error, TOPIC_NAME_BYTES_MAX, TopicName, TopicPartition, Uuid};
use proptest::prelude::*;

fn longest() -> String {
    "n".repeat(TOPIC_NAME_BYTES_MAX)
}

#[test]
fn legal_names() {
    let long = longest();
    for name in [
        "a",
        "Z",
        "0",
        "_",
        "-",
        "...",
        "..a",
        "a..",
        ".a",
        "a.",
        "-a",
        "a-",
        "--",
        "page-views.v2",
        "__consumer_offsets",
        "a-0",
        "a.b_c-d",
        "con",
        "NUL",
        "x.log",
        "annals.manifest",
        &long,
    ] {
        let topic = TopicName::new(name).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!((topic.as_str(), topic.to_string().as_str(), topic.as_ref()), (name, name, name));
    }
}

#[test]
fn illegal_and_hostile_names() {
    let too_long = longest() + "n";
    let far_too_long = "n".repeat(1 << 20);
    let long_and_wide = "\u{1f980}".repeat(100_000);
    for (name, rule) in [
        ("", "empty"),
        (".", "directories"),
        ("..", "directories"),
        ("/", "allowed"),
        ("../etc", "allowed"),
        ("a/b", "allowed"),
        ("/a", "allowed"),
        ("a/", "allowed"),
        ("\\", "allowed"),
        ("..\\a", "allowed"),
        ("a\\b", "allowed"),
        ("a\0", "allowed"),
        ("\0", "allowed"),
        ("a\0b", "allowed"),
        ("a\n", "allowed"),
        ("\r", "allowed"),
        ("\t", "allowed"),
        ("\x1b[2J", "allowed"),
        ("\x7f", "allowed"),
        (" ", "allowed"),
        (" a", "allowed"),
        ("a ", "allowed"),
        ("a b", "allowed"),
        ("caf\u{e9}", "allowed"),
        ("\u{ff0e}\u{ff0e}", "allowed"),
        ("a\u{2215}b", "allowed"),
        ("\u{202e}gol", "allowed"),
        ("a\u{200b}", "allowed"),
        ("\u{feff}a", "allowed"),
        ("\u{0660}", "allowed"),
        ("\u{1f980}", "allowed"),
        ("a:b", "allowed"),
        ("a*", "allowed"),
        ("a?", "allowed"),
        ("$HOME", "allowed"),
        ("~", "allowed"),
        ("a,b", "allowed"),
        ("a\"b", "allowed"),
        ("%2e%2e", "allowed"),
        (&too_long, "longer"),
        (&far_too_long, "longer"),
        (&long_and_wide, "longer"),
    ] {
        match TopicName::new(name) {
            Err(Error::InvalidName { kind: "topic", name: shown, reason }) => {
                assert!(reason.contains(rule), "{name:?}: {reason}");
                assert!(name.starts_with(&shown) && shown.chars().count() <= 260, "the message stays short");
            }
            other => panic!("{:?} gave {other:?}", &name[..name.len().min(4)]),
        }
    }
}

#[test]
fn every_single_ascii_byte() {
    for byte in 0..128u8 {
        let name = format!("a{}", char::from(byte));
        let legal = byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        assert_eq!(TopicName::new(&name).is_ok(), legal, "{name:?}");
    }
}

#[test]
fn collisions() {
    for (one, other, collide) in [
        ("a.b", "a_b", true),
        ("a_b", "a.b", true),
        ("a.b", "a.b", true),
        ("._.", "_._", true),
        ("...", "___", true),
        ("a.b", "a-b", false),
        ("a_b", "ab", false),
        ("a.b", "a.b.", false),
        ("a.b", "A_b", false),
        ("a.b", "a_c", false),
    ] {
        let (first, second) = (TopicName::new(one).unwrap(), TopicName::new(other).unwrap());
        assert_eq!(first.collides_with(&second), collide, "{one} {other}");
        assert_eq!(second.collides_with(&first), collide, "{other} {one}");
    }
}

#[test]
fn directories_of_partitions() {
    let long = longest();
    let long_dir = format!("{long}-0");
    for (name, expected) in [
        ("a-0", Some(("a", 0))),
        ("a-1-0", Some(("a-1", 0))),
        ("a--1", Some(("a-", 1))),
        ("--0", Some(("-", 0))),
        ("a.b-c_d-12", Some(("a.b-c_d", 12))),
        ("...-0", Some(("...", 0))),
        ("a-10", Some(("a", 10))),
        ("a-2147483647", Some(("a", i32::MAX as u32))),
        (long_dir.as_str(), Some((long.as_str(), 0))),
        ("", None),
        ("a", None),
        ("-", None),
        ("-0", None),
        ("a-", None),
        ("a-01", None),
        ("a-00", None),
        ("a-+1", None),
        ("a- 1", None),
        ("a-1 ", None),
        ("a-1\n", None),
        ("a-0x1", None),
        ("a-1.0", None),
        ("a-b", None),
        ("a-2147483648", None),
        ("a-4294967295", None),
        ("a-4294967296", None),
        ("a-99999999999999999999999999", None),
        ("a-\u{0661}", None),
        ("..-0", None),
        (".-0", None),
        ("../a-0", None),
        ("a/b-0", None),
        ("a\0-0", None),
        ("lost+found", None),
        ("a-0.0123456789abcdef0123456789abcdef-delete", None),
    ] {
        let parsed = TopicPartition::from_dir_name(name);
        let parts = parsed.as_ref().map(|parsed| (parsed.topic.as_str(), parsed.partition));
        assert_eq!(parts, expected, "{name:?}");
        if let Some(parsed) = &parsed {
            assert_eq!(parsed.to_string(), name, "one name for one partition");
        }
    }
}

/// The vector is what Kafka's `Uuid` prints for 0102030405060708-1112131415161718.
#[test]
fn ids_as_text() {
    let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18];
    for (id, text) in [
        (Uuid(bytes), "AQIDBAUGBwgREhMUFRYXGA"),
        (Uuid::ZERO, "AAAAAAAAAAAAAAAAAAAAAA"),
        (Uuid([0xff; 16]), "_____________________w"),
        (Uuid([0xfb; 16]), "-_v7-_v7-_v7-_v7-_v7-w"),
    ] {
        assert_eq!(id.to_string(), text);
        assert_eq!(text.parse::<Uuid>().unwrap(), id);
        assert_eq!(format!("{id:?}"), format!("Uuid({text})"));
    }
}

#[test]
fn ids_that_are_none() {
    for text in [
        "",
        "AAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAA==",
        "AAAAAAAAAAAAAAAAAAAAAB",
        "AAAAAAAAAAAAAAAAAAAAA_",
        "+AAAAAAAAAAAAAAAAAAAAA",
        "/AAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAA=",
        " AAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAA\u{e9}",
        "01020304-0506-0708-1112-131415161718",
    ] {
        let error = text.parse::<Uuid>().unwrap_err();
        assert!(matches!(error, Error::InvalidName { kind: "uuid", .. }), "{text:?} gave {error}");
    }
}

proptest! {
    #[test]
    fn any_name_is_legal_exactly_by_the_rules(name in r"[a-z.\-_/ \u{e9}\x00]{0,5}|.{0,300}") {
        let legal = !name.is_empty()
            && name.len() <= 249
            && name != "."
            && name != ".."
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        prop_assert_eq!(TopicName::new(&name).is_ok(), legal);
    }

    #[test]
    fn a_partition_and_its_directory_are_one_to_one(
        entries in prop::collection::hash_set(("[a-z0-9._-]{3,6}", 0..=i32::MAX as u32), 1..20),
    ) {
        let mut directories = HashSet::new();
        for (topic, partition) in &entries {
            let named = TopicPartition { topic: TopicName::new(topic).unwrap(), partition: *partition };
            prop_assert_eq!(TopicPartition::from_dir_name(&named.to_string()), Some(named.clone()));
            directories.insert(named.to_string());
        }
        prop_assert_eq!(directories.len(), entries.len());
    }

    #[test]
    fn any_id_round_trips_and_any_text_is_read_or_refused(bytes in any::<[u8; 16]>(), text in "[A-Za-z0-9_-]{22}|.*") {
        let id = Uuid(bytes);
        prop_assert_eq!(id.to_string().parse::<Uuid>().unwrap(), id);
        if let Ok(id) = text.parse::<Uuid>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }
}
