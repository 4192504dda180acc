//! Drives a store for fault harnesses that kill, cut power, fail disks and fill them.
//!
//!   crash_driver append DIR N    open (recover) DIR, append N records, print `ack K` once offset K is durable
//!   crash_driver check  DIR A    open (recover) DIR; offsets 0..A-1 must be there with the right content
//!
//! Exit codes: 0 ok, 3 a typed error, 4 acknowledged data is missing, 5 wrong data was served, 64 usage.
//! Environment: ANNALS_DURABILITY (`synced`, `process`, `interval:<ms>:<bytes>`), ANNALS_PAYLOAD (bytes per record,
//! default 200), ANNALS_SEGMENT (bytes per segment, default 65536), ANNALS_THREADS (appenders, default 1).

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    reason = "a program, not a library"
)]

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;

use annals::{Error, Partition, Record, Store, TopicConfig};

const TOPIC: &str = "crash";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "append", directory, count] => count.parse().map(|count| append(directory, count)),
        [_, "check", directory, acked] => acked.parse().map(|acked| check(directory, acked)),
        _ => {
            eprintln!("usage: crash_driver append DIR N | check DIR A");
            return ExitCode::from(64);
        }
    };
    match result {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(error)) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
        Err(error) => {
            eprintln!("not a number: {error}");
            ExitCode::from(64)
        }
    }
}

fn append(directory: &str, count: u64) -> annals::Result<u8> {
    let store = Store::open(directory)?;
    let topic = match store.topic(TOPIC) {
        Err(Error::UnknownTopic { .. }) => {
            let config = TopicConfig::new()
                .set("annals.durability", &setting("ANNALS_DURABILITY", "synced"))?
                .set("segment.bytes", &setting("ANNALS_SEGMENT", "65536"))?
                .set("index.interval.bytes", "1024")?;
            store.create_topic(TOPIC, config)?
        }
        topic => topic?,
    };
    let partition = topic.partition(0)?;
    say(&format!("open {}", partition.log_end()));
    let threads = threads();
    // With several appenders only a prefix of what was acknowledged may be said, in order.
    let order = Mutex::new(Prefix { next: partition.log_end(), early: Default::default() });
    let share = |thread: u64| count / threads + u64::from(thread < count % threads);
    let run = |thread| append_some(&partition, thread, share(thread), &order);
    std::thread::scope(|scope| {
        let run = &run;
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        let mine = run(0);
        others.into_iter().map(|other| other.join().expect("an appender panicked")).fold(mine, Result::and)
    })?;
    store.close()?;
    Ok(0)
}

struct Prefix {
    next: u64,
    early: std::collections::BTreeSet<u64>,
}

fn append_some(partition: &Partition, thread: u64, count: u64, order: &Mutex<Prefix>) -> annals::Result<()> {
    // Alone, the number of a record is its offset. Several cannot know theirs; then no two may be equal.
    let start =
        if threads() == 1 { partition.log_end() } else { (thread + 1) << 56 | partition.log_end() << 20 };
    for number in start..start + count {
        let offset = partition.append(&Record::new(&payload(number)))?;
        let Prefix { next, early } = &mut *order.lock().expect("an appender panicked");
        early.insert(offset);
        while early.remove(next) {
            say(&format!("ack {next}"));
            *next += 1;
        }
    }
    Ok(())
}

fn check(directory: &str, acked: u64) -> annals::Result<u8> {
    let store = Store::open(directory)?;
    let partition = match store.topic(TOPIC) {
        Ok(topic) => topic.partition(0)?,
        Err(Error::UnknownTopic { .. }) if acked == 0 => return Ok(0),
        Err(Error::UnknownTopic { .. }) => {
            println!("no topic, but {acked} were acknowledged");
            return Ok(4);
        }
        Err(error) => return Err(error),
    };
    let (mut next, mut seen) = (0, HashSet::new());
    for record in partition.read_from(0)? {
        let record = record?;
        let value = record.value().unwrap_or_default();
        let number = value.first_chunk().map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes));
        let right = value == payload(number) && seen.insert(number) && (threads() > 1 || number == next);
        if record.offset() != next || !right {
            println!(
                "offset {} was served with the wrong content, or out of order at {next}",
                record.offset()
            );
            return Ok(5);
        }
        next += 1;
    }
    println!("recovered {next} acked {acked}");
    Ok(if next < acked { 4 } else { 0 })
}

/// A number, and bytes that follow from it, none of them compressible.
fn payload(number: u64) -> Vec<u8> {
    let size = setting("ANNALS_PAYLOAD", "200").parse().unwrap_or(200).max(8);
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize_with(size, || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    bytes
}

fn threads() -> u64 {
    setting("ANNALS_THREADS", "1").parse().unwrap_or(1).max(1)
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.into())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // A harness that went away is no reason to stop: it kills when it wants to.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
