//! How groups are written down: a record for each generation that becomes stable, and for what changes in it.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::effects::{Effects, Write};
use super::group::{Context, Group};
use super::shard::{Cell, Entry, Shard, group_key};
use super::{LocalGroups, members::Member};
use crate::error::{Error, Result};
use crate::format::group_records::{GroupMetadataMember, GroupMetadataValue};
use crate::group::coordinator::GroupState;
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
    /// Given up before anybody is told.
    in_order: Option<MutexGuard<'a, ()>>,
    groups: &'a LocalGroups,
    cell: &'a Cell,
    write: Option<Write>,
    /// The time before, for want of a better one.
    begun: Context<'a>,
}

impl Writing<'_> {
    fn end(&mut self, result: Result<()>, context: &Context<'_>) -> (Result<()>, Effects) {
        let Some(write) = self.write.take() else { return (Ok(()), Effects::default()) };
        let group = self.cell.group.lock();
        self.groups.change_locked(group, context, |group, context, effects| {
            group.written(write, result, context, effects)
        })
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let reason = "the file system or the clock panicked".into();
        let failed = Error::InvalidState { action: "write a group down", reason };
        let begun = self.begun;
        let (_, effects) = self.end(Err(failed), &begun);
        self.in_order = None;
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
        let in_order = cell.scribe.lock();
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
        let (in_order, write) = (Some(in_order), Some(write));
        let mut writing = Writing { in_order, groups: self, cell, write, begun: self.context() };
        let written = group_key(&id).and_then(|key| {
            let value = value.encode().map_err(|source| Error::InvalidBatch { source })?;
            shard.append(&[Entry { key, value: Some(value) }], AppendOptions::new())
        });
        writing.end(written.map(|_| ()), &self.context())
    }
}
