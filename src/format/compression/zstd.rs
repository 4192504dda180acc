//! Zstandard: one frame written, without content size and checksum as Java's stream writer leaves them out.
//!
//! A frame declares the window that its decoder needs, up to the 128 MiB that level 22 asks for however
//! little follows. The library reserves it, but what is not written to is not taken from the system.

use std::io::Write;

use zstd::stream::{read::Decoder, write::Encoder};

use super::{Compression, read_limited};
use crate::error::FormatError;

/// What Kafka uses when no level is set.
const LEVEL_DEFAULT: i32 = 3;

pub(super) fn compress(level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
    let level = level.unwrap_or(LEVEL_DEFAULT);
    if !zstd::compression_level_range().contains(&level) {
        return Err(FormatError::Invalid {
            what: "zstd level",
            found: level.into(),
            expected: "-131072 to 22",
        });
    }
    let mut encoder = Encoder::new(out, level).map_err(failed)?;
    encoder.write_all(input).map_err(failed)?;
    encoder.finish().map_err(failed)?;
    Ok(())
}

pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, FormatError> {
    let mut decoder = Decoder::with_buffer(input).map_err(failed)?;
    read_limited(Compression::Zstd, &mut decoder, limit)
}

fn failed(error: std::io::Error) -> FormatError {
    FormatError::Codec { codec: Compression::Zstd.name(), detail: error.to_string() }
}
