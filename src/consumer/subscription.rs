//! What a consumer wants, and following the store's topics as they come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use regex_lite::Regex;

use super::Consumer;
use super::listener::{RebalanceListener, SharedListener};
use super::slot::source_of;
use crate::error::{Error, Result};
use crate::topic::StoreHandle;
use crate::types::{TopicName, TopicPartition};

/// What a consumer wants.
#[derive(Debug)]
pub(super) enum Wanted {
    Nothing,
    /// What it was assigned by its user.
    Partitions,
    /// Its share of topics, by their names; and what the names have to match, if they were not named.
    Topics(BTreeSet<TopicName>, Option<Regex>),
}

const NO_TOPICS: &BTreeSet<TopicName> = &BTreeSet::new();

impl Wanted {
    pub(super) fn is_subscription(&self) -> bool {
        matches!(self, Wanted::Topics(..))
    }

    pub(super) fn topics(&self) -> &BTreeSet<TopicName> {
        match self {
            Wanted::Topics(topics, _) => topics,
            Wanted::Nothing | Wanted::Partitions => NO_TOPICS,
        }
    }

    pub(super) fn wants(&self, topic: &TopicName) -> bool {
        match self {
            Wanted::Topics(topics, None) => topics.contains(topic),
            // The leader may know of one that this member has not looked at yet.
            Wanted::Topics(_, Some(pattern)) => matches(pattern, topic),
            Wanted::Nothing | Wanted::Partitions => false,
        }
    }
}

/// A pattern is for a user's topics: those of the store's own begin with two underscores.
fn matches(pattern: &Regex, topic: &TopicName) -> bool {
    !topic.as_str().starts_with("__") && pattern.is_match(topic.as_str())
}

/// The topics of the store that match.
fn matching(store: &StoreHandle, pattern: &Regex) -> Result<BTreeSet<TopicName>> {
    let topics = store.topics()?;
    Ok(topics.iter().map(|topic| topic.name()).filter(|name| matches(pattern, name)).cloned().collect())
}

/// How many partitions these topics have; those that are not there are left out.
pub(super) fn counts(store: &StoreHandle, topics: &BTreeSet<TopicName>) -> BTreeMap<TopicName, u32> {
    let count = |name: &TopicName| Some((name.clone(), store.topic(name.as_str()).ok()?.partition_count()));
    topics.iter().filter_map(count).collect()
}

impl Consumer {
    /// Reads its share of these topics from now on: the group shares out their partitions among its members. The next
    /// poll joins the group. What it was subscribed to before is replaced. A topic that is not there yet is read once
    /// it is; no topics at all is [`unsubscribe`](Self::unsubscribe).
    ///
    /// # Errors
    /// [`Error::InvalidName`] for what cannot be a topic; [`Error::InvalidState`] without a group, or if it was
    /// [assigned](Self::assign) partitions.
    pub fn subscribe(&mut self, topics: impl IntoIterator<Item = impl AsRef<str>>) -> Result<()> {
        let topics: Result<BTreeSet<TopicName>> = topics.into_iter().map(TopicName::new).collect();
        self.want_topics(topics?, None, None)
    }

    /// As [`subscribe`](Self::subscribe), and tells a listener which partitions it gets and gives up.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    pub fn subscribe_with(
        &mut self,
        topics: impl IntoIterator<Item = impl AsRef<str>>,
        listener: impl RebalanceListener + 'static,
    ) -> Result<()> {
        let topics: Result<BTreeSet<TopicName>> = topics.into_iter().map(TopicName::new).collect();
        self.want_topics(topics?, None, Some(Arc::new(Mutex::new(listener))))
    }

    /// As [`subscribe`](Self::subscribe), for all topics whose whole name matches a regular expression, those to come
    /// included; never for topics of the store's own (`__consumer_offsets` and its kin). The syntax is that of the
    /// crate `regex-lite`: Perl's, as Kafka's, without look-around and back references.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for what is no regular expression; otherwise as [`subscribe`](Self::subscribe).
    pub fn subscribe_pattern(&mut self, pattern: &str) -> Result<()> {
        let (topics, pattern) = self.matching_pattern(pattern)?;
        self.want_topics(topics, Some(pattern), None)
    }

    /// As [`subscribe_pattern`](Self::subscribe_pattern), and tells a listener which partitions it gets and gives up.
    ///
    /// # Errors
    /// As [`subscribe_pattern`](Self::subscribe_pattern).
    pub fn subscribe_pattern_with(
        &mut self,
        pattern: &str,
        listener: impl RebalanceListener + 'static,
    ) -> Result<()> {
        let (topics, pattern) = self.matching_pattern(pattern)?;
        self.want_topics(topics, Some(pattern), Some(Arc::new(Mutex::new(listener))))
    }

    fn matching_pattern(&self, pattern: &str) -> Result<(BTreeSet<TopicName>, Regex)> {
        let whole = Regex::new(&format!("^(?:{pattern})$")).map_err(|error| Error::InvalidConfig {
            key: "pattern".into(),
            value: pattern.chars().take(260).collect(),
            reason: error.to_string(),
        })?;
        Ok((matching(&self.store, &whole)?, whole))
    }

    fn want_topics(
        &mut self,
        topics: BTreeSet<TopicName>,
        pattern: Option<Regex>,
        listener: Option<SharedListener>,
    ) -> Result<()> {
        self.check_not_in_listener("subscribe")?;
        self.membership("subscribe")?;
        if topics.is_empty() && pattern.is_none() {
            return self.unsubscribe();
        }
        if matches!(self.wanted, Wanted::Partitions) {
            return Err(exclusive("subscribe"));
        }
        if let Some(membership) = self.group.as_mut().filter(|_| topics != *self.wanted.topics()) {
            membership.rejoin();
        }
        self.wanted = Wanted::Topics(topics, pattern);
        self.listener = listener;
        Ok(())
    }

    /// Reads these partitions, and no others, from now on; no group shares them out. Of those that it had already, it
    /// keeps the positions. With a group, it goes on where that left off, and commits for it. No partitions at all is
    /// [`unsubscribe`](Self::unsubscribe).
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`], or as a partition cannot be opened; then nothing has
    /// changed. [`Error::InvalidState`] if it is subscribed: [`unsubscribe`](Self::unsubscribe) first. Otherwise as a
    /// commit fails, if it commits by itself what it has handled; nevertheless it is assigned what it should.
    pub fn assign(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Result<()> {
        self.check_not_in_listener("assign")?;
        if self.wanted.is_subscription() {
            return Err(exclusive("assign"));
        }
        let partitions: BTreeSet<TopicPartition> = partitions.into_iter().collect();
        if partitions.is_empty() {
            return self.unsubscribe();
        }
        for partition in &partitions {
            source_of(&self.store, partition)?;
        }
        let committed = self.commit_handled();
        self.wanted = Wanted::Partitions;
        self.slots.assign(partitions);
        self.settle_at = Duration::ZERO;
        committed
    }

    /// Gives up what it reads, and wants nothing any more; leaves its group. What it has handled is committed, if it
    /// commits by itself.
    ///
    /// # Errors
    /// As a commit fails, or the coordinator cannot be told; it wants nothing any more nevertheless.
    pub fn unsubscribe(&mut self) -> Result<()> {
        self.check_not_in_listener("unsubscribe")?;
        self.give_up_all()
    }

    /// The partitions that it has now.
    pub fn assignment(&self) -> BTreeSet<TopicPartition> {
        self.slots.names().cloned().collect()
    }

    /// The topics that it is subscribed to; by a pattern, those that match it now.
    pub fn subscription(&self) -> BTreeSet<TopicName> {
        self.wanted.topics().clone()
    }

    pub(super) fn check_not_in_listener(&self, action: &'static str) -> Result<()> {
        if !self.in_listener {
            return Ok(());
        }
        let reason = "its rebalance listener is being told of partitions".into();
        Err(Error::InvalidState { action, reason })
    }

    /// Takes note of topics made, deleted and grown since it last looked.
    pub(super) fn follow_topics(&mut self) -> Result<()> {
        let version = self.store.topics_version()?;
        if version == self.topics_version {
            return Ok(());
        }
        let mut failed = Vec::new();
        let mut lost = Vec::new();
        for slot in self.slots.iter_mut() {
            let (was_there, position) = (slot.source.is_some(), slot.position());
            match slot.find_source(&self.store) {
                // Of a subscription, the group takes care.
                Ok(false) if was_there && !self.wanted.is_subscription() => {
                    failed.push(Error::UnknownTopic { topic: slot.id.topic.to_string() });
                }
                Ok(_) => {}
                Err(error) => failed.push(error),
            }
            if slot.position() != position {
                lost.push(Arc::clone(&slot.id));
            }
        }
        lost.iter().for_each(|id| self.slots.forget_read(id));
        self.slots.failed.extend(failed);
        self.slots.unsettled = true;
        let mut changed = false;
        if let Wanted::Topics(topics, Some(pattern)) = &mut self.wanted {
            let now = matching(&self.store, pattern)?;
            changed = *topics != now;
            *topics = now;
        }
        if let Some(membership) = &mut self.group {
            if changed || membership.is_outdated(|topics| counts(&self.store, topics)) {
                membership.rejoin();
            }
        }
        self.topics_version = version;
        Ok(())
    }
}

fn exclusive(action: &'static str) -> Error {
    let reason = "a consumer either subscribes to topics or is assigned partitions: unsubscribe first".into();
    Error::InvalidState { action, reason }
}
