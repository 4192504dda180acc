//! A partition against a model of it: random steps of all kinds, and after each a comparison of all that can be
//! asked. After a crash the partition must be one that the model allows; then the model goes on with that.
//!
//! `ANNALS_MODEL_STEPS` sets how many steps each test takes (default 1500), `ANNALS_MODEL_SEED` the seed from which
//! they are drawn (default 1). A failure prints the shortest case found, in the form of the regression tests below.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod case;
mod check;
mod model;
mod steps;

use proptest::collection::vec;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use case::run;
use steps::{Draft, Ended, Level, Numbered, Setup, Step};

/// How many steps a case has at most.
const CASE_STEPS: usize = 60;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

/// Draws cases of one level until they have enough steps.
fn explore(level: Level) {
    let steps = number("ANNALS_MODEL_STEPS", 1_500);
    let cases = steps.div_ceil(CASE_STEPS as u64 / 2);
    let seed = number("ANNALS_MODEL_SEED", 1);
    let mut bytes = [level as u8; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let config = Config {
        cases: u32::try_from(cases).unwrap_or(u32::MAX),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let drawn = (steps::setup(level), vec(steps::step(), 1..CASE_STEPS));
    match runner.run(&drawn, |(setup, steps)| run(setup, &steps)) {
        Ok(()) => {}
        Err(TestError::Fail(_, (setup, steps))) => {
            let (reason, steps) = shorten(setup, steps);
            let lines: String = steps.iter().map(|step| format!("    {step:?},\n")).collect();
            panic!("{reason}\nreplay({setup:?}, &[\n{lines}]);")
        }
        Err(TestError::Abort(reason)) => panic!("given up: {reason}"),
    }
}

/// Leaves out the steps without which it fails as well: what was drawn is shrunk once, step by step.
fn shorten(setup: Setup, mut steps: Vec<Step>) -> (String, Vec<Step>) {
    let mut reason = String::from("it failed, but does so no more");
    for at in (0..steps.len()).rev() {
        let mut fewer = steps.clone();
        fewer.remove(at);
        if let Err(error) = run(setup, &fewer) {
            (reason, steps) = (error.to_string(), fewer);
        }
    }
    run(setup, &steps).err().map_or((reason.clone(), steps.clone()), |error| (error.to_string(), steps))
}

/// A case that once failed.
fn replay(setup: Setup, steps: &[Step]) {
    if let Err(error) = run(setup, steps) {
        panic!("{error}");
    }
}

#[test]
fn a_synced_partition_is_as_the_model() {
    explore(Level::Synced);
}

#[test]
fn a_partition_synced_at_intervals_is_as_the_model() {
    explore(Level::Interval);
}

#[test]
fn a_partition_synced_by_nobody_is_as_the_model() {
    explore(Level::Process);
}

fn records(ages: &[i16]) -> Vec<Draft> {
    ages.iter().map(|&age| Draft { key: None, tombstone: false, age }).collect()
}

fn append(ages: &[i16]) -> Step {
    Step::Append { records: records(ages), synced: false }
}

fn produce(ages: &[i16]) -> Step {
    Step::Produce { producer: 0, numbered: Numbered::Next, transactional: false, records: records(ages) }
}

/// A snapshot of producers whose writing failed was believed after a truncation below it.
#[test]
fn a_snapshot_that_failed_goes_with_a_truncation() {
    let setup =
        Setup { compact: true, segment_bytes: 545, retention_bytes: None, ..Setup::of(Level::Interval) };
    replay(
        setup,
        &[
            append(&[0]),
            produce(&[-560, 0, 0, 0]),
            append(&[0, 70, 70]),
            append(&[0]),
            append(&[0]),
            produce(&[0]),
            append(&[0]),
            append(&[0]),
            Step::FailSync { nth: 2 },
            Step::Compact,
            Step::TruncateFully { part: 101, start: None },
            Step::CloseAndOpen,
        ],
    );
}

/// What a power cut takes below the log start is missed by nobody.
#[test]
fn a_power_cut_may_take_what_lies_below_the_log_start() {
    let setup = Setup { segment_bytes: 734, retention_bytes: None, ..Setup::of(Level::Process) };
    replay(
        setup,
        &[
            Step::TruncateFully { part: 62, start: None },
            Step::Roll,
            append(&[0]),
            append(&[0, 0]),
            Step::TruncateTo { part: 93 },
            Step::End { producer: 0, commit: false, ended: Ended::Right },
            Step::DeleteRecords { part: 213 },
            append(&[0]),
            Step::CutPower { seed: 16 },
        ],
    );
}

/// The age of a segment that compaction has left empty is that of its file.
#[test]
fn a_segment_left_empty_goes_when_it_is_old() {
    let setup =
        Setup { compact: true, segment_bytes: 814, retention_bytes: None, ..Setup::of(Level::Interval) };
    let end = Step::End { producer: 0, commit: false, ended: Ended::NewEpoch };
    replay(
        setup,
        &[
            produce(&[0, 0, 70]),
            append(&[0, 70]),
            end.clone(),
            append(&[0, 340]),
            Step::Advance { millis: 2_441 },
            append(&[0, -70, -70, -70]),
            Step::Maintain,
            Step::Advance { millis: 2_127 },
            produce(&[0, 0, 0, 0]),
            append(&[0]),
            end,
            Step::Advance { millis: 433 },
            append(&[0, 0, 0]),
            Step::Maintain,
            Step::ApplyRetention,
        ],
    );
}

fn end() -> Step {
    Step::End { producer: 0, commit: false, ended: Ended::Right }
}

/// Bytes of a failed append that were cut without a sync came back in a power cut, in a segment sealed meanwhile.
#[test]
fn what_a_failed_append_left_does_not_come_back_once_the_segment_is_sealed() {
    let setup = Setup { segment_bytes: 565, retention_bytes: None, seed: 9, ..Setup::of(Level::Synced) };
    replay(
        setup,
        &[
            append(&[0, 0, 0, 0]),
            append(&[0, 0]),
            append(&[0]),
            produce(&[0]),
            append(&[0]),
            append(&[0]),
            produce(&[0]),
            produce(&[0]),
            end(),
            append(&[0]),
            append(&[0, 0, 0, 0]),
            append(&[0]),
            append(&[0]),
            Step::FillDisk { spare: 1 },
            append(&[0]),
            Step::Kill,
            Step::Roll,
            append(&[0]),
            Step::CutPower { seed: 16 },
        ],
    );
}

/// Where no log start is written down, epochs began below the first segment.
#[test]
fn epochs_begin_with_the_first_segment() {
    let setup =
        Setup { compact: true, segment_bytes: 936, retention_bytes: None, ..Setup::of(Level::Synced) };
    replay(
        setup,
        &[
            append(&[0, 0, 0]),
            end(),
            append(&[0]),
            Step::Compact,
            append(&[0, 0]),
            append(&[0]),
            append(&[0, 0]),
            Step::FillDisk { spare: 439 },
            append(&[0, 0, 0]),
            Step::DeleteRecords { part: 183 },
            Step::CloseAndOpen,
        ],
    );
}

/// A snapshot that a power cut spared told of a batch that it had taken, once the log was closed and opened again.
#[test]
fn snapshots_of_what_may_be_lost_are_not_believed() {
    let setup =
        Setup { compact: true, segment_bytes: 400, retention_bytes: None, ..Setup::of(Level::Process) };
    replay(
        setup,
        &[
            append(&[0]),
            append(&[0, 0, 0]),
            produce(&[0]),
            append(&[0]),
            Step::FailSync { nth: 1 },
            produce(&[0, 0]),
            append(&[0, 0, 0]),
            Step::Maintain,
            Step::CutPower { seed: 17 },
            Step::CloseAndOpen,
        ],
    );
}

/// Times that a truncation had cut were still taken for the age of a compacted segment.
#[test]
fn a_truncation_takes_times_along() {
    let setup =
        Setup { compact: true, segment_bytes: 1_273, retention_bytes: None, ..Setup::of(Level::Interval) };
    let mut mixed = records(&[0, -1_060, 0]);
    mixed[1].key = Some(3);
    let numbered =
        |numbered, transactional, records| Step::Produce { producer: 0, numbered, transactional, records };
    replay(
        setup,
        &[
            append(&[0, 0, 0]),
            numbered(Numbered::Next, false, mixed),
            append(&[0]),
            append(&[0, 0]),
            numbered(Numbered::NewEpoch, true, records(&[0, 0, 0, 0])),
            end(),
            append(&[0, 0, 0, 0]),
            append(&[0, 0]),
            Step::Compact,
            append(&[0]),
            Step::TruncateTo { part: 145 },
            Step::TruncateTo { part: 102 },
            Step::Advance { millis: 3_941 },
            Step::ApplyRetention,
        ],
    );
}

/// Producers of a segment that went while the disk was full were forgotten when the partition healed.
#[test]
fn what_is_known_of_producers_stays_while_the_disk_is_full() {
    let setup = Setup { segment_bytes: 444, retention_bytes: None, ..Setup::of(Level::Synced) };
    let keyed = |tombstone, age| Draft { key: Some(0), tombstone, age };
    let of = |producer, records| Step::Produce {
        producer,
        numbered: Numbered::Next,
        transactional: false,
        records,
    };
    let plain = Draft { key: None, tombstone: false, age: 0 };
    replay(
        setup,
        &[
            produce(&[0, 0]),
            append(&[0, 0, 0]),
            produce(&[0, 0]),
            produce(&[0]),
            Step::Roll,
            of(0, vec![plain, keyed(false, 0), Draft { age: -70, ..plain }]),
            Step::FillDisk { spare: 514 },
            Step::Append { records: vec![keyed(false, 0)], synced: false },
            of(1, vec![plain, keyed(true, 70), keyed(true, -70), keyed(false, 70)]),
            Step::CloseAndOpen,
            Step::DeleteRecords { part: 180 },
            produce(&[0]),
        ],
    );
}

/// Segments below the log start stayed at a clean opening, and came back once the log was begun below them.
#[test]
fn a_clean_opening_removes_what_lies_below_the_log_start() {
    let setup = Setup { segment_bytes: 400, retention_bytes: None, ..Setup::of(Level::Synced) };
    replay(
        setup,
        &[
            append(&[0]),
            append(&[0, 0, 0, 0]),
            append(&[0]),
            Step::FailSync { nth: 1 },
            Step::DeleteRecords { part: 183 },
            Step::CloseAndOpen,
            Step::TruncateFully { part: 0, start: None },
            Step::CutPower { seed: 24 },
        ],
    );
}

/// What was acknowledged as deleted on a full disk was damage once a power cut had taken what was not synced of it.
#[test]
fn a_log_start_that_names_tell_survives_the_loss_of_what_was_not_synced() {
    let setup = Setup { segment_bytes: 515, retention_bytes: None, ..Setup::of(Level::Interval) };
    replay(
        setup,
        &[
            append(&[0]),
            append(&[0, 0, 0]),
            append(&[0, 0, 0, 0]),
            append(&[0, 0]),
            Step::FillDisk { spare: 535 },
            Step::FailSync { nth: 1 },
            append(&[0]),
            produce(&[0, 0]),
            Step::DeleteRecords { part: 208 },
            Step::CutPower { seed: 3 },
        ],
    );
}

/// As in Kafka, the last leader epoch outlasts the deletion of all its records; a truncation that a full disk kept
/// from beginning changes nothing of that.
#[test]
fn a_truncation_that_never_began_leaves_the_epochs() {
    let setup = Setup { segment_bytes: 944, retention_bytes: None, ..Setup::of(Level::Process) };
    replay(
        setup,
        &[
            Step::FillDisk { spare: 892 },
            append(&[0]),
            Step::Roll,
            Step::DeleteRecords { part: 204 },
            Step::TruncateFully { part: 0, start: None },
            Step::ReopenPartition,
        ],
    );
}

/// What a power cut had destroyed below the log start kept compaction from its work.
#[test]
fn compaction_passes_over_what_is_destroyed_below_the_log_start() {
    let setup =
        Setup { compact: true, segment_bytes: 986, retention_bytes: None, ..Setup::of(Level::Process) };
    let tombstone = Draft { key: None, tombstone: true, age: 0 };
    replay(
        setup,
        &[
            Step::CutPower { seed: 35 },
            append(&[0, 0, 0, 0]),
            end(),
            Step::Produce {
                producer: 0,
                numbered: Numbered::Next,
                transactional: false,
                records: vec![tombstone],
            },
            append(&[0]),
            append(&[0, 0, 0]),
            Step::DeleteRecords { part: 140 },
            Step::CutPower { seed: 3 },
            append(&[0, 0, 0]),
            produce(&[0, 0]),
            Step::Maintain,
        ],
    );
}

/// Times of before were found in a log that was begun anew at the same offset, once it was closed and opened again.
#[test]
fn a_log_begun_anew_takes_times_along() {
    let setup = Setup { segment_bytes: 698, retention_bytes: None, ..Setup::of(Level::Synced) };
    replay(
        setup,
        &[
            produce(&[0, 0]),
            Step::Roll,
            Step::TruncateFully { part: 0, start: None },
            produce(&[10]),
            Step::End { producer: 0, commit: false, ended: Ended::NewEpoch },
            Step::CloseAndOpen,
        ],
    );
}

/// What a full disk kept from being deleted comes back as it was, though what lies behind it was compacted.
#[test]
fn what_was_not_deleted_after_all_comes_back() {
    let setup =
        Setup { compact: true, segment_bytes: 666, retention_bytes: None, ..Setup::of(Level::Interval) };
    replay(
        setup,
        &[
            append(&[0]),
            append(&[0]),
            append(&[0]),
            produce(&[0, 0]),
            append(&[0]),
            append(&[0, 0]),
            Step::FailSync { nth: 2 },
            Step::FillDisk { spare: 131 },
            append(&[0]),
            Step::CloseAndOpen,
            Step::DeleteRecords { part: 153 },
            Step::Compact,
            Step::CutPower { seed: 21 },
        ],
    );
}

/// A truncation left bytes at the end of the log that a power cut had destroyed, for readers to stumble over.
#[test]
fn a_truncation_leaves_nothing_destroyed_at_the_end() {
    let setup = Setup { segment_bytes: 767, retention_bytes: None, ..Setup::of(Level::Process) };
    replay(
        setup,
        &[
            produce(&[0]),
            Step::Flush,
            Step::CutPower { seed: 17 },
            append(&[0]),
            append(&[0, 0, 0, 0]),
            append(&[0]),
            Step::DeleteRecords { part: 224 },
            append(&[0, 0]),
            Step::CutPower { seed: 8 },
            append(&[0, 0, 0, 0]),
            append(&[0, 0]),
            append(&[0]),
            append(&[0]),
            append(&[0, 0]),
            Step::TruncateTo { part: 60 },
        ],
    );
}

/// Producers whose last records were deleted on a full disk were forgotten when the store was opened again.
#[test]
fn producers_of_what_was_deleted_on_a_full_disk_are_known_after_a_restart() {
    let setup = Setup { segment_bytes: 520, retention_bytes: None, ..Setup::of(Level::Interval) };
    let by = |producer, numbered, ages: &[i16]| Step::Produce {
        producer,
        numbered,
        transactional: false,
        records: records(ages),
    };
    replay(
        setup,
        &[
            append(&[0]),
            produce(&[0, 0, 0, 0]),
            produce(&[0, 0, 0]),
            Step::CutPower { seed: 1 },
            produce(&[0, 0, 0]),
            Step::DeleteRecords { part: 192 },
            by(0, Numbered::Again { back: 0 }, &[0]),
            append(&[0]),
            Step::CutPower { seed: 22 },
            append(&[0, 0]),
            append(&[0, 0, 0, 0]),
            by(1, Numbered::Next, &[0]),
            append(&[0]),
            append(&[0]),
            append(&[0]),
            Step::FillDisk { spare: 115 },
            produce(&[0]),
            Step::DeleteRecords { part: 236 },
            Step::Roll,
            Step::CloseAndOpen,
        ],
    );
}

/// Of a log that was begun anew only halfway, what was known of producers where it starts may be known still.
#[test]
fn producers_may_outlast_a_log_begun_anew_halfway() {
    let setup = Setup { segment_bytes: 411, retention_bytes: None, ..Setup::of(Level::Interval) };
    replay(
        setup,
        &[
            produce(&[0]),
            append(&[0, 0, 0]),
            produce(&[0, 0, 0]),
            append(&[0]),
            append(&[0, 0]),
            append(&[0]),
            append(&[0]),
            Step::DeleteRecords { part: 79 },
            produce(&[0, 0, 0, 0]),
            append(&[0, 0, 0]),
            Step::TruncateTo { part: 39 },
            Step::FailSync { nth: 1 },
            Step::Produce {
                producer: 0,
                numbered: Numbered::NewEpoch,
                transactional: false,
                records: records(&[0]),
            },
            Step::TruncateTo { part: 0 },
            Step::CutPower { seed: 9 },
        ],
    );
}

/// What a power cut had taken of one producer stays forgotten when a truncation goes back to a compacted batch of
/// another.
#[test]
fn what_is_forgotten_of_a_producer_stays_so_in_a_compacted_log() {
    let setup =
        Setup { compact: true, segment_bytes: 538, retention_bytes: None, ..Setup::of(Level::Process) };
    let by = |producer, numbered, transactional, ages: &[i16]| Step::Produce {
        producer,
        numbered,
        transactional,
        records: records(ages),
    };
    replay(
        setup,
        &[
            by(1, Numbered::Next, true, &[0]),
            append(&[0]),
            Step::DeleteRecords { part: 85 },
            Step::CutPower { seed: 0 },
            by(0, Numbered::NewEpoch, false, &[0, 0, 0]),
            append(&[0]),
            produce(&[0]),
            append(&[0]),
            produce(&[0]),
            produce(&[0, 0, 0]),
            append(&[0, 0, 0, 0]),
            append(&[0]),
            append(&[0, 0]),
            Step::Compact,
            append(&[0]),
            Step::DeleteRecords { part: 64 },
            Step::TruncateTo { part: 101 },
        ],
    );
}

/// What a truncation had lowered the high watermark to could not be written on a full disk, and what came next counted
/// as replicated once the store was opened again.
#[test]
fn a_high_watermark_that_was_lowered_does_not_come_back() {
    let setup =
        Setup { replicated: true, segment_bytes: 400, retention_bytes: None, ..Setup::of(Level::Synced) };
    replay(
        setup,
        &[
            produce(&[0]),
            append(&[0, 0, 0, 0]),
            append(&[0, 0]),
            produce(&[0, 0]),
            Step::RaiseHighWatermark { part: 149 },
            append(&[0]),
            Step::TruncateTo { part: 102 },
            append(&[0]),
            end(),
            Step::TruncateTo { part: 153 },
            Step::FillDisk { spare: 0 },
            Step::CloseAndOpen,
            append(&[0]),
            Step::CloseAndOpen,
        ],
    );
}

/// Deleting records again was said to be done, though the renaming of files that it had failed on was not on disk.
#[test]
fn a_deletion_that_failed_is_done_before_another_is_said_to_be() {
    let setup =
        Setup { replicated: true, segment_bytes: 666, retention_bytes: None, ..Setup::of(Level::Interval) };
    replay(
        setup,
        &[
            append(&[0, 0]),
            produce(&[0, 0]),
            produce(&[0, 0, 0, 0]),
            append(&[0, 0, 0, 0]),
            append(&[0, 0, 70, -70]),
            Step::RaiseHighWatermark { part: 170 },
            Step::FailSync { nth: 1 },
            Step::FillDisk { spare: 0 },
            Step::DeleteRecords { part: 227 },
            Step::DeleteRecords { part: 0 },
            Step::CutPower { seed: 2 },
        ],
    );
}

/// Segments went by a log start whose checkpoint was not on disk for sure; then a power cut brought the old one back.
#[test]
fn a_checkpoint_in_doubt_is_on_disk_before_it_is_followed() {
    let setup = Setup { segment_bytes: 844, retention_bytes: None, ..Setup::of(Level::Synced) };
    replay(
        setup,
        &[
            append(&[0]),
            append(&[0]),
            Step::Roll,
            append(&[0]),
            append(&[0]),
            append(&[0]),
            append(&[0]),
            produce(&[0]),
            Step::FillDisk { spare: 353 },
            Step::FailSync { nth: 2 },
            Step::DeleteRecords { part: 64 },
            append(&[0]),
            Step::CloseAndOpen,
            Step::CutPower { seed: 15 },
        ],
    );
}

/// What a power cut had destroyed below the log start kept the name of its file from telling where the log starts.
#[test]
fn names_tell_the_log_start_also_of_what_is_destroyed_below_it() {
    let setup = Setup { segment_bytes: 400, retention_bytes: None, ..Setup::of(Level::Process) };
    replay(
        setup,
        &[
            append(&[0]),
            append(&[0]),
            Step::DeleteRecords { part: 170 },
            append(&[0, 0, 0]),
            Step::CutPower { seed: 12 },
            produce(&[0, 0, 0]),
            Step::FillDisk { spare: 446 },
            append(&[0, 0]),
            Step::DeleteRecords { part: 102 },
            Step::CloseAndOpen,
        ],
    );
}

/// A full disk let a log be begun anew only halfway; what was empty below its start was missed.
#[test]
fn a_log_begun_anew_halfway_is_not_damaged_below_its_start() {
    let setup = Setup { segment_bytes: 400, retention_bytes: None, ..Setup::of(Level::Interval) };
    replay(
        setup,
        &[
            Step::Produce {
                producer: 1,
                numbered: Numbered::Next,
                transactional: false,
                records: records(&[0]),
            },
            produce(&[0]),
            Step::Roll,
            append(&[0]),
            Step::Flush,
            Step::FillDisk { spare: 1 },
            Step::DeleteRecords { part: 192 },
            Step::TruncateFully { part: 45, start: None },
            Step::Kill,
        ],
    );
}

/// A checkpoint whose writing had failed was followed, and a power cut brought back the one before.
#[test]
fn a_truncation_that_never_began_leaves_the_high_watermark() {
    let setup =
        Setup { replicated: true, segment_bytes: 690, retention_bytes: None, ..Setup::of(Level::Process) };
    replay(
        setup,
        &[
            produce(&[0]),
            append(&[0]),
            Step::RaiseHighWatermark { part: 128 },
            Step::CloseAndOpen,
            Step::FillDisk { spare: 483 },
            Step::FailSync { nth: 2 },
            produce(&[0]),
            Step::TruncateTo { part: 0 },
            Step::CloseAndOpen,
            Step::CutPower { seed: 2 },
        ],
    );
}

/// A batch of which a power cut had left all but its offset was taken for the first, and its leader for that of all.
#[test]
fn epochs_are_not_taken_from_what_a_power_cut_left() {
    let setup = Setup { segment_bytes: 650, retention_bytes: None, ..Setup::of(Level::Process) };
    let with_key = |key, tombstone, age| Draft { key, tombstone, age };
    replay(
        setup,
        &[
            end(),
            Step::Produce {
                producer: 0,
                numbered: Numbered::Next,
                transactional: false,
                records: vec![with_key(Some(0), false, 0), with_key(None, false, 0)],
            },
            Step::CloseAndOpen,
            append(&[0, -70]),
            Step::Lead { up: 2 },
            Step::Append {
                records: vec![with_key(Some(0), true, 0), with_key(None, false, 70)],
                synced: false,
            },
            end(),
            Step::CutPower { seed: 19 },
        ],
    );
}

/// What a compacted log told of a producer is known still when that part of it is deleted, and what the producer
/// sent since is cut.
#[test]
fn what_compaction_left_of_a_producer_may_be_what_a_truncation_goes_back_to() {
    let setup =
        Setup { compact: true, segment_bytes: 470, retention_bytes: None, ..Setup::of(Level::Interval) };
    let in_transaction = |producer, ages: &[i16]| Step::Produce {
        producer,
        numbered: Numbered::Next,
        transactional: true,
        records: records(ages),
    };
    replay(
        setup,
        &[
            produce(&[0, -10, -10]),
            Step::Roll,
            append(&[0, 0, 0]),
            append(&[0, 0]),
            in_transaction(1, &[0, 0]),
            produce(&[0, 0, 0]),
            Step::Maintain,
            produce(&[0]),
            Step::FailSync { nth: 2 },
            produce(&[0, 0]),
            Step::TruncateTo { part: 0 },
            Step::Kill,
            Step::DeleteRecords { part: 93 },
            Step::TruncateTo { part: 43 },
        ],
    );
}

/// Where a log ends above its high watermark with nothing in between, what never began leaves it there.
#[test]
fn a_log_that_was_not_begun_anew_keeps_its_high_watermark() {
    let setup = Setup {
        replicated: true,
        compact: true,
        segment_bytes: 400,
        retention_bytes: None,
        ..Setup::of(Level::Process)
    };
    replay(
        setup,
        &[
            append(&[0]),
            Step::TruncateTo { part: 0 },
            produce(&[0, 0]),
            Step::FillDisk { spare: 380 },
            Step::TruncateFully { part: 35, start: Some(3) },
            Step::CloseAndOpen,
            Step::TruncateFully { part: 59, start: None },
            Step::ReopenPartition,
        ],
    );
}
