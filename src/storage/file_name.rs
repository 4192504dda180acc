//! The names of files in a partition directory: a base offset as 20 digits, then what the file holds
//! (Kafka's `LogFileUtils`).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::types::OFFSET_MAX;

/// What a file whose name is an offset holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileKind {
    /// Batches.
    Log,
    /// Offset to position.
    OffsetIndex,
    /// Timestamp to offset.
    TimeIndex,
    /// Aborted transactions.
    TransactionIndex,
    /// The checksum of the aborted transactions; ours.
    TransactionChecksum,
    /// Producer state; its name is the first offset not covered.
    Snapshot,
}

/// A step of a change that a crash interrupted, as a suffix of the whole name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// In its place.
    Final,
    /// On its way out.
    Deleted,
    /// Being written by compaction.
    Cleaned,
    /// Written, replacing what it was made from.
    Swap,
    /// A copy of bytes that are being written again; ours, and only there while that lasts.
    Doubtful,
    /// Being written, to replace the file of that name.
    Temporary,
}

const KINDS: [(FileKind, &str); 6] = [
    (FileKind::Log, "log"),
    (FileKind::OffsetIndex, "index"),
    (FileKind::TimeIndex, "timeindex"),
    (FileKind::TransactionIndex, "txnindex"),
    (FileKind::TransactionChecksum, "txnindex.crc"),
    (FileKind::Snapshot, "snapshot"),
];

const STAGES: [(Stage, &str); 5] = [
    (Stage::Deleted, ".deleted"),
    (Stage::Cleaned, ".cleaned"),
    (Stage::Swap, ".swap"),
    (Stage::Doubtful, ".doubtful"),
    (Stage::Temporary, ".tmp"),
];

impl Stage {
    /// What is put behind the whole name.
    pub(crate) fn suffix(self) -> &'static str {
        STAGES.iter().find(|(known, _)| *known == self).map_or("", |(_, suffix)| suffix)
    }
}

/// The name of a file below a partition's directory.
pub(crate) fn file_name(directory: &Path, offset: u64, kind: FileKind) -> PathBuf {
    let extension = KINDS.iter().find(|(known, _)| *known == kind).map_or("", |(_, extension)| extension);
    directory.join(format!("{offset:020}.{extension}"))
}

/// The name of the same file at a step of a change.
pub(crate) fn staged_name(directory: &Path, offset: u64, kind: FileKind, stage: Stage) -> PathBuf {
    let mut name = file_name(directory, offset, kind).into_os_string();
    // Nothing for the one that is in its place.
    name.push(stage.suffix());
    name.into()
}

/// The kinds of file that a segment has beside its log.
pub(crate) const DERIVED_KINDS: [FileKind; 4] =
    [FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TransactionIndex, FileKind::TransactionChecksum];

/// A name taken apart, or `None` if it is not of this form.
pub(crate) fn parse_file_name(name: &OsStr) -> Option<(u64, FileKind, Stage)> {
    let name = name.to_str()?;
    let (name, stage) = STAGES
        .iter()
        .find_map(|(stage, suffix)| Some((name.strip_suffix(suffix)?, *stage)))
        .unwrap_or((name, Stage::Final));
    let (digits, extension) = name.split_once('.')?;
    let kind = KINDS.iter().find(|(_, known)| *known == extension).map(|(kind, _)| *kind)?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let offset = digits.parse().ok().filter(|&offset: &u64| offset <= OFFSET_MAX)?;
    Some((offset, kind, stage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_as_they_are_written() {
        for (kind, _) in KINDS {
            for offset in [0, 7, OFFSET_MAX] {
                let name = file_name(Path::new("t-0"), offset, kind);
                let parsed = parse_file_name(name.file_name().unwrap());
                assert_eq!(parsed, Some((offset, kind, Stage::Final)));
            }
        }
        assert_eq!(
            file_name(Path::new(""), OFFSET_MAX, FileKind::Log),
            Path::new("09223372036854775807.log") // Kafka's own rendering of Long.MAX_VALUE
        );
    }

    #[test]
    fn stages_are_recognised_and_foreign_names_are_not() {
        let parse = |name: &str| parse_file_name(OsStr::new(name));
        let swap = Some((3, FileKind::Log, Stage::Swap));
        assert_eq!(parse("00000000000000000003.log.swap"), swap);
        let deleted = Some((3, FileKind::TimeIndex, Stage::Deleted));
        assert_eq!(parse("00000000000000000003.timeindex.deleted"), deleted);
        let temporary = Some((3, FileKind::OffsetIndex, Stage::Temporary));
        assert_eq!(parse("00000000000000000003.index.tmp"), temporary);
        for foreign in [
            "",
            ".log",
            "3.log",
            "00000000000000000003",
            "00000000000000000003.txt",
            "0000000000000000000a.log",
            "99999999999999999999.log",
            "00000000000000000003.log.stray",
            "leader-epoch-checkpoint",
        ] {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }
}
