//! LZ4 frames, by Kafka's rules (`Lz4BlockInputStream`, `Lz4BlockOutputStream`), around the block codec of
//! `lz4_flex`.
//!
//! ```text
//! 04 22 4d 18   magic
//! FLG BD [u64 content size] HC          HC = second byte of the xxHash32 of what stands between magic and HC
//! { u32 length, high bit set: stored as it is; the block; [u32 checksum] }*
//! u32 0, [u32 content checksum]         all little-endian
//! ```
//!
//! The frame is handled here because the frame reader of `lz4_flex` takes the end of the input for the end of
//! the frame, and knows nothing of the header checksum that magic 0 got wrong.

use lz4_flex::block::{DecompressError, compress_into, decompress_into, get_maximum_output_size};
use twox_hash::XxHash32;

use super::{Compression, beyond};
use crate::error::FormatError;
use crate::format::codec::Reader;

/// Magic, version 1 with independent blocks and no checksums, blocks of 64 KiB, header checksum.
const HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const BLOCK_BYTES: usize = 64 * 1024;
const END_MARK: [u8; 4] = [0; 4];
const STORED: u32 = 1 << 31;

/// No element of a block expands by more than a length byte that stands for 255 bytes.
const EXPANSION_MAX: usize = 256;

pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
    out.extend_from_slice(&HEADER);
    for block in input.chunks(BLOCK_BYTES) {
        let length_at = out.len();
        let start = length_at + size_of::<u32>();
        out.resize(start + get_maximum_output_size(block.len()), 0);
        let target = out.get_mut(start..).unwrap_or_default();
        let compressed = compress_into(block, target).map_err(|error| FormatError::Codec {
            codec: Compression::Lz4.name(),
            detail: error.to_string(),
        })?;
        let mut length = compressed as u32;
        if compressed < block.len() {
            out.truncate(start + compressed);
        } else {
            out.truncate(start);
            out.extend_from_slice(block);
            length = block.len() as u32 | STORED;
        }
        if let Some(field) = out.get_mut(length_at..start) {
            field.copy_from_slice(&length.to_le_bytes());
        }
    }
    out.extend_from_slice(&END_MARK);
    Ok(())
}

pub(super) fn decompress(magic: u8, input: &[u8], limit: usize) -> Result<Vec<u8>, FormatError> {
    let mut reader = Reader::new(input);
    let frame = FrameDescriptor::read(magic, &mut reader)?;
    let mut out = Vec::new();
    loop {
        let length = read_u32(&mut reader, "lz4 block length")?;
        if length == 0 {
            break;
        }
        let block = reader.take((length & !STORED) as usize, "lz4 block")?;
        if block.len() > frame.block_bytes_max {
            return Err(FormatError::Invalid {
                what: "lz4 block length",
                found: block.len() as i64,
                expected: "at most the block size of the frame",
            });
        }
        if frame.block_checksums {
            check("lz4 block", read_u32(&mut reader, "lz4 block checksum")?, block)?;
        }
        if length & STORED == 0 {
            append_block(block, frame.block_bytes_max, limit, &mut out)?;
        } else if block.len() > limit.saturating_sub(out.len()) {
            return Err(beyond(limit));
        } else {
            out.extend_from_slice(block);
        }
    }
    if frame.content_checksum {
        // Kafka reads past it without a look; the batch has a checksum of its own.
        reader.take(size_of::<u32>(), "lz4 content checksum")?;
    }
    reader.finish("the lz4 frame")?;
    Ok(out)
}

struct FrameDescriptor {
    block_bytes_max: usize,
    block_checksums: bool,
    content_checksum: bool,
}

impl FrameDescriptor {
    fn read(magic: u8, reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        const WHAT: &str = "lz4 frame header";
        let found = reader.take(4, WHAT)?;
        if !HEADER.starts_with(found) {
            return Err(refused("the frame does not begin with the lz4 magic number"));
        }
        let descriptor = reader.rest();
        let flags = reader.i8(WHAT)? as u8;
        let block_descriptor = reader.i8(WHAT)? as u8;
        // Version 01, independent blocks, reserved bits clear.
        if flags & 0b1110_0011 != 0b0110_0000 || block_descriptor & 0b1000_1111 != 0 {
            return Err(refused("the frame is not of version 1 with independent blocks"));
        }
        let block_bytes_max = match block_descriptor >> 4 {
            size @ 4..=7 => 1usize << (8 + 2 * size),
            _ => return Err(refused("the frame has an unknown block size")),
        };
        if flags & 0b1000 != 0 {
            reader.take(8, "lz4 content size")?;
        }
        let descriptor = descriptor.get(..descriptor.len() - reader.remaining()).unwrap_or_default();
        let stored = reader.i8(WHAT)? as u8;
        // Writers of magic 0 hashed the magic number too, so Kafka does not look at the byte there.
        if magic > 0 && stored != header_checksum(descriptor) {
            return Err(FormatError::Checksum {
                what: WHAT,
                stored: stored.into(),
                computed: header_checksum(descriptor).into(),
            });
        }
        Ok(FrameDescriptor {
            block_bytes_max,
            block_checksums: flags & 0b1_0000 != 0,
            content_checksum: flags & 0b100 != 0,
        })
    }
}

fn append_block(
    block: &[u8],
    block_bytes_max: usize,
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), FormatError> {
    let start = out.len();
    let allowed = limit.saturating_sub(start);
    let room = block_bytes_max.min(block.len().saturating_mul(EXPANSION_MAX)).min(allowed);
    out.resize(start + room, 0);
    match decompress_into(block, out.get_mut(start..).unwrap_or_default()) {
        Ok(length) => {
            out.truncate(start + length);
            Ok(())
        }
        Err(DecompressError::OutputTooSmall { .. }) if room == allowed => Err(beyond(limit)),
        Err(error) => Err(FormatError::Codec { codec: Compression::Lz4.name(), detail: error.to_string() }),
    }
}

fn header_checksum(descriptor: &[u8]) -> u8 {
    (XxHash32::oneshot(0, descriptor) >> 8) as u8
}

fn check(what: &'static str, stored: u32, bytes: &[u8]) -> Result<(), FormatError> {
    let computed = XxHash32::oneshot(0, bytes);
    if stored == computed { Ok(()) } else { Err(FormatError::Checksum { what, stored, computed }) }
}

fn read_u32(reader: &mut Reader<'_>, what: &'static str) -> Result<u32, FormatError> {
    // Lz4 alone is little-endian here.
    reader.u32(what).map(u32::swap_bytes)
}

fn refused(detail: &str) -> FormatError {
    FormatError::Codec { codec: Compression::Lz4.name(), detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compress(input, &mut out).unwrap();
        out
    }

    #[test]
    fn the_header_carries_its_own_checksum() {
        assert_eq!(header_checksum(&HEADER[4..6]), HEADER[6]);
        assert_eq!(header_checksum(&HEADER[..6]), 0x1a);
    }

    #[test]
    fn random_bytes_are_stored_and_long_input_is_cut() {
        let mut state = 1u64;
        let noise: Vec<u8> = (0..200_000)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        let packed = pack(&noise);
        assert_eq!(packed.len(), 7 + 4 * 4 + noise.len() + 4);
        assert_eq!(decompress(2, &packed, noise.len()), Ok(noise));
    }

    #[test]
    fn a_frame_without_its_end_mark_is_short() {
        let packed = pack(b"some bytes");
        for end in 0..packed.len() {
            assert!(decompress(2, &packed[..end], 1000).is_err(), "cut at {end}");
        }
        let mut longer = packed.clone();
        longer.push(0);
        assert!(matches!(decompress(2, &longer, 1000), Err(FormatError::Trailing { extra: 1, .. })));
    }

    #[test]
    fn only_magic_0_may_have_a_wrong_header_checksum() {
        let mut packed = pack(b"some bytes");
        packed[6] = 0x1a;
        assert_eq!(decompress(0, &packed, 1000), Ok(b"some bytes".to_vec()));
        assert!(matches!(decompress(1, &packed, 1000), Err(FormatError::Checksum { .. })));
    }

    #[test]
    fn content_size_and_checksums_are_read_over() {
        let block = b"some bytes";
        let mut frame = vec![0x04, 0x22, 0x4d, 0x18, 0b0111_1100, 0x70];
        frame.extend_from_slice(&10u64.to_le_bytes());
        frame.push(header_checksum(&frame[4..]));
        frame.extend_from_slice(&(block.len() as u32 | STORED).to_le_bytes());
        frame.extend_from_slice(block);
        frame.extend_from_slice(&XxHash32::oneshot(0, block).to_le_bytes());
        frame.extend_from_slice(&END_MARK);
        frame.extend_from_slice(&[9; 4]);
        assert_eq!(decompress(2, &frame, 10), Ok(block.to_vec()));
        frame[22] ^= 1;
        assert!(decompress(2, &frame, 10).is_err());
    }

    #[test]
    fn linked_blocks_are_refused() {
        let mut packed = pack(b"some bytes");
        packed[4] = 0x40;
        packed[6] = header_checksum(&packed[4..6]);
        assert!(matches!(decompress(2, &packed, 1000), Err(FormatError::Codec { .. })));
    }
}
