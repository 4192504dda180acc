//! The golden vectors, parsed.

#![allow(dead_code, reason = "not every test that shares this module needs all of it")]

use annals::format::{Compression, RecordBatch, RecordSet};

/// Bytes that Apache Kafka's own classes wrote.
pub(crate) struct Vector {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
}

impl Vector {
    /// Whether it is a batch or a legacy message, rather than a file beside the log.
    pub(crate) fn is_batch(&self) -> bool {
        self.name.starts_with(['B', 'C', 'L'])
    }
}

/// All vectors of `tests/data/golden_vectors.txt`.
pub(crate) fn vectors() -> Vec<Vector> {
    include_str!("../data/golden_vectors.txt")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let mut fields = line.split_whitespace();
            let (name, size, hex) = (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap());
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            assert_eq!(bytes.len(), size.parse::<usize>().unwrap(), "size of {name}");
            Vector { name, bytes }
        })
        .collect()
}

/// The bytes of one vector.
pub(crate) fn vector(name: &str) -> Vec<u8> {
    vectors()
        .into_iter()
        .find(|vector| vector.name == name)
        .unwrap_or_else(|| panic!("no vector {name}"))
        .bytes
}

/// The records of an encoded batch.
pub(crate) fn records_of(bytes: &[u8]) -> RecordSet {
    RecordBatch::parse(bytes.to_vec().into()).unwrap().records(1 << 20).unwrap()
}

/// Whether a codec was compiled in.
pub(crate) fn enabled(compression: Compression) -> bool {
    match compression {
        Compression::None => true,
        Compression::Gzip => cfg!(feature = "gzip"),
        Compression::Snappy => cfg!(feature = "snappy"),
        Compression::Lz4 => cfg!(feature = "lz4"),
        Compression::Zstd => cfg!(feature = "zstd"),
    }
}
