//! Crashes and failing calls, every one of them, on a simulated disk. The promises are those of the durability page.
//!
//! A scripted run of a store is repeated with the power cut at each of its calls, and again with each call failing
//! in each way. Every crash leaves several images, every image is opened, checked, written to and opened again, and
//! some are cut once more in the middle of that. `ANNALS_SIMULATION_IMAGES` sets how many images are looked at
//! (default 6000); `ANNALS_SIMULATION_SEED` the seed of the first run. A failure prints what repeats it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail by panicking, and say how to repeat it"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use annals::clock::ManualClock;
use annals::fs::{Call, Crash, Fault, SimulatedDisk, When};
use annals::{Durability, Error, Partition, Record, Store, StoreOptions, TopicConfig};

const PARTITIONS: u32 = 2;
/// What a topic is told about durability, and what must then be there after a power cut.
const LEVELS: [Durability; 3] = [
    Durability::Synced,
    Durability::Interval { time: Duration::from_millis(40), bytes: 700 },
    Durability::Process,
];

/// Small numbers that follow from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What a run tried and what it was told, by partition.
#[derive(Debug, Default, Clone)]
struct Model {
    /// Values in the order in which they were tried; a value is its own number.
    tried: BTreeMap<u32, Vec<u64>>,
    /// Offsets that were acknowledged, with their values.
    acked: BTreeMap<u32, BTreeMap<u64, u64>>,
    /// Offsets below which everything was acknowledged as durable against a power cut.
    durable: BTreeMap<u32, u64>,
    created: bool,
    next_value: u64,
}

impl Model {
    fn try_values(&mut self, partition: u32, count: u64) -> Vec<Vec<u8>> {
        let values = self.next_value..self.next_value + count;
        self.next_value += count;
        self.tried.entry(partition).or_default().extend(values.clone());
        values.map(value).collect()
    }

    fn acknowledge(&mut self, partition: u32, base: u64, count: u64, synced: bool) {
        let first = self.next_value - count;
        let acked = self.acked.entry(partition).or_default();
        acked.extend((0..count).map(|n| (base + n, first + n)));
        if synced {
            self.make_durable(partition, base + count);
        }
    }

    fn make_durable(&mut self, partition: u32, end: u64) {
        let durable = self.durable.entry(partition).or_default();
        *durable = (*durable).max(end);
    }
}

/// A value says its number; its length varies so that batches straddle sectors in all ways.
fn value(number: u64) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(8 + (number * 37 % 160) as usize, number as u8);
    bytes
}

fn number(value: &[u8]) -> u64 {
    let number = u64::from_be_bytes(*value.first_chunk().expect("a value has 8 bytes or more"));
    assert_eq!(value, self::value(number), "the rest of value {number} is wrong");
    number
}

fn options() -> StoreOptions {
    // One thread, and a clock that stands still: the calls come in the same order every time.
    Store::options()
        .recovery_threads(1)
        .max_open_files(3)
        .clock(Arc::new(ManualClock::new(1_700_000_000_000)))
}

fn open(disk: &SimulatedDisk) -> annals::Result<Store> {
    options().open_in(Arc::new(disk.clone()))
}

fn config(level: Durability) -> TopicConfig {
    TopicConfig::new().partitions(PARTITIONS).durability(level).segment_bytes(1500).index_interval_bytes(200)
}

/// Some appends, flushes, and closings in the middle. Goes on after errors, as an application would.
fn run(disk: &SimulatedDisk, level: Durability, seed: u64, model: &mut Model) {
    let mut chance = Chance(seed);
    let mut store = None;
    for _ in 0..24 {
        if store.is_none() {
            store = open(disk).ok();
        }
        let Some(open) = &store else { continue };
        if !model.created {
            model.created = open.create_topic("t", config(level)).is_ok();
        }
        let Ok(topic) = open.topic("t") else { continue };
        let partition = chance.below(PARTITIONS.into()) as u32;
        let Ok(log) = topic.partition(partition) else { continue };
        match chance.below(12) {
            0 => {
                let ends: Vec<u64> =
                    topic.partitions().unwrap_or_default().iter().map(Partition::log_end).collect();
                if store.take().is_some_and(|store| store.close().is_ok()) {
                    ends.iter()
                        .enumerate()
                        .for_each(|(partition, end)| model.make_durable(partition as u32, *end));
                }
            }
            1 => store = None,
            2 => {
                let end = log.log_end();
                if log.flush().is_ok() {
                    model.make_durable(partition, end);
                }
            }
            3 => drop(open.maintain()),
            _ => append(&log, partition, 1 + chance.below(4), level, model),
        }
    }
}

fn append(log: &Partition, partition: u32, count: u64, level: Durability, model: &mut Model) {
    let values = model.try_values(partition, count);
    let records: Vec<Record<'_>> = values.iter().map(Record::new).collect();
    match log.append_batch(&records) {
        Ok(appended) => {
            model.acknowledge(partition, appended.base_offset, count, level == Durability::Synced);
        }
        Err(Error::Poisoned { .. }) => {
            let _ = log.reopen();
        }
        Err(_) => {}
    }
}

/// What an image must hold: everything acknowledged as durable, a prefix of what was tried, nothing else.
fn check(store: &Store, model: &Model, level: Durability, durable_only: bool) {
    let topic = match store.topic("t") {
        Ok(topic) => topic,
        Err(_) => {
            let anything = model.durable.values().any(|&end| end > 0);
            assert!(!anything && (durable_only || model.acked.is_empty()), "the topic is gone");
            return;
        }
    };
    for partition in 0..topic.partition_count() {
        let log = topic.partition(partition).expect("a partition does not open");
        let report = log.recovery_report();
        if level == Durability::Synced || !durable_only {
            assert!(report.damage.is_empty(), "damage after a mere crash: {report:?}");
        }
        let found = read_all(&log, !report.damage.is_empty());
        let none = BTreeMap::new();
        let acked = model.acked.get(&partition).unwrap_or(&none);
        let bound = if durable_only { model.durable.get(&partition).copied().unwrap_or(0) } else { u64::MAX };
        for (offset, value) in acked.range(..bound) {
            assert_eq!(
                found.get(offset),
                Some(value),
                "partition {partition}: acknowledged offset {offset} is lost"
            );
        }
        let tried = model.tried.get(&partition).map_or(&[][..], Vec::as_slice);
        let mut last = None;
        for (offset, value) in &found {
            assert!(
                tried.contains(value),
                "partition {partition}: value {value} at {offset} was never written"
            );
            assert!(last < Some(value), "partition {partition}: value {value} at {offset} is out of order");
            last = Some(value);
        }
    }
}

/// Every record that can be read, with its number. Without damage the offsets are dense.
fn read_all(log: &Partition, damaged: bool) -> BTreeMap<u64, u64> {
    let mut found = BTreeMap::new();
    let mut records = log.read_from(log.log_start()).expect("the log start can be read from");
    loop {
        match records.next() {
            Some(Ok(record)) => {
                let expected = found.last_key_value().map_or(log.log_start(), |(last, _)| last + 1);
                assert!(damaged || record.offset() == expected, "a gap before offset {}", record.offset());
                found.insert(record.offset(), number(record.value().expect("a value")));
            }
            Some(Err(error)) => {
                assert!(damaged, "an error where no damage was reported: {error}");
                records.skip_damage();
            }
            None => break,
        }
    }
    assert!(
        damaged || found.len() as u64 == log.log_end() - log.log_start(),
        "the end is not where it should be"
    );
    found
}

/// Opens an image, checks it, writes to it, and checks that this is still there the next time.
fn check_image(image: &SimulatedDisk, model: &Model, level: Durability, durable_only: bool) {
    let store = open(image).expect("an image does not open");
    check(&store, model, level, durable_only);
    let mut model = model.clone();
    if let Ok(topic) = store.topic("t") {
        for partition in 0..topic.partition_count() {
            let log = topic.partition(partition).expect("a partition does not open");
            if let Some(damage) = log.recovery_report().damage.first() {
                assert!(
                    matches!(log.append(&Record::new("x")), Err(Error::Damaged { .. })),
                    "damage is covered up"
                );
                log.accept_loss(damage.from).expect("a loss cannot be accepted");
                continue;
            }
            // From now on, what was found counts as promised: a reader has seen it.
            let found = read_all(&log, false);
            model.make_durable(partition, log.log_end());
            *model.acked.entry(partition).or_default() = found;
            let values = model.try_values(partition, 1);
            let offset = log.append(&Record::new(&values[0])).expect("an image takes no appends");
            model.acknowledge(partition, offset, 1, level == Durability::Synced);
        }
    }
    // Not closed: the next opening is after a crash as well.
    let again = image.crash(Crash::PowerCut { seed: 0 });
    drop(store);
    if level == Durability::Synced {
        let store = open(&again).expect("an image does not open again");
        check(&store, &model, level, true);
    }
    let store = open(image).expect("an image does not open after it was closed");
    for topic in store.topics() {
        for partition in topic.partitions().expect("a partition does not open") {
            let report = partition.recovery_report();
            assert!(
                report.clean || !report.damage.is_empty(),
                "closed in good order, but not opened so: {report:?}"
            );
        }
    }
}

fn images() -> u64 {
    std::env::var("ANNALS_SIMULATION_IMAGES").ok().and_then(|images| images.parse().ok()).unwrap_or(6_000)
}

fn first_seed() -> u64 {
    std::env::var("ANNALS_SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// Runs a check so that whatever fails in it says how to repeat it.
fn labelled(label: impl Fn() -> String, check: impl FnOnce()) {
    // What is broken by the panic is not looked at again: the panic goes on.
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)) {
        eprintln!("repeat with {}", label());
        std::panic::resume_unwind(panic);
    }
}

/// Calls `each` for one seed after another until it has looked at enough images.
fn until_enough(mut each: impl FnMut(u64) -> u64) {
    let (mut looked_at, mut seed) = (0, first_seed());
    while looked_at < images() {
        looked_at += each(seed);
        seed += 1;
    }
}

#[test]
fn a_power_cut_at_any_call_loses_nothing_acknowledged() {
    until_enough(|seed| {
        let mut looked_at = 0;
        for level in LEVELS {
            let whole = SimulatedDisk::new(seed);
            run(&whole, level, seed, &mut Model::default());
            for call in 1..=whole.calls() {
                let disk = SimulatedDisk::new(seed);
                disk.fail(When::nth(call), Fault::PowerOff);
                let mut model = Model::default();
                run(&disk, level, seed, &mut model);
                for cut in [0, 1, 2 + call] {
                    labelled(
                        || {
                            format!(
                                "ANNALS_SIMULATION_SEED={seed}: {level}, power off at call {call}, cut {cut}"
                            )
                        },
                        || {
                            check_image(&disk.crash(Crash::PowerCut { seed: cut }), &model, level, true);
                        },
                    );
                    looked_at += 1;
                }
                labelled(
                    || format!("ANNALS_SIMULATION_SEED={seed}: {level}, killed at call {call}"),
                    || check_image(&disk.crash(Crash::ProcessKill), &model, level, false),
                );
                looked_at += 1;
            }
        }
        looked_at
    });
}

#[test]
fn a_power_cut_in_the_middle_of_recovery_loses_nothing_more() {
    until_enough(|seed| {
        let mut looked_at = 0;
        let mut chance = Chance(seed);
        for level in LEVELS {
            let whole = SimulatedDisk::new(seed);
            run(&whole, level, seed, &mut Model::default());
            let call = 1 + chance.below(whole.calls());
            let disk = SimulatedDisk::new(seed);
            disk.fail(When::nth(call), Fault::PowerOff);
            let mut model = Model::default();
            run(&disk, level, seed, &mut model);
            let first = disk.crash(Crash::PowerCut { seed: 2 + call });
            let recovered = first.crash(Crash::ProcessKill);
            drop(open(&recovered));
            for inner in 1..=recovered.calls() {
                let again = first.crash(Crash::ProcessKill);
                again.fail(When::nth(inner), Fault::PowerOff);
                drop(open(&again));
                for cut in [0, 1, 2 + inner] {
                    let label = || {
                        format!(
                            "ANNALS_SIMULATION_SEED={seed}: {level}, off at {call}, then at {inner}, cut {cut}"
                        )
                    };
                    labelled(label, || {
                        check_image(&again.crash(Crash::PowerCut { seed: cut }), &model, level, true)
                    });
                    looked_at += 1;
                }
            }
        }
        looked_at
    });
}

#[test]
fn any_call_that_fails_breaks_no_promise() {
    const FAULTS: [(Fault, bool); 8] = [
        (Fault::Error(libc_errno::EIO), false),
        (Fault::Error(libc_errno::EIO), true),
        (Fault::Error(libc_errno::ENOSPC), false),
        (Fault::Error(libc_errno::ENOSPC), true),
        (Fault::Late(libc_errno::EIO), false),
        (Fault::Interrupted, false),
        (Fault::Short, true),
        (Fault::Forget, false),
    ];
    until_enough(|seed| {
        let mut looked_at = 0;
        for level in LEVELS {
            let whole = SimulatedDisk::new(seed);
            run(&whole, level, seed, &mut Model::default());
            for call in 1..=whole.calls() {
                let (fault, ever_after) = FAULTS[((call + seed) % FAULTS.len() as u64) as usize];
                let disk = SimulatedDisk::new(seed);
                let when = When::nth(call);
                disk.fail(if ever_after { when.and_ever_after() } else { when }, fault);
                let mut model = Model::default();
                let label = || {
                    format!(
                        "ANNALS_SIMULATION_SEED={seed}: {level}, {fault:?} at call {call}, ever after {ever_after}"
                    )
                };
                labelled(label, || run(&disk, level, seed, &mut model));
                disk.heal();
                for crash in [Crash::ProcessKill, Crash::PowerCut { seed: 2 + call }] {
                    let durable_only = crash != Crash::ProcessKill;
                    labelled(label, || check_image(&disk.crash(crash), &model, level, durable_only));
                    looked_at += 1;
                }
            }
        }
        looked_at
    });
}

#[test]
fn a_full_disk_refuses_cleanly_and_heals_by_itself() {
    for spare in 0..200u64 {
        let disk = SimulatedDisk::new(spare);
        let store = open(&disk).unwrap();
        let topic = store.create_topic("t", config(Durability::Synced)).unwrap();
        let log = topic.partition(0).unwrap();
        let mut model = Model { created: true, ..Model::default() };
        for _ in 0..5 {
            append(&log, 0, 2, Durability::Synced, &mut model);
        }
        disk.set_capacity(Some(disk.used() + spare * 13));
        let refused = (0..100).find_map(|_| {
            let values = model.try_values(0, 1);
            match log.append(&Record::new(&values[0])) {
                Ok(offset) => {
                    model.acknowledge(0, offset, 1, true);
                    None
                }
                Err(error) => Some(error),
            }
        });
        assert!(matches!(refused, Some(Error::StorageFull { .. })), "{spare}: {refused:?}");
        check(&store, &model, Durability::Synced, false);
        disk.set_capacity(None);
        let values = model.try_values(0, 1);
        let offset = log.append(&Record::new(&values[0])).expect("there is room again");
        model.acknowledge(0, offset, 1, true);
        check(&store, &model, Durability::Synced, false);
        check_image(&disk.crash(Crash::PowerCut { seed: spare }), &model, Durability::Synced, true);
    }
}

#[test]
fn descriptors_stay_within_the_limit() {
    let disk = SimulatedDisk::new(7);
    disk.set_open_files_max(Some(5));
    let store = open(&disk).unwrap();
    let topic = store.create_topic("t", TopicConfig::new().partitions(40).segment_bytes(400)).unwrap();
    for round in 0..5u64 {
        for partition in topic.partitions().unwrap() {
            assert_eq!(partition.append(&Record::new(&value(round))).unwrap(), round);
        }
    }
    store.close().unwrap();
    let store = open(&disk).unwrap();
    for partition in store.topic("t").unwrap().partitions().unwrap() {
        assert_eq!(read_all(&partition, false).len(), 5);
    }
    assert!(disk.open_files_peak() <= 5);
}

#[test]
fn a_failed_sync_is_not_tried_again_on_the_same_bytes() {
    let disk = SimulatedDisk::new(3);
    let store = open(&disk).unwrap();
    let log = store.create_topic("t", config(Durability::Synced)).unwrap().partition(0).unwrap();
    assert_eq!(log.append(&Record::new(&value(0))).unwrap(), 0);
    disk.fail(When::next().of(&[Call::Sync]), Fault::Forget);
    assert!(matches!(log.append(&Record::new(&value(1))), Err(Error::Io { .. })));
    assert!(matches!(log.append(&Record::new(&value(2))), Err(Error::Poisoned { .. })));
    assert_eq!(
        read_all(&log, false).into_values().collect::<Vec<_>>(),
        [0],
        "what was acknowledged can be read"
    );
    log.reopen().unwrap();
    assert_eq!(log.append(&Record::new(&value(3))).unwrap(), 1);
    let after = open(&disk.crash(Crash::PowerCut { seed: 0 })).unwrap();
    let log = after.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(read_all(&log, false).into_values().collect::<Vec<_>>(), [0, 3]);
}

/// The two error numbers that matter here, the same on every Unix.
mod libc_errno {
    pub(super) const EIO: i32 = 5;
    pub(super) const ENOSPC: i32 = 28;
}
