//! The frame around every binary file that is annals' own, and the reading of what is inside.
//!
//! ```text
//!  0         8         10            18               18+n        22+n
//!  +---------+---------+-------------+----------------+-----------+
//!  | magic   | version | body length | body           | CRC-32 of |
//!  | 8 bytes | u16     | u64 = n     | n bytes        | all above |
//!  +---------+---------+-------------+----------------+-----------+
//! ```
//!
//! Big-endian. The frame is the same in every version, only the body changes: that is why the checksum can be
//! verified before the version is looked at, and a damaged file is not mistaken for a newer one. Whoever changes
//! the frame takes another magic.

use std::ops::RangeInclusive;

use byteorder::{BigEndian, ByteOrder};

use crate::error::FormatError;
use crate::types::{TOPIC_NAME_BYTES_MAX, TopicName};

const MAGIC_BYTES: usize = 8;
const VERSION_BYTES: usize = 2;
const LENGTH_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 4;
const HEAD_BYTES: usize = MAGIC_BYTES + VERSION_BYTES + LENGTH_BYTES;

/// What tells one kind of file from the others.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The kind of file, for messages.
    pub(crate) what: &'static str,
    pub(crate) magic: &'static [u8; MAGIC_BYTES],
    /// The magic in words.
    pub(crate) magic_text: &'static str,
    /// The version written, and the only one read.
    pub(crate) version: u16,
    /// The version in words.
    pub(crate) version_text: &'static str,
}

impl Frame {
    /// A file whose body `fill` appends to the buffer; `capacity` is a guess at the body's size.
    pub(crate) fn encode(&self, capacity: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + capacity + CHECKSUM_BYTES);
        bytes.extend_from_slice(self.magic);
        put_u16(&mut bytes, self.version);
        put_u64(&mut bytes, 0);
        fill(&mut bytes);
        let body_bytes = (bytes.len() - HEAD_BYTES) as u64;
        if let Some(length) = bytes.get_mut(MAGIC_BYTES + VERSION_BYTES..HEAD_BYTES) {
            BigEndian::write_u64(length, body_bytes);
        }
        let checksum = crc32fast::hash(&bytes);
        put_u32(&mut bytes, checksum);
        bytes
    }

    /// The body of a file, once magic, length, checksum and version are found right, in this order.
    pub(crate) fn decode<'a>(&self, bytes: &'a [u8]) -> Result<Body<'a>, FormatError> {
        let what = self.what;
        let mut rest = Body { what, rest: bytes };
        let magic = rest.array::<MAGIC_BYTES>()?;
        if magic != *self.magic {
            let found = i64::from_be_bytes(magic);
            return Err(FormatError::Invalid { what, found, expected: self.magic_text });
        }
        let version = rest.u16()?;
        let length = rest.u64()?;
        let body = rest.take(length)?;
        let stored = rest.u32()?;
        rest.finish()?;
        let covered = bytes.get(..bytes.len() - CHECKSUM_BYTES).unwrap_or_default();
        let computed = crc32fast::hash(covered);
        if stored != computed {
            return Err(FormatError::Checksum { what, stored, computed });
        }
        if version != self.version {
            let found = i64::from(version);
            return Err(FormatError::Version { what, found, supported: self.version_text });
        }
        Ok(Body { what, rest: body })
    }
}

/// Bytes still to be read. Every length is compared with what is left before anything is taken.
#[derive(Debug)]
pub(crate) struct Body<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    pub(crate) fn take(&mut self, length: u64) -> Result<&'a [u8], FormatError> {
        let split = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (taken, rest) = split.ok_or_else(|| self.short(length))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.short(N as u64))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        self.array::<2>().map(|bytes| BigEndian::read_u16(&bytes))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array::<4>().map(|bytes| BigEndian::read_u32(&bytes))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array::<8>().map(|bytes| BigEndian::read_u64(&bytes))
    }

    /// A number of items that take `item_bytes` or more each: refused if that many cannot be left, so that it may
    /// size an allocation.
    pub(crate) fn count(&mut self, item_bytes: u64) -> Result<usize, FormatError> {
        let count = self.u32()?;
        let needed = u64::from(count).saturating_mul(item_bytes);
        if needed > self.rest.len() as u64 {
            return Err(self.short(needed));
        }
        Ok(count as usize)
    }

    /// UTF-8 of a given length.
    pub(crate) fn text(&mut self, length: u64) -> Result<&'a str, FormatError> {
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|error| {
            let found = bytes.get(error.valid_up_to()).copied().map_or(-1, i64::from);
            self.invalid(found, "UTF-8")
        })
    }

    /// A number, if it is within bounds; `expected` says them in words.
    pub(crate) fn within(
        &self,
        number: u64,
        bounds: RangeInclusive<u64>,
        expected: &'static str,
    ) -> Result<u64, FormatError> {
        if bounds.contains(&number) { Ok(number) } else { Err(self.invalid(number as i64, expected)) }
    }

    /// A topic's name: its length in one byte, then the name, by the rules for names.
    pub(crate) fn topic(&mut self) -> Result<TopicName, FormatError> {
        let length = self.u8()?;
        let name = self.text(u64::from(length))?;
        TopicName::new(name).map_err(|_| self.invalid(i64::from(length), "the length of a legal topic name"))
    }

    /// That everything was read.
    pub(crate) fn finish(&self) -> Result<(), FormatError> {
        match self.rest.len() as u64 {
            0 => Ok(()),
            extra => Err(FormatError::Trailing { what: self.what, extra }),
        }
    }

    pub(crate) fn invalid(&self, found: i64, expected: &'static str) -> FormatError {
        FormatError::Invalid { what: self.what, found, expected }
    }

    fn short(&self, needed: u64) -> FormatError {
        FormatError::Short { what: self.what, needed, available: self.rest.len() as u64 }
    }
}

pub(crate) fn put_u16(bytes: &mut Vec<u8>, number: u16) {
    let mut field = [0; 2];
    BigEndian::write_u16(&mut field, number);
    bytes.extend_from_slice(&field);
}

pub(crate) fn put_u32(bytes: &mut Vec<u8>, number: u32) {
    let mut field = [0; 4];
    BigEndian::write_u32(&mut field, number);
    bytes.extend_from_slice(&field);
}

pub(crate) fn put_u64(bytes: &mut Vec<u8>, number: u64) {
    let mut field = [0; 8];
    BigEndian::write_u64(&mut field, number);
    bytes.extend_from_slice(&field);
}

/// What [`Body::topic`] reads; a legal name's length fits one byte.
pub(crate) fn put_topic(bytes: &mut Vec<u8>, name: &TopicName) {
    let name = name.as_str();
    const { assert!(TOPIC_NAME_BYTES_MAX <= u8::MAX as usize) };
    bytes.push(name.len() as u8);
    bytes.extend_from_slice(name.as_bytes());
}

/// What every file in a frame must keep: no single damaged byte, no cut and no byte more goes unnoticed.
#[cfg(test)]
pub(crate) fn assert_damage_is_found<T: std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, FormatError>,
) {
    decode(bytes).unwrap();
    for position in 0..bytes.len() {
        for damage in 1..=u8::MAX {
            let mut damaged = bytes.to_vec();
            damaged[position] ^= damage;
            let error = decode(&damaged).expect_err("a damaged byte");
            let expected = match position {
                0..MAGIC_BYTES => matches!(error, FormatError::Invalid { .. }),
                MAGIC_BYTES..10 => matches!(error, FormatError::Checksum { .. }),
                10..HEAD_BYTES => matches!(error, FormatError::Short { .. } | FormatError::Trailing { .. }),
                _ => matches!(error, FormatError::Checksum { .. }),
            };
            assert!(expected, "byte {position} ^ {damage:#x} gave {error}");
        }
        let error = decode(&bytes[..position]).expect_err("a cut file");
        assert!(matches!(error, FormatError::Short { .. }), "{position} bytes gave {error}");
    }
    let longer = [bytes, &[0]].concat();
    assert!(matches!(decode(&longer), Err(FormatError::Trailing { extra: 1, .. })));
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = Frame {
        what: "the test file",
        magic: b"test-T1\n",
        magic_text: "test-T1",
        version: 7,
        version_text: "version 7",
    };

    fn decode(bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
        let mut body = FRAME.decode(bytes)?;
        let length = body.rest.len() as u64;
        Ok(body.take(length)?.to_vec())
    }

    #[test]
    fn the_frame_is_as_drawn() {
        let bytes = FRAME.encode(0, |body| body.extend_from_slice(b"123456789"));
        let (covered, checksum) = bytes.split_at(bytes.len() - 4);
        assert_eq!(covered, b"test-T1\n\0\x07\0\0\0\0\0\0\0\x09123456789");
        assert_eq!(checksum, crc32fast::hash(covered).to_be_bytes());
        assert_eq!(decode(&bytes).unwrap(), b"123456789");
    }

    #[test]
    fn damage_is_found() {
        assert_damage_is_found(&FRAME.encode(0, |body| body.extend_from_slice(b"body")), decode);
        assert_damage_is_found(&FRAME.encode(0, |_| ()), decode);
    }

    #[test]
    fn an_undamaged_file_of_another_version_is_named_as_such() {
        for version in [0, 6, 8, u16::MAX] {
            let bytes = Frame { version, ..FRAME }.encode(0, |body| body.push(1));
            let error = decode(&bytes).unwrap_err();
            let found = i64::from(version);
            assert_eq!(error, FormatError::Version { what: "the test file", found, supported: "version 7" });
        }
    }

    #[test]
    fn a_count_beyond_what_is_left_is_refused_before_it_sizes_anything() {
        let bytes = FRAME.encode(0, |body| {
            put_u32(body, u32::MAX);
            body.extend_from_slice(&[0; 100]);
        });
        let error = FRAME.decode(&bytes).unwrap().count(37).unwrap_err();
        let needed = 37 * u64::from(u32::MAX);
        assert_eq!(error, FormatError::Short { what: "the test file", needed, available: 100 });
        let exact = FRAME.encode(0, |body| {
            put_u32(body, 2);
            body.extend_from_slice(&[0; 74]);
        });
        assert_eq!(FRAME.decode(&exact).unwrap().count(37), Ok(2));
    }
}
