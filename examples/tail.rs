//! Follows a topic, as `tail -f` does a file.
//!
//!   tail
//!
//! One thread appends a line of a sample now and then, another polls without a group, from the last ten records on. It
//! sleeps in `poll` and is woken by each append; how long that takes is printed.

#![allow(clippy::print_stdout, reason = "a program, not a library")]

use std::thread;
use std::time::{Duration, SystemTime};

use annals::{ConsumerConfig, Durability, Record, Store, TopicConfig};

const LINES: &str = include_str!("data/nasa-http.log");
const FOLLOWED: usize = 30;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path())?;
    let topic = store.create_topic("requests", TopicConfig::new().durability(Durability::Process))?;
    let log = topic.partition(0)?;
    let (before, after) = LINES.split_at(LINES.len() / 2);
    for line in before.lines() {
        log.append(&Record::new(line))?;
    }

    let mut consumer = store.consumer(ConsumerConfig::new())?;
    consumer.assign([log.id().clone()])?;
    consumer.seek(log.id(), log.log_end().saturating_sub(10))?;
    thread::scope(|scope| {
        scope.spawn(|| {
            for line in after.lines().skip(1).take(FOLLOWED) {
                thread::sleep(Duration::from_millis(20));
                let now = format!("{}", nanoseconds());
                if let Err(error) = log.append(&Record::new(line).key(&now)) {
                    return println!("cannot append: {error}");
                }
            }
        });
        let mut left = FOLLOWED;
        while left > 0 {
            for record in consumer.poll(Duration::from_secs(1))? {
                let line: String =
                    String::from_utf8_lossy(record.value().unwrap_or_default()).chars().take(70).collect();
                let sent = record.key().and_then(|key| std::str::from_utf8(key).ok()?.parse::<u128>().ok());
                match sent {
                    Some(sent) => {
                        left -= 1;
                        let micros = nanoseconds().saturating_sub(sent) / 1000;
                        println!("{:5}  {micros:5} us after it was sent  {line}", record.offset());
                    }
                    None => println!("{:5}  was there already         {line}", record.offset()),
                }
            }
        }
        Ok(())
    })
}

fn nanoseconds() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos()
}
