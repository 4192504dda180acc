//! What consumers tell each other through their group's coordinator: [`Subscription`] and [`Assignment`] (Kafka's
//! `ConsumerProtocolSubscription`, `ConsumerProtocolAssignment`; versions 0 to 3).

use bytes::Bytes;

use crate::types::{TopicName, TopicPartition};

/// What a member wants, and what it has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscription {
    /// The topics, in order.
    pub topics: Vec<TopicName>,
    /// What the assignor wants to know.
    pub user_data: Option<Bytes>,
    /// What the member has, ordered by topic and partition (since version 1).
    pub owned: Vec<TopicPartition>,
    /// The generation in which it got that, or -1 (since version 2).
    pub generation: i32,
    /// Where the member is (since version 3).
    pub rack: Option<String>,
}

/// What a member gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// The partitions, ordered by topic.
    pub partitions: Vec<TopicPartition>,
    /// What the assignor wants it to know.
    pub user_data: Option<Bytes>,
}
