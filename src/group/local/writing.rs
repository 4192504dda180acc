//! What is written down: groups, one record for each generation, and the offsets that they commit.

use std::time::Duration;

use bytes::Bytes;

use super::effects::{Effects, Write};
use super::group::Group;
use super::offsets::Committed;
use super::shard::{Cell, Entry, Shard, group_key, offset_entry};
use super::{LocalGroups, members::Member};
use crate::error::{Error, Result};
use crate::format::group_records::{GroupMetadataMember, GroupMetadataValue};
use crate::group::coordinator::{GroupState, OffsetCommit};
use crate::partition::AppendOptions;

impl Group {
    /// The record to write; none if things have moved on.
    fn to_write(&self, write: &Write) -> Option<GroupMetadataValue> {
        let due = match write {
            Write::Empty => self.state == GroupState::Empty && self.unsaved.is_some(),
            Write::Assignment(generation) => {
                self.state == GroupState::CompletingRebalance && self.generation == *generation
            }
            Write::Successor(_) => self.state == GroupState::Stable,
        };
        let assignment = |member: &Member| match &self.staged {
            Some(staged) => staged.get(&member.id).cloned().unwrap_or_default(),
            None => member.assignment.clone(),
        };
        let members = self.members.iter();
        due.then(|| GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            current_state_timestamp: self.changed_at.unwrap_or(-1),
            members: members.map(|member| record_of(member, &self.protocol, assignment(member))).collect(),
        })
    }
}

fn record_of(member: &Member, protocol: &Option<String>, assignment: Bytes) -> GroupMetadataMember {
    GroupMetadataMember {
        member_id: member.id.clone(),
        instance_id: member.instance_id.clone(),
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        rebalance_timeout: millis(member.rebalance_timeout),
        session_timeout: millis(member.session_timeout),
        subscription: member.metadata(protocol.as_deref().unwrap_or_default()),
        assignment,
    }
}

fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1)
}

/// A write under way: if the file system panics, those who wait for it hear of it, too.
struct Writing<'a> {
    groups: &'a LocalGroups,
    cell: &'a Cell,
    write: Option<Write>,
}

impl Writing<'_> {
    fn end(&mut self, result: Result<()>) -> (Result<()>, Effects) {
        let Some(write) = self.write.take() else { return (Ok(()), Effects::default()) };
        self.groups.change_locked(self.cell.group.lock(), |group, context, effects| {
            group.written(write, result, context, effects)
        })
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let reason = "the file system panicked".into();
        let (_, effects) = self.end(Err(Error::InvalidState { action: "write a group down", reason }));
        effects.deliver();
    }
}

impl LocalGroups {
    /// Writes a group down. Returns the failure if nobody else is told of it.
    pub(super) fn write(&self, shard: &Shard, cell: &Cell, write: Write) -> Result<()> {
        let (told, effects) = self.write_in_order(shard, cell, write);
        effects.deliver();
        told
    }

    fn write_in_order(&self, shard: &Shard, cell: &Cell, write: Write) -> (Result<()>, Effects) {
        let _in_order = cell.scribe.lock();
        let found = {
            let mut group = cell.group.lock();
            if let Write::Successor(_) = &write {
                // What the one before it is committing is to be seen by it.
                let begun = group.next_ticket;
                while group.running.first().is_some_and(|ticket| *ticket < begun) {
                    cell.changed.wait(&mut group);
                }
            }
            group.to_write(&write).map(|value| (group.id.clone(), value))
        };
        let Some((id, value)) = found else { return (Ok(()), Effects::default()) };
        let mut writing = Writing { groups: self, cell, write: Some(write) };
        let written = group_key(&id).and_then(|key| {
            let value = value.encode().map_err(|source| Error::InvalidBatch { source })?;
            shard.append(&[Entry { key, value: Some(value) }], AppendOptions::new())
        });
        writing.end(written.map(|_| ()))
    }

    /// Writes offsets down, and then lets them be read.
    pub(super) fn append_commit(
        &self,
        shard: &Shard,
        cell: &Cell,
        transaction: Option<(i64, i16)>,
        offsets: &[OffsetCommit],
    ) -> Result<()> {
        let now = self.context().wall;
        let id = cell.group.lock().id.clone();
        let entries: Vec<Entry> =
            offsets.iter().map(|commit| offset_entry(&id, commit, now)).collect::<Result<_>>()?;
        let options = match transaction {
            Some((producer_id, epoch)) => AppendOptions::new().transactional(producer_id, epoch, 0),
            None => AppendOptions::new(),
        };
        let appended = shard.append(&entries, options)?;
        let mut group = cell.group.lock();
        for (log_offset, commit) in (appended.base_offset..).zip(offsets) {
            let (position, partition) = (commit.position.clone(), commit.partition.clone());
            let committed = Committed { position, committed_at: now, expires_at: None, log_offset };
            match transaction {
                Some((producer_id, _)) => {
                    group.offsets.commit_in_transaction(producer_id, partition, committed);
                }
                None => group.offsets.commit(partition, committed),
            }
        }
        Ok(())
    }
}
