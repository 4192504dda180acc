//! Fixed integers and varints: a bounds-checked [`Reader`] over a slice, and writers onto a `Vec<u8>`.
//!
//! Fixed integers are big-endian two's complement. Varints hold 7 bits per byte, least significant group
//! first, the high bit set on all but the last byte; signed ones are zigzag coded first (Kafka's
//! `ByteUtils`). Strings, bytes, arrays and tagged fields of messages are in `message.rs`, and to be found here too.

use byteorder::{BigEndian, ByteOrder};

pub use super::message::{
    STRING_BYTES_MAX, write_array, write_bytes, write_compact_array, write_compact_bytes,
    write_compact_nullable_array, write_compact_nullable_bytes, write_compact_nullable_string,
    write_compact_string, write_nullable_array, write_nullable_bytes, write_nullable_string, write_string,
    write_tagged_fields,
};
use crate::error::FormatError;

/// The longest varint of 32 bits, in bytes.
pub const VARINT_BYTES_MAX: u8 = 5;

/// The longest varint of 64 bits, in bytes.
pub const VARLONG_BYTES_MAX: u8 = 10;

/// Reads a slice from front to back and never past its end.
///
/// Every method names what it reads, which is what the error then says.
///
/// ```
/// use annals::format::codec::Reader;
/// let mut reader = Reader::new(&[0, 7, 0x7f, b'x']);
/// assert_eq!(reader.i16("version")?, 7);
/// assert_eq!(reader.varint("delta")?, -64);
/// assert!(reader.i32("epoch").is_err());
/// assert!(reader.finish("struct").is_err());
/// # Ok::<(), annals::FormatError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The bytes that are left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// [`FormatError::Short`], as for every method here, if fewer are left; nothing is consumed then.
    #[inline]
    pub fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], FormatError> {
        match self.rest.split_at_checked(length) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(short(what, length, self.rest.len())),
        }
    }

    /// `length` bytes, or `None` for the length -1 that means null.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] for any other negative length, [`FormatError::Short`] if fewer bytes are
    /// left.
    #[inline]
    pub fn nullable(&mut self, length: i32, what: &'static str) -> Result<Option<&'a [u8]>, FormatError> {
        match length {
            0.. => self.take(length as usize, what).map(Some),
            -1 => Ok(None),
            _ => {
                Err(FormatError::Invalid { what, found: length.into(), expected: "a length of at least -1" })
            }
        }
    }

    /// One signed byte.
    ///
    /// # Errors
    /// [`FormatError::Short`].
    #[inline]
    pub fn i8(&mut self, what: &'static str) -> Result<i8, FormatError> {
        match *self.rest {
            [byte, ref rest @ ..] => {
                self.rest = rest;
                Ok(i8::from_be_bytes([byte]))
            }
            [] => Err(short(what, 1, 0)),
        }
    }

    /// A big-endian `i16`.
    ///
    /// # Errors
    /// [`FormatError::Short`].
    pub fn i16(&mut self, what: &'static str) -> Result<i16, FormatError> {
        self.take(2, what).map(BigEndian::read_i16)
    }

    /// A big-endian `i32`.
    ///
    /// # Errors
    /// [`FormatError::Short`].
    pub fn i32(&mut self, what: &'static str) -> Result<i32, FormatError> {
        self.take(4, what).map(BigEndian::read_i32)
    }

    /// A big-endian `u32`; the format uses it for checksums only.
    ///
    /// # Errors
    /// [`FormatError::Short`].
    pub fn u32(&mut self, what: &'static str) -> Result<u32, FormatError> {
        self.take(4, what).map(BigEndian::read_u32)
    }

    /// A big-endian `i64`.
    ///
    /// # Errors
    /// [`FormatError::Short`].
    pub fn i64(&mut self, what: &'static str) -> Result<i64, FormatError> {
        self.take(8, what).map(BigEndian::read_i64)
    }

    /// A big-endian `i64` that holds an offset, so is not negative.
    ///
    /// # Errors
    /// [`FormatError::Short`], or [`FormatError::Invalid`] if it is negative.
    pub fn offset(&mut self, what: &'static str) -> Result<u64, FormatError> {
        let found = self.i64(what)?;
        u64::try_from(found).map_err(|_| FormatError::Invalid {
            what,
            found,
            expected: "an offset of at least 0",
        })
    }

    /// An unsigned varint of 32 bits. It need not be the shortest encoding, and as in Kafka the bits of a
    /// fifth byte that do not fit are dropped.
    ///
    /// # Errors
    /// [`FormatError::Short`], or [`FormatError::Varint`] if it goes on after five bytes.
    #[inline]
    pub fn unsigned_varint(&mut self, what: &'static str) -> Result<u32, FormatError> {
        // Nearly all varints of a record are one or two bytes long.
        match *self.rest {
            [byte @ ..0x80, ref rest @ ..] => {
                self.rest = rest;
                Ok(u32::from(byte))
            }
            [low, high @ ..0x80, ref rest @ ..] => {
                self.rest = rest;
                Ok(u32::from(low & 0x7f) | u32::from(high) << 7)
            }
            _ => self.long_varint(VARINT_BYTES_MAX, what).map(|bits| bits as u32),
        }
    }

    /// A signed varint of 32 bits.
    ///
    /// # Errors
    /// As [`unsigned_varint`](Self::unsigned_varint).
    #[inline]
    pub fn varint(&mut self, what: &'static str) -> Result<i32, FormatError> {
        let bits = self.unsigned_varint(what)?;
        Ok((bits >> 1) as i32 ^ -((bits & 1) as i32))
    }

    /// A signed varint of 64 bits.
    ///
    /// # Errors
    /// [`FormatError::Short`], or [`FormatError::Varint`] if it goes on after ten bytes.
    #[inline]
    pub fn varlong(&mut self, what: &'static str) -> Result<i64, FormatError> {
        let bits = match *self.rest {
            [byte @ ..0x80, ref rest @ ..] => {
                self.rest = rest;
                u64::from(byte)
            }
            _ => self.long_varint(VARLONG_BYTES_MAX, what)?,
        };
        Ok((bits >> 1) as i64 ^ -((bits & 1) as i64))
    }

    /// Checks that everything was read.
    ///
    /// # Errors
    /// [`FormatError::Trailing`] if bytes are left.
    #[inline]
    pub fn finish(self, what: &'static str) -> Result<(), FormatError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(FormatError::Trailing { what, extra: extra as u64 }),
        }
    }

    fn long_varint(&mut self, max: u8, what: &'static str) -> Result<u64, FormatError> {
        let mut bits = 0u64;
        for (index, &byte) in self.rest.iter().take(usize::from(max)).enumerate() {
            bits |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.rest = self.rest.get(index + 1..).unwrap_or_default();
                return Ok(bits);
            }
        }
        if self.rest.len() >= usize::from(max) {
            return Err(FormatError::Varint { what, max });
        }
        let available = self.rest.len() as u64;
        Err(FormatError::Short { what, needed: available + 1, available })
    }
}

// Out of the way of the code that finds enough bytes.
#[cold]
fn short(what: &'static str, needed: usize, available: usize) -> FormatError {
    FormatError::Short { what, needed: needed as u64, available: available as u64 }
}

/// Appends an unsigned varint.
#[inline]
pub fn write_unsigned_varint(out: &mut Vec<u8>, value: u32) {
    write_bits(out, u64::from(value));
}

/// Appends a signed varint of 32 bits.
///
/// ```
/// let mut out = Vec::new();
/// annals::format::codec::write_varint(&mut out, -65);
/// assert_eq!(out, [0x81, 0x01]);
/// ```
#[inline]
pub fn write_varint(out: &mut Vec<u8>, value: i32) {
    write_bits(out, u64::from(zigzag32(value)));
}

/// Appends a signed varint of 64 bits.
#[inline]
pub fn write_varlong(out: &mut Vec<u8>, value: i64) {
    write_bits(out, zigzag64(value));
}

/// How many bytes [`write_unsigned_varint`] takes.
#[inline]
pub fn unsigned_varint_len(value: u32) -> usize {
    bits_len(u64::from(value))
}

/// How many bytes [`write_varint`] takes.
#[inline]
pub fn varint_len(value: i32) -> usize {
    bits_len(u64::from(zigzag32(value)))
}

/// How many bytes [`write_varlong`] takes.
#[inline]
pub fn varlong_len(value: i64) -> usize {
    bits_len(zigzag64(value))
}

fn zigzag32(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

fn zigzag64(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
fn write_bits(out: &mut Vec<u8>, mut bits: u64) {
    while bits >= 0x80 {
        out.push((bits as u8) | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

#[inline]
fn bits_len(bits: u64) -> usize {
    // Zero takes a byte too, hence the `| 1`. Exact for every 64-bit number, without a division by 7.
    ((bits | 1).ilog2() as usize * 9 + 73) / 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_may_be_longer_than_needed_but_not_than_its_type() {
        assert_eq!(Reader::new(&[0x80, 0x80, 0x80, 0x80, 0x00]).varint("v"), Ok(0));
        let endless = [0xff; 16];
        assert_eq!(Reader::new(&endless).varint("v"), Err(FormatError::Varint { what: "v", max: 5 }));
        assert_eq!(Reader::new(&endless).varlong("v"), Err(FormatError::Varint { what: "v", max: 10 }));
        let cut = &endless[..4];
        assert_eq!(
            Reader::new(cut).varint("v"),
            Err(FormatError::Short { what: "v", needed: 5, available: 4 })
        );
    }

    #[test]
    fn the_length_of_a_varint_is_what_is_written() {
        for shift in 0..64 {
            for bits in [1 << shift, (1 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                write_bits(&mut out, bits);
                assert_eq!(bits_len(bits), out.len(), "{bits}");
                assert_eq!(Reader::new(&out).long_varint(VARLONG_BYTES_MAX, "v"), Ok(bits));
            }
        }
        for value in (0..70_000).chain([1 << 20, 1 << 21, 1 << 28, u32::MAX]) {
            let mut out = Vec::new();
            write_unsigned_varint(&mut out, value);
            assert_eq!(Reader::new(&out).unsigned_varint("v"), Ok(value));
        }
    }

    #[test]
    fn bits_of_a_fifth_byte_that_do_not_fit_are_dropped() {
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x7f]).unsigned_varint("v"), Ok(u32::MAX));
    }

    #[test]
    fn a_failed_take_consumes_nothing() {
        let mut reader = Reader::new(&[1, 2]);
        assert!(reader.i32("v").is_err());
        assert_eq!(reader.remaining(), 2);
        assert_eq!(reader.nullable(-1, "v"), Ok(None));
        assert!(reader.nullable(-2, "v").is_err());
        assert_eq!(reader.nullable(2, "v"), Ok(Some(&[1u8, 2][..])));
    }
}
