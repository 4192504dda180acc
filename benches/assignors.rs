//! How long an assignment takes: 1,000 members, 10,000 partitions, each assignor; at first, after a member left, and
//! where one member has everything as the others join. In some groups all members want the same topics, few large ones
//! or many small ones; in others nearly each wants something else.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark, not a library")]

use std::collections::BTreeMap;

use annals::format::consumer_protocol::Subscription;
use annals::group::{
    Assignor, CooperativeStickyAssignor, GroupMember, RangeAssignor, RoundRobinAssignor, StickyAssignor,
};
use annals::{TopicName, TopicPartition};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const MEMBERS: usize = 1_000;
const PARTITIONS: u32 = 10_000;

fn topic(number: u32) -> TopicName {
    TopicName::new(format!("topic-{number:05}")).unwrap()
}

fn topics(count: u32) -> BTreeMap<TopicName, u32> {
    (0..count).map(|number| (topic(number), PARTITIONS / count)).collect()
}

/// Members, each of which wants every topic of which `wants` says so.
fn members(topics: u32, wants: impl Fn(usize, u32) -> bool) -> Vec<GroupMember> {
    let member = |number: usize| GroupMember {
        member_id: format!("consumer-{number:05}"),
        instance_id: None,
        subscription: Subscription {
            // Names of their own, as they come from the wire.
            topics: (0..topics).filter(|&topic| wants(number, topic)).map(topic).collect(),
            ..Subscription::default()
        },
    };
    (0..MEMBERS).map(member).collect()
}

/// Members as they join the next generation.
fn next(assignor: &dyn Assignor, members: &[GroupMember], had: &Had) -> Vec<GroupMember> {
    let mut members = members.to_vec();
    for member in &mut members {
        let owned = had.get(&member.member_id).cloned().unwrap_or_default();
        member.subscription.user_data = assignor.user_data(&owned, 1);
        member.subscription.owned = owned;
        member.subscription.generation = 1;
    }
    members
}

type Had = BTreeMap<String, Vec<TopicPartition>>;

fn assignors(criterion: &mut Criterion) {
    let scattered = |member: usize, topic: u32| (member * 31 + topic as usize * 17) % 7 < 3 || topic == 0;
    let groups = [
        ("alike, 100 topics", 100, members(100, |_, _| true)),
        ("alike, 10000 topics", 10_000, members(10_000, |_, _| true)),
        (
            "different, 100 topics",
            100,
            members(100, |member, topic| scattered(member, topic) || topic as usize == member / 10),
        ),
        (
            "different, 2000 topics",
            2_000,
            members(2_000, |member, topic| scattered(member, topic) || topic as usize == member),
        ),
    ];
    let all: [&dyn Assignor; 4] =
        [&RangeAssignor, &RoundRobinAssignor, &StickyAssignor, &CooperativeStickyAssignor];
    for (name, count, members) in &groups {
        let topics = topics(*count);
        let mut group = criterion.benchmark_group(*name);
        group.sample_size(10);
        for assignor in all {
            let mut measure = |what: &str, members: &[GroupMember]| {
                group.bench_function(BenchmarkId::new(assignor.name(), what), |bencher| {
                    bencher.iter(|| assignor.assign(&topics, members));
                });
            };
            measure("first", members);
            let had = assignor.assign(&topics, members);
            measure("one left", &next(assignor, &members[1..], &had));
            let alone = assignor.assign(&topics, &members[..1]);
            measure("all but one join", &next(assignor, members, &alone));
        }
    }
}

criterion_group!(benches, assignors);
criterion_main!(benches);
