//! The coordinator that ships, through the suite that every coordinator must pass.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/logs.rs"]
mod logs;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use annals::format::EndTransactionMarker;
use annals::group::conformance::{self, Subject};
use annals::group::{
    Assigned, GroupConfig, GroupCoordinator, GroupDescription, GroupListing, GroupMetadata, JoinRequest,
    Joined, OffsetAndMetadata, OffsetCommit, SyncRequest,
};
use annals::{AppendOptions, Reply, Result, Store, TopicPartition};

use logs::Machine;

fn subject(config: GroupConfig) -> Subject {
    spoiled(config, None)
}

fn spoiled(config: GroupConfig, flaw: Option<Flaw>) -> Subject {
    let machine = Machine::new();
    let store: Arc<Store> = Arc::new(machine.open());
    let mut groups = store.groups_with(config).unwrap();
    if let Some(flaw) = flaw {
        groups = Arc::new(Flawed { groups, flaw });
    }
    let logs = Arc::clone(&store);
    let marker = move |partition: &TopicPartition, producer_id, epoch, commit| {
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

/// What is wrong with a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    TakesOldCommits,
    LosesMetadata,
    NeverSendsAnybodyHome,
    KeepsWhoLeaves,
    WakesNobody,
    SleepsTooLong,
    ForgetsTransactions,
    ReadsWhatIsPending,
    TakesNoNotesOfPlaces,
}

/// A coordinator that is well but for one flaw.
#[derive(Debug)]
struct Flawed {
    groups: Arc<dyn GroupCoordinator>,
    flaw: Flaw,
}

impl Flawed {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }
}

impl GroupCoordinator for Flawed {
    fn join(&self, mut request: JoinRequest) -> Reply<Joined> {
        if self.has(Flaw::WakesNobody) {
            request.waker = None;
        }
        if self.has(Flaw::TakesNoNotesOfPlaces) {
            request.instance_id = None;
        }
        if self.has(Flaw::NeverSendsAnybodyHome) {
            request.session_timeout = Duration::from_secs(1800);
        }
        self.groups.join(request)
    }

    fn sync(&self, request: SyncRequest) -> Reply<Assigned> {
        self.groups.sync(request)
    }

    fn heartbeat(&self, member: &GroupMetadata) -> Result<()> {
        self.groups.heartbeat(member)
    }

    fn leave(&self, member: &GroupMetadata, keep_for: Option<Duration>) -> Result<()> {
        if self.has(Flaw::KeepsWhoLeaves) { Ok(()) } else { self.groups.leave(member, keep_for) }
    }

    fn commit(&self, member: &GroupMetadata, offsets: &[OffsetCommit]) -> Result<()> {
        let mut member = member.clone();
        if self.has(Flaw::TakesOldCommits) {
            member.generation =
                self.groups.describe(&member.group).map_or(-1, |described| described.generation);
        }
        let mut offsets = offsets.to_vec();
        if self.has(Flaw::LosesMetadata) {
            offsets.iter_mut().for_each(|commit| commit.position.metadata.clear());
        }
        self.groups.commit(&member, &offsets)
    }

    fn commit_in_transaction(
        &self,
        member: &GroupMetadata,
        producer_id: i64,
        producer_epoch: i16,
        offsets: &[OffsetCommit],
    ) -> Result<()> {
        self.groups.commit_in_transaction(member, producer_id, producer_epoch, offsets)
    }

    fn offsets_partition(&self, group: &str) -> Result<Option<TopicPartition>> {
        self.groups.offsets_partition(group)
    }

    fn transaction_ended(&self, partition: &TopicPartition, producer_id: i64, committed: bool) -> Result<()> {
        if self.has(Flaw::ForgetsTransactions) {
            return Ok(());
        }
        self.groups.transaction_ended(partition, producer_id, committed)
    }

    fn committed(
        &self,
        group: &str,
        partitions: Option<&[TopicPartition]>,
        stable: bool,
    ) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>> {
        self.groups.committed(group, partitions, stable && !self.has(Flaw::ReadsWhatIsPending))
    }

    fn list(&self) -> Result<Vec<GroupListing>> {
        self.groups.list()
    }

    fn describe(&self, group: &str) -> Result<GroupDescription> {
        self.groups.describe(group)
    }

    fn delete(&self, group: &str) -> Result<()> {
        self.groups.delete(group)
    }

    fn delete_offsets(&self, group: &str, partitions: &[TopicPartition]) -> Result<()> {
        self.groups.delete_offsets(group, partitions)
    }

    fn tick(&self) -> Result<Duration> {
        let due = self.groups.tick()?;
        Ok(if self.has(Flaw::SleepsTooLong) { due * 2 } else { due })
    }
}

#[test]
fn every_flaw_is_found() {
    let flaws = [
        (Flaw::TakesOldCommits, "a member of an old generation may do nothing"),
        (Flaw::LosesMetadata, "what is committed can be read, with all that belongs to it"),
        (
            Flaw::NeverSendsAnybodyHome,
            "who is silent for longer than its session timeout is out, and the others are called",
        ),
        (Flaw::KeepsWhoLeaves, "who leaves is out, and the last one leaves the group empty"),
        (Flaw::WakesNobody, "a newcomer calls the others, and all are answered with one generation"),
        (Flaw::SleepsTooLong, "a tick comes back no later than something is due"),
        (Flaw::ForgetsTransactions, "what a transaction commits counts once it is committed"),
        (Flaw::ReadsWhatIsPending, "what a transaction commits counts once it is committed"),
        (
            Flaw::TakesNoNotesOfPlaces,
            "a successor takes a static member's place at once, and the group stays as it is",
        ),
    ];
    for (flaw, rule) in flaws {
        let failures = conformance::check(|| spoiled(GroupConfig::new(), Some(flaw)));
        assert!(failures.iter().any(|failure| failure.rule == rule), "{flaw:?}: {failures:#?}");
    }
}
