//! What a consumer wants, and following the store's topics as they come and go.

use std::collections::BTreeSet;

use super::Consumer;
use super::slot::source_of;
use crate::error::{Error, Result};
use crate::types::TopicPartition;

/// What a consumer wants.
#[derive(Debug)]
pub(super) enum Wanted {
    Nothing,
    /// What it was assigned by its user.
    Partitions,
}

impl Consumer {
    /// Reads these partitions, and no others, from now on; no group shares them out. Of those that it had already, it
    /// keeps the positions. With a group, it goes on where that left off, and can commit for it.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`], or as a partition cannot be opened; then nothing has
    /// changed. [`Error::InvalidState`] if it is subscribed: [`unsubscribe`](Self::unsubscribe) first.
    pub fn assign(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Result<()> {
        let partitions: BTreeSet<TopicPartition> = partitions.into_iter().collect();
        for partition in &partitions {
            source_of(&self.store, partition)?;
        }
        self.wanted = if partitions.is_empty() { Wanted::Nothing } else { Wanted::Partitions };
        self.slots.assign(partitions);
        Ok(())
    }

    /// Gives up what it reads, and wants nothing any more.
    ///
    /// # Errors
    /// None yet.
    pub fn unsubscribe(&mut self) -> Result<()> {
        self.slots.assign([]);
        self.wanted = Wanted::Nothing;
        Ok(())
    }

    /// The partitions that it has now.
    pub fn assignment(&self) -> BTreeSet<TopicPartition> {
        self.slots.names().cloned().collect()
    }

    /// Takes note of topics made, deleted and grown since it last looked.
    pub(super) fn follow_topics(&mut self) -> Result<()> {
        let version = self.store.topics_version()?;
        if version == self.topics_version {
            return Ok(());
        }
        self.topics_version = version;
        let mut failed = Vec::new();
        for slot in self.slots.iter_mut() {
            let was_there = slot.source.is_some();
            match slot.find_source(&self.store) {
                Ok(false) if was_there => {
                    failed.push(Error::UnknownTopic { topic: slot.id.topic.to_string() });
                }
                Ok(_) => {}
                Err(error) => failed.push(error),
            }
        }
        self.slots.failed.extend(failed);
        self.slots.unsettled = true;
        Ok(())
    }
}
