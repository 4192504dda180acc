//! Following a leader: batches with offsets and epochs of its making, where the epochs end, and how two logs that
//! parted come together again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::type_complexity,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/crashes.rs"]
mod crashes;
#[path = "common/logs.rs"]
mod logs;

use annals::format::{BatchBuilder, BatchOptions, LeaderEpochs, RecordBatch, stamp};
use annals::fs::{Call, Crash, Fault, When};
use annals::{
    AppendOptions, Durability, Error, FetchOptions, Isolation, Partition, Record, Store, TopicConfig,
};
use common::vector;
use crashes::at_every_call;
use logs::{Machine, append, expected, file, records, value, values};
use proptest::prelude::*;

const EPOCHS: &str = "t-0/leader-epoch-checkpoint";

/// A batch as a leader of that epoch stored it, of `count` records.
fn batch(base_offset: u64, epoch: i32, count: u64) -> Vec<u8> {
    let options = BatchOptions { base_offset, leader_epoch: epoch, ..BatchOptions::default() };
    let mut builder = BatchBuilder::new(options);
    (base_offset..base_offset + count).for_each(|offset| builder.push(&Record::new(&value(offset))).unwrap());
    builder.finish().unwrap()
}

fn small() -> TopicConfig {
    TopicConfig::new().segment_bytes(300).index_interval_bytes(60)
}

fn stored(log: &Partition, from: u64) -> Vec<RecordBatch> {
    let options = FetchOptions::new().max_bytes(u64::MAX).isolation(Isolation::LogEnd);
    let (mut batches, mut next) = (Vec::new(), from);
    while next < log.log_end() {
        let fetched = log.fetch(next, options).unwrap();
        if fetched.batches.is_empty() {
            break;
        }
        assert!(fetched.next_offset > next, "it stands still at {next}");
        next = fetched.next_offset;
        batches.extend(fetched.batches);
    }
    batches
}

fn bytes(log: &Partition, from: u64) -> Vec<u8> {
    stored(log, from).iter().flat_map(|batch| batch.as_bytes().to_vec()).collect()
}

/// Everything there is to know, to see that nothing changed.
fn all(
    machine: &Machine,
    log: &Partition,
) -> (u64, Vec<u64>, Vec<u8>, Vec<Option<Vec<u8>>>, Vec<Option<i32>>) {
    let files = machine.disk.names().iter().map(|name| machine.disk.read(name)).collect();
    let epochs = (0..log.log_end()).map(|offset| log.epoch_for_offset(offset)).collect();
    (log.log_end(), log.segments(), bytes(log, log.log_start()), files, epochs)
}

// ---- what is taken, and what is refused ----

#[test]
fn batches_keep_the_offsets_epochs_and_bytes_that_the_leader_gave_them() {
    let leading = Machine::new();
    let (_leader, leader) = leading.start(small());
    leader.set_leader_epoch(4).unwrap();
    for round in 0..7 {
        append(&leader, &[&value(round), "two"]);
        leader
            .append_batch_with(&[Record::new("three")], AppendOptions::new().idempotent(9, 1, round as i32))
            .unwrap();
    }
    leader.append_batch_with(&[Record::new("in one")], AppendOptions::new().transactional(11, 0, 0)).unwrap();
    let whole = bytes(&leader, 0);

    for step in [1, 2, 5, 100] {
        let following = Machine::new();
        let (store, log) = following.start(TopicConfig::new().segment_bytes(500));
        for some in stored(&leader, 0).chunks(step) {
            let sent: Vec<u8> = some.iter().flat_map(|batch| batch.as_bytes().to_vec()).collect();
            let appended = log.append_as_follower(&sent).unwrap();
            assert_eq!(appended.base_offset, some[0].base_offset());
            assert_eq!(appended.last_offset, some[some.len() - 1].last_offset());
        }
        assert_eq!((log.log_end(), log.high_watermark()), (leader.log_end(), leader.log_end()));
        assert_eq!(bytes(&log, 0), whole);
        assert_eq!(values(&log, 0), values(&leader, 0));
        assert_eq!(log.producers(), leader.producers());
        assert_eq!(log.last_stable_offset(), leader.last_stable_offset());
        assert_eq!(log.leader_epoch(), 4);
        for machine in [following.killed(), following.cut_off()] {
            let (_store, log) = machine.restart();
            assert!(log.recovery_report().damage.is_empty());
            assert_eq!((bytes(&log, 0), log.producers()), (whole.clone(), leader.producers()));
            assert_eq!(log.epoch_for_offset(0), Some(4));
        }
        drop(log);
        store.close().unwrap();
        assert_eq!(bytes(&following.restart().1, 0), whole);
    }
}

#[test]
fn an_incomplete_batch_at_the_end_is_left_out() {
    let (first, second) = (batch(0, 1, 2), batch(2, 1, 3));
    let sent = [&first[..], &second].concat();
    for len in 0..=sent.len() {
        let machine = Machine::new();
        let (_store, log) = machine.start(small());
        let appended = log.append_as_follower(&sent[..len]);
        if len < first.len() {
            assert!(matches!(appended, Err(Error::InvalidBatch { .. })), "{len}: {appended:?}");
            assert_eq!((log.log_end(), log.size()), (0, 0));
        } else {
            let end = if len < sent.len() { 2 } else { 5 };
            assert_eq!(appended.unwrap().last_offset + 1, end, "{len}");
            assert_eq!((log.log_end(), values(&log, 0)), (end, expected(0..end)));
        }
    }
}

#[test]
fn what_is_no_batch_or_goes_back_changes_nothing() {
    let machine = Machine::new();
    let (_store, log) = machine.start(small());
    log.append_as_follower(&[batch(0, 1, 2), batch(2, 1, 3)].concat()).unwrap();
    let before = all(&machine, &log);
    let good = batch(5, 2, 2);
    let refused = |sent: &[u8]| {
        let error = log.append_as_follower(sent).unwrap_err();
        assert_eq!(all(&machine, &log), before, "{error}");
        error
    };
    for back in [0, 2, 3, 4] {
        let error = refused(&batch(back, 2, 8));
        let Error::OutOfOrderOffsets { found, log_end, .. } = error else { panic!("{error}") };
        assert_eq!((found, log_end), (back, 5));
        // Also where only the second one goes back.
        for second in [5, 6] {
            let error = refused(&[&good[..], &batch(second, 2, 1)].concat());
            assert!(matches!(error, Error::OutOfOrderOffsets { .. }), "{error}");
        }
    }
    for behind in [false, true] {
        for at in 8..good.len() {
            // The leader epoch is not covered by the checksum.
            if (12..16).contains(&at) {
                continue;
            }
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let sent = if behind { [&good[..], &shifted(&bad, 7)].concat() } else { bad };
            // A length that grew makes it an incomplete one.
            if behind && at < 12 {
                continue;
            }
            let error = refused(&sent);
            assert!(matches!(error, Error::InvalidBatch { .. }), "byte {at}: {error}");
        }
    }
    refused(&[]);
    refused(&[0; 200]);
    refused(&good[..40]);
    log.append_as_follower(&good).unwrap();
    assert_eq!(values(&log, 0), expected(0..7));
}

/// The batch at another offset, which no checksum covers.
fn shifted(batch: &[u8], base_offset: u64) -> Vec<u8> {
    let mut batch = batch.to_vec();
    batch[..8].copy_from_slice(&base_offset.to_be_bytes());
    batch
}

#[test]
fn offsets_may_be_missing_before_between_and_behind_segments() {
    let machine = Machine::new();
    let (store, log) = machine.start(small());
    let span = i32::MAX as u64;
    let offsets = [5, 9, 10, 40, 41, 1_000, 70_000, 70_000 + span, 70_000 + span + 1, 3 * span, 9 * span];
    for pair in offsets.chunks(2) {
        let sent: Vec<u8> = pair.iter().flat_map(|&offset| batch(offset, 3, 1)).collect();
        log.append_as_follower(&sent).unwrap();
    }
    let end = 9 * span + 1;
    let check = |log: &Partition, how: &str| {
        assert!(log.recovery_report().damage.is_empty(), "{how}: {:?}", log.recovery_report());
        assert_eq!((log.log_start(), log.log_end()), (0, end), "{how}");
        assert_eq!(values(log, 0), expected(offsets.into_iter()), "{how}");
        for (at, &offset) in offsets.iter().enumerate() {
            for from in [offset, offset - 1, offset - 2] {
                let first = if at > 0 && from <= offsets[at - 1] { continue } else { offset };
                assert_eq!(records(log, from)[0].offset(), first, "{how}: from {from}");
                assert_eq!(log.fetch(from, FetchOptions::new()).unwrap().batches[0].base_offset(), first);
            }
        }
    };
    check(&log, "appended");
    check(&machine.killed().restart().1, "killed");
    check(&machine.cut_off().restart().1, "cut off");
    drop(log);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    check(&log, "closed");
    log.append_as_follower(&batch(end, 3, 2)).unwrap();
    assert_eq!(values(&log, end), expected(end..end + 2));
}

#[test]
fn sizes_are_the_leaders_business() {
    let machine = Machine::new();
    let config = TopicConfig::new().segment_bytes(300).max_message_bytes(300);
    let (store, log) = machine.start(config);
    let (large, little) = (batch(0, 0, 50), batch(50, 0, 1));
    assert!(large.len() > 1_500);
    log.append_as_follower(&[&large[..], &little, &batch(51, 0, 40), &batch(91, 0, 1)].concat()).unwrap();
    assert_eq!(log.segments(), [0, 50, 51, 91]);
    assert_eq!(values(&log, 0), expected(0..92));
    for machine in [machine.killed(), machine.cut_off()] {
        assert_eq!(values(&machine.restart().1, 0), expected(0..92));
    }
    drop(log);
    store.close().unwrap();
    assert_eq!(values(&machine.restart().1, 0), expected(0..92));
}

#[test]
fn messages_of_the_old_formats_are_followed_too() {
    let order = ["L0_v0", "L0_v0_nullkey", "L0_v0_gzip_wrapper"];
    let one = [vector("L1_v1"), vector("L1_v1_gzip_wrapper")].concat();
    let zero: Vec<u8> = order.iter().flat_map(|name| vector(name)).collect();
    for (sent, offsets) in [(zero, vec![3, 4, 10, 11]), (one, vec![3, 10, 11])] {
        let machine = Machine::new();
        let (store, log) = machine.start(small());
        log.append_as_follower(&batch(0, 2, 3)).unwrap();
        assert_eq!(log.epoch_for_offset(2), Some(2));
        let appended = log.append_as_follower(&sent).unwrap();
        assert_eq!((appended.base_offset, appended.last_offset, log.log_end()), (3, 11, 12));
        // They say nothing of leaders, and what was known is not true of them.
        assert_eq!((log.epoch_for_offset(2), log.epoch_for_offset(11)), (None, None));
        assert_eq!(log.end_offset_for_epoch(2), None);
        log.append_as_follower(&batch(12, 5, 2)).unwrap();
        let check = |log: &Partition, how: &str| {
            assert!(log.recovery_report().damage.is_empty(), "{how}: {:?}", log.recovery_report());
            assert_eq!(bytes(log, 0), [&batch(0, 2, 3)[..], &sent, &batch(12, 5, 2)].concat(), "{how}");
            if cfg!(feature = "gzip") {
                let read: Vec<u64> = records(log, 3).iter().map(|record| record.offset()).collect();
                assert_eq!(read, [&offsets[..], &[12, 13]].concat(), "{how}");
            }
            assert_eq!((log.epoch_for_offset(11), log.epoch_for_offset(12)), (None, Some(5)), "{how}");
        };
        check(&log, "appended");
        check(&machine.killed().restart().1, "killed");
        check(&machine.cut_off().restart().1, "cut off");
        let back = log.append_as_follower(&vector("L1_v1")).unwrap_err();
        assert!(matches!(back, Error::OutOfOrderOffsets { .. }), "{back}");
        drop(log);
        store.close().unwrap();
        check(&machine.restart().1, "closed");
    }
}

#[test]
fn an_empty_log_that_starts_inside_a_batch_takes_it_whole() {
    for start in [100, 103, 107, 109] {
        let machine = Machine::new();
        let (store, log) = machine.start(small());
        log.append_as_follower(&batch(0, 1, 4)).unwrap();
        log.truncate_fully_and_start_at(start, None).unwrap();
        let sent = [batch(100, 6, 10), batch(110, 7, 2)].concat();
        let check = |log: &Partition, how: &str| {
            assert!(log.recovery_report().damage.is_empty(), "{how}: {:?}", log.recovery_report());
            assert_eq!((log.log_start(), log.log_end()), (start, 112), "{how}: from {start}");
            assert_eq!(values(log, start), expected(start..112), "{how}: from {start}");
            let fetched = log.fetch(start, FetchOptions::new()).unwrap();
            assert_eq!(fetched.batches[0].base_offset(), 100, "{how}: from {start}");
            assert_eq!((log.epoch_for_offset(start), log.epoch_for_offset(110)), (Some(6), Some(7)), "{how}");
            assert!(log.read_from(start - 1).is_err());
        };
        // Also after a crash in between.
        let (_store, crashed) = machine.cut_off().restart();
        crashed.append_as_follower(&sent).unwrap();
        check(&crashed, "after a crash");
        let appended = log.append_as_follower(&sent).unwrap();
        assert_eq!((appended.base_offset, appended.last_offset), (100, 111));
        check(&log, "appended");
        check(&machine.killed().restart().1, "killed");
        check(&machine.cut_off().restart().1, "cut off");
        drop(log);
        store.close().unwrap();
        let (_store, log) = machine.restart();
        check(&log, "closed");
        // A log that is not empty takes nothing of the kind.
        let refused = log.append_as_follower(&batch(110, 7, 9));
        assert!(matches!(refused, Err(Error::OutOfOrderOffsets { .. })), "{refused:?}");
    }
}

#[test]
fn told_where_to_begin_inside_of_a_batch_a_log_takes_that_batch() {
    let machine = Machine::new();
    let (_store, log) = machine.start(small());
    log.truncate_fully_and_start_at(100, Some(104)).unwrap();
    log.append_as_follower(&batch(100, 6, 10)).unwrap();
    for log in [&log, &machine.killed().restart().1, &machine.cut_off().restart().1] {
        assert_eq!((log.log_start(), log.log_end()), (104, 110));
        assert_eq!(values(log, 104), expected(104..110));
    }
}

#[test]
fn a_power_cut_at_any_call_of_a_follower_leaves_whole_batches() {
    at_every_call(
        |machine| {
            let (store, log) = machine.start(small());
            log.append_as_follower(&batch(0, 1, 2)).unwrap();
            (store, log)
        },
        |log| {
            // One at a time: of several that are not synced, a power cut may leave a later one alone.
            let sent = [(2, 1, 2), (4, 3, 3), (7, 3, 1), (12, 4, 2), (14, 4, 1), (15, 6, 1)];
            sent.iter().try_for_each(|&(base, epoch, count)| {
                log.append_as_follower(&batch(base, epoch, count)).map(drop)
            })
        },
        |machine, done, name| {
            let (store, log) = machine.restart();
            assert!(log.recovery_report().damage.is_empty(), "{name}: {:?}", log.recovery_report());
            let written = [(0, 1, 2), (2, 1, 2), (4, 3, 3), (7, 3, 1), (12, 4, 2), (14, 4, 1), (15, 6, 1)];
            let found = stored(&log, 0);
            assert!(if done { found.len() == 7 } else { (1..=7).contains(&found.len()) }, "{name}");
            for (found, &(base, epoch, count)) in found.iter().zip(&written) {
                assert_eq!(found.as_bytes(), batch(base, epoch, count), "{name}");
                assert_eq!(log.epoch_for_offset(base), Some(epoch), "{name}");
            }
            // A segment may have been begun for the next one.
            let next = written.get(found.len()).map(|next| next.0);
            let end = found.last().unwrap().next_offset();
            assert!(log.log_end() == end || Some(log.log_end()) == next, "{name}: {}", log.log_end());
            assert_eq!(log.epoch_for_offset(log.log_end()), None, "{name}");
            drop((store, log));
        },
    );
}

#[test]
fn a_follower_takes_again_what_a_power_cut_left_without_the_batches_before() {
    let sent: Vec<Vec<u8>> = (0..6).map(|at| batch(at * 20, 1, 20)).collect();
    let mut damaged = 0;
    for seed in 0..40 {
        let machine = Machine::new();
        let (_store, log) = machine.start(TopicConfig::new());
        log.append_as_follower(&sent[0]).unwrap();
        machine.disk.fail(When::next().of(&[Call::Sync]), Fault::PowerOff);
        log.append_as_follower(&sent[1..].concat()).unwrap_err();
        let disk = machine.disk.crash(Crash::PowerCut { seed });
        let (store, log) = Machine { disk, ..machine.clone() }.restart();
        let report = log.recovery_report();
        let Some(damage) = report.damage.first() else { continue };
        damaged += 1;
        assert!(matches!(log.append_as_follower(&sent[1]), Err(Error::Damaged { .. })));
        log.accept_loss(damage.from).unwrap();
        assert!(log.truncate_to(damage.from).unwrap(), "{seed}: {report:?}");
        assert_eq!((log.log_end(), values(&log, 0)), (damage.from, expected(0..damage.from)), "{seed}");
        log.append_as_follower(&sent[damage.from as usize / 20..].concat()).unwrap();
        assert_eq!(values(&log, 0), expected(0..120), "{seed}");
        drop((store, log));
    }
    assert!((1..40).contains(&damaged), "{damaged} of 40");
}

// ---- leader epochs ----

/// A log to which these epochs began at these offsets, one record each, and which ends at `end`.
fn with_epochs(machine: &Machine, epochs: &[(i32, u64)], end: u64) -> (Store, Partition) {
    let (store, log) = machine.start(small());
    for &(epoch, offset) in epochs {
        log.append_as_follower(&batch(offset, epoch, 1)).unwrap();
    }
    let last = epochs.last().map_or(-1, |last| last.0);
    if log.log_end() < end {
        log.append_as_follower(&batch(end - 1, last, 1)).unwrap();
    }
    (store, log)
}

/// What the file says.
fn entries(machine: &Machine, store: &Store) -> Vec<(i32, u64)> {
    store.flush().unwrap();
    let text = machine.disk.read(EPOCHS).unwrap_or_default();
    let epochs = LeaderEpochs::decode(&text).unwrap();
    epochs.entries.iter().map(|entry| (entry.epoch, entry.start_offset)).collect()
}

fn end_of(log: &Partition, epoch: i32) -> Option<(i32, u64)> {
    log.end_offset_for_epoch(epoch).map(|end| (end.epoch, end.end_offset))
}

/// What a test says of an epoch: the epoch found and where it ends.
type EndCase = (i32, Option<(i32, u64)>);

/// The cases of Kafka's `LeaderEpochFileCacheTest`: what was written, the log end, the entries that are left, and what
/// is answered.
#[test]
fn epochs_end_where_they_end_in_kafka() {
    let cases: &[(&[(i32, u64)], u64, &[(i32, u64)], &[EndCase])] = &[
        // shouldAddEpochAndMessageOffsetToCache
        (&[(10, 10)], 11, &[(10, 10)], &[(10, Some((10, 11)))]),
        // shouldReturnLogEndOffsetIfLatestEpochRequested, shouldNotOverwriteOffsetForALeaderEpochOnceItHasBeenAssigned
        (&[(2, 11), (2, 12)], 14, &[(2, 11)], &[(2, Some((2, 14)))]),
        // shouldReturnUndefinedOffsetIfUndefinedEpochRequested
        (&[(2, 11), (3, 12)], 14, &[(2, 11), (3, 12)], &[(-1, None)]),
        // shouldReturnFirstEpochIfRequestedEpochLessThanFirstEpoch
        (&[(5, 11), (6, 12), (7, 13)], 14, &[(5, 11), (6, 12), (7, 13)], &[(4, Some((4, 11)))]),
        // shouldGetFirstOffsetOfSubsequentEpochWhenOffsetRequestedForPreviousEpoch
        (
            &[(1, 11), (1, 12), (2, 13), (2, 14), (3, 15), (3, 16)],
            17,
            &[(1, 11), (2, 13), (3, 15)],
            &[(1, Some((1, 13))), (2, Some((2, 15))), (3, Some((3, 17)))],
        ),
        // shouldReturnNextAvailableEpochIfThereIsNoExactEpochForTheOneRequested
        (
            &[(0, 10), (2, 13), (4, 17)],
            18,
            &[(0, 10), (2, 13), (4, 17)],
            &[(1, Some((0, 13))), (2, Some((2, 17))), (3, Some((2, 17))), (4, Some((4, 18)))],
        ),
        // shouldReturnInvalidOffsetIfEpochIsRequestedWhichIsNotCurrentlyTracked
        (&[(2, 100)], 101, &[(2, 100)], &[(3, None)]),
        // shouldSupportEpochsThatDoNotStartFromZero
        (&[(2, 6)], 7, &[(2, 6)], &[(2, Some((2, 7))), (1, Some((1, 6)))]),
        // shouldEnforceMonotonicallyIncreasingEpochs
        (&[(1, 5), (2, 6), (1, 7)], 8, &[(1, 7)], &[(1, Some((1, 8))), (2, None)]),
        (&[(1, 5), (2, 6), (1, 7), (2, 8)], 9, &[(1, 7), (2, 8)], &[(1, Some((1, 8))), (2, Some((2, 9)))]),
        // shouldReturnInvalidOffsetIfNoEpochsRecorded
        (&[], 0, &[], &[(0, None), (5, None), (-1, None)]),
    ];
    for (written, end, left, answers) in cases {
        let machine = Machine::new();
        let (store, log) = with_epochs(&machine, written, *end);
        assert_eq!(log.log_end(), *end);
        for (epoch, answer) in *answers {
            assert_eq!(end_of(&log, *epoch), *answer, "epoch {epoch} of {written:?}");
        }
        assert_eq!(entries(&machine, &store), *left, "{written:?}");
        // shouldPersistEpochsBetweenInstances
        drop(log);
        store.close().unwrap();
        let (_store, log) = machine.restart();
        for (epoch, answer) in *answers {
            assert_eq!(end_of(&log, *epoch), *answer, "epoch {epoch} of {written:?}, opened again");
        }
    }
}

#[test]
fn leaders_change_many_times_as_in_kafka() {
    // shouldEnforceOffsetsIncreaseMonotonically and its kin: an idle leader leaves no entry behind.
    let machine = Machine::new();
    let (store, log) = machine.start(small());
    let lead = |epoch| log.set_leader_epoch(epoch).unwrap();
    lead(0);
    assert_eq!(end_of(&log, 0), Some((0, 0)));
    lead(1);
    assert_eq!((end_of(&log, 0), end_of(&log, 1)), (Some((0, 0)), Some((1, 0))));
    append(&log, &["a"]);
    append(&log, &["b"]);
    lead(2);
    assert_eq!(
        (end_of(&log, 0), end_of(&log, 1), end_of(&log, 2)),
        (Some((0, 0)), Some((1, 2)), Some((2, 2)))
    );
    append(&log, &["c"]);
    append(&log, &["d"]);
    assert_eq!((end_of(&log, 1), end_of(&log, 2)), (Some((1, 2)), Some((2, 4))));
    lead(4);
    lead(7);
    assert_eq!(entries(&machine, &store), [(1, 0), (2, 2), (7, 4)]);
    assert_eq!(end_of(&log, 5), Some((2, 4)));
    assert!(matches!(log.set_leader_epoch(6), Err(Error::LeaderFenced { found: 6, current: 7, .. })));
    lead(7);
    append(&log, &["e"]);
    let epochs: Vec<_> = (0..6).map(|offset| log.epoch_for_offset(offset)).collect();
    assert_eq!(epochs, [Some(1), Some(1), Some(2), Some(2), Some(7), None]);
    let stamped: Vec<_> = stored(&log, 0).iter().map(|batch| batch.header().leader_epoch).collect();
    assert_eq!(stamped, epochs[..5]);
    for machine in [machine.killed(), machine.cut_off()] {
        let (_store, log) = machine.restart();
        let again: Vec<_> = (0..6).map(|offset| log.epoch_for_offset(offset)).collect();
        assert_eq!(again, epochs);
        assert_eq!(log.leader_epoch(), 7);
    }
}

#[test]
fn the_log_start_takes_epochs_along() {
    let machine = Machine::new();
    let (store, log) = with_epochs(&machine, &[(0, 0), (1, 3), (2, 6)], 9);
    log.delete_records(4).unwrap();
    assert_eq!(entries(&machine, &store), [(1, 4), (2, 6)]);
    assert_eq!((end_of(&log, 0), end_of(&log, 1)), (Some((0, 4)), Some((1, 6))));
    log.delete_records(9).unwrap();
    assert_eq!(entries(&machine, &store), [(2, 9)]);
    assert_eq!(end_of(&log, 2), Some((2, 9)));
    assert_eq!(end_of(&log, 1), Some((1, 9)));
}

/// All that can be asked about epochs.
fn answers(log: &Partition) -> Vec<(Option<i32>, Option<(i32, u64)>)> {
    (-1..40).map(|number: i32| (log.epoch_for_offset(number.max(0) as u64), end_of(log, number))).collect()
}

fn many_epochs(machine: &Machine) -> (Store, Partition) {
    let (store, log) = machine.start(small());
    for (epoch, base, count) in
        [(0, 0, 3), (0, 3, 1), (2, 4, 2), (3, 6, 1), (3, 7, 4), (12, 11, 1), (13, 12, 5), (13, 17, 3)]
    {
        log.append_as_follower(&batch(base, epoch, count)).unwrap();
    }
    (store, log)
}

#[test]
fn answers_about_epochs_survive_whatever_was_written_down_before() {
    // Each of them writes positions down, with the epochs or without.
    type Act = fn(&Store, &Partition);
    let acts: [(&str, Act); 6] = [
        ("nothing", |_, _| {}),
        ("flush", |store, _| store.flush().unwrap()),
        ("delete", |_, log| assert_eq!(log.delete_records(2).unwrap(), 2)),
        ("maintain", |store, _| drop(store.maintain().unwrap())),
        ("roll", |_, log| log.roll().unwrap()),
        ("truncate", |_, log| assert!(log.truncate_to(17).unwrap())),
    ];
    for (name, act) in acts {
        for late in [false, true] {
            let machine = Machine::new();
            let (store, log) = many_epochs(&machine);
            act(&store, &log);
            if late {
                log.append_as_follower(&batch(log.log_end(), 15, 2)).unwrap();
                act(&store, &log);
            }
            let before = answers(&log);
            for (how, machine) in [("killed", machine.killed()), ("cut off", machine.cut_off())] {
                let (_store, log) = machine.restart();
                assert_eq!(answers(&log), before, "{name}, {how}");
            }
            drop(log);
            store.close().unwrap();
            assert_eq!(answers(&machine.restart().1), before, "{name}, closed");
        }
    }
}

#[test]
fn a_leader_that_appends_is_known_after_any_checkpoint() {
    let machine = Machine::new();
    let (store, log) = machine.start(small());
    append(&log, &["a", "b"]);
    log.delete_records(1).unwrap();
    append(&log, &["c"]);
    store.maintain().unwrap();
    let before = answers(&log);
    assert_eq!(log.epoch_for_offset(2), Some(0));
    for machine in [machine.killed(), machine.cut_off()] {
        assert_eq!(answers(&machine.restart().1), before);
    }
}

#[test]
fn a_file_of_epochs_is_held_against_each_segment_once() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    for epoch in 0..100 {
        log.set_leader_epoch(epoch).unwrap();
        append(&log, &["a", "b"]);
    }
    drop(log);
    store.close().unwrap();
    // As a crash leaves it between two checkpoints: it says more than was written down.
    let text = String::from_utf8(machine.disk.read(EPOCHS).unwrap()).unwrap();
    let more = text.replacen("100\n", "101\n", 1) + "100 200\n";
    machine.disk.write(EPOCHS, more.as_bytes()).unwrap();
    machine.disk.record(true);
    let (_store, log) = machine.restart();
    let reads = machine.disk.recorded().into_iter();
    let reads = reads.filter(|(call, name)| *call == Call::Read && *name == file(0, "log")).count();
    assert!(reads < 10, "the log was read {reads} times");
    assert!((0..100).all(|epoch| log.epoch_for_offset(2 * epoch as u64) == Some(epoch)));
}

#[test]
fn a_damaged_file_of_epochs_is_made_anew_from_the_log() {
    let machine = Machine::new();
    let (store, log) = many_epochs(&machine);
    log.delete_records(1).unwrap();
    let before = answers(&log);
    store.flush().unwrap();
    let killed = machine.killed();
    drop(log);
    store.close().unwrap();
    for (machine, how) in [(&machine, "closed"), (&killed, "killed")] {
        let whole = machine.disk.read(EPOCHS).unwrap();
        let check = |damaged: Option<&[u8]>, what: &str| {
            let machine = machine.killed();
            match damaged {
                Some(bytes) => machine.disk.write(EPOCHS, bytes).unwrap(),
                None => assert!(machine.disk.remove(EPOCHS)),
            }
            let (store, log) = machine.restart();
            assert!(log.recovery_report().damage.is_empty());
            assert_eq!(answers(&log), before, "{how}: {what}");
            drop(log);
            store.close().unwrap();
            assert_eq!(answers(&machine.restart().1), before, "{how}: {what}, opened twice");
        };
        check(None, "deleted");
        for len in 0..whole.len() {
            check(Some(&whole[..len]), &format!("cut to {len} bytes"));
        }
        for at in 0..whole.len() {
            for mask in [0x01, 0x02, 0x10, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= mask;
                check(Some(&damaged), &format!("byte {at} ^ {mask:#x}"));
            }
        }
        check(Some(b"0\n0\n"), "no entries");
        check(Some(b"0\n1\n0 1\n"), "the first entry alone");
        check(Some(b"0\n2\n0 1\n13 12\n"), "the first and the last");
        check(Some(b"0\n1\n13 1\n"), "the last epoch from the start");
        check(Some(&[0; 4_000]), "zeroes");
    }
}

// ---- two logs that parted ----

/// Takes back what the leader does not have (Kafka's `OffsetsForLeaderEpoch`, the follower's side).
fn reconcile(leader: &Partition, follower: &Partition) {
    loop {
        let end = follower.log_end();
        let Some(epoch) = end.checked_sub(1).and_then(|last| follower.epoch_for_offset(last)) else { return };
        let Some(theirs) = leader.end_offset_for_epoch(epoch) else {
            follower.truncate_to(follower.high_watermark()).unwrap();
            return;
        };
        let Some(ours) = follower.end_offset_for_epoch(theirs.epoch) else {
            follower.truncate_to(theirs.end_offset.min(end)).unwrap();
            return;
        };
        if ours.epoch == theirs.epoch {
            follower.truncate_to(ours.end_offset.min(theirs.end_offset).min(end)).unwrap();
            return;
        }
        // The leader does not know that epoch of ours: an older one has to be asked about.
        assert!(ours.end_offset < end, "it would ask for ever");
        follower.truncate_to(ours.end_offset.min(end)).unwrap();
    }
}

/// Fetches once; returns whether anything came.
fn follow(leader: &Partition, follower: &Partition, max_bytes: u64) -> bool {
    let options = FetchOptions::new().max_bytes(max_bytes).isolation(Isolation::LogEnd);
    let fetched = leader.fetch(follower.log_end(), options).unwrap();
    let sent: Vec<u8> = fetched.batches.iter().flat_map(|batch| batch.as_bytes().to_vec()).collect();
    !sent.is_empty() && follower.append_as_follower(&sent).is_ok()
}

#[derive(Debug, Clone)]
enum Step {
    /// The leader appends batches of so many records.
    Append(Vec<u8>),
    /// The other one, which has not heard of the change yet, goes on leading.
    AppendBehind(Vec<u8>),
    /// The follower makes sure that it has nothing else, and fetches so often.
    Follow(u8),
    /// They change roles.
    Change,
    /// The one that follows is killed and opened again.
    Kill,
    /// The one that leads is.
    KillLeader,
    /// The one that follows is closed and opened again.
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let sizes = || proptest::collection::vec(1u8..4, 1..4);
    let step = prop_oneof![
        4 => sizes().prop_map(Step::Append),
        3 => sizes().prop_map(Step::AppendBehind),
        3 => (0u8..4).prop_map(Step::Follow),
        3 => Just(Step::Change),
        1 => Just(Step::Kill),
        1 => Just(Step::KillLeader),
        1 => Just(Step::Close),
    ];
    proptest::collection::vec(step, 1..40)
}

struct Node {
    machine: Machine,
    store: Option<Store>,
    log: Partition,
    /// Whether it may have what its leader has not.
    parted: bool,
    /// Whether it has not heard yet that it does not lead any more.
    misled: bool,
}

impl Node {
    fn new(durability: Durability) -> Self {
        let machine = Machine::new();
        let (store, log) = machine.start(small().durability(durability));
        Node { machine, store: Some(store), log, parted: true, misled: false }
    }

    fn kill(&mut self) {
        self.machine = self.machine.killed();
        (self.store, self.log) = Node::opened(self.machine.restart());
    }

    fn close(&mut self) {
        self.store.take().unwrap().close().unwrap();
        (self.store, self.log) = Node::opened(self.machine.restart());
        assert!(self.log.recovery_report().clean);
    }

    fn opened((store, log): (Store, Partition)) -> (Option<Store>, Partition) {
        assert!(log.recovery_report().damage.is_empty(), "{:?}", log.recovery_report());
        (Some(store), log)
    }

    fn append(&self, sizes: &[u8], who: &str) {
        for &size in sizes {
            let texts: Vec<String> = (0..size).map(|_| format!("{who}{}", self.log.log_end())).collect();
            append(&self.log, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}

fn run(steps: Vec<Step>, durability: Durability) {
    let (mut leader, mut follower) = (Node::new(durability), Node::new(durability));
    let mut epoch = 0;
    leader.log.set_leader_epoch(epoch).unwrap();
    let mut names = ["a", "b"];
    for step in steps {
        match step {
            Step::Append(sizes) => leader.append(&sizes, names[0]),
            Step::AppendBehind(sizes) if follower.misled => {
                follower.append(&sizes, names[1]);
                follower.parted = true;
            }
            Step::AppendBehind(_) => {}
            Step::Follow(times) => {
                if std::mem::take(&mut follower.parted) {
                    reconcile(&leader.log, &follower.log);
                }
                follower.misled = false;
                for _ in 0..times {
                    follow(&leader.log, &follower.log, 300);
                }
            }
            Step::Change => {
                std::mem::swap(&mut leader, &mut follower);
                names.swap(0, 1);
                epoch += 1;
                leader.log.set_leader_epoch(epoch).unwrap();
                (leader.misled, follower.misled, follower.parted) = (false, true, true);
            }
            Step::Kill => {
                follower.kill();
                (follower.misled, follower.parted) = (false, true);
            }
            Step::KillLeader => {
                leader.kill();
                // What it was elected for is told again.
                epoch += 1;
                leader.log.set_leader_epoch(epoch).unwrap();
            }
            Step::Close => {
                follower.close();
                (follower.misled, follower.parted) = (false, true);
            }
        }
    }
    leader.append(&[1], names[0]);
    reconcile(&leader.log, &follower.log);
    while follow(&leader.log, &follower.log, 500) {}
    assert_eq!(follower.log.log_end(), leader.log.log_end());
    assert_eq!(bytes(&follower.log, 0), bytes(&leader.log, 0));
    for offset in 0..leader.log.log_end() {
        assert_eq!(follower.log.epoch_for_offset(offset), leader.log.epoch_for_offset(offset), "{offset}");
    }
    follower.kill();
    assert_eq!(bytes(&follower.log, 0), bytes(&leader.log, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn logs_that_parted_come_together_again(steps in steps(), synced in any::<bool>()) {
        run(steps, if synced { Durability::Synced } else { Durability::Process });
    }
}

#[test]
fn the_epoch_of_a_batch_is_outside_of_its_checksum() {
    // So that a leader can stamp it; a follower has to take what it says.
    let mut stamped = batch(0, 1, 2);
    stamp(&mut stamped, 0, 9).unwrap();
    let machine = Machine::new();
    let (_store, log) = machine.start(small());
    log.append_as_follower(&stamped).unwrap();
    assert_eq!((log.leader_epoch(), log.epoch_for_offset(1)), (9, Some(9)));
    assert_eq!(machine.disk.read(file(0, "log")).unwrap(), stamped);
}
