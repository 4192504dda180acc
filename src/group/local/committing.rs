//! How offsets are committed: side by side with others, so that they share a sync, and readable once they are written.

use std::sync::Arc;

use super::LocalGroups;
use super::commits::Permit;
use super::group::{Context, Group, unknown_member};
use super::offsets::Committed;
use super::shard::{Cell, Entry, Shard, offset_entry};
use crate::error::Result;
use crate::group::coordinator::{GroupMetadata, OffsetCommit, check_group_id};
use crate::partition::AppendOptions;
use crate::types::{TopicName, TopicPartition, Uuid};

/// A commit under way. Whatever becomes of it, those who wait for it go on.
struct Committing<'a> {
    groups: &'a LocalGroups,
    cell: &'a Cell,
    permit: Option<Permit>,
    /// The time before, for want of a better one.
    begun: Context<'a>,
}

impl Committing<'_> {
    fn end(mut self) {
        let context = self.groups.context();
        // That the group is empty now, if so, is written down by a tick.
        self.end_at(&context).deliver();
    }

    fn end_at(&mut self, context: &Context<'_>) -> super::Effects {
        let Some(permit) = self.permit.take() else { return super::Effects::default() };
        let group = self.cell.group.lock();
        let ((), effects) = self.groups.change_locked(group, context, |group, context, effects| {
            group.end_commit(&permit, context, effects);
        });
        self.cell.changed.notify_all();
        effects
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        let begun = self.begun;
        self.end_at(&begun).deliver();
    }
}

impl LocalGroups {
    pub(super) fn commit_as(
        &self,
        member: &GroupMetadata,
        transaction: Option<(i64, i16)>,
        offsets: &[OffsetCommit],
    ) -> Result<()> {
        check_group_id(&member.group)?;
        self.config.check_offsets(offsets)?;
        loop {
            let Some((shard, cell)) = self.find_to_commit(member, offsets)? else { return Ok(()) };
            let begun = self.context();
            let producer_id = transaction.map(|(producer_id, _)| producer_id);
            let permit =
                self.change_live(&cell, |group, context, _| group.begin_commit(member, producer_id, context));
            let Some((permit, _)) = permit else { continue };
            let committing = Committing { groups: self, cell: &cell, permit: Some(permit?), begun };
            let committed = self.append_commit(&shard, &cell, transaction, offsets);
            committing.end();
            shard.forget(&cell, Group::is_void);
            return committed;
        }
    }

    /// Where to commit; none if there is nothing to do.
    fn find_to_commit(
        &self,
        member: &GroupMetadata,
        offsets: &[OffsetCommit],
    ) -> Result<Option<(Arc<Shard>, Arc<Cell>)>> {
        if let Some(known) = self.known(&member.group)? {
            return Ok(Some(known));
        }
        if member.generation >= 0 {
            return Err(unknown_member(&member.group, &member.member_id));
        }
        // Anybody may begin a group by committing to it, but not as a member.
        if offsets.is_empty() { Ok(None) } else { self.known_or_new(&member.group).map(Some) }
    }

    /// The id of a topic; zero if there is none of that name.
    fn topic_id(&self, name: &TopicName) -> Uuid {
        self.handle.topic(name.as_str()).map_or(Uuid::ZERO, |topic| topic.id())
    }

    /// Whether what was committed is of the topic that has the name now, or of none.
    pub(super) fn is_current(&self, name: &TopicName, committed_of: Uuid) -> bool {
        let now = self.topic_id(name);
        [now, committed_of].contains(&Uuid::ZERO) || now == committed_of
    }

    /// Writes offsets down, and then lets them be read.
    fn append_commit(
        &self,
        shard: &Shard,
        cell: &Cell,
        transaction: Option<(i64, i16)>,
        offsets: &[OffsetCommit],
    ) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let now = self.context().wall;
        let id = cell.group.lock().id.clone();
        let ids: Vec<Uuid> = offsets.iter().map(|commit| self.topic_id(&commit.partition.topic)).collect();
        let entry = |(commit, topic_id): (_, &Uuid)| offset_entry(&id, commit, *topic_id, now);
        let entries: Vec<Entry> = offsets.iter().zip(&ids).map(entry).collect::<Result<_>>()?;
        let options = match transaction {
            Some((producer_id, epoch)) => {
                // Before it is written, so that the end of the transaction finds it whatever happens.
                shard.transactions.lock().entry(producer_id).or_default().insert(id);
                AppendOptions::new().transactional(producer_id, epoch, 0)
            }
            None => AppendOptions::new(),
        };
        let appended = shard.append(&entries, options)?;
        let mut group = cell.group.lock();
        for ((log_offset, commit), topic_id) in (appended.base_offset..).zip(offsets).zip(ids) {
            let (position, partition) = (commit.position.clone(), commit.partition.clone());
            let committed = Committed { position, topic_id, committed_at: now, expires_at: None, log_offset };
            match transaction {
                Some((producer_id, _)) => {
                    group.offsets.commit_in_transaction(producer_id, partition, committed);
                }
                None => group.offsets.commit(partition, committed),
            }
        }
        Ok(())
    }

    pub(super) fn end_transaction(
        &self,
        partition: &TopicPartition,
        producer_id: i64,
        committed: bool,
    ) -> Result<()> {
        let Some(shards) = self.shards(false)? else { return Ok(()) };
        let shard = shards.all.get(partition.partition as usize);
        let ours = *shards.topic.name() == partition.topic;
        let Some(shard) = shard.filter(|shard| ours && shard.is_loaded()) else {
            // Who reads the log later finds the marker there.
            return Ok(());
        };
        let log = shard.partition()?;
        let groups = shard.transactions.lock().remove(&producer_id).unwrap_or_default();
        for id in groups {
            let Some(cell) = shard.known(&id) else { continue };
            {
                let mut group = cell.group.lock();
                while group.transactions.contains_key(&producer_id) {
                    cell.changed.wait(&mut group);
                }
            }
            // What comes behind the marker belongs to the producer's next transaction, if it has begun one by now.
            let end = log.log_end();
            let open = log.open_transactions();
            let next = open.iter().find(|open| open.producer_id == producer_id).map(|open| open.first_offset);
            let next = next.map_or(end, |next| next.min(end));
            if cell.group.lock().offsets.end_transaction(producer_id, committed, Some(next)) {
                shard.transactions.lock().entry(producer_id).or_default().insert(id);
            }
        }
        Ok(())
    }
}
