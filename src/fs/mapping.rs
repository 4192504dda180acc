//! [`Mapping`]: bytes of a file for reading, mapped or copied. The crate's only `unsafe` lives here.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;

/// The first bytes of a file, to read without a system call.
///
/// It is a read-only memory map on a real disk, and an ordinary buffer where maps are unwanted or impossible.
///
/// # Residual risk
/// A map shows the file, not a copy. Should anything outside the store's lock cut the file while it is mapped,
/// or the medium fail to deliver a page, the operating system answers a read with `SIGBUS`. So only sealed files
/// of a locked store are mapped, data goes to disk through calls that return errors, and every use of maps in
/// this crate can be turned off.
///
/// ```
/// use annals::fs::Mapping;
/// let mapping = Mapping::from_bytes(b"0123".to_vec());
/// assert_eq!(mapping.get(1..3), Some(&b"12"[..]));
/// ```
pub struct Mapping {
    bytes: Bytes,
}

enum Bytes {
    Map(memmap2::Mmap),
    Heap(Box<[u8]>),
}

impl Mapping {
    /// A mapping that owns its bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Mapping { bytes: Bytes::Heap(bytes.into_boxed_slice()) }
    }

    /// Whether this is a map of the file and not a copy.
    pub fn is_mapped(&self) -> bool {
        matches!(self.bytes, Bytes::Map(_))
    }

    /// Maps the first `len` bytes of a file, which must be at least that long.
    #[expect(unsafe_code, reason = "there is no safe way to map a file")]
    pub(super) fn of_file(file: &File, len: usize) -> io::Result<Self> {
        if file.metadata()?.len() < len as u64 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than its mapping"));
        }
        if len == 0 {
            // The system call refuses an empty map.
            return Ok(Mapping::from_bytes(Vec::new()));
        }
        // SAFETY: the bytes of a map must not change while a slice of them lives. `File::map` demands a file
        // that is not cut while the mapping lives, and its callers map only files that are sealed, that is fully
        // written and never written again; such a file is removed or replaced by name only, which leaves the
        // mapped one whole. Other processes are kept from writing by the store's lock. The length was checked
        // above, so every page of the map lies in the file. The map is private to this value, is read-only, and
        // is unmapped only when this value, from which all slices borrow, is dropped. What remains is named under
        // "Residual risk".
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(file) }?;
        Ok(Mapping { bytes: Bytes::Map(map) })
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Map(map) => map,
            Bytes::Heap(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_mapped() { "mapped" } else { "copied" };
        write!(formatter, "Mapping({} bytes, {kind})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_map_shows_the_bytes_asked_for() {
        let bytes: Vec<u8> = (0..10_000).map(|number| number as u8).collect();
        let mapping = Mapping::of_file(&file_of(&bytes), 9_999).unwrap();
        assert!(mapping.is_mapped());
        assert_eq!(&mapping[..], &bytes[..9_999]);
        assert_eq!(format!("{mapping:?}"), "Mapping(9999 bytes, mapped)");
    }

    #[test]
    fn nothing_can_be_mapped() {
        for bytes in [&b""[..], b"some"] {
            let mapping = Mapping::of_file(&file_of(bytes), 0).unwrap();
            assert!(mapping.is_empty());
        }
    }

    #[test]
    fn a_map_beyond_the_end_is_refused() {
        for (bytes, len) in [(&b""[..], 1), (b"0123", 5), (b"0123", usize::MAX)] {
            let error = Mapping::of_file(&file_of(bytes), len).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn a_mapping_outlives_its_file_and_crosses_threads() {
        fn shared<T: Send + Sync>(_: &T) {}
        let mapping = Mapping::of_file(&file_of(b"0123"), 4).unwrap();
        shared(&mapping);
        assert_eq!(mapping.as_ref(), b"0123");
    }
}
