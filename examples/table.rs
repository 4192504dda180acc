//! Keeps the last line of every key, as a table that survives restarts: a compacted topic, written in transactions.
//!
//!   table [--dir DIR] [FILE]
//!
//! The first word of a line is its key. Lines are appended in transactions of a hundred, and every tenth of them is
//! taken back, as an application does that fails on the way. Then the log is compacted, and what readers of
//! committed data find is held against a map in memory. Run it twice on one DIR: the table goes on.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program, not a library")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use annals::format::EndTransactionMarker;
use annals::{AppendOptions, Error, Isolation, Partition, Record, Store, TopicConfig};

type Failure = Box<dyn std::error::Error>;
type Table = HashMap<Vec<u8>, Vec<u8>>;

const PRODUCER: i64 = 1;
const LINES_PER_TRANSACTION: usize = 100;
/// A key and a value must fit into a batch.
const LINE_BYTES_MAX: usize = 4096;

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (directory, file) = match arguments.as_slice() {
        [] => (temporary(), sample()),
        [file] if file.as_os_str() != "--dir" => (temporary(), file.clone()),
        [option, directory] if option.as_os_str() == "--dir" => (directory.clone(), sample()),
        [option, directory, file] if option.as_os_str() == "--dir" => (directory.clone(), file.clone()),
        _ => {
            eprintln!("usage: table [--dir DIR] [FILE]");
            return ExitCode::from(64);
        }
    };
    match run(&directory, &file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("table: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/nasa-http.log")
}

fn temporary() -> PathBuf {
    std::env::temp_dir().join(format!("annals-table-{}", std::process::id()))
}

fn run(directory: &Path, file: &Path) -> Result<(), Failure> {
    let store = Store::open(directory)?;
    let log = open_table(&store)?;
    let mut expected = read_table(&log)?;
    println!("store      {}", directory.display());
    println!("table      {} keys before", expected.len());

    let lines = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let lines: Vec<&[u8]> = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
    let (mut committed, mut aborted) = (0, 0);
    for (nth, lines) in lines.chunks(LINES_PER_TRANSACTION).enumerate() {
        let rows: Vec<(&[u8], &[u8])> = lines.iter().map(|line| row(line)).collect();
        let commit = nth % 10 != 9;
        write(&log, &rows, commit)?;
        if commit {
            committed += rows.len();
            expected.extend(rows.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
        } else {
            aborted += rows.len();
        }
    }
    println!("appended   {committed} rows committed, {aborted} taken back");

    log.roll()?;
    if let Some(report) = log.compact()? {
        let (before, after) = (report.bytes_before, report.bytes_after);
        println!("compacted  {} records read, {} kept", report.records_read, report.records_kept);
        println!("           {before} bytes before, {after} after, in {:?}", report.took);
    }
    let found = read_table(&log)?;
    if found != expected {
        return Err("the table is not what was committed".into());
    }
    println!("table      {} keys, each with its last committed line", found.len());
    store.close()?;
    Ok(())
}

fn open_table(store: &Store) -> Result<Partition, Failure> {
    let topic = match store.topic("table") {
        Err(Error::UnknownTopic { .. }) => {
            let config = TopicConfig::new().segment_bytes(1 << 20).set("cleanup.policy", "compact")?;
            store.create_topic("table", config)?
        }
        topic => topic?,
    };
    Ok(topic.partition(0)?)
}

/// The key and the value of a line.
fn row(line: &[u8]) -> (&[u8], &[u8]) {
    let line = line.get(..LINE_BYTES_MAX).unwrap_or(line);
    let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    (line.get(..end).unwrap_or(line), line)
}

/// Appends rows in a transaction. Asked again after a failure, the producer's sequence numbers keep rows from being
/// there twice.
fn write(log: &Partition, rows: &[(&[u8], &[u8])], commit: bool) -> annals::Result<()> {
    let known = log.producers().into_iter().find(|known| known.producer_id == PRODUCER);
    let epoch = known.as_ref().map_or(0, |known| known.producer_epoch);
    let next = known.and_then(|known| known.last_sequence).map_or(0, |last| last.wrapping_add(1) & i32::MAX);
    let records: Vec<Record<'_>> = rows.iter().map(|(key, value)| Record::new(*value).key(*key)).collect();
    log.append_batch_with(&records, AppendOptions::new().transactional(PRODUCER, epoch, next))?;
    let marker = EndTransactionMarker { coordinator_epoch: 0, commit };
    log.end_transaction(PRODUCER, epoch, marker, AppendOptions::new())?;
    Ok(())
}

/// The last committed value of every key.
fn read_table(log: &Partition) -> annals::Result<Table> {
    let mut table = Table::new();
    for record in log.read_from_with(log.log_start(), Isolation::ReadCommitted)? {
        let record = record?;
        let (Some(key), value) = (record.key(), record.value()) else { continue };
        match value {
            Some(value) => table.insert(key.to_vec(), value.to_vec()),
            None => table.remove(key),
        };
    }
    Ok(table)
}
