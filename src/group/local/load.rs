//! What a partition of `__consumer_offsets` says, read from its beginning to its end: groups, what they committed, and
//! what open transactions would commit for them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::effects::Effects;
use super::group::{Context, Group};
use super::members::Member;
use super::offsets::Committed;
use crate::error::{Error, FormatError, Result};
use crate::format::group_records::{
    GroupMetadataMember, GroupMetadataValue, GroupRecordKey, OffsetCommitValue,
};
use crate::format::{EndTransactionMarker, RecordView};
use crate::group::coordinator::{GroupState, JoinRequest, OffsetAndMetadata};
use crate::partition::Partition;
use crate::types::{TopicName, TopicPartition};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) transactions: HashMap<i64, BTreeSet<String>>,
}

/// Reads a partition.
pub(super) fn load(partition: &Partition, context: &Context<'_>) -> Result<Loaded> {
    let mut loaded = Loaded::default();
    partition.replay(context.config.skip_damage, |header, record| {
        let producer_id = header.producer_id.filter(|_| header.transactional);
        let replayed = match producer_id {
            Some(producer_id) if header.control => loaded.end_transaction(producer_id, record),
            _ if header.control => Ok(()),
            _ => loaded.replay_record(record, producer_id),
        };
        replayed.map_err(|error| unreadable(partition, record.offset(), &error))
    })?;
    loaded.groups.values_mut().for_each(|group| settle(group, context));
    loaded.groups.retain(|_, group| !group.is_void());
    Ok(loaded)
}

impl Loaded {
    fn group(&mut self, id: &str) -> &mut Group {
        self.groups.entry(id.to_owned()).or_insert_with(|| Group::new(id))
    }

    fn end_transaction(&mut self, producer_id: i64, record: &RecordView<'_>) -> Result<(), FormatError> {
        let Some(marker) = EndTransactionMarker::parse(record)? else { return Ok(()) };
        for id in self.transactions.remove(&producer_id).into_iter().flatten() {
            self.group(&id).offsets.end_transaction(producer_id, marker.commit, None);
        }
        Ok(())
    }

    fn replay_record(
        &mut self,
        record: &RecordView<'_>,
        producer_id: Option<i64>,
    ) -> Result<(), FormatError> {
        match GroupRecordKey::decode(record.key().unwrap_or_default())? {
            GroupRecordKey::Other(_) => {}
            GroupRecordKey::Group { group } => {
                let value = record.value().map(GroupMetadataValue::decode).transpose()?;
                restore(self.group(&group), value);
            }
            GroupRecordKey::Offset { group, topic, partition } => {
                // Names that no topic can have are nobody's.
                let (Ok(topic), Ok(partition)) = (TopicName::new(&topic), u32::try_from(partition)) else {
                    return Ok(());
                };
                let partition = TopicPartition { topic, partition };
                let Some(value) = record.value() else {
                    self.group(&group).offsets.remove(&partition, record.offset());
                    return Ok(());
                };
                let Some(committed) = committed(&OffsetCommitValue::decode(value)?, record.offset()) else {
                    return Ok(());
                };
                let offsets = &mut self.group(&group).offsets;
                match producer_id {
                    None => offsets.commit(partition, committed),
                    Some(producer_id) => {
                        offsets.commit_in_transaction(producer_id, partition, committed);
                        self.transactions.entry(producer_id).or_default().insert(group);
                    }
                }
            }
        }
        Ok(())
    }
}

fn committed(value: &OffsetCommitValue, log_offset: u64) -> Option<Committed> {
    let position = OffsetAndMetadata {
        offset: u64::try_from(value.offset).ok()?,
        leader_epoch: Some(value.leader_epoch).filter(|epoch| *epoch >= 0),
        metadata: value.metadata.clone(),
    };
    let expires_at = Some(value.expire_timestamp).filter(|at| *at >= 0);
    let (topic_id, committed_at) = (value.topic_id, value.commit_timestamp);
    Some(Committed { position, topic_id, committed_at, expires_at, log_offset })
}

fn unreadable(partition: &Partition, offset: u64, error: &FormatError) -> Error {
    match *error {
        FormatError::Version { what, found, supported } => {
            Error::UnsupportedFormat { path: partition.path(), what, found, supported }
        }
        _ => Error::Corruption {
            path: partition.path(),
            position: 0,
            offset,
            detail: format!("the record is none of a group: {error}"),
        },
    }
}

/// Makes a group what its last record says, keeping its offsets.
fn restore(group: &mut Group, value: Option<GroupMetadataValue>) {
    let offsets = std::mem::take(&mut group.offsets);
    *group = Group { offsets, stored: value.is_some(), ..Group::new(&group.id) };
    let Some(value) = value else { return };
    group.generation = value.generation.max(0);
    group.protocol_type = Some(value.protocol_type).filter(|kind| !kind.is_empty());
    group.changed_at = Some(value.current_state_timestamp).filter(|at| *at >= 0);
    if value.members.is_empty() {
        return;
    }
    let protocol = value.protocol.unwrap_or_default();
    for member in value.members {
        add(group, &protocol, member);
    }
    group.leader = value.leader.filter(|leader| group.members.get(leader).is_some());
    group.protocol = Some(protocol);
    group.state = GroupState::Stable;
}

fn add(group: &mut Group, protocol: &str, found: GroupMetadataMember) {
    let taken = |instance_id: &String| group.members.in_place(instance_id).is_some();
    if group.members.get(&found.member_id).is_some() || found.instance_id.as_ref().is_some_and(taken) {
        return;
    }
    let request = JoinRequest {
        group: group.id.clone(),
        member_id: found.member_id.clone(),
        instance_id: found.instance_id,
        known_id_required: false,
        client_id: found.client_id,
        client_host: found.client_host,
        session_timeout: millis(found.session_timeout),
        rebalance_timeout: millis(found.rebalance_timeout),
        protocol_type: String::new(),
        protocols: vec![(protocol.to_owned(), found.subscription)],
        waker: None,
    };
    let mut member = Member::new(found.member_id, request);
    member.assignment = found.assignment;
    member.newcomer = false;
    group.members.add(member);
}

fn millis(found: i32) -> Duration {
    Duration::from_millis(u64::try_from(found).unwrap_or(0).max(1))
}

/// What has become of a group since it was written down: members of a process that is gone are gone, static ones may
/// come back, and everybody else has its session timeout.
fn settle(group: &mut Group, context: &Context<'_>) {
    let local = |member: &Member| member.client_host == JoinRequest::IN_PROCESS;
    let gone = group.members.iter().filter(|member| local(member) && !member.is_static());
    let gone: Vec<String> = gone.map(|member| member.id.clone()).collect();
    let mut nobody = Effects::default();
    gone.iter().for_each(|id| group.drop_member(id, &mut nobody));
    let places: Vec<(String, Duration, bool)> = group
        .members
        .iter()
        .map(|member| (member.id.clone(), context.now.saturating_add(member.session_timeout), local(member)))
        .collect();
    for (id, deadline, local) in places {
        if local {
            group.members.send_away(&id, deadline);
        } else if let Some(member) = group.members.get_mut(&id) {
            member.deadline = deadline;
        }
    }
    if group.leader.is_none() {
        group.leader = group.members.first().map(str::to_owned);
    }
    group.subscribed = group.find_subscribed();
    if group.state == GroupState::Stable && group.members.is_empty() {
        // Without another generation: nobody is there who could mistake it.
        (group.protocol, group.leader, group.unsaved) = (None, None, Some(context.now));
        group.enter(GroupState::Empty, context);
    } else if !gone.is_empty() || group.members.len() > context.config.members_max {
        group.rebalance(context, &mut nobody);
    }
}
