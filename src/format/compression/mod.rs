//! Compression in Kafka's framing: which codec has which number, and bytes in and out of each.
//!
//! Decompression trusts nothing that the bytes declare: it stops when the output passes the caller's limit,
//! and takes memory only for what was produced.

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

use std::fmt;

use crate::error::FormatError;

/// How the records of a batch are compressed (Kafka's `CompressionType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952 members.
    Gzip,
    /// Snappy blocks in the framing of the Java library, not in the official one.
    Snappy,
    /// An LZ4 frame of independent blocks.
    Lz4,
    /// A Zstandard frame; in v2 batches only.
    Zstd,
}

impl Compression {
    /// Its number in the attributes of a batch, 0 to 4.
    pub fn id(self) -> u8 {
        match self {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Snappy => 2,
            Compression::Lz4 => 3,
            Compression::Zstd => 4,
        }
    }

    /// The compression with this number.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] for a number that has no meaning.
    pub fn from_id(id: u8) -> Result<Self, FormatError> {
        match id {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Gzip),
            2 => Ok(Compression::Snappy),
            3 => Ok(Compression::Lz4),
            4 => Ok(Compression::Zstd),
            _ => Err(FormatError::Invalid {
                what: "compression type",
                found: id.into(),
                expected: "0 (none) to 4 (zstd)",
            }),
        }
    }

    /// Its name in configuration: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A compression and how hard it tries.
///
/// ```
/// use annals::format::{Codec, Compression, compress, decompress};
/// let mut packed = Vec::new();
/// compress(Codec::from(Compression::Gzip), &[7; 1000], &mut packed)?;
/// assert!(packed.len() < 100);
/// assert_eq!(decompress(Compression::Gzip, 2, &packed, 1000)?, [7; 1000]);
/// assert!(decompress(Compression::Gzip, 2, &packed, 999).is_err());
/// # Ok::<(), annals::FormatError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Codec {
    /// The compression.
    pub compression: Compression,
    /// The level: 1 to 9 for gzip, -131072 to 22 for zstd; `None` is the codec's default (6 and 3). Snappy
    /// has no levels and the lz4 encoder used here knows only its fast one: both ignore it.
    pub level: Option<i32>,
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        Codec { compression, level: None }
    }
}

/// Appends `input` to `out`, compressed and in Kafka's framing.
///
/// # Errors
/// [`FormatError::CodecDisabled`] if the codec was compiled out, [`FormatError::Invalid`] for a level that it
/// does not have. What `out` held before is kept; after an error more may follow it.
pub fn compress(codec: Codec, input: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
    match codec.compression {
        Compression::None => {
            out.extend_from_slice(input);
            Ok(())
        }
        #[cfg(feature = "gzip")]
        Compression::Gzip => gzip::compress(codec.level, input, out),
        #[cfg(feature = "snappy")]
        Compression::Snappy => snappy::compress(input, out),
        #[cfg(feature = "lz4")]
        Compression::Lz4 => lz4::compress(input, out),
        #[cfg(feature = "zstd")]
        Compression::Zstd => zstd::compress(codec.level, input, out),
        #[cfg(not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")))]
        disabled => Err(FormatError::CodecDisabled { codec: disabled.name() }),
    }
}

/// Decompresses all of `input`, which is the payload of a batch or message of version `magic`, into at most
/// `limit` bytes. (The version matters to lz4: magic 0 has a header checksum that is wrong by the book.)
///
/// # Errors
/// [`FormatError::Limit`] as soon as more than `limit` bytes come out, [`FormatError::CodecDisabled`] if the
/// codec was compiled out, [`FormatError::Codec`], [`FormatError::Short`] or [`FormatError::Trailing`] for
/// bytes that the codec would not have written.
#[cfg_attr(not(feature = "lz4"), expect(unused_variables, reason = "only lz4 looks at the version"))]
pub fn decompress(
    compression: Compression,
    magic: u8,
    input: &[u8],
    limit: usize,
) -> Result<Vec<u8>, FormatError> {
    if compression != Compression::None && input.is_empty() {
        return Err(FormatError::Short { what: "compressed records", needed: 1, available: 0 });
    }
    match compression {
        Compression::None if input.len() > limit => Err(beyond(limit)),
        Compression::None => Ok(input.to_vec()),
        #[cfg(feature = "gzip")]
        Compression::Gzip => gzip::decompress(input, limit),
        #[cfg(feature = "snappy")]
        Compression::Snappy => snappy::decompress(input, limit),
        #[cfg(feature = "lz4")]
        Compression::Lz4 => lz4::decompress(magic, input, limit),
        #[cfg(feature = "zstd")]
        Compression::Zstd => zstd::decompress(input, limit),
        #[cfg(not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")))]
        disabled => Err(FormatError::CodecDisabled { codec: disabled.name() }),
    }
}

fn beyond(limit: usize) -> FormatError {
    FormatError::Limit { what: "decompressed record data", limit: limit as u64 }
}

/// Reads a decoder to its end. The output grows with what comes out, never by what the stream declares.
#[cfg(any(feature = "gzip", feature = "zstd"))]
fn read_limited(
    compression: Compression,
    decoder: &mut impl std::io::Read,
    limit: usize,
) -> Result<Vec<u8>, FormatError> {
    use std::io::Read;
    let mut out = Vec::new();
    let one_too_many = (limit as u64).saturating_add(1);
    decoder
        .take(one_too_many)
        .read_to_end(&mut out)
        .map_err(|error| FormatError::Codec { codec: compression.name(), detail: error.to_string() })?;
    if out.len() > limit { Err(beyond(limit)) } else { Ok(out) }
}
