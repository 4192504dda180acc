//! Stores the lines of a file in a topic of three partitions and reads them back.
//!
//!   quickstart [--dir DIR] [FILE]
//!
//! Each line becomes one record: its bytes without the line end `\n` are the value, those before the first space
//! the key, which decides the partition. Run it twice on one DIR and the second run continues the log.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a program, not a library"
)]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use annals::{Partition, Record, Store, Topic, TopicConfig};

type Failure = Box<dyn std::error::Error>;

const PARTITIONS: u32 = 3;
/// A batch is appended when it has so many records or bytes. It is on disk when its append returns.
const BATCH_RECORDS: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;
/// A line of a binary file can be long: far more than Kafka's default of 1 MiB for a batch.
const LINE_BYTES_MAX: u32 = 1 << 29;

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let Some((directory, file)) = parse(arguments) else {
        eprintln!("usage: quickstart [--dir DIR] [FILE]");
        return ExitCode::from(64);
    };
    match run(&directory, &file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("quickstart: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(directory: &Path, file: &Path) -> Result<(), Failure> {
    let started = Instant::now();
    let store = Store::open(directory)?;
    let topic = match store.topic("lines") {
        Err(annals::Error::UnknownTopic { .. }) => {
            let config = TopicConfig::new().partitions(PARTITIONS).max_message_bytes(LINE_BYTES_MAX * 2);
            store.create_topic("lines", config)?
        }
        topic => topic?,
    };
    let partitions = topic.partitions()?;
    let before: Vec<u64> = partitions.iter().map(Partition::log_end).collect();
    println!("store      {}", directory.display());
    println!("file       {}", file.display());

    let lines = append_lines(&topic, file).map_err(|error| format!("{}: {error}", file.display()))?;
    let written = started.elapsed();
    println!("appended   {lines} records in {:.3} s, all of them on disk", written.as_secs_f64());

    let (mut records, mut bytes) = (0, 0);
    for (partition, before) in partitions.iter().zip(before) {
        records += show(partition, before)?;
        bytes += partition.size();
    }
    let read = started.elapsed() - written;
    println!("read back  {records} records in {:.3} s, every checksum checked", read.as_secs_f64());
    println!("on disk    {bytes} bytes of log in Kafka's format");
    store.close()?;
    println!();
    println!("Run it again with `--dir {}` to append more.", directory.display());
    println!("Look inside with `cargo run --release --example dump -- {}/lines-0`.", directory.display());
    Ok(())
}

/// Appends every line to the partition of its key, a batch at a time. Returns how many there were.
fn append_lines(topic: &Topic, file: &Path) -> Result<u64, Failure> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(file)?);
    let mut pending: Vec<Pending> = (0..PARTITIONS).map(|_| Pending::default()).collect();
    let (mut line, mut count) = (Vec::new(), 0);
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.ends_with(b"\n") {
            line.pop();
        }
        count += 1;
        let partition = annals::partition_for_key(key_of(&line), topic.partition_count());
        let lines = &mut pending[partition as usize];
        lines.bytes += line.len();
        lines.lines.push(line.clone());
        if lines.lines.len() >= BATCH_RECORDS || lines.bytes >= BATCH_BYTES {
            lines.append_to(&topic.partition(partition)?)?;
        }
    }
    for (partition, lines) in pending.iter_mut().enumerate() {
        lines.append_to(&topic.partition(partition as u32)?)?;
    }
    Ok(count)
}

/// Lines on their way to one partition.
#[derive(Default)]
struct Pending {
    lines: Vec<Vec<u8>>,
    bytes: usize,
}

impl Pending {
    fn append_to(&mut self, partition: &Partition) -> annals::Result<()> {
        let records: Vec<Record<'_>> =
            self.lines.iter().map(|line| Record::new(line).key(key_of(line))).collect();
        if !records.is_empty() {
            partition.append_batch(&records)?;
        }
        *self = Pending::default();
        Ok(())
    }
}

fn key_of(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b' ').next().unwrap_or_default()
}

/// Reads a partition in order and prints what is in it. Returns how many records there were.
fn show(partition: &Partition, before: u64) -> annals::Result<u64> {
    let (mut count, mut first, mut last) = (0u64, None, None);
    for record in partition.read_from(partition.log_start())? {
        let record = record?;
        count += 1;
        if first.is_none() {
            first = Some(record.clone());
        }
        last = Some(record);
    }
    println!();
    let (start, end) = (partition.log_start(), partition.log_end());
    println!(
        "{}: {count} records, offsets {start} to {end} (exclusive), {} new",
        partition.id(),
        end - before
    );
    for (which, record) in [("first", first), ("last", last)] {
        if let Some(record) = record {
            println!("  {which:5} {:>8}  {}", record.offset(), shorten(record.value().unwrap_or_default()));
        }
    }
    Ok(count)
}

fn shorten(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let shown: String = text.chars().take(90).flat_map(char::escape_debug).collect();
    if text.chars().nth(90).is_some() { format!("{shown}…") } else { shown }
}

fn parse(arguments: Vec<PathBuf>) -> Option<(PathBuf, PathBuf)> {
    let (mut directory, mut file) = (None, None);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--dir") => directory = Some(arguments.next()?),
            Some(option) if option.starts_with("--") => return None,
            _ if file.is_none() => file = Some(argument),
            _ => return None,
        }
    }
    let sample = || Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/nasa-http.log");
    Some((directory.unwrap_or_else(fresh_directory), file.unwrap_or_else(sample)))
}

fn fresh_directory() -> PathBuf {
    let unique = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    std::env::temp_dir().join(format!("annals-quickstart-{}-{}", std::process::id(), unique.as_nanos()))
}
