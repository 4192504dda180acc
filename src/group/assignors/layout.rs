//! A group in numbers, for assignors: its members in order, the topics that they want, and all partitions of those in
//! a row.

use std::collections::{BTreeMap, HashMap};

use crate::group::GroupMember;
use crate::types::{TopicName, TopicPartition};

/// A group and its topics. Members, topics and partitions go by their places in a row: of members in order (static
/// ones by instance id, then the others by member id), of topics by name, of partitions by topic and number.
pub(super) struct Layout<'a> {
    pub(super) members: Vec<&'a GroupMember>,
    pub(super) topics: Vec<Topic<'a>>,
    /// Members that want the same topics; mostly there is one class.
    pub(super) classes: Vec<Class>,
    /// How many partitions there are.
    pub(super) partitions: usize,
    places: HashMap<&'a TopicName, usize>,
    class_of: Vec<usize>,
}

/// A topic, with no partitions if nobody wants it.
pub(super) struct Topic<'a> {
    name: &'a TopicName,
    /// The place of its partition 0.
    pub(super) first: usize,
    pub(super) partitions: u32,
    /// The classes that want it.
    pub(super) classes: Vec<usize>,
}

/// Members that want the same topics.
#[derive(Default)]
pub(super) struct Class {
    /// The topics, in order.
    pub(super) topics: Vec<usize>,
    /// The members, in order.
    pub(super) members: Vec<usize>,
}

impl<'a> Layout<'a> {
    pub(super) fn new(topics: &'a BTreeMap<TopicName, u32>, members: &'a [GroupMember]) -> Self {
        let mut members: Vec<&GroupMember> = members.iter().collect();
        members.sort_by_key(|member| {
            (member.instance_id.is_none(), member.instance_id.as_deref(), member.member_id.as_str())
        });
        let places: HashMap<_, _> =
            topics.iter().enumerate().map(|(place, (topic, _))| (topic, place)).collect();
        let (classes, class_of) = classify(&members, &places);

        let topic = |(name, &partitions)| Topic { name, first: 0, partitions, classes: Vec::new() };
        let mut topics: Vec<Topic<'_>> = topics.iter().map(topic).collect();
        for (number, class) in classes.iter().enumerate() {
            for &topic in &class.topics {
                topics.get_mut(topic).into_iter().for_each(|topic| topic.classes.push(number));
            }
        }
        let mut partitions = 0;
        for topic in &mut topics {
            if topic.classes.is_empty() {
                topic.partitions = 0;
            }
            topic.first = partitions;
            partitions += topic.partitions as usize;
        }
        Layout { members, topics, classes, partitions, places, class_of }
    }

    /// The class of a member.
    pub(super) fn class_of(&self, member: usize) -> usize {
        self.class_of.get(member).copied().unwrap_or_default()
    }

    /// Whether a member wants a topic.
    pub(super) fn wants(&self, member: usize, topic: usize) -> bool {
        let class = self.classes.get(self.class_of(member));
        class.is_some_and(|class| class.topics.binary_search(&topic).is_ok())
    }

    /// The topic and the place of a partition, if there is such a one and anybody wants it.
    pub(super) fn place(&self, partition: &TopicPartition) -> Option<(usize, usize)> {
        let number = *self.places.get(&partition.topic)?;
        let topic = self.topics.get(number)?;
        (partition.partition < topic.partitions).then(|| (number, topic.first + partition.partition as usize))
    }

    /// All partitions in order: the topic and the number of each.
    pub(super) fn every_partition(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.topics
            .iter()
            .enumerate()
            .flat_map(|(number, topic)| (0..topic.partitions).map(move |partition| (number, partition)))
    }

    /// Shows each topic that has partitions, in order, with the members that want it, in order.
    pub(super) fn each_topic(&self, mut show: impl FnMut(&Topic<'_>, &[usize])) {
        let mut classes: &[usize] = &[];
        let mut wanting = Vec::new();
        for topic in self.topics.iter().filter(|topic| topic.partitions > 0) {
            // Neighbours are mostly wanted by the same members.
            if topic.classes != classes {
                classes = &topic.classes;
                let of_class = classes.iter().filter_map(|&class| self.classes.get(class));
                wanting = of_class.flat_map(|class| &class.members).copied().collect();
                wanting.sort_unstable();
            }
            show(topic, &wanting);
        }
    }

    /// The result, from the owners of all partitions in order.
    pub(super) fn assignment(&self, owners: &[Option<usize>]) -> BTreeMap<String, Vec<TopicPartition>> {
        let mut lists = vec![Vec::new(); self.members.len()];
        for ((topic, partition), owner) in self.every_partition().zip(owners) {
            let list = owner.and_then(|owner| lists.get_mut(owner));
            if let (Some(list), Some(topic)) = (list, self.topics.get(topic)) {
                list.push(TopicPartition { topic: topic.name.clone(), partition });
            }
        }
        let mut assignment: BTreeMap<String, Vec<TopicPartition>> = BTreeMap::new();
        for (member, list) in self.members.iter().zip(lists) {
            assignment.entry(member.member_id.clone()).or_default().extend(list);
        }
        assignment
    }
}

/// Members by what they want of the topics that there are, and the class of each member.
fn classify<'a>(
    members: &[&'a GroupMember],
    places: &HashMap<&'a TopicName, usize>,
) -> (Vec<Class>, Vec<usize>) {
    let mut classes: Vec<Class> = Vec::new();
    let mut class_of: Vec<usize> = Vec::with_capacity(members.len());
    // What was asked for, word by word, and what that comes to.
    let mut asked: HashMap<&[TopicName], usize> = HashMap::new();
    let mut wanted: HashMap<Vec<usize>, usize> = HashMap::new();
    let mut before: Option<(&[TopicName], usize)> = None;
    for (number, member) in members.iter().enumerate() {
        let topics = member.subscription.topics.as_slice();
        let class = match before {
            Some((same, class)) if same == topics => class,
            _ => *asked.entry(topics).or_insert_with(|| {
                let mut found: Vec<usize> =
                    topics.iter().filter_map(|topic| places.get(topic)).copied().collect();
                found.sort_unstable();
                found.dedup();
                *wanted.entry(found).or_insert_with_key(|topics| {
                    classes.push(Class { topics: topics.clone(), members: Vec::new() });
                    classes.len() - 1
                })
            }),
        };
        before = Some((topics, class));
        class_of.push(class);
        classes.get_mut(class).into_iter().for_each(|class| class.members.push(number));
    }
    (classes, class_of)
}
