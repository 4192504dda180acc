//! Stores the lines of a file in a topic of three partitions and reads them back as a member of a group.
//!
//!   quickstart [--dir DIR] [FILE]
//!
//! Each line becomes one record: its bytes without the line end `\n` are the value, those before the first space
//! the key, which decides the partition. Run it twice on one DIR: the second run continues the log, and reads on from
//! where the first has committed.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a program, not a library"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use annals::consumer::{DeliveryGuarantee, OffsetReset};
use annals::{
    ConsumerConfig, Error, Partition, ProducerConfig, Record, Store, StoredRecord, TopicConfig,
    TopicPartition,
};

type Failure = Box<dyn std::error::Error>;

const PARTITIONS: u32 = 3;
/// How many lines are sent before somebody looks whether they were written.
const DELIVERIES: usize = 10_000;
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
    let config = TopicConfig::new().partitions(PARTITIONS).max_message_bytes(LINE_BYTES_MAX * 2);
    match store.create_topic("lines", config) {
        Err(Error::TopicExists { .. }) => {}
        made => drop(made?),
    }
    println!("store      {}", directory.display());
    println!("file       {}", file.display());

    let lines = send_lines(&store, file).map_err(|error| format!("{}: {error}", file.display()))?;
    let written = started.elapsed();
    println!("appended   {lines} records in {:.3} s, all of them on disk", written.as_secs_f64());

    let seen = read_new(&store)?;
    let records: u64 = seen.values().map(|seen| seen.count).sum();
    let read = started.elapsed() - written;
    println!("read       {records} records that the group had not seen, in {:.3} s", read.as_secs_f64());
    let bytes: u64 = store.topic("lines")?.partitions()?.iter().map(Partition::size).sum();
    println!("on disk    {bytes} bytes of log in Kafka's format");
    seen.iter().for_each(|(partition, seen)| show(partition, seen));
    store.close()?;
    println!();
    println!("Run it again with `--dir {}` to append more, and read just that.", directory.display());
    println!("Look inside with `cargo run --release --example dump -- {}/lines-0`.", directory.display());
    Ok(())
}

/// Sends every line, and waits until all are on disk. Returns how many there were.
fn send_lines(store: &Store, file: &Path) -> Result<u64, Failure> {
    let size = LINE_BYTES_MAX as usize * 2;
    let producer = store.producer(ProducerConfig::new().max_request_size(size).buffer_memory(2 * size))?;
    let mut reader = BufReader::with_capacity(1 << 20, File::open(file)?);
    let (mut line, mut count, mut deliveries) = (Vec::new(), 0, Vec::new());
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.ends_with(b"\n") {
            line.pop();
        }
        count += 1;
        deliveries.push(producer.send("lines", &Record::new(&line).key(key_of(&line)))?);
        if deliveries.len() == DELIVERIES {
            deliveries.drain(..).try_for_each(|delivery| delivery.wait().map(drop))?;
        }
    }
    producer.flush()?;
    deliveries.into_iter().try_for_each(|delivery| delivery.wait().map(drop))?;
    Ok(count)
}

/// What the group got of one partition.
struct Seen {
    count: u64,
    first: StoredRecord,
    last: StoredRecord,
}

/// Reads what the group has not seen yet, to the end, and commits that it has.
fn read_new(store: &Store) -> annals::Result<BTreeMap<TopicPartition, Seen>> {
    let config = ConsumerConfig::new()
        .group("quickstart")
        .offset_reset(OffsetReset::Earliest)
        .delivery(DeliveryGuarantee::AtLeastOnce);
    let mut consumer = store.consumer(config)?;
    consumer.subscribe(["lines"])?;
    let mut all: BTreeMap<TopicPartition, Seen> = BTreeMap::new();
    loop {
        let records = consumer.poll(Duration::from_millis(10))?;
        if records.is_empty() && !consumer.assignment().is_empty() {
            consumer.close()?;
            return Ok(all);
        }
        for (partition, record) in records.iter() {
            match all.get_mut(partition) {
                Some(seen) => (seen.count, seen.last) = (seen.count + 1, record.clone()),
                None => {
                    let seen = Seen { count: 1, first: record.clone(), last: record.clone() };
                    all.insert(partition.clone(), seen);
                }
            }
        }
    }
}

fn show(partition: &TopicPartition, seen: &Seen) {
    println!();
    println!("{partition}: {} new records", seen.count);
    for (which, record) in [("first", &seen.first), ("last", &seen.last)] {
        println!("  {which:5} {:>8}  {}", record.offset(), shorten(record.value().unwrap_or_default()));
    }
}

fn key_of(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b' ').next().unwrap_or_default()
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
