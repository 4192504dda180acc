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

use annals::Partition;
use proptest::collection::vec;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use case::run;
use steps::{Level, Setup, Step};

/// How many steps a case has at most.
const CASE_STEPS: usize = 60;

/// Whether partitions can be compacted. Once they can: set it, and let [`compact`] do it.
const COMPACTION: bool = false;

/// Compacts a partition; `None` while nothing does.
fn compact(_log: &Partition) -> Option<annals::Result<()>> {
    None
}

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
    let drawn = (steps::setup(level, COMPACTION), vec(steps::step(), 1..CASE_STEPS));
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
