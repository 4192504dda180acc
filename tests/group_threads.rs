//! Groups under real threads: members join, commit, leave and come back side by side, and nobody steps on anybody.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/groups.rs"]
mod common;
#[path = "common/logs.rs"]
mod logs;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use annals::group::{
    GroupConfig, GroupMetadata, GroupState, JoinRequest, Joined, OffsetAndMetadata, OffsetCommit, SyncRequest,
};
use annals::{Error, Result, TopicPartition};
use bytes::Bytes;

use common::*;
use logs::Machine;

const THREADS: usize = 8;
const PARTITIONS: usize = 12;
const ROUNDS: usize = 400;
/// Longer than anything takes that comes to an end.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// What all threads see: who has each partition (0 is nobody), and how far it is committed at least.
#[derive(Default)]
struct Table {
    owners: [AtomicUsize; PARTITIONS],
    committed: [AtomicU64; PARTITIONS],
    commits: AtomicUsize,
    generations: AtomicUsize,
}

struct Worker<'a> {
    number: usize,
    groups: &'a Groups,
    table: &'a Table,
    member: GroupMetadata,
    owned: Vec<(usize, u64)>,
}

fn partition(number: usize) -> TopicPartition {
    tp(&format!("t-{number}"))
}

impl Worker<'_> {
    /// Joins, and gets its share.
    fn join(&mut self) -> Result<()> {
        self.release();
        let request = JoinRequest { member_id: self.member.member_id.clone(), ..request("g") };
        let joined = self.groups.join(request).wait(FOREVER)?;
        self.member = member("g", &joined);
        let assignments = if joined.leader == joined.member_id { share(&joined) } else { Vec::new() };
        let assigned =
            self.groups.sync(SyncRequest { member: self.member.clone(), assignments }).wait(FOREVER)?;
        self.table.generations.fetch_max(joined.generation as usize, Ordering::SeqCst);
        // A heartbeat that goes well says that the generation is still the current one; then all this is its own.
        let numbers: Vec<usize> = assigned.assignment.iter().map(|number| usize::from(*number)).collect();
        for number in numbers {
            let before = self.table.owners[number].swap(self.number, Ordering::SeqCst);
            assert_eq!(before, 0, "partition {number} is of worker {before}, and goes to {}", self.number);
            let least = self.table.committed[number].load(Ordering::SeqCst);
            let read = self.groups.committed("g", Some(&[partition(number)]), true)?;
            let offset = read.get(&partition(number)).map_or(0, |committed| committed.offset);
            assert!(offset >= least, "partition {number} went back from {least} to {offset}");
            self.owned.push((number, offset));
        }
        Ok(())
    }

    fn release(&mut self) {
        for (number, _) in self.owned.drain(..) {
            let before = self.table.owners[number].swap(0, Ordering::SeqCst);
            assert_eq!(before, self.number, "partition {number} was taken away");
        }
    }

    fn work(&mut self) -> Result<()> {
        self.groups.heartbeat(&self.member)?;
        let commits: Vec<OffsetCommit> = self
            .owned
            .iter()
            .map(|(number, offset)| OffsetCommit {
                partition: partition(*number),
                position: OffsetAndMetadata::new(offset + 1),
            })
            .collect();
        self.groups.commit(&self.member, &commits)?;
        self.table.commits.fetch_add(1, Ordering::SeqCst);
        for (number, offset) in &mut self.owned {
            *offset += 1;
            self.table.committed[*number].fetch_max(*offset, Ordering::SeqCst);
        }
        Ok(())
    }

    fn run(&mut self) {
        for round in 0..ROUNDS {
            if self.member.generation < 0 || self.work().is_err() {
                while let Err(error) = self.join() {
                    match error {
                        Error::RebalanceInProgress { .. } | Error::IllegalGeneration { .. } => {}
                        other => panic!("worker {}: {other}", self.number),
                    }
                }
            }
            // Now and then one leaves, and comes back as another.
            if round % 32 == self.number {
                self.leave();
            }
        }
        self.leave();
    }

    fn leave(&mut self) {
        self.release();
        if self.member.generation >= 0 {
            self.groups.leave(&self.member, None).unwrap();
        }
        self.member = GroupMetadata::simple("g");
    }
}

/// Every partition to one of the members, in turn.
fn share(joined: &Joined) -> Vec<(String, Bytes)> {
    let count = joined.members.len();
    let of = |index: usize| {
        (0..PARTITIONS).filter(move |number| number % count == index).map(|number| number as u8)
    };
    let members = joined.members.iter().enumerate();
    members.map(|(index, member)| (member.member_id.clone(), of(index).collect())).collect()
}

#[test]
fn eight_members_of_one_group() {
    let machine = Machine::new();
    let store = machine.open();
    let groups = store.groups_with(GroupConfig::new().offsets_partitions(1)).unwrap();
    let table = Table::default();
    std::thread::scope(|scope| {
        for number in 1..=THREADS {
            let (groups, table) = (&groups, &table);
            scope.spawn(move || {
                let member = GroupMetadata::simple("g");
                Worker { number, groups, table, member, owned: Vec::new() }.run();
            });
        }
    });
    let (commits, generations) =
        (table.commits.load(Ordering::SeqCst), table.generations.load(Ordering::SeqCst));
    assert!(commits > 10 && generations > 10, "{commits} commits in {generations} generations");
    let described = groups.describe("g").unwrap();
    assert_eq!((described.state, described.members.len()), (GroupState::Empty, 0));
    let (_store, later) = {
        let store = machine.cut_off().open();
        let groups = store.groups().unwrap();
        (store, groups)
    };
    for groups in [&groups, &later] {
        let read = committed(groups, "g");
        for (number, least) in table.committed.iter().enumerate() {
            let least = least.load(Ordering::SeqCst);
            assert_eq!(read.get(&format!("t-{number}")).copied().unwrap_or(0), least, "partition {number}");
        }
    }
    assert_eq!(later.describe("g").unwrap(), described);
}

#[test]
fn groups_come_and_go_under_the_eyes_of_others() {
    let machine = Machine::new();
    let store = machine.open();
    let groups = store.groups_with(GroupConfig::new().offsets_partitions(2)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let groups = &groups;
            scope.spawn(move || {
                let simple = GroupMetadata::simple("shared");
                for round in 1..=50 {
                    // A group that somebody deletes is begun again.
                    groups.commit(&simple, &[at(&format!("t-{thread}"), round)]).unwrap();
                    match groups.delete("shared") {
                        Ok(()) | Err(Error::UnknownGroup { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    let own = format!("own-{thread}");
                    stable(groups, &own, 1);
                    let member = groups.describe(&own).unwrap();
                    let leaving = GroupMetadata {
                        member_id: member.members[0].member_id.clone(),
                        generation: member.generation,
                        ..GroupMetadata::simple(&own)
                    };
                    groups.commit(&leaving, &[at("t-0", round)]).unwrap();
                    groups.list().unwrap();
                    groups.tick().unwrap();
                    groups.leave(&leaving, None).unwrap();
                    assert_eq!(committed(groups, &own)["t-0"], round);
                    if round % 10 == 0 {
                        groups.delete(&own).unwrap();
                    }
                }
            });
        }
    });
    // What is in memory is what the log says.
    let later = machine.cut_off().open();
    let later_groups = later.groups().unwrap();
    assert_eq!(later_groups.list().unwrap(), groups.list().unwrap());
    assert_eq!(committed(&later_groups, "shared"), committed(&groups, "shared"));
}
