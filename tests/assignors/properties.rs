//! What holds of any group.

use std::collections::{BTreeMap, BTreeSet};

use annals::group::{
    Assignor, CooperativeStickyAssignor, GroupMember, RangeAssignor, RoundRobinAssignor, StickyAssignor,
};
use annals::{TopicName, TopicPartition};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::{Assignment, Group, STICKY, loads};

const ALL: [&dyn Assignor; 4] =
    [&RangeAssignor, &RoundRobinAssignor, &StickyAssignor, &CooperativeStickyAssignor];

fn topic(number: usize) -> TopicName {
    TopicName::new(format!("t{number}")).unwrap()
}

/// Topics of a few partitions, some of none.
fn any_topics() -> impl Strategy<Value = BTreeMap<TopicName, u32>> {
    btree_map((0..8usize).prop_map(topic), 0..9u32, 0..8)
}

/// What a member wants: some topics, of which not all exist.
fn any_wanted() -> impl Strategy<Value = Vec<TopicName>> {
    btree_set(0..9usize, 0..7).prop_map(|numbers| numbers.into_iter().map(topic).collect())
}

/// A group whose members want the same, or different topics.
fn any_group(members: usize, alike: bool) -> BoxedStrategy<Group> {
    let ids = btree_map("[a-d]{1,3}", (option::of("[a-d]{1,2}"), any_wanted()), 1..=members);
    (any_topics(), ids, any_wanted())
        .prop_map(move |(topics, ids, same)| {
            let mut group = Group { topics, members: BTreeMap::new(), generation: 1 };
            for (id, (instance, wanted)) in ids {
                let member = group.join(&id, "");
                member.subscription.topics = if alike { same.clone() } else { wanted };
                member.instance_id = instance;
            }
            group
        })
        .boxed()
}

fn group(alike: bool) -> BoxedStrategy<Group> {
    any_group(9, alike)
}

/// A claim of each member: some partitions, of which not all exist, and a generation.
fn any_claims() -> impl Strategy<Value = Vec<(Vec<TopicPartition>, i32)>> {
    let partition = (0..9usize, 0..10u32);
    let owned = btree_set(partition, 0..12).prop_map(|set| {
        set.into_iter()
            .map(|(number, partition)| TopicPartition { topic: topic(number), partition })
            .collect()
    });
    vec((owned, 0..4), 9)
}

fn claim(group: &mut Group, claims: Vec<(Vec<TopicPartition>, i32)>) {
    let ids: Vec<String> = group.members.keys().cloned().collect();
    for (id, (owned, generation)) in ids.iter().zip(claims) {
        group.claim(id, owned, generation);
    }
    group.generation = 5;
}

/// Members in the order in which assignors take them.
fn in_order(group: &Group) -> Vec<&GroupMember> {
    let mut members: Vec<_> = group.members.values().collect();
    members.sort_by_key(|member| (member.instance_id.is_none(), &member.instance_id, &member.member_id));
    members
}

fn with_nothing(group: &Group) -> Assignment {
    group.members.keys().map(|id| (id.clone(), Vec::new())).collect()
}

/// `range`, word by word.
fn model_of_range(group: &Group) -> Assignment {
    let mut assignment = with_nothing(group);
    for (topic, &partitions) in &group.topics {
        let mut wanting = in_order(group);
        wanting.retain(|member| member.subscription.topics.contains(topic));
        let mut partition = 0;
        for (place, member) in wanting.iter().enumerate() {
            let count = wanting.len() as u32;
            let block = partitions / count + u32::from((place as u32) < partitions % count);
            for _ in 0..block {
                let next = TopicPartition { topic: topic.clone(), partition };
                assignment.get_mut(&member.member_id).unwrap().push(next);
                partition += 1;
            }
        }
    }
    assignment
}

/// `roundrobin`, word by word.
fn model_of_round_robin(group: &Group) -> Assignment {
    let mut assignment = with_nothing(group);
    let members = in_order(group);
    let mut turn = members.iter().cycle();
    for (topic, &partitions) in &group.topics {
        if !members.iter().any(|member| member.subscription.topics.contains(topic)) {
            continue;
        }
        for partition in 0..partitions {
            let member = turn.find(|member| member.subscription.topics.contains(topic)).unwrap();
            let next = TopicPartition { topic: topic.clone(), partition };
            assignment.get_mut(&member.member_id).unwrap().push(next);
        }
    }
    assignment
}

/// What every member has a better right to than anybody else, of what it still wants.
fn rights(group: &Group) -> BTreeMap<String, BTreeSet<TopicPartition>> {
    let mut rights: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for (id, member) in &group.members {
        let generation = member.subscription.generation;
        let held = group.owned(id).into_iter().filter(|partition| {
            let exists = group.topics.get(&partition.topic).is_some_and(|&count| partition.partition < count);
            let wanted = |member: &GroupMember| member.subscription.topics.contains(&partition.topic);
            let best = group.members.iter().all(|(other, rival)| {
                let weaker = rival.subscription.generation < generation;
                other == id || weaker || !wanted(rival) || !group.owned(other).contains(partition)
            });
            exists && best && wanted(member)
        });
        rights.insert(id.clone(), held.collect());
    }
    rights
}

/// How many partitions can stay at most if all want the same and get equal shares.
fn most_kept(rights: &BTreeMap<String, BTreeSet<TopicPartition>>, partitions: usize) -> usize {
    let (share, extras) = (partitions / rights.len(), partitions % rights.len());
    let more = rights.values().filter(|held| held.len() > share).count().min(extras);
    rights.values().map(|held| held.len().min(share)).sum::<usize>() + more
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn plain_assignors_follow_their_models(group in prop_oneof![group(true), group(false)]) {
        prop_assert_eq!(group.assign(&RangeAssignor), model_of_range(&group));
        prop_assert_eq!(group.assign(&RoundRobinAssignor), model_of_round_robin(&group));
        for assignor in [&RangeAssignor as &dyn Assignor, &RoundRobinAssignor] {
            group.check_complete(&group.assign(assignor));
        }
    }

    #[test]
    fn the_order_of_members_means_nothing(
        group in prop_oneof![group(true), group(false)],
        claims in any_claims(),
        order in any::<[u8; 9]>(),
    ) {
        let mut group = group;
        claim(&mut group, claims);
        let mut shuffled: Vec<(u8, GroupMember)> = order.into_iter().zip(group.members()).collect();
        shuffled.sort_by_key(|(place, _)| *place);
        let shuffled: Vec<GroupMember> = shuffled.into_iter().map(|(_, member)| member).collect();
        for assignor in ALL {
            prop_assert_eq!(assignor.assign(&group.topics, &shuffled), group.assign(assignor));
        }
    }

    #[test]
    fn what_anybody_claims_the_result_is_complete_and_balanced(
        group in prop_oneof![group(true), group(false)],
        claims in any_claims(),
    ) {
        let mut group = group;
        claim(&mut group, claims);
        // A generation of the eager one is complete at once; the other one checks that nothing is taken.
        let eager = group.assign(&StickyAssignor);
        group.check_complete(&eager);
        group.check_balanced(&eager);
        for assignor in STICKY {
            prop_assert!(group.clone().rebalance(assignor) <= 4);
        }
    }

    #[test]
    fn if_all_want_the_same_shares_are_equal_and_as_much_stays_as_can(
        group in group(true),
        claims in any_claims(),
    ) {
        let mut group = group;
        claim(&mut group, claims);
        let rights = rights(&group);
        let assignment = group.assign(&StickyAssignor);
        let loads = loads(&assignment);
        prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
        let kept = |(id, list): (&String, &Vec<TopicPartition>)| {
            list.iter().filter(|partition| rights[id].contains(partition)).count()
        };
        let partitions = loads.iter().sum();
        prop_assert_eq!(assignment.iter().map(kept).sum::<usize>(), most_kept(&rights, partitions));
        // Cooperative members get the same, but in two steps at most.
        let mut cooperative = group.clone();
        prop_assert!(cooperative.rebalance(&CooperativeStickyAssignor) <= 2);
    }

    #[test]
    fn cooperative_members_come_to_rest_however_often_they_change_their_minds(
        group in group(false),
        claims in any_claims(),
        changes in vec((vec(any_wanted(), 9), any_topics()), 1..4),
    ) {
        // Kafka's own tests allow its assignor one more. Here, more than two are rare, and more than three were not
        // found among millions of groups.
        let mut group = group;
        claim(&mut group, claims);
        for (minds, topics) in changes {
            let ids: Vec<String> = group.members.keys().cloned().collect();
            for (id, wanted) in ids.iter().zip(minds).step_by(2) {
                group.join(id, "").subscription.topics = wanted;
            }
            group.topics.extend(topics);
            prop_assert!(group.rebalance(&CooperativeStickyAssignor) <= 4);
        }
    }

    #[test]
    fn nothing_moves_if_nothing_changes(group in prop_oneof![group(true), group(false)]) {
        for assignor in STICKY {
            let mut group = group.clone();
            group.rebalance(assignor);
            let before = group.assignment();
            prop_assert_eq!(group.rebalance(assignor), 1);
            prop_assert_eq!(group.assignment(), before);
        }
    }

    #[test]
    fn whoever_stays_keeps_all_as_another_leaves(group in group(true), leaver: prop::sample::Index) {
        for assignor in STICKY {
            let mut group = group.clone();
            group.rebalance(assignor);
            let before = group.clone();
            let id = leaver.get(&group.members()).member_id.clone();
            group.leave(&id);
            if group.members.is_empty() {
                continue;
            }
            prop_assert_eq!(group.rebalance(assignor), 1);
            for id in group.members.keys() {
                prop_assert!(group.owned(id).is_superset(&before.owned(id)), "{}", id);
            }
        }
    }

    #[test]
    fn nobody_but_a_newcomer_gains(group in group(true)) {
        for assignor in STICKY {
            let mut group = group.clone();
            group.rebalance(assignor);
            let before = group.clone();
            let wanted = group.members().remove(0).subscription.topics;
            group.join("new", "").subscription.topics = wanted;
            prop_assert!(group.rebalance(assignor) <= 2);
            for id in before.members.keys() {
                prop_assert!(group.owned(id).is_subset(&before.owned(id)), "{}", id);
            }
        }
    }

    #[test]
    fn nobody_gives_up_a_partition_of_a_topic_and_gets_another_of_it(
        group in group(false),
        minds in vec(any_wanted(), 9),
        leaver: prop::sample::Index,
    ) {
        // Cooperative members may in the end, as each generation is planned anew.
        let mut group = group;
        group.rebalance(&StickyAssignor);
        let before = group.clone();
        let ids: Vec<String> = group.members.keys().cloned().collect();
        for (id, wanted) in ids.iter().zip(&minds).step_by(3) {
            group.join(id, "").subscription.topics = wanted.clone();
        }
        if ids.len() > 1 {
            let leaver: &String = leaver.get(&ids);
            group.leave(leaver);
        }
        group.rebalance(&StickyAssignor);
        for (id, member) in &group.members {
            let (had, has) = (before.owned(id), group.owned(id));
            let topics = |set: BTreeSet<TopicPartition>| -> BTreeSet<TopicName> {
                set.into_iter().map(|partition| partition.topic).collect()
            };
            let (lost, gained) = (topics(&had - &has), topics(&has - &had));
            prop_assert!(lost.is_disjoint(&gained), "{}: {:?} to {:?}", id, had, has);
            let wanted: BTreeSet<_> = member.subscription.topics.iter().cloned().collect();
            prop_assert!(gained.is_subset(&wanted));
        }
    }

    #[test]
    fn members_that_want_other_topics_are_left_alone(
        group in group(false),
        other in group(true),
        leaver: prop::sample::Index,
    ) {
        // Two groups in one, that have no topic in common.
        for assignor in STICKY {
            let mut group = group.clone();
            let rename = |topic: &TopicName| TopicName::new(format!("other-{topic}")).unwrap();
            for (topic, &partitions) in &other.topics {
                group.topics.insert(rename(topic), partitions);
            }
            for (id, member) in &other.members {
                let wanted = member.subscription.topics.iter().map(rename).collect();
                group.join(&format!("other-{id}"), "").subscription.topics = wanted;
            }
            group.rebalance(assignor);
            let before = group.clone();
            let ids: Vec<&String> = other.members.keys().collect();
            group.leave(&format!("other-{}", leaver.get(&ids)));
            group.rebalance(assignor);
            for id in group.members.keys().filter(|id| !id.starts_with("other-")) {
                prop_assert_eq!(group.owned(id), before.owned(id));
            }
        }
    }
}
