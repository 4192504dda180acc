//! Who may commit, and which commits a generation waits for before the next one begins.

use super::effects::Effects;
use super::group::{Context, Group};
use crate::error::Result;
use crate::group::coordinator::{GroupMetadata, GroupState};

/// A commit that may be written, and what its group has to know at its end.
#[derive(Debug)]
pub(super) struct Permit {
    ticket: u64,
    /// It belongs to the generation: the next one waits for it.
    fenced: bool,
    member_id: String,
    producer_id: Option<i64>,
}

impl Group {
    /// Whether somebody may commit now (Kafka's `ClassicGroup.validateOffsetCommit`).
    fn check_commit(&self, member: &GroupMetadata, in_transaction: bool) -> Result<()> {
        let anonymous = member.member_id.is_empty() && member.instance_id.is_none();
        if member.generation < 0 && self.state == GroupState::Empty {
            return Ok(());
        }
        if member.generation < 0 && anonymous {
            // Old clients do not say who they are in a transaction; the epoch of their producer fences them.
            return if in_transaction { Ok(()) } else { Err(self.unknown(&member.member_id)) };
        }
        self.check_generation(member)?;
        let between = self.state == GroupState::CompletingRebalance && !in_transaction;
        if between || self.closing { Err(self.rebalancing()) } else { Ok(()) }
    }

    /// Begins a commit. Until it [ends](Self::end_commit), the generation does.
    pub(super) fn begin_commit(
        &mut self,
        member: &GroupMetadata,
        producer_id: Option<i64>,
        context: &Context<'_>,
    ) -> Result<Permit> {
        self.check_commit(member, producer_id.is_some())?;
        let fenced = member.generation >= 0 || self.state == GroupState::Empty;
        if let Some(member) = self.members.get_mut(&member.member_id) {
            member.renew(context.now);
            member.commits += 1;
        }
        if let Some(producer_id) = producer_id {
            *self.transactions.entry(producer_id).or_default() += 1;
        }
        self.commits += usize::from(fenced);
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.running.insert(ticket);
        Ok(Permit { ticket, fenced, member_id: member.member_id.clone(), producer_id })
    }

    pub(super) fn end_commit(&mut self, permit: &Permit, context: &Context<'_>, effects: &mut Effects) {
        self.running.remove(&permit.ticket);
        self.commits -= usize::from(permit.fenced);
        if let Some(member) = self.members.get_mut(&permit.member_id) {
            member.renew(context.now);
            member.commits = member.commits.saturating_sub(1);
            effects.due_at(member.deadline);
        }
        if let Some(producer_id) = permit.producer_id {
            let left = self.transactions.get_mut(&producer_id).map(|count| {
                *count -= 1;
                *count
            });
            if left == Some(0) {
                self.transactions.remove(&producer_id);
            }
        }
        if self.closing && self.commits == 0 {
            self.complete_join(context, effects);
        }
    }
}
