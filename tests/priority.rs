//! Delivery by priority: which record goes first, what overtakes, what waits no longer, what is read ahead, and what a
//! restart brings back.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/logs.rs"]
mod logs;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::share::{
    Acknowledge, AcknowledgementMode, LowestKeyFirst, PriorityOrder, RankOrder, ShareConfig, ShareConsumer,
    ShareOffsetReset, ShareRecord,
};
use annals::{AppendOptions, Partition, Record, Store, StoredRecord, TopicConfig};
use logs::Machine;
use proptest::prelude::*;

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(3600);

fn config() -> ShareConfig {
    ShareConfig::new()
        .group("alarms")
        .offset_reset(ShareOffsetReset::Earliest)
        .acknowledgement_mode(AcknowledgementMode::Explicit)
        .lock_duration(LONG)
        .priority(LowestKeyFirst)
}

fn consumer(store: &Store, config: ShareConfig) -> ShareConsumer {
    let mut consumer = store.share_consumer(config).unwrap();
    consumer.subscribe(["t"]).unwrap();
    consumer
}

/// A topic `t` of so many partitions.
fn machine(partitions: u32) -> (Machine, Store, Vec<Partition>) {
    let machine = Machine::new();
    let store = machine.open();
    let (store, logs) = made(store, partitions);
    (machine, store, logs)
}

fn made(store: Store, partitions: u32) -> (Store, Vec<Partition>) {
    store.create_topic("__share_group_state", TopicConfig::new()).unwrap();
    let topic = store.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap();
    let logs = topic.partitions().unwrap();
    (store, logs)
}

/// Appends records with these keys, each as a batch of its own; `-` is none.
fn append(log: &Partition, keys: &[&str]) {
    for key in keys {
        let record = Record::new("value");
        log.append(&if *key == "-" { record } else { record.key(*key) }).unwrap();
    }
}

fn next(consumer: &mut ShareConsumer) -> Option<ShareRecord> {
    consumer.next(NOW).unwrap()
}

/// The next record, accepted: its key and offset.
fn done(consumer: &mut ShareConsumer) -> Option<(String, u64)> {
    let record = next(consumer)?;
    consumer.acknowledge(&record, Acknowledge::Accept).unwrap();
    let key = record.key().map_or("-".into(), |key| String::from_utf8(key.to_vec()).unwrap());
    Some((key, record.offset()))
}

fn all(consumer: &mut ShareConsumer) -> Vec<(String, u64)> {
    std::iter::from_fn(|| done(consumer)).collect()
}

fn named(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(key, offset)| ((*key).to_string(), *offset)).collect()
}

#[test]
fn lower_keys_go_first_equal_ones_by_offset_and_none_last() {
    let (_, store, logs) = machine(1);
    append(&logs[0], &["5", "-", "1", "5", "10", "1", "-", ""]);
    let mut consumer = consumer(&store, config());
    let expected = [("", 7), ("1", 2), ("1", 5), ("10", 4), ("5", 0), ("5", 3), ("-", 1), ("-", 6)];
    assert_eq!(all(&mut consumer), named(&expected));
}

#[test]
fn a_newcomer_overtakes_what_was_read_ahead() {
    let (_, store, logs) = machine(1);
    append(&logs[0], &["5", "6", "7"]);
    let mut consumer = consumer(&store, config());
    assert_eq!(done(&mut consumer), Some(("5".into(), 0)));
    append(&logs[0], &["1", "6"]);
    assert_eq!(done(&mut consumer), Some(("1".into(), 3)));
    append(&logs[0], &["0"]);
    assert_eq!(all(&mut consumer), named(&[("0", 5), ("6", 1), ("6", 4), ("7", 2)]));
}

#[test]
fn the_best_of_all_partitions_goes_first_and_equal_ones_by_how_long_they_wait() {
    let (machine, store, logs) = machine(3);
    append(&logs[2], &["4", "1"]);
    append(&logs[0], &["3", "4"]);
    let mut consumer = consumer(&store, config());
    assert_eq!(done(&mut consumer), Some(("1".into(), 1)));
    machine.clock.advance(Duration::from_secs(1));
    append(&logs[1], &["4", "2"]);
    assert_eq!(all(&mut consumer), named(&[("2", 1), ("3", 0), ("4", 0), ("4", 1), ("4", 0)]));
}

#[test]
fn each_member_takes_the_best_that_is_left() {
    let (_, store, logs) = machine(2);
    append(&logs[0], &["4", "2"]);
    append(&logs[1], &["1", "3"]);
    let (mut one, mut two) = (consumer(&store, config()), consumer(&store, config()));
    let got: Vec<_> =
        (0..4).map(|turn| next(if turn % 2 == 0 { &mut one } else { &mut two }).unwrap()).collect();
    let keys: Vec<_> = got.iter().map(|record| record.key().unwrap()).collect();
    assert_eq!(keys, [b"1", b"2", b"3", b"4"]);
    // What one gives back goes before what is worse.
    append(&logs[1], &["2", "5"]);
    one.acknowledge(&got[2], Acknowledge::Release).unwrap();
    one.commit().unwrap();
    let keys: Vec<_> = (0..3).map(|_| next(&mut two).unwrap().key().unwrap().to_vec()).collect();
    assert_eq!(keys, [b"2", b"3", b"5"]);
    // And what a dying one had, too.
    drop(two);
    assert_eq!(next(&mut one).unwrap().key(), Some(&b"2"[..]));
}

#[test]
fn a_rank_may_be_anything_of_the_record() {
    let (_, store, logs) = machine(1);
    for (value, urgent) in [("a", false), ("bb", true), ("ccc", false), ("d", true)] {
        let record = Record::new(value);
        logs[0].append(&if urgent { record.header("urgent", "yes") } else { record }).unwrap();
    }
    let rank = |record: &StoredRecord| (record.headers().next().is_none(), record.value().map(<[u8]>::len));
    let mut consumer = consumer(&store, config().priority(RankOrder::new("urgent, short", rank)));
    let offsets: Vec<u64> = all(&mut consumer).into_iter().map(|(_, offset)| offset).collect();
    assert_eq!(offsets, [3, 1, 0, 2]);
}

#[test]
fn who_waits_is_woken_and_gets_the_best_at_that_moment() {
    let (_, store, logs) = machine(2);
    let mut consumer = consumer(&store, config());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| consumer.next(LONG).unwrap().unwrap().offset());
        append(&logs[1], &["1"]);
        assert_eq!(waiting.join().unwrap(), 0);
    });
}

#[test]
fn what_has_waited_too_long_goes_before_all_the_oldest_first() {
    let (machine, store, logs) = machine(2);
    let wait = Duration::from_secs(60);
    let mut consumer = consumer(&store, config().max_wait(wait));
    append(&logs[0], &["9", "1"]);
    assert_eq!(done(&mut consumer), Some(("1".into(), 1)));
    machine.clock.advance(Duration::from_secs(30));
    append(&logs[1], &["8", "1", "1"]);
    assert_eq!(done(&mut consumer), Some(("1".into(), 1)));
    machine.clock.advance(Duration::from_secs(30));
    append(&logs[0], &["0", "0", "0"]);
    // The 9 has waited for a minute, the 8 for half of one.
    assert_eq!(done(&mut consumer), Some(("9".into(), 0)));
    assert_eq!(done(&mut consumer), Some(("0".into(), 2)));
    machine.clock.advance(Duration::from_secs(30));
    assert_eq!(done(&mut consumer), Some(("8".into(), 0)));
    assert_eq!(done(&mut consumer), Some(("1".into(), 2)), "it waits for as long as the 8 did");
    // What is given back waits anew.
    let record = next(&mut consumer).unwrap();
    machine.clock.advance(Duration::from_secs(29));
    consumer.acknowledge(&record, Acknowledge::Release).unwrap();
    consumer.commit().unwrap();
    append(&logs[0], &["00"]);
    machine.clock.advance(Duration::from_secs(1));
    assert_eq!(record.offset(), 3);
    assert_eq!(all(&mut consumer), named(&[("0", 4), ("0", 3), ("00", 5)]));
}

#[test]
fn nobody_starves_however_many_better_ones_come() {
    let (machine, store, logs) = machine(1);
    let mut consumer = consumer(&store, config().max_wait(Duration::from_secs(10)).max_in_flight(50));
    append(&logs[0], &["z"]);
    for second in 0..200 {
        append(&logs[0], &["a", "b", "c"]);
        let (key, offset) = done(&mut consumer).unwrap();
        if key == "z" {
            assert_eq!((offset, second), (0, 10));
            return;
        }
        machine.clock.advance(Duration::from_secs(1));
    }
    panic!("it starves");
}

#[test]
fn a_restart_brings_each_unfinished_record_and_no_finished_one() {
    let (machine, store, logs) = machine(1);
    append(&logs[0], &["9", "1", "8", "2", "7", "3"]);
    let mut consumer_before = consumer(&store, config());
    for expected in [1, 3, 5] {
        assert_eq!(done(&mut consumer_before).unwrap().1, expected);
    }
    // The 7 is being processed, the three before are committed: all lie beyond the first record.
    let held = next(&mut consumer_before).unwrap();
    assert_eq!(held.offset(), 4);
    let described = store.share_groups().describe("alarms").unwrap();
    let partition = described.partitions.values().next().unwrap();
    assert_eq!((partition.start_offset, partition.finished, partition.lag), (0, 3, 3));
    for found in [machine.killed(), machine.cut_off()] {
        let (store, log) = found.restart();
        append(&log, &["75"]);
        let mut consumer = consumer(&store, config());
        assert_eq!(all(&mut consumer), named(&[("7", 4), ("75", 6), ("8", 2), ("9", 0)]));
    }
}

#[test]
fn only_so_many_records_are_read_ahead() {
    let (_, store, logs) = machine(1);
    append(&logs[0], &["5", "6", "7", "8", "1"]);
    let mut consumer = consumer(&store, config().max_in_flight(3));
    // The 1 lies beyond the three that are read ahead; each that is finished lets one more be seen.
    let expected = [("5", 0), ("6", 1), ("1", 4), ("7", 2), ("8", 3)];
    assert_eq!(all(&mut consumer), named(&expected));
}

#[test]
fn only_so_many_bytes_are_read_ahead() {
    let (_, store, logs) = machine(1);
    let value = "x".repeat(10_000);
    for key in ["5", "6", "7", "1"] {
        logs[0].append(&Record::new(&value).key(key)).unwrap();
    }
    let mut consumer = consumer(&store, config().read_ahead_bytes(15_000));
    assert_eq!(all(&mut consumer), named(&[("5", 0), ("6", 1), ("1", 3), ("7", 2)]));
    // One that is larger than that is read, too.
    logs[0].append(&Record::new(&"x".repeat(50_000)).key("9")).unwrap();
    assert_eq!(all(&mut consumer), named(&[("9", 4)]));
}

/// Newer ones first; it keeps an eye on the memory of all values that it has compared.
#[derive(Clone, Default)]
struct Watching(Arc<Mutex<BTreeMap<u64, IsAlone>>>);

/// Whether nobody else holds some memory.
type IsAlone = Box<dyn Fn() -> bool + Send>;

impl Watching {
    /// How many values are in memory.
    fn kept(&self) -> usize {
        self.0.lock().unwrap().values().filter(|is_alone| !is_alone()).count()
    }
}

impl std::fmt::Debug for Watching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watching")
    }
}

impl PriorityOrder for Watching {
    fn name(&self) -> &str {
        "watching"
    }

    fn compare(&self, left: &StoredRecord, right: &StoredRecord) -> Ordering {
        for record in [left, right] {
            let watch = || {
                let value = record.value_bytes().unwrap();
                Box::new(move || value.is_unique()) as IsAlone
            };
            self.0.lock().unwrap().entry(record.offset()).or_insert_with(watch);
        }
        right.offset().cmp(&left.offset())
    }
}

#[test]
fn what_is_finished_is_not_kept_in_memory_however_it_came_to_its_turn() {
    let (_, store, logs) = machine(1);
    let value = "x".repeat(1_000);
    for _ in 0..200 {
        logs[0].append(&Record::new(&value)).unwrap();
    }
    let watching = Watching::default();
    // All have waited too long, so that the worst goes first.
    let settings = config().priority(watching.clone()).max_wait(NOW).read_ahead_bytes(10_000);
    let mut consumer = consumer(&store, settings);
    for expected in 0..200 {
        let record = next(&mut consumer).unwrap();
        assert_eq!(record.offset(), expected);
        consumer.acknowledge(&record, Acknowledge::Accept).unwrap();
        drop(record);
        consumer.commit().unwrap();
        assert!(watching.kept() <= 11, "{} values of 1000 bytes", watching.kept());
    }
    assert!(next(&mut consumer).is_none());
    assert_eq!(watching.kept(), 0);
}

#[test]
fn records_that_cannot_be_ranked_are_delivered_like_others() {
    let (_, store, logs) = machine(1);
    append(&logs[0], &["3", "x", "1", "y", "2"]);
    let rank = |record: &StoredRecord| {
        let key = record.key().unwrap()[0];
        // Quietly, unlike `panic!`.
        if key.is_ascii_digit() { key } else { std::panic::resume_unwind(Box::new("planned")) }
    };
    let mut consumer = consumer(&store, config().priority(RankOrder::new("number", rank)));
    let mut delivered = all(&mut consumer);
    delivered.sort();
    assert_eq!(delivered, named(&[("1", 2), ("2", 4), ("3", 0), ("x", 1), ("y", 3)]));
}

#[test]
fn one_that_is_never_good_enough_lets_any_number_pass() {
    let (_, store, logs) = machine(1);
    append(&logs[0], &["z"]);
    let mut consumer = consumer(&store, config().max_in_flight(4));
    let mut records = Vec::new();
    for number in 0..20_000 {
        records.push(format!("{number:05}"));
    }
    for some in records.chunks(1_000) {
        let batch: Vec<Record<'_>> = some.iter().map(|key| Record::new("v").key(key)).collect();
        logs[0].append_batch(&batch).unwrap();
    }
    for (number, key) in records.iter().enumerate() {
        assert_eq!(done(&mut consumer), Some((key.clone(), number as u64 + 1)));
    }
    consumer.commit().unwrap();
    let described = store.share_groups().describe("alarms").unwrap();
    let partition = described.partitions.values().next().unwrap();
    assert_eq!((partition.start_offset, partition.finished, partition.lag), (0, 20_000, 1));
    assert_eq!(done(&mut consumer), Some(("z".into(), 0)));
    assert_eq!(done(&mut consumer), None);
}

/// Says that whatever it is asked first goes first.
#[derive(Debug)]
struct Contradiction;

impl PriorityOrder for Contradiction {
    fn name(&self) -> &str {
        "contradiction"
    }

    fn compare(&self, _: &StoredRecord, _: &StoredRecord) -> Ordering {
        Ordering::Less
    }
}

#[test]
fn an_order_that_contradicts_itself_loses_nothing() {
    let (_, store, logs) = machine(2);
    let keys: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    for (number, key) in keys.iter().enumerate() {
        append(&logs[number % 2], &[key]);
    }
    let settings = || config().priority(Contradiction).max_wait(Duration::from_secs(1)).max_in_flight(7);
    let mut consumer = consumer(&store, settings());
    let mut got: Vec<_> =
        all(&mut consumer).into_iter().map(|(key, _)| key.parse::<u32>().unwrap()).collect();
    got.sort_unstable();
    assert_eq!(got, (0..200).collect::<Vec<_>>());
}

#[test]
fn markers_and_what_is_deleted_are_passed_over() {
    let (machine, store, logs) = machine(1);
    let log = &logs[0];
    let transactional = AppendOptions::new().transactional(7, 0, 0);
    log.append_batch_with(&[Record::new("v").key("3")], transactional).unwrap();
    let commit = annals::format::EndTransactionMarker { coordinator_epoch: 0, commit: true };
    log.end_transaction(7, 0, commit, AppendOptions::new()).unwrap();
    append(log, &["2", "1"]);
    let mut before = consumer(&store, config());
    assert_eq!(done(&mut before), Some(("1".into(), 3)));
    let held = next(&mut before).unwrap();
    log.delete_records(1).unwrap();
    assert!(next(&mut before).is_none(), "the 3 is gone");
    before.acknowledge(&held, Acknowledge::Release).unwrap();
    before.commit().unwrap();
    append(log, &["0"]);
    let (store, _log) = machine.cut_off().restart();
    let mut after = consumer(&store, config());
    assert_eq!(all(&mut after), named(&[("0", 4), ("2", 2)]));
    after.commit().unwrap();
    let described = store.share_groups().describe("alarms").unwrap();
    assert_eq!(described.partitions.values().next().unwrap().start_offset, 5);
}

#[test]
fn a_poll_may_take_several_at_once_in_order() {
    let (_, store, logs) = machine(2);
    append(&logs[0], &["3", "1"]);
    append(&logs[1], &["2", "4"]);
    let mut consumer = consumer(&store, config().max_poll_records(3));
    let polled = consumer.poll(NOW).unwrap();
    let keys: Vec<_> = polled.iter().map(|record| record.key().unwrap()).collect();
    assert_eq!(keys, [b"1", b"2", b"3"]);
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Somebody can have it, and nobody has looked since.
    Unseen,
    Available(u64),
    Held,
    Done,
}

#[derive(Debug, Clone)]
struct Modelled {
    partition: usize,
    offset: u64,
    key: Option<u8>,
    state: State,
}

impl Modelled {
    /// What compares less goes first.
    fn rank(&self) -> (bool, Option<u8>) {
        (self.key.is_none(), self.key)
    }

    fn since(&self) -> Option<u64> {
        match self.state {
            State::Available(since) => Some(since),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append { partition: usize, key: Option<u8> },
    Next,
    Acknowledge { which: usize, word: Acknowledge },
    Time(u64),
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    let words = vec![Acknowledge::Accept, Acknowledge::Accept, Acknowledge::Release, Acknowledge::Reject];
    prop_oneof![
        8 => (0usize..2, prop::option::weighted(0.9, b'a'..b'f'))
            .prop_map(|(partition, key)| Step::Append { partition, key }),
        8 => Just(Step::Next),
        6 => (any::<usize>(), prop::sample::select(words))
            .prop_map(|(which, word)| Step::Acknowledge { which, word }),
        2 => (1u64..8).prop_map(Step::Time),
        1 => Just(Step::Restart),
    ]
}

const MAX_WAIT: u64 = 10;

/// Whether that record may go next.
fn may_go(records: &[Modelled], chosen: &Modelled, now: u64) -> bool {
    let available = || records.iter().filter(|record| record.since().is_some());
    let overdue = |record: &&Modelled| record.since().is_some_and(|since| now - since >= MAX_WAIT);
    let oldest = available().filter(overdue).filter_map(Modelled::since).min();
    if oldest.is_some() {
        return chosen.since() == oldest;
    }
    let best_of = |partition: usize| {
        available()
            .filter(|record| record.partition == partition)
            .min_by_key(|record| (record.rank(), record.offset))
    };
    let heads: Vec<_> = (0..2).filter_map(best_of).collect();
    let best =
        heads.iter().min_by_key(|record| (record.rank(), record.since(), record.offset, record.partition));
    best.is_some_and(|best| (best.partition, best.offset) == (chosen.partition, chosen.offset))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    #[test]
    fn it_delivers_what_a_list_of_all_records_would(steps in prop::collection::vec(any_step(), 1..80)) {
        let (mut machine, mut store, mut logs) = machine(2);
        let settings = || config()
            .max_wait(Duration::from_secs(MAX_WAIT))
            .delivery_count_limit(1_000);
        let mut member = consumer(&store, settings());
        let (mut records, mut held, mut now) = (Vec::<Modelled>::new(), Vec::<ShareRecord>::new(), 0);
        for step in steps {
            match step {
                Step::Append { partition, key } => {
                    let name = key.map(|key| [key]);
                    let record = Record::new("v");
                    let record = match &name {
                        Some(name) => record.key(name),
                        None => record,
                    };
                    let offset = logs[partition].append(&record).unwrap();
                    records.push(Modelled { partition, offset, key, state: State::Unseen });
                }
                Step::Next => {
                    let found = next(&mut member);
                    for record in records.iter_mut().filter(|record| record.state == State::Unseen) {
                        record.state = State::Available(now);
                    }
                    let Some(found) = found else {
                        prop_assert!(records.iter().all(|record| record.since().is_none()), "there are some");
                        continue;
                    };
                    let is = |record: &Modelled| {
                        (record.partition as u32, record.offset) == (found.partition(), found.offset())
                    };
                    let at = records.iter().position(is).unwrap();
                    prop_assert!(may_go(&records, &records[at], now), "{:?} of {:?}", records[at], records);
                    records[at].state = State::Held;
                    held.push(found);
                }
                Step::Acknowledge { which, word } if !held.is_empty() => {
                    let record = held.swap_remove(which % held.len());
                    member.acknowledge(&record, word).unwrap();
                    prop_assert!(member.commit().unwrap().values().all(Result::is_ok));
                    let is = |modelled: &&mut Modelled| {
                        (modelled.partition as u32, modelled.offset) == (record.partition(), record.offset())
                    };
                    let released = word == Acknowledge::Release;
                    records.iter_mut().find(is).unwrap().state = if released { State::Unseen } else { State::Done };
                }
                Step::Acknowledge { .. } => {}
                Step::Time(seconds) => {
                    now += seconds;
                    machine.clock.advance(Duration::from_secs(seconds));
                }
                Step::Restart => {
                    held.clear();
                    machine = machine.cut_off();
                    drop((member, store, logs));
                    store = machine.open();
                    logs = store.topic("t").unwrap().partitions().unwrap();
                    member = consumer(&store, settings());
                    for record in records.iter_mut().filter(|record| record.state != State::Done) {
                        record.state = State::Unseen;
                    }
                }
            }
        }
    }
}
