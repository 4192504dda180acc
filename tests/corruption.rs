//! Every byte of every file of a small store, damaged: what is read is what was written, and what is not read is
//! missed aloud.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

mod common;
#[path = "common/logs.rs"]
mod logs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use annals::format::Compression;
use annals::fs::{Crash, SimulatedDisk};
use annals::{CompressionType, Error, Partition, Record, Store, StoredRecord, TopicConfig};
use logs::{Machine, NOW};

/// The records of one partition: at the offset that is their place in the list, a value and a time.
type Written = Vec<(String, i64)>;

/// A store, closed, and what was written to it, by the directory of each partition.
struct Original {
    disk: SimulatedDisk,
    written: BTreeMap<String, Written>,
}

/// Two partitions that are not compressed and one that is, each of several segments.
fn original() -> Original {
    let machine = Machine::new();
    let store = machine.open();
    let config = || TopicConfig::new().segment_bytes(250).index_interval_bytes(60);
    let plain = store.create_topic("plain", config().partitions(2)).unwrap();
    let codecs = [
        (Compression::Lz4, CompressionType::Lz4),
        (Compression::Snappy, CompressionType::Snappy),
        (Compression::Gzip, CompressionType::Gzip),
        (Compression::Zstd, CompressionType::Zstd),
    ];
    let codec = codecs.into_iter().find(|(stored, _)| common::enabled(*stored));
    let codec = codec.map_or(CompressionType::Uncompressed, |(_, codec)| codec);
    let packed = store.create_topic("packed", config().compression(codec)).unwrap();
    let mut written = BTreeMap::new();
    for (log, batches, each) in [
        (plain.partition(0).unwrap(), 5, 1),
        (plain.partition(1).unwrap(), 3, 2),
        (packed.partition(0).unwrap(), 3, 3),
    ] {
        written.insert(log.id().to_string(), write(&log, batches, each));
        assert!(log.segments().len() > 1, "{log:?}");
    }
    store.close().unwrap();
    Original { disk: machine.disk, written }
}

fn write(log: &Partition, batches: u64, each: u64) -> Written {
    let mut written = Written::new();
    for batch in 0..batches {
        let new: Written = (0..each)
            .map(|n| {
                (format!("{} {batch}.{n} {}", log.id(), "abc".repeat(4)), NOW + ((batch * 5 + n) % 7) as i64)
            })
            .collect();
        let records: Vec<_> = new.iter().map(|(value, time)| Record::new(value).timestamp(*time)).collect();
        assert_eq!(log.append_batch(&records).unwrap().base_offset, written.len() as u64);
        written.extend(new);
    }
    written
}

/// What is wrong with how a damaged store was taken.
struct Judge<'a> {
    what: String,
    written: &'a BTreeMap<String, Written>,
    /// The directories of which a log file was damaged; the others must be as they were.
    damaged: Vec<String>,
    /// Those whose `partition.metadata` may name another topic now: then they stay closed, and say so.
    disowned: Vec<String>,
    /// Whether two files were damaged at once, so that what is left of one cannot vouch for the other.
    twice: bool,
    /// Whether a log file of another partition lies in a place where its offsets fit. Kafka's format has nothing
    /// that would tell.
    strange: bool,
    complaints: Vec<String>,
}

impl Judge<'_> {
    fn complain(&mut self, text: impl std::fmt::Display) {
        self.complaints.push(format!("{}: {text}", self.what));
    }

    fn judge(&mut self, disk: &SimulatedDisk) {
        match Machine::of(disk.clone()).try_open() {
            Ok(store) => {
                for (name, written) in self.written {
                    if self.strange && self.damaged.contains(name) {
                        read_blindly(&store, name);
                    } else {
                        self.judge_partition(&store, name, written);
                    }
                }
                // Whatever came, it can be closed and opened again.
                let _ = store.close();
                if let Err(error) = Machine::of(disk.clone()).try_open() {
                    self.complain(format_args!("it does not open again: {error}"));
                }
            }
            Err(error) => self.complain(format_args!("the store does not open: {error}")),
        }
    }

    fn judge_partition(&mut self, store: &Store, name: &str, written: &Written) {
        let (topic, number) = name.rsplit_once('-').unwrap();
        let found = store.topic(topic).and_then(|topic| topic.partition(number.parse().unwrap()));
        let excused = self.damaged.iter().any(|damaged| damaged == name);
        let log = match found {
            Ok(log) => log,
            Err(Error::Corruption { path, .. })
                if self.disowned.iter().any(|disowned| disowned == name)
                    && path.ends_with("partition.metadata") =>
            {
                return;
            }
            Err(error) => return self.complain(format_args!("{name} does not open: {error}")),
        };
        let report = log.recovery_report();
        let mut told = !report.damage.is_empty() || (self.twice && report.truncated_bytes > 0);
        let read = match self.read_all(&log, name, written, &mut told) {
            Some(read) => read,
            None => return,
        };
        let lost = written.len() - read.len();
        if lost > 0 && !told {
            self.complain(format_args!("{name}: {lost} records are gone and nobody says so: {report:?}"));
        }
        if !excused && (lost > 0 || told) {
            self.complain(format_args!("{name}: only a derived file was damaged, {lost} lost: {report:?}"));
        }
        self.read_points(&log, name, written, &read);
        if !excused {
            self.look_up_times(&log, name, written);
        }
        if report.damage.is_empty() && !(self.twice && report.truncated_bytes > 0) {
            match log.append(&Record::new("more").timestamp(NOW)) {
                Ok(offset) if offset == written.len() as u64 => {}
                other => self.complain(format_args!("{name}: an append gave {other:?}")),
            }
        }
    }

    /// The offsets that can be read from the start on, around damage.
    fn read_all(
        &mut self,
        log: &Partition,
        name: &str,
        written: &Written,
        told: &mut bool,
    ) -> Option<Vec<u64>> {
        let mut read: Vec<u64> = Vec::new();
        let mut reader = match log.read_from(log.log_start()) {
            Ok(reader) => reader,
            Err(error) => {
                self.complain(format_args!("{name}: {error}"));
                return None;
            }
        };
        for _ in 0..1_000 {
            match reader.next() {
                Some(Ok(record)) => {
                    if !is_as_written(&record, written) || read.last() >= Some(&record.offset()) {
                        self.complain(format_args!("{name}: {record:?} was never written behind {read:?}"));
                        return None;
                    }
                    read.push(record.offset());
                }
                Some(Err(_)) => {
                    *told = true;
                    reader.skip_damage();
                }
                None => return Some(read),
            }
        }
        self.complain(format_args!("{name}: reading does not end"));
        None
    }

    fn read_points(&mut self, log: &Partition, name: &str, written: &Written, read: &[u64]) {
        for offset in log.log_start()..log.log_end() {
            match log.read_from(offset).unwrap().next() {
                Some(Ok(record)) if record.offset() == offset && is_as_written(&record, written) => {}
                Some(Err(_)) if self.twice || !read.contains(&offset) => {}
                other => self.complain(format_args!("{name}: reading from {offset} gives {other:?}")),
            }
        }
    }

    fn look_up_times(&mut self, log: &Partition, name: &str, written: &Written) {
        for time in (NOW - 1)..=(NOW + 8) {
            let first = written.iter().position(|(_, written)| *written >= time).map(|at| at as u64);
            let found = log.offset_for_timestamp(time).map(|found| found.map(|found| found.offset));
            if !matches!(found, Ok(found) if found == first) {
                self.complain(format_args!("{name}: time {time} is at {first:?}, found {found:?}"));
            }
        }
    }
}

/// Reads and appends what cannot be judged; it must neither panic nor hang.
fn read_blindly(store: &Store, name: &str) {
    let (topic, number) = name.rsplit_once('-').unwrap();
    let log = store.topic(topic).unwrap().partition(number.parse().unwrap()).unwrap();
    let mut reader = log.read_from(log.log_start()).unwrap();
    for _ in 0..1_000 {
        if reader.next().is_none() && reader.skip_damage().is_none() {
            let _ = log.append(&Record::new("more"));
            return;
        }
    }
    panic!("{name}: reading does not end");
}

fn is_as_written(record: &StoredRecord, written: &Written) -> bool {
    let at = written.get(record.offset() as usize);
    at.is_some_and(|(value, time)| record.value() == Some(value.as_bytes()) && record.timestamp() == *time)
}

/// The partition directory of a log file.
fn log_of(name: &Path) -> Option<String> {
    let is_log = name.extension().is_some_and(|extension| extension == "log");
    is_log.then(|| directory_of(name))
}

fn directory_of(name: &Path) -> String {
    name.parent().unwrap().to_str().unwrap().to_owned()
}

/// Damages copies of the store and has each judged; all complaints at once, since they come in families.
fn sweep(each: impl Fn(&Original, &mut dyn FnMut(String, &[&Path], bool, &dyn Fn(&SimulatedDisk)))) {
    let original = original();
    let (mut complaints, mut looked_at) = (Vec::new(), 0);
    each(&original, &mut |what, names, strange, damage| {
        let disk = original.disk.crash(Crash::ProcessKill);
        damage(&disk);
        let (damaged, twice) = (names.iter().filter_map(|name| log_of(name)).collect(), names.len() > 1);
        let disowned = names.iter().filter(|name| name.ends_with("partition.metadata"));
        let mut judge = Judge {
            what,
            written: &original.written,
            damaged,
            disowned: disowned.map(|name| directory_of(name)).collect(),
            twice,
            strange,
            complaints: Vec::new(),
        };
        judge.judge(&disk);
        complaints.append(&mut judge.complaints);
        looked_at += 1;
    });
    let count = complaints.len();
    complaints.truncate(60);
    assert!(count == 0, "{count} complaints in {looked_at} cases, among them\n{}", complaints.join("\n"));
    assert!(looked_at > 10);
}

fn contents(original: &Original) -> Vec<(PathBuf, Vec<u8>)> {
    let names = original.disk.names().into_iter().filter(|name| name != Path::new(".lock"));
    names.map(|name| (name.clone(), original.disk.read(&name).unwrap())).collect()
}

fn change_bytes(change: impl Fn(usize, u8) -> u8) {
    sweep(|original, judge| {
        for (name, bytes) in contents(original) {
            for (at, &byte) in bytes.iter().enumerate() {
                let to = change(at, byte);
                if to != byte {
                    let what = format!("{} with {to:02x} at byte {at}", name.display());
                    judge(what, &[&name], false, &|disk| assert!(disk.flip(&name, at as u64, byte ^ to)));
                }
            }
        }
    });
}

#[test]
fn one_bit_flipped() {
    change_bytes(|at, byte| byte ^ (1 << (at % 8)));
}

#[test]
fn another_bit_flipped() {
    change_bytes(|at, byte| byte ^ (1 << ((at + 3) % 8)));
}

#[test]
fn a_byte_of_zeroes_or_ones() {
    change_bytes(|_, _| 0);
    change_bytes(|_, _| 0xff);
}

#[test]
fn cut_at_every_length() {
    sweep(|original, judge| {
        for (name, bytes) in contents(original) {
            for len in 0..bytes.len() {
                let what = format!("{} cut to {len} of {}", name.display(), bytes.len());
                judge(what, &[&name], false, &|disk| disk.write(&name, &bytes[..len]).unwrap());
            }
        }
    });
}

#[test]
fn longer_than_it_was() {
    sweep(|original, judge| {
        for (name, bytes) in contents(original) {
            for len in [1, 7, 8, 12, 24, 61, 300] {
                let tails = [vec![0; len], vec![0xff; len], (1..=len).map(|n| (n * 151) as u8).collect()];
                for (kind, tail) in tails.iter().enumerate() {
                    let what = format!("{} with {len} bytes of kind {kind} behind", name.display());
                    let longer = [&bytes[..], tail].concat();
                    judge(what, &[&name], false, &|disk| disk.write(&name, &longer).unwrap());
                }
            }
            let twice = bytes.repeat(2);
            judge(format!("{} twice", name.display()), &[&name], false, &|disk| {
                disk.write(&name, &twice).unwrap()
            });
        }
    });
}

#[test]
fn emptied_replaced_and_deleted() {
    sweep(|original, judge| {
        for (name, bytes) in contents(original) {
            let shown = name.display().to_string();
            judge(format!("{shown} emptied"), &[&name], false, &|disk| disk.write(&name, &[]).unwrap());
            judge(format!("{shown} deleted"), &[&name], false, &|disk| assert!(disk.remove(&name)));
            let planted = |disk: &SimulatedDisk| {
                disk.remove(&name);
                disk.plant(&name).unwrap();
            };
            judge(format!("{shown} a FIFO"), &[&name], false, &planted);
            for fill in [0, 0xff] {
                let same = vec![fill; bytes.len()];
                judge(format!("{shown} all {fill}"), &[&name], false, &|disk| {
                    disk.write(&name, &same).unwrap()
                });
            }
            for len in [bytes.len(), 1_000] {
                let garbage: Vec<u8> = (0..len).map(|n| (n * n * 31 + n * 7 + 5) as u8).collect();
                judge(format!("{shown} garbage"), &[&name], false, &|disk| {
                    disk.write(&name, &garbage).unwrap()
                });
            }
        }
    });
}

#[test]
fn swapped_and_copied_over_each_other() {
    sweep(|original, judge| {
        let files = contents(original);
        for (one, left) in &files {
            for (other, right) in files.iter().filter(|(other, right)| other != one && right != left) {
                let strange = match (log_of(one), log_of(other)) {
                    (Some(one), Some(other)) => one != other,
                    _ => false,
                };
                let copied = format!("{} copied over {}", one.display(), other.display());
                judge(copied, &[other], strange, &|disk| disk.write(other, left).unwrap());
                if one < other {
                    let swapped = format!("{} swapped with {}", one.display(), other.display());
                    judge(swapped, &[one, other], strange, &|disk| {
                        disk.write(one, right).unwrap();
                        disk.write(other, left).unwrap();
                    });
                }
            }
        }
    });
}
