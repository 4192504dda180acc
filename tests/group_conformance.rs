//! The coordinator that ships, through the suite that every coordinator must pass.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/logs.rs"]
mod logs;

use std::sync::Arc;
use std::time::Duration;

use annals::format::EndTransactionMarker;
use annals::group::GroupConfig;
use annals::group::conformance::{self, Subject};
use annals::{AppendOptions, Store};

use logs::Machine;

fn subject(config: GroupConfig) -> Subject {
    let machine = Machine::new();
    let store: Arc<Store> = Arc::new(machine.open());
    let groups = store.groups_with(config).unwrap();
    let logs = Arc::clone(&store);
    let marker = move |partition: &annals::TopicPartition, producer_id, epoch, commit| {
        let log = logs.topic(&partition.topic).unwrap().partition(partition.partition).unwrap();
        let marker = EndTransactionMarker { coordinator_epoch: 0, commit };
        log.end_transaction(producer_id, epoch, marker, AppendOptions::new()).unwrap();
    };
    Subject::new(groups, machine.clock).marker(marker).keep(store)
}

#[test]
fn it_does_what_every_coordinator_must() {
    let failures = conformance::check(|| subject(GroupConfig::new()));
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn it_does_so_with_the_delay_of_a_broker() {
    let config = GroupConfig::new().initial_rebalance_delay(Duration::from_secs(3));
    let failures = conformance::check(|| subject(config.clone()));
    assert!(failures.is_empty(), "{failures:#?}");
}
