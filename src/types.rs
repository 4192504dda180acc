//! The nouns that every layer shares: names and identities. Offsets are plain `u64`, timestamps plain `i64`
//! milliseconds since the epoch.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// The largest offset that Kafka's files can hold.
pub const OFFSET_MAX: u64 = i64::MAX as u64;

/// The longest topic name, in bytes (Kafka's `Topic.MAX_NAME_LENGTH`).
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// A topic's name: 1 to 249 characters of `a-z A-Z 0-9 . _ -`, neither `.` nor `..`.
///
/// It becomes part of a directory name, so nothing else is let through.
///
/// ```
/// use annals::TopicName;
/// assert_eq!(TopicName::new("page-views.v2")?.as_str(), "page-views.v2");
/// assert!(TopicName::new("../etc").is_err());
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`Error::InvalidName`] with the rule that it breaks.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        let reason = if name.is_empty() {
            "it is empty"
        } else if name.len() > TOPIC_NAME_BYTES_MAX {
            "it is longer than 249 bytes"
        } else if name == "." || name == ".." {
            "`.` and `..` are directories"
        } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        {
            "only a-z, A-Z, 0-9, `.`, `_` and `-` are allowed"
        } else {
            return Ok(TopicName(name.into()));
        };
        let shown = name.chars().take(260).collect();
        Err(Error::InvalidName { kind: "topic", name: shown, reason })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether two names collide by Kafka's rule: equal once every `.` is read as `_`.
    ///
    /// ```
    /// # use annals::TopicName;
    /// assert!(TopicName::new("a.b")?.collides_with(&TopicName::new("a_b")?));
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn collides_with(&self, other: &TopicName) -> bool {
        let unify = |byte: u8| if byte == b'.' { b'_' } else { byte };
        self.0.len() == other.0.len() && self.0.bytes().map(unify).eq(other.0.bytes().map(unify))
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Whether that may be the id of something that coordinators keep, a group for instance: any text that Kafka's formats
/// can hold but the empty one. It never becomes part of a path.
///
/// # Errors
/// [`Error::InvalidName`].
pub(crate) fn check_id(kind: &'static str, id: &str) -> Result<()> {
    let reason = match id.len() {
        0 => "it is empty",
        1..=0x7fff => return Ok(()),
        _ => "it is longer than 32,767 bytes",
    };
    Err(Error::InvalidName { kind, name: id.chars().take(260).collect(), reason })
}

/// One partition of one topic; displays as `topic-number`, which is also the name of its directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition's number, from 0 to `i32::MAX`.
    pub partition: u32,
}

impl TopicPartition {
    /// The directory name `topic-number` taken apart at its last `-`, or `None` if it is not one.
    ///
    /// ```
    /// # use annals::TopicPartition;
    /// let parsed = TopicPartition::from_dir_name("a-1-0").unwrap();
    /// assert_eq!((parsed.topic.as_str(), parsed.partition), ("a-1", 0));
    /// assert!(TopicPartition::from_dir_name("lost+found").is_none());
    /// ```
    pub fn from_dir_name(name: &str) -> Option<Self> {
        let (topic, number) = name.rsplit_once('-')?;
        let canonical = number == "0" || !number.starts_with('0');
        if !canonical || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let partition = number.parse::<u32>().ok().filter(|&number| number <= i32::MAX as u32)?;
        Some(TopicPartition { topic: TopicName::new(topic).ok()?, partition })
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A 16-byte identity, for topics; its text form is Kafka's URL-safe base64 without padding, 22 characters.
///
/// ```
/// use annals::Uuid;
/// let id: Uuid = "AQIDBAUGBwgREhMUFRYXGA".parse()?;
/// assert_eq!(id.to_string(), "AQIDBAUGBwgREhMUFRYXGA");
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Uuid {
    /// The reserved identity of nothing.
    pub const ZERO: Uuid = Uuid([0; 16]);

    /// A version 4 identity made of two random numbers.
    pub(crate) fn from_random(high: u64, low: u64) -> Self {
        let bits = (u128::from(high) << 64) | u128::from(low);
        let version = (bits & !(0xf << 76)) | (4 << 76);
        let variant = (version & !(0b11 << 62)) | (0b10 << 62);
        Uuid(variant.to_be_bytes())
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        for index in 0..22u32 {
            // 22 digits of 6 bits are 132: the last one carries four zero bits of padding.
            let shifted = if index < 21 { bits >> (122 - 6 * index) } else { bits << 4 };
            let digit = BASE64_URL.get((shifted & 0x3f) as usize).copied().unwrap_or(b'A');
            write!(f, "{}", char::from(digit))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uuid({self})")
    }
}

impl std::str::FromStr for Uuid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid =
            |reason| Error::InvalidName { kind: "uuid", name: text.chars().take(64).collect(), reason };
        if text.len() != 22 {
            return Err(invalid("it must be 22 characters of URL-safe base64"));
        }
        let mut bits = 0u128;
        for (index, byte) in text.bytes().enumerate() {
            let digit = BASE64_URL.iter().position(|&known| known == byte);
            let digit = digit.ok_or_else(|| invalid("it must be URL-safe base64"))? as u128;
            if index < 21 {
                bits = (bits << 6) | digit;
            } else {
                if digit & 0xf != 0 {
                    return Err(invalid("its last character carries stray bits"));
                }
                bits = (bits << 2) | (digit >> 4);
            }
        }
        Ok(Uuid(bits.to_be_bytes()))
    }
}
