//! Ten thousand rebalances: members join, leave, die, sleep and come back at random, and at every moment each partition
//! has one owner at most, no commit of an owner is lost, and none of another is taken.
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

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use annals::format::consumer_protocol::{Assignment, Subscription};
use annals::fs::{Call, Crash, Fault, When};
use annals::group::{
    Assigned, Assignor, CooperativeStickyAssignor, GroupConfig, GroupMember, GroupMetadata, GroupState,
    JoinRequest, Joined, OffsetAndMetadata, OffsetCommit, RangeAssignor, StickyAssignor, SyncRequest,
};
use annals::{Error, Reply, Store, TopicName, TopicPartition};

use common::*;
use logs::Machine;

const GROUP: &str = "g";
const CLIENTS_MAX: usize = 8;

/// Numbers that look like chance and are the same every time (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// What a client is doing.
enum Doing {
    Joining(Reply<Joined>),
    Syncing(Reply<Assigned>),
    Working,
}

/// A consumer as simple as one can be.
struct Client {
    name: usize,
    member: GroupMetadata,
    topics: Vec<TopicName>,
    doing: Doing,
    /// What it has, and how far it has come with each partition.
    owned: BTreeMap<TopicPartition, u64>,
    /// The generation in which it got that.
    owned_since: i32,
    /// What that was, for an assignor that asks although it has been given up.
    got: Vec<TopicPartition>,
    /// It does nothing before then, and does not know that time passes.
    asleep_until: Duration,
}

struct World {
    machine: Machine,
    store: Store,
    groups: Groups,
    assignor: Box<dyn Assignor>,
    cooperative: bool,
    topics: BTreeMap<TopicName, u32>,
    clients: Vec<Client>,
    chance: Chance,
    names: usize,
    /// The last commit that was taken, of each partition.
    taken: BTreeMap<TopicPartition, u64>,
    generations: i32,
    /// How often a commit was refused to who was not the owner any more.
    refused: usize,
    /// The clients are in processes of their own, and live on when that of the coordinator ends; and the disk fails.
    elsewhere: bool,
    /// Where a commit failed for the disk's sake: it is not to be seen, but may be there after a crash.
    in_doubt: BTreeSet<TopicPartition>,
    crashes: usize,
}

fn open(machine: &Machine) -> (Store, Groups) {
    let store = machine.open();
    let groups = store.groups_with(GroupConfig::new().offsets_partitions(1)).unwrap();
    (store, groups)
}

impl World {
    fn new(assignor: Box<dyn Assignor>, cooperative: bool, seed: u64) -> Self {
        let machine = Machine::new();
        let (store, groups) = open(&machine);
        let topics = [("a", 7), ("b", 4)].map(|(name, count)| (TopicName::new(name).unwrap(), count)).into();
        World {
            machine,
            store,
            groups,
            assignor,
            cooperative,
            topics,
            clients: Vec::new(),
            chance: Chance(seed),
            names: 0,
            taken: BTreeMap::new(),
            generations: 0,
            refused: 0,
            elsewhere: false,
            in_doubt: BTreeSet::new(),
            crashes: 0,
        }
    }

    fn now(&self) -> Duration {
        use annals::clock::Clock;
        self.machine.clock.monotonic()
    }

    fn request(&self, client: &Client) -> JoinRequest {
        let owned: Vec<TopicPartition> = client.owned.keys().cloned().collect();
        let subscription = Subscription {
            topics: client.topics.clone(),
            user_data: self.assignor.user_data(&client.got, client.owned_since),
            owned,
            generation: client.owned_since,
            ..Subscription::default()
        };
        let bytes = subscription.encode().unwrap();
        JoinRequest {
            member_id: client.member.member_id.clone(),
            instance_id: client.member.instance_id.clone(),
            client_id: format!("client-{}", client.name),
            client_host: if self.elsewhere { "elsewhere" } else { JoinRequest::IN_PROCESS }.into(),
            // Shorter than a session: who sleeps is late before it is taken for dead.
            rebalance_timeout: SESSION / 2,
            protocols: vec![(self.assignor.name().to_owned(), bytes.into())],
            ..request(GROUP)
        }
    }

    fn start_client(&mut self, instance_id: Option<String>) {
        let name = self.names;
        self.names += 1;
        let all: Vec<TopicName> = self.topics.keys().cloned().collect();
        // Most want all topics, some only one.
        let topics = if self.chance.one_in(4) { all[..1].to_vec() } else { all };
        let mut client = Client {
            name,
            member: GroupMetadata { instance_id, ..GroupMetadata::simple(GROUP) },
            topics,
            doing: Doing::Working,
            owned: BTreeMap::new(),
            owned_since: -1,
            got: Vec::new(),
            asleep_until: Duration::ZERO,
        };
        client.doing = Doing::Joining(self.groups.join(self.request(&client)));
        self.clients.push(client);
    }

    /// Lets a client do what it would do next.
    fn poll(&mut self, index: usize) {
        let mut client = self.clients.swap_remove(index);
        if client.asleep_until <= self.now() {
            self.act(&mut client);
        }
        self.clients.push(client);
    }

    fn act(&mut self, client: &mut Client) {
        match &mut client.doing {
            Doing::Joining(reply) => match poll(reply) {
                None => {}
                Some(Ok(joined)) => self.joined(client, &joined),
                Some(Err(error)) => self.failed(client, &outcome::<()>(Err(error))),
            },
            Doing::Syncing(reply) => match poll(reply) {
                None => {}
                Some(Ok(assigned)) => self.assigned(client, &assigned),
                Some(Err(error)) => self.failed(client, &outcome::<()>(Err(error))),
            },
            Doing::Working => {
                self.work(client);
                if let Err(error) = self.groups.heartbeat(&client.member) {
                    self.failed(client, &outcome::<()>(Err(error)));
                }
            }
        }
    }

    fn joined(&mut self, client: &mut Client, joined: &Joined) {
        client.member.member_id.clone_from(&joined.member_id);
        client.member.generation = joined.generation;
        self.generations = self.generations.max(joined.generation);
        let leads = joined.leader == joined.member_id && !joined.skip_assignment;
        let assignments = if leads { self.assign(joined) } else { Vec::new() };
        client.doing =
            Doing::Syncing(self.groups.sync(SyncRequest { member: client.member.clone(), assignments }));
    }

    fn assign(&self, joined: &Joined) -> Vec<(String, bytes::Bytes)> {
        let members: Vec<GroupMember> = joined
            .members
            .iter()
            .map(|member| GroupMember {
                member_id: member.member_id.clone(),
                instance_id: member.instance_id.clone(),
                subscription: Subscription::decode(&member.metadata).unwrap(),
            })
            .collect();
        let shares = self.assignor.assign(&self.topics, &members).into_iter();
        let encode = |partitions| Assignment { partitions, ..Assignment::default() }.encode().unwrap().into();
        shares.map(|(member_id, partitions)| (member_id, encode(partitions))).collect()
    }

    fn assigned(&mut self, client: &mut Client, assigned: &Assigned) {
        client.doing = Doing::Working;
        let share = Assignment::decode(&assigned.assignment).map(|it| it.partitions).unwrap_or_default();
        let share: BTreeSet<TopicPartition> = share.into_iter().collect();
        let before = client.owned.len();
        client.owned.retain(|partition, _| share.contains(partition));
        let gave_up = client.owned.len() < before;
        let new: Vec<TopicPartition> =
            share.into_iter().filter(|partition| !client.owned.contains_key(partition)).collect();
        let committed = self.groups.committed(GROUP, Some(&new), false).unwrap();
        for partition in new {
            let offset = committed.get(&partition).map_or(0, |committed| committed.offset);
            let taken = self.taken.get(&partition).copied().unwrap_or(0);
            assert_eq!(offset, taken, "client {} begins with {partition}", client.name);
            client.owned.insert(partition, offset);
        }
        client.owned_since = client.member.generation;
        client.got = client.owned.keys().cloned().collect();
        if self.cooperative && gave_up {
            // For another to get it.
            client.doing = Doing::Joining(self.groups.join(self.request(client)));
        }
    }

    /// Something says that the client must join again; whether it may keep what it has depends on what that is.
    fn failed(&mut self, client: &mut Client, error: &str) {
        match error {
            "RebalanceInProgress" => {
                if !self.cooperative {
                    self.work(client);
                    client.owned.clear();
                }
            }
            "IllegalGeneration" | "Closed" => client.owned.clear(),
            "UnknownMember" => {
                client.owned.clear();
                client.member.member_id.clear();
                client.member.generation = -1;
            }
            // Another has its place; it ends.
            "FencedInstance" => {
                client.owned.clear();
                client.member = GroupMetadata::simple(GROUP);
            }
            // It leads, and what it brought could not be written down.
            "Io" | "StorageFull" | "Poisoned" if self.elsewhere => {}
            other => panic!("client {}: {other}", client.name),
        }
        client.doing = Doing::Joining(self.groups.join(self.request(client)));
    }

    /// Goes on a little in every partition that it believes to have, and commits that.
    fn work(&mut self, client: &mut Client) {
        let commits: Vec<OffsetCommit> = client
            .owned
            .iter()
            .map(|(partition, offset)| OffsetCommit {
                partition: partition.clone(),
                position: OffsetAndMetadata::new(offset + 1),
            })
            .collect();
        if commits.is_empty() {
            return;
        }
        match self.groups.commit(&client.member, &commits) {
            Ok(()) => {
                for commit in commits {
                    let offset = commit.position.offset;
                    let before = self.taken.insert(commit.partition.clone(), offset).unwrap_or(0);
                    assert_eq!(before + 1, offset, "client {} commits {}", client.name, commit.partition);
                    self.in_doubt.remove(&commit.partition);
                    client.owned.insert(commit.partition, offset);
                }
            }
            // What was done and could not be committed is done again, by whoever has it then.
            Err(Error::RebalanceInProgress { .. }) => {}
            Err(Error::Io { .. } | Error::StorageFull { .. } | Error::Poisoned { .. }) if self.elsewhere => {
                self.in_doubt.extend(commits.into_iter().map(|commit| commit.partition));
            }
            Err(_) => self.refused += 1,
        }
    }

    /// What the members of the current generation believe to have is theirs alone.
    fn check_owners(&self) {
        let Ok(described) = self.groups.describe(GROUP) else { return };
        let mut owners: BTreeMap<&TopicPartition, usize> = BTreeMap::new();
        for client in &self.clients {
            let known = described.members.iter().any(|member| member.member_id == client.member.member_id);
            if !known || client.member.generation != described.generation {
                continue;
            }
            for partition in client.owned.keys() {
                if let Some(other) = owners.insert(partition, client.name) {
                    panic!("{partition} belongs to clients {other} and {}", client.name);
                }
            }
        }
        // And so says the coordinator.
        let mut assigned = BTreeSet::new();
        for member in described.members {
            let share = Assignment::decode(&member.assignment).map(|it| it.partitions).unwrap_or_default();
            for partition in share {
                assert!(assigned.insert(partition.clone()), "{partition} is assigned twice");
            }
        }
    }

    /// Something happens.
    fn disturb(&mut self) {
        let place = |chance: &mut Chance| chance.one_in(3).then(|| format!("place-{}", chance.below(3)));
        match self.chance.below(8) {
            0..=2 if self.clients.len() < CLIENTS_MAX => {
                let instance_id = place(&mut self.chance);
                self.start_client(instance_id);
            }
            3 if !self.clients.is_empty() => {
                let index = self.chance.below(self.clients.len());
                let client = self.clients.swap_remove(index);
                let keep = self.chance.one_in(2).then_some(SESSION);
                let _ = self.groups.leave(&client.member, keep);
            }
            // It dies without a word.
            4 if !self.clients.is_empty() => {
                let index = self.chance.below(self.clients.len());
                self.clients.swap_remove(index);
            }
            // It sleeps for so long that it may be taken for dead, and wakes up with what it had.
            5 if !self.clients.is_empty() => {
                let index = self.chance.below(self.clients.len());
                let nap = Duration::from_secs(self.chance.below(20) as u64);
                self.clients[index].asleep_until = self.now() + nap;
            }
            6 => self.machine.clock.advance(Duration::from_millis(self.chance.below(5_000) as u64)),
            _ if self.chance.one_in(200) => self.crash(),
            _ if self.elsewhere => self.trouble(),
            _ => {}
        }
    }

    /// The disk is full, has room again, or fails.
    fn trouble(&mut self) {
        let disk = &self.machine.disk;
        match self.chance.below(6) {
            0 => disk.set_capacity(Some(disk.used() + self.chance.below(2_000) as u64)),
            1..=3 => disk.set_capacity(None),
            _ => {
                let call = [Call::Write, Call::Sync][self.chance.below(2)];
                let fault = [Fault::Error(5), Fault::Late(5), Fault::Forget][self.chance.below(3)];
                disk.fail(When::next().of(&[call]).under("__consumer_offsets-0"), fault);
            }
        }
    }

    /// The process ends, with all clients in it.
    fn crash(&mut self) {
        self.crashes += 1;
        if !self.elsewhere {
            self.clients.clear();
        }
        let seed = self.chance.below(1000) as u64;
        let disk = self.machine.disk.crash(Crash::PowerCut { seed });
        self.machine = Machine { disk, clock: std::sync::Arc::clone(&self.machine.clock) };
        (self.store, self.groups) = open(&self.machine);
        let found = self.groups.committed(GROUP, None, false).unwrap();
        let found: BTreeMap<TopicPartition, u64> =
            found.into_iter().map(|(partition, committed)| (partition, committed.offset)).collect();
        for partition in std::mem::take(&mut self.in_doubt) {
            let taken = self.taken.get(&partition).copied().unwrap_or(0);
            if found.get(&partition) == Some(&(taken + 1)) {
                // Whoever did that goes on from there.
                let owned = self.clients.iter_mut().filter_map(|client| client.owned.get_mut(&partition));
                owned.filter(|offset| **offset == taken).for_each(|offset| *offset += 1);
                self.taken.insert(partition, taken + 1);
            }
        }
        assert_eq!(found, self.taken, "after a power cut");
    }

    fn poll_all(&mut self) {
        for _ in 0..self.clients.len() {
            // Whoever was polled goes to the end.
            let index = self.chance.below(self.clients.len());
            self.poll(index);
        }
        assert!(self.groups.tick().is_ok() || self.elsewhere);
        self.check_owners();
    }

    /// Nothing happens any more, and in the end everybody has something to do and everything is somebody's.
    fn settle(&mut self) {
        self.machine.disk.set_capacity(None);
        if self.clients.is_empty() {
            self.start_client(None);
        }
        // One at least wants everything.
        self.clients[0].topics = self.topics.keys().cloned().collect();
        for _ in 0..2_000 {
            self.machine.clock.advance(Duration::from_millis(100));
            self.poll_all();
        }
        let described = self.groups.describe(GROUP).unwrap();
        assert_eq!(described.state, GroupState::Stable);
        assert_eq!(described.members.len(), self.clients.len());
        let owned: BTreeSet<&TopicPartition> =
            self.clients.iter().flat_map(|client| client.owned.keys()).collect();
        let count: usize = self.clients.iter().map(|client| client.owned.len()).sum();
        assert_eq!((count, owned.len()), (11, 11), "each partition has one owner");
    }
}

fn run(assignor: Box<dyn Assignor>, cooperative: bool, rebalances: i32, seed: u64) {
    run_in(World::new(assignor, cooperative, seed), rebalances);
}

fn run_in(mut world: World, rebalances: i32) {
    while world.generations < rebalances {
        world.disturb();
        let passes = world.chance.below(4);
        for _ in 0..passes {
            world.poll_all();
        }
    }
    world.settle();
    assert!(world.crashes > 0);
    assert!(world.refused > 0, "nobody ever spoke for what was not his any more");
    assert!(world.taken.len() == 11 && world.taken.values().all(|offset| *offset > 100));
}

#[test]
fn of_eager_members() {
    run(Box::new(RangeAssignor), false, 4_000, 0x9e37_79b9_7f4a_7c15);
}

#[test]
fn of_eager_members_who_keep_what_they_can() {
    run(Box::new(StickyAssignor), false, 3_000, 0x2545_f491_4f6c_dd1d);
}

#[test]
fn of_cooperative_members() {
    run(Box::new(CooperativeStickyAssignor), true, 3_000, 0xbf58_476d_1ce4_e5b9);
}

#[test]
fn of_members_elsewhere_and_a_disk_that_fails() {
    let mut world = World::new(Box::new(CooperativeStickyAssignor), true, 0x94d0_49bb_1331_11eb);
    world.elsewhere = true;
    run_in(world, 2_000);
}

#[test]
fn of_eager_members_elsewhere_and_a_disk_that_fails() {
    let mut world = World::new(Box::new(RangeAssignor), false, 0x14c2_ca6a_f034_a9c1);
    world.elsewhere = true;
    run_in(world, 2_000);
}
