//! Gzip: RFC 1952 members, one written, several accepted.

use std::io::Write;

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::{Compression, read_limited};
use crate::error::FormatError;

pub(super) fn compress(level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
    let level = match level {
        // -1 is how Java spells the default.
        None | Some(-1) => flate2::Compression::default(),
        Some(level @ 1..=9) => flate2::Compression::new(level.unsigned_abs()),
        Some(level) => {
            return Err(FormatError::Invalid { what: "gzip level", found: level.into(), expected: "1 to 9" });
        }
    };
    let mut encoder = GzEncoder::new(out, level);
    encoder
        .write_all(input)
        .and_then(|()| encoder.try_finish())
        .map_err(|error| FormatError::Codec { codec: Compression::Gzip.name(), detail: error.to_string() })
}

pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, FormatError> {
    read_limited(Compression::Gzip, &mut MultiGzDecoder::new(input), limit)
}
