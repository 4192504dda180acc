//! Snappy in the block framing of the Java library (xerial), which is not the official framing format.
//!
//! ```text
//! 82 53 4e 41 50 50 59 00   magic
//! i32 version, i32 oldest compatible version, both 1
//! { i32 length, that many bytes of one raw snappy block }*      no end mark, no checksum
//! ```

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::{Compression, beyond};
use crate::error::FormatError;
use crate::format::codec::Reader;

const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const VERSION: i32 = 1;

/// Uncompressed bytes per block, as the Java library writes them.
const BLOCK_BYTES: usize = 32 * 1024;

/// A three-byte copy makes 64 bytes, and no other element expands more: a block that claims more than 22
/// times its size lies.
const EXPANSION_MAX: usize = 22;

pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    let mut encoder = Encoder::new();
    for block in input.chunks(BLOCK_BYTES) {
        let length_at = out.len();
        let start = length_at + size_of::<i32>();
        out.resize(start + max_compress_len(block.len()), 0);
        let target = out.get_mut(start..).unwrap_or_default();
        let length = encoder.compress(block, target).map_err(failed)?;
        out.truncate(start + length);
        // The longest compressed form of 32 KiB fits an i32 many times over.
        if let Some(field) = out.get_mut(length_at..start) {
            field.copy_from_slice(&(length as u32).to_be_bytes());
        }
    }
    Ok(())
}

pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, FormatError> {
    let mut out = Vec::new();
    let mut decoder = Decoder::new();
    if !input.starts_with(&MAGIC) {
        // Some clients write one raw block without any framing.
        append_block(&mut decoder, input, limit, &mut out)?;
        return Ok(out);
    }
    let mut reader = Reader::new(input);
    while reader.remaining() > 0 {
        // Streams may be concatenated: a header can stand where a block's length would.
        if reader.rest().starts_with(&MAGIC) {
            read_stream_header(&mut reader)?;
            continue;
        }
        let length = reader.i32("snappy block length")?;
        let length = usize::try_from(length).map_err(|_| FormatError::Invalid {
            what: "snappy block length",
            found: length.into(),
            expected: "at least 0",
        })?;
        append_block(&mut decoder, reader.take(length, "snappy block")?, limit, &mut out)?;
    }
    Ok(out)
}

fn read_stream_header(reader: &mut Reader<'_>) -> Result<(), FormatError> {
    reader.take(MAGIC.len(), "snappy stream header")?;
    let version = reader.i32("snappy stream version")?;
    reader.i32("snappy compatible version")?;
    if version < VERSION {
        return Err(FormatError::Invalid {
            what: "snappy stream version",
            found: version.into(),
            expected: "at least 1",
        });
    }
    Ok(())
}

fn append_block(
    decoder: &mut Decoder,
    block: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), FormatError> {
    let start = out.len();
    let length = decompress_len(block).map_err(failed)?;
    if length > block.len().saturating_mul(EXPANSION_MAX) {
        let detail = format!("a block of {} bytes claims to hold {length}", block.len());
        return Err(FormatError::Codec { codec: Compression::Snappy.name(), detail });
    }
    if length > limit.saturating_sub(start) {
        return Err(beyond(limit));
    }
    out.resize(start + length, 0);
    decoder.decompress(block, out.get_mut(start..).unwrap_or_default()).map_err(failed)?;
    Ok(())
}

fn failed(error: snap::Error) -> FormatError {
    FormatError::Codec { codec: Compression::Snappy.name(), detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_blocks_and_concatenated_streams_are_read() {
        let text = [b'z'; 100];
        let raw = Encoder::new().compress_vec(&text).unwrap();
        assert_eq!(decompress(&raw, 100), Ok(text.to_vec()));
        let mut twice = Vec::new();
        compress(&text, &mut twice).unwrap();
        compress(&text, &mut twice).unwrap();
        assert_eq!(decompress(&twice, 200), Ok([b'z'; 200].to_vec()));
        assert_eq!(decompress(&twice, 199), Err(beyond(199)));
    }

    #[test]
    fn a_block_that_claims_too_much_is_refused_before_memory_is_taken() {
        let four_gigabytes = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
        assert!(matches!(decompress(&four_gigabytes, usize::MAX), Err(FormatError::Codec { .. })));
    }

    #[test]
    fn input_longer_than_a_block_is_cut_into_blocks() {
        let long: Vec<u8> = (0..100_000u32).map(|n| (n / 7) as u8).collect();
        let mut packed = Vec::new();
        compress(&long, &mut packed).unwrap();
        assert_eq!(decompress(&packed, long.len()), Ok(long));
    }
}
