//! The fields of Kafka's messages: strings, bytes and arrays, in their plain and in their compact form, and tagged
//! fields; as methods of [`Reader`], and as writers onto a `Vec<u8>`.
//!
//! ```text
//! string          i16 length; UTF-8                compact  varint length + 1; UTF-8
//! bytes           i32 length; bytes                compact  varint length + 1; bytes
//! array           i32 count; items                 compact  varint count + 1; items
//! null            the length -1                    compact  varint 0
//! tagged fields   varint count; { varint tag; varint size; payload }*, by rising tag
//! ```
//!
//! A version of a message is either plain or flexible. A flexible one has compact fields, and tagged fields at the end
//! of each struct.

use byteorder::{BigEndian, ByteOrder};

use super::codec::{Reader, unsigned_varint_len, write_unsigned_varint};
use crate::error::FormatError;
use crate::types::Uuid;

/// The longest string, in bytes; the compact form could hold more and may not.
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;

/// Most bytes of a field, and most items of an array.
const LENGTH_MAX: usize = i32::MAX as usize;

impl<'a> Reader<'a> {
    /// A string.
    ///
    /// # Errors
    /// [`FormatError::Short`], or [`FormatError::Invalid`] if it is null or not UTF-8.
    pub fn string(&mut self, what: &'static str) -> Result<&'a str, FormatError> {
        present(self.nullable_string(what)?, what)
    }

    /// A string that may be null.
    ///
    /// # Errors
    /// As [`string`](Self::string).
    pub fn nullable_string(&mut self, what: &'static str) -> Result<Option<&'a str>, FormatError> {
        let length = self.i16(what)?;
        self.nullable(length.into(), what)?.map(|bytes| text(bytes, what)).transpose()
    }

    /// Bytes.
    ///
    /// # Errors
    /// [`FormatError::Short`], or [`FormatError::Invalid`] if they are null.
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], FormatError> {
        present(self.nullable_bytes(what)?, what)
    }

    /// Bytes that may be null.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn nullable_bytes(&mut self, what: &'static str) -> Result<Option<&'a [u8]>, FormatError> {
        let length = self.i32(what)?;
        self.nullable(length, what)
    }

    /// The number of items of an array, each of which takes at least `item_bytes` (1 counts as least). So many fit
    /// into what is left: it is safe to take memory for them.
    ///
    /// # Errors
    /// [`FormatError::Short`], or [`FormatError::Invalid`] if the array is null.
    pub fn array(&mut self, item_bytes: usize, what: &'static str) -> Result<usize, FormatError> {
        present(self.nullable_array(item_bytes, what)?, what)
    }

    /// The number of items of an array that may be null; otherwise as [`array`](Self::array).
    ///
    /// # Errors
    /// As [`array`](Self::array).
    pub fn nullable_array(
        &mut self,
        item_bytes: usize,
        what: &'static str,
    ) -> Result<Option<usize>, FormatError> {
        match self.i32(what)? {
            -1 => Ok(None),
            found => match usize::try_from(found) {
                Ok(count) => self.check_items(count, item_bytes, what).map(Some),
                Err(_) => Err(FormatError::Invalid {
                    what,
                    found: found.into(),
                    expected: "a number of items of at least -1",
                }),
            },
        }
    }

    /// A compact string.
    ///
    /// # Errors
    /// As [`string`](Self::string), and [`FormatError::Varint`]. A string longer than [`STRING_BYTES_MAX`] is
    /// [`FormatError::Limit`].
    pub fn compact_string(&mut self, what: &'static str) -> Result<&'a str, FormatError> {
        present(self.compact_nullable_string(what)?, what)
    }

    /// A compact string that may be null.
    ///
    /// # Errors
    /// As [`compact_string`](Self::compact_string).
    pub fn compact_nullable_string(&mut self, what: &'static str) -> Result<Option<&'a str>, FormatError> {
        let Some(length) = self.compact_length(what)? else { return Ok(None) };
        limited(length, STRING_BYTES_MAX, what)?;
        text(self.take(length, what)?, what).map(Some)
    }

    /// Compact bytes.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and [`FormatError::Varint`].
    pub fn compact_bytes(&mut self, what: &'static str) -> Result<&'a [u8], FormatError> {
        present(self.compact_nullable_bytes(what)?, what)
    }

    /// Compact bytes that may be null.
    ///
    /// # Errors
    /// As [`compact_bytes`](Self::compact_bytes).
    pub fn compact_nullable_bytes(&mut self, what: &'static str) -> Result<Option<&'a [u8]>, FormatError> {
        self.compact_length(what)?.map(|length| self.take(length, what)).transpose()
    }

    /// The number of items of a compact array; otherwise as [`array`](Self::array).
    ///
    /// # Errors
    /// As [`array`](Self::array), and [`FormatError::Varint`].
    pub fn compact_array(&mut self, item_bytes: usize, what: &'static str) -> Result<usize, FormatError> {
        present(self.compact_nullable_array(item_bytes, what)?, what)
    }

    /// The number of items of a compact array that may be null; otherwise as [`array`](Self::array).
    ///
    /// # Errors
    /// As [`compact_array`](Self::compact_array).
    pub fn compact_nullable_array(
        &mut self,
        item_bytes: usize,
        what: &'static str,
    ) -> Result<Option<usize>, FormatError> {
        let count = self.compact_length(what)?;
        count.map(|count| self.check_items(count, item_bytes, what)).transpose()
    }

    /// The tagged fields at the end of a struct: `field` gets the tag of each, and a reader of its payload. What it
    /// does not read is passed over, so that a tag it does not know needs nothing done.
    ///
    /// ```
    /// use annals::format::codec::{Reader, write_tagged_fields};
    /// let mut bytes = Vec::new();
    /// write_tagged_fields(&mut bytes, &[(0, &7i32.to_be_bytes()), (5, b"of a later version")])?;
    ///
    /// let mut epoch = None;
    /// let mut reader = Reader::new(&bytes);
    /// reader.tagged_fields("tagged fields", |tag, mut payload| {
    ///     if tag == 0 {
    ///         epoch = Some(payload.i32("epoch")?);
    ///         payload.finish("epoch")?;
    ///     }
    ///     Ok(())
    /// })?;
    /// reader.finish("struct")?;
    /// assert_eq!(epoch, Some(7));
    /// # Ok::<(), annals::FormatError>(())
    /// ```
    ///
    /// # Errors
    /// [`FormatError::Short`], [`FormatError::Varint`], [`FormatError::Invalid`] if the tags do not rise, and
    /// whatever `field` returns.
    pub fn tagged_fields(
        &mut self,
        what: &'static str,
        mut field: impl FnMut(u32, Reader<'a>) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        let mut next = 0u64;
        for _ in 0..self.unsigned_varint(what)? {
            let tag = self.unsigned_varint(what)?;
            if u64::from(tag) < next {
                return Err(FormatError::Invalid {
                    what,
                    found: tag.into(),
                    expected: "a tag greater than the one before",
                });
            }
            next = u64::from(tag) + 1;
            let size = self.unsigned_varint(what)?;
            field(tag, Reader::new(self.take(size as usize, what)?))?;
        }
        Ok(())
    }

    /// Passes over the tagged fields at the end of a struct of which none is known.
    ///
    /// # Errors
    /// As [`tagged_fields`](Self::tagged_fields).
    pub fn skip_tagged_fields(&mut self, what: &'static str) -> Result<(), FormatError> {
        self.tagged_fields(what, |_, _| Ok(()))
    }

    /// A UUID, which has the same form in all versions.
    ///
    /// # Errors
    /// [`FormatError::Short`].
    pub fn uuid(&mut self, what: &'static str) -> Result<Uuid, FormatError> {
        self.take(16, what).map(|bytes| Uuid(BigEndian::read_u128(bytes).to_be_bytes()))
    }

    /// A length or number that is written with one added to it, 0 being null.
    fn compact_length(&mut self, what: &'static str) -> Result<Option<usize>, FormatError> {
        Ok(self.unsigned_varint(what)?.checked_sub(1).map(|length| length as usize))
    }

    fn check_items(&self, count: usize, item_bytes: usize, what: &'static str) -> Result<usize, FormatError> {
        let needed = count.saturating_mul(item_bytes.max(1));
        if needed > self.remaining() {
            let available = self.remaining() as u64;
            return Err(FormatError::Short { what, needed: needed as u64, available });
        }
        Ok(count)
    }
}

fn present<T>(found: Option<T>, what: &'static str) -> Result<T, FormatError> {
    found.ok_or(FormatError::Invalid { what, found: -1, expected: "a length of at least 0" })
}

fn text<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, FormatError> {
    std::str::from_utf8(bytes).map_err(|error| FormatError::Invalid {
        what,
        found: bytes.get(error.valid_up_to()).copied().unwrap_or_default().into(),
        expected: "UTF-8",
    })
}

fn limited(length: usize, limit: usize, what: &'static str) -> Result<(), FormatError> {
    if length > limit {
        return Err(FormatError::Limit { what, limit: limit as u64 });
    }
    Ok(())
}

/// Appends a string.
///
/// # Errors
/// [`FormatError::Limit`] if it is longer than [`STRING_BYTES_MAX`].
pub fn write_string(out: &mut Vec<u8>, value: &str, what: &'static str) -> Result<(), FormatError> {
    write_nullable_string(out, Some(value), what)
}

/// Appends a string that may be null.
///
/// # Errors
/// As [`write_string`].
pub fn write_nullable_string(
    out: &mut Vec<u8>,
    value: Option<&str>,
    what: &'static str,
) -> Result<(), FormatError> {
    let length = value.map_or(0, str::len);
    limited(length, STRING_BYTES_MAX, what)?;
    out.extend_from_slice(&value.map_or(-1, |_| length as i16).to_be_bytes());
    out.extend_from_slice(value.unwrap_or_default().as_bytes());
    Ok(())
}

/// Appends bytes.
///
/// # Errors
/// [`FormatError::Limit`] if they are more than `i32::MAX`.
pub fn write_bytes(out: &mut Vec<u8>, value: &[u8], what: &'static str) -> Result<(), FormatError> {
    write_nullable_bytes(out, Some(value), what)
}

/// Appends bytes that may be null.
///
/// # Errors
/// As [`write_bytes`].
pub fn write_nullable_bytes(
    out: &mut Vec<u8>,
    value: Option<&[u8]>,
    what: &'static str,
) -> Result<(), FormatError> {
    write_nullable_array(out, value.map(<[u8]>::len), what)?;
    out.extend_from_slice(value.unwrap_or_default());
    Ok(())
}

/// Appends the number of items of an array; the items follow.
///
/// # Errors
/// [`FormatError::Limit`] if they are more than `i32::MAX`.
pub fn write_array(out: &mut Vec<u8>, count: usize, what: &'static str) -> Result<(), FormatError> {
    write_nullable_array(out, Some(count), what)
}

/// Appends the number of items of an array that may be null; the items follow.
///
/// # Errors
/// As [`write_array`].
pub fn write_nullable_array(
    out: &mut Vec<u8>,
    count: Option<usize>,
    what: &'static str,
) -> Result<(), FormatError> {
    limited(count.unwrap_or(0), LENGTH_MAX, what)?;
    out.extend_from_slice(&count.map_or(-1, |count| count as i32).to_be_bytes());
    Ok(())
}

/// Appends a compact string.
///
/// # Errors
/// As [`write_string`].
pub fn write_compact_string(out: &mut Vec<u8>, value: &str, what: &'static str) -> Result<(), FormatError> {
    write_compact_nullable_string(out, Some(value), what)
}

/// Appends a compact string that may be null.
///
/// # Errors
/// As [`write_string`].
pub fn write_compact_nullable_string(
    out: &mut Vec<u8>,
    value: Option<&str>,
    what: &'static str,
) -> Result<(), FormatError> {
    limited(value.map_or(0, str::len), STRING_BYTES_MAX, what)?;
    write_compact_nullable_bytes(out, value.map(str::as_bytes), what)
}

/// Appends compact bytes.
///
/// # Errors
/// As [`write_bytes`].
pub fn write_compact_bytes(out: &mut Vec<u8>, value: &[u8], what: &'static str) -> Result<(), FormatError> {
    write_compact_nullable_bytes(out, Some(value), what)
}

/// Appends compact bytes that may be null.
///
/// # Errors
/// As [`write_bytes`].
pub fn write_compact_nullable_bytes(
    out: &mut Vec<u8>,
    value: Option<&[u8]>,
    what: &'static str,
) -> Result<(), FormatError> {
    write_compact_nullable_array(out, value.map(<[u8]>::len), what)?;
    out.extend_from_slice(value.unwrap_or_default());
    Ok(())
}

/// Appends the number of items of a compact array; the items follow.
///
/// # Errors
/// As [`write_array`].
pub fn write_compact_array(out: &mut Vec<u8>, count: usize, what: &'static str) -> Result<(), FormatError> {
    write_compact_nullable_array(out, Some(count), what)
}

/// Appends the number of items of a compact array that may be null; the items follow.
///
/// # Errors
/// As [`write_array`].
pub fn write_compact_nullable_array(
    out: &mut Vec<u8>,
    count: Option<usize>,
    what: &'static str,
) -> Result<(), FormatError> {
    limited(count.unwrap_or(0), LENGTH_MAX, what)?;
    write_unsigned_varint(out, count.map_or(0, |count| count as u32 + 1));
    Ok(())
}

/// Appends the tagged fields at the end of a struct, each with its tag, ordered by it; often there are none.
///
/// # Errors
/// [`FormatError::Limit`] if a field is longer than `i32::MAX`, [`FormatError::Invalid`] if the tags do not rise.
pub fn write_tagged_fields(out: &mut Vec<u8>, fields: &[(u32, &[u8])]) -> Result<(), FormatError> {
    const WHAT: &str = "tagged fields";
    limited(fields.len(), LENGTH_MAX, WHAT)?;
    let sizes = fields.iter().map(|(tag, payload)| unsigned_varint_len(*tag) + 5 + payload.len());
    out.reserve(1 + sizes.sum::<usize>());
    write_unsigned_varint(out, fields.len() as u32);
    let mut before = None;
    for &(tag, payload) in fields {
        if before.is_some_and(|before| before >= tag) {
            let expected = "a tag greater than the one before";
            return Err(FormatError::Invalid { what: WHAT, found: tag.into(), expected });
        }
        before = Some(tag);
        limited(payload.len(), LENGTH_MAX, WHAT)?;
        write_unsigned_varint(out, tag);
        write_unsigned_varint(out, payload.len() as u32);
        out.extend_from_slice(payload);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHAT: &str = "field";

    fn written(write: impl FnOnce(&mut Vec<u8>) -> Result<(), FormatError>) -> Vec<u8> {
        let mut out = Vec::new();
        assert_eq!(write(&mut out), Ok(()));
        out
    }

    #[test]
    fn each_form_has_its_bytes() {
        assert_eq!(written(|out| write_string(out, "ab", WHAT)), b"\0\x02ab");
        assert_eq!(written(|out| write_nullable_string(out, None, WHAT)), [0xff; 2]);
        assert_eq!(written(|out| write_bytes(out, b"ab", WHAT)), b"\0\0\0\x02ab");
        assert_eq!(written(|out| write_nullable_bytes(out, None, WHAT)), [0xff; 4]);
        assert_eq!(written(|out| write_array(out, 258, WHAT)), [0, 0, 1, 2]);
        assert_eq!(written(|out| write_nullable_array(out, None, WHAT)), [0xff; 4]);
        assert_eq!(written(|out| write_compact_string(out, "ab", WHAT)), b"\x03ab");
        assert_eq!(written(|out| write_compact_nullable_string(out, None, WHAT)), [0]);
        assert_eq!(written(|out| write_compact_bytes(out, b"ab", WHAT)), b"\x03ab");
        assert_eq!(written(|out| write_compact_nullable_bytes(out, None, WHAT)), [0]);
        assert_eq!(written(|out| write_compact_array(out, 127, WHAT)), [0x80, 1]);
        assert_eq!(written(|out| write_compact_nullable_array(out, None, WHAT)), [0]);
        assert_eq!(written(|out| write_tagged_fields(out, &[])), [0]);
        assert_eq!(
            written(|out| write_tagged_fields(out, &[(0, b""), (200, b"x")])),
            b"\x02\0\0\xc8\x01\x01x"
        );
    }

    #[test]
    fn null_is_read_only_where_it_may_be() {
        let plain = [0xff; 4];
        assert_eq!(Reader::new(&plain).nullable_string(WHAT), Ok(None));
        assert_eq!(Reader::new(&plain).nullable_bytes(WHAT), Ok(None));
        assert_eq!(Reader::new(&plain).nullable_array(1, WHAT), Ok(None));
        assert_eq!(Reader::new(&[0]).compact_nullable_string(WHAT), Ok(None));
        assert_eq!(Reader::new(&[0]).compact_nullable_bytes(WHAT), Ok(None));
        assert_eq!(Reader::new(&[0]).compact_nullable_array(1, WHAT), Ok(None));
        let null = FormatError::Invalid { what: WHAT, found: -1, expected: "a length of at least 0" };
        assert_eq!(Reader::new(&plain).string(WHAT), Err(null.clone()));
        assert_eq!(Reader::new(&plain).bytes(WHAT), Err(null.clone()));
        assert_eq!(Reader::new(&plain).array(1, WHAT), Err(null.clone()));
        assert_eq!(Reader::new(&[0]).compact_string(WHAT), Err(null.clone()));
        assert_eq!(Reader::new(&[0]).compact_bytes(WHAT), Err(null.clone()));
        assert_eq!(Reader::new(&[0]).compact_array(1, WHAT), Err(null));
    }

    #[test]
    fn an_array_cannot_claim_more_items_than_fit() {
        let short = |needed| FormatError::Short { what: WHAT, needed, available: 8 };
        let mut bytes = written(|out| write_array(out, 2, WHAT));
        bytes.extend([0; 8]);
        assert_eq!(Reader::new(&bytes).array(4, WHAT), Ok(2));
        assert_eq!(Reader::new(&bytes).array(5, WHAT), Err(short(10)));
        let mut bytes = written(|out| write_array(out, LENGTH_MAX, WHAT));
        bytes.extend([0; 8]);
        assert_eq!(Reader::new(&bytes).array(0, WHAT), Err(short(LENGTH_MAX as u64)));
        let mut bytes = vec![0xff, 0xff, 0xff, 0xff, 0x0f];
        bytes.extend([0; 8]);
        assert_eq!(Reader::new(&bytes).compact_array(1, WHAT), Err(short(u64::from(u32::MAX) - 1)));
        assert!(Reader::new(&[0x80, 0, 0, 0]).array(1, WHAT).is_err(), "a negative count that is not -1");
    }

    #[test]
    fn a_string_has_its_limit_and_its_encoding() {
        let long = "x".repeat(STRING_BYTES_MAX + 1);
        let limit = FormatError::Limit { what: WHAT, limit: 32_767 };
        assert_eq!(write_string(&mut Vec::new(), &long, WHAT), Err(limit.clone()));
        assert_eq!(write_compact_string(&mut Vec::new(), &long, WHAT), Err(limit.clone()));
        let bytes = written(|out| write_compact_bytes(out, long.as_bytes(), WHAT));
        assert_eq!(Reader::new(&bytes).compact_string(WHAT), Err(limit));
        let invalid = FormatError::Invalid { what: WHAT, found: 0xff, expected: "UTF-8" };
        assert_eq!(Reader::new(b"\0\x02a\xff").string(WHAT), Err(invalid.clone()));
        assert_eq!(Reader::new(b"\x03a\xff").compact_string(WHAT), Err(invalid));
    }

    #[test]
    fn tags_rise() {
        let order = FormatError::Invalid {
            what: "tagged fields",
            found: 3,
            expected: "a tag greater than the one before",
        };
        assert_eq!(write_tagged_fields(&mut Vec::new(), &[(3, b""), (3, b"")]), Err(order.clone()));
        assert_eq!(Reader::new(&[2, 3, 0, 3, 0]).skip_tagged_fields("tagged fields"), Err(order));
        assert_eq!(Reader::new(&[2, 3, 0, 4, 0]).skip_tagged_fields("tagged fields"), Ok(()));
        assert!(Reader::new(&[1, 3, 2, 0]).skip_tagged_fields(WHAT).is_err(), "a payload cut short");
    }
}
