//! Who gets which partition: Kafka's four assignors, by the cases that Kafka's own tests pin and by what holds of any
//! group.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod plain;
mod properties;
mod sticky;
mod zombies;

use std::collections::{BTreeMap, BTreeSet};

use annals::format::consumer_protocol::{StickyUserData, Subscription};
use annals::group::{Assignor, CooperativeStickyAssignor, GroupMember, RebalanceProtocol, StickyAssignor};
use annals::{TopicName, TopicPartition};

/// Who has what.
type Assignment = BTreeMap<String, Vec<TopicPartition>>;

/// The two that keep things where they are.
const STICKY: [&dyn Assignor; 2] = [&StickyAssignor, &CooperativeStickyAssignor];

/// `t1-0 t2-3` as partitions.
fn partitions(text: &str) -> Vec<TopicPartition> {
    text.split_whitespace().map(|name| TopicPartition::from_dir_name(name).unwrap()).collect()
}

/// A group from one generation to the next.
#[derive(Debug, Clone)]
struct Group {
    topics: BTreeMap<TopicName, u32>,
    members: BTreeMap<String, GroupMember>,
    generation: i32,
}

impl Group {
    /// Of topics like `t1:3 t2:2`, without members.
    fn new(topics: &str) -> Self {
        let mut group = Group { topics: BTreeMap::new(), members: BTreeMap::new(), generation: 1 };
        group.topics(topics);
        group
    }

    fn topics(&mut self, topics: &str) {
        let topic = |text: &str| {
            let (name, partitions) = text.split_once(':').unwrap();
            (TopicName::new(name).unwrap(), partitions.parse().unwrap())
        };
        self.topics = topics.split_whitespace().map(topic).collect();
    }

    /// A member that wants topics like `t1 t2`; if it is there already, it changes its mind.
    fn join(&mut self, id: &str, topics: &str) -> &mut GroupMember {
        let topics = topics.split_whitespace().map(|name| TopicName::new(name).unwrap()).collect();
        let new = || GroupMember {
            member_id: id.to_owned(),
            instance_id: None,
            subscription: Subscription::default(),
        };
        let member = self.members.entry(id.to_owned()).or_insert_with(new);
        member.subscription.topics = topics;
        member
    }

    fn leave(&mut self, id: &str) {
        assert!(self.members.remove(id).is_some());
    }

    /// Makes a member say, in the way of either assignor, that it has partitions since a generation.
    fn claim(&mut self, id: &str, owned: Vec<TopicPartition>, generation: i32) {
        let subscription = &mut self.members.get_mut(id).unwrap().subscription;
        let data = StickyUserData { partitions: owned.clone(), generation };
        subscription.user_data = Some(data.encode().unwrap().into());
        subscription.owned = owned;
        subscription.generation = generation;
    }

    fn claims(&mut self, claims: &[(&str, &str, i32)]) {
        for &(id, owned, generation) in claims {
            self.claim(id, partitions(owned), generation);
        }
    }

    fn members(&self) -> Vec<GroupMember> {
        self.members.values().cloned().collect()
    }

    fn assign(&self, assignor: &dyn Assignor) -> Assignment {
        let members = self.members();
        let assignment = assignor.assign(&self.topics, &members);
        assert!(assignment.keys().eq(self.members.keys()), "each member is in the result, and nobody else");
        assert!(assignment.values().all(|list| list.is_sorted()), "{assignment:?}");
        assignment
    }

    /// What a member says it has.
    fn owned(&self, id: &str) -> BTreeSet<TopicPartition> {
        self.members[id].subscription.owned.iter().cloned().collect()
    }

    /// One generation: all get their assignment, and say so at the next one. Whether a member lost something, and so
    /// will have the group come together again if it is cooperative.
    fn generation(&mut self, assignor: &dyn Assignor) -> bool {
        let assignment = self.assign(assignor);
        if assignor.protocols().contains(&RebalanceProtocol::Cooperative) {
            self.check_nothing_is_taken(&assignment);
        }
        let mut lost = false;
        for (id, partitions) in assignment {
            lost |= !self.owned(&id).is_subset(&partitions.iter().cloned().collect());
            self.claim(&id, partitions, self.generation);
        }
        self.generation += 1;
        lost
    }

    /// As many generations as it takes; how many those were. The result is complete and balanced.
    fn rebalance(&mut self, assignor: &dyn Assignor) -> usize {
        let mut generations = 1;
        let cooperative = assignor.protocols().contains(&RebalanceProtocol::Cooperative);
        while self.generation(assignor) && cooperative {
            generations += 1;
            assert!(generations < 10, "it does not come to rest: {self:?}");
        }
        let assignment = self.assignment();
        self.check_complete(&assignment);
        self.check_balanced(&assignment);
        generations
    }

    /// What members say they have.
    fn assignment(&self) -> Assignment {
        self.members.iter().map(|(id, member)| (id.clone(), member.subscription.owned.clone())).collect()
    }

    /// Nobody gets what somebody else says is theirs, unless that one says so of an older generation.
    fn check_nothing_is_taken(&self, assignment: &Assignment) {
        for (id, partitions) in assignment {
            let own = self.owned(id);
            for partition in partitions {
                for (other, member) in self.members.iter().filter(|(other, _)| *other != id) {
                    let subscription = &member.subscription;
                    let older = subscription.generation < self.members[id].subscription.generation;
                    assert!(
                        !subscription.owned.contains(partition) || (older && own.contains(partition)),
                        "{id} gets {partition}, which {other} still has: {self:?}"
                    );
                }
            }
        }
    }

    /// Each partition of a topic that somebody wants has one owner, who wants it.
    fn check_complete(&self, assignment: &Assignment) {
        let mut wanted = BTreeSet::new();
        for (topic, &partitions) in &self.topics {
            if self.members.values().any(|member| member.subscription.topics.contains(topic)) {
                wanted.extend(
                    (0..partitions).map(|partition| TopicPartition { topic: topic.clone(), partition }),
                );
            }
        }
        for (id, partitions) in assignment {
            for partition in partitions {
                assert!(
                    self.members[id].subscription.topics.contains(&partition.topic),
                    "{id} does not want {partition}"
                );
                assert!(wanted.remove(partition), "{partition} has two owners, or does not exist");
            }
        }
        assert!(wanted.is_empty(), "nobody has {wanted:?}");
    }

    /// Nobody could give a partition to somebody that has two less; if all want the same, loads differ by one at most.
    fn check_balanced(&self, assignment: &Assignment) {
        for (id, partitions) in assignment {
            for (other, fewer) in assignment {
                let wants = &self.members[other].subscription.topics;
                let could = partitions.iter().any(|partition| wants.contains(&partition.topic));
                assert!(
                    !could || fewer.len() + 1 >= partitions.len(),
                    "{id} could give one to {other}: {assignment:?}"
                );
            }
        }
    }
}

/// Checks an assignment against a table of `(member, partitions)`.
#[track_caller]
fn assert_is(assignment: &Assignment, expected: &[(&str, &str)]) {
    let expected: Assignment = expected.iter().map(|&(id, text)| (id.to_owned(), partitions(text))).collect();
    assert_eq!(assignment, &expected);
}

/// How many partitions each member has, in the order of their ids.
fn loads(assignment: &Assignment) -> Vec<usize> {
    assignment.values().map(Vec::len).collect()
}
