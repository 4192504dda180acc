//! How a sticky assignor shares out if all members want the same topics.

use std::collections::VecDeque;

use super::layout::Layout;
use super::sticky::Claim;

/// The owners of all partitions in order.
///
/// Each member gets an equal share, some get one more, first those that have more already. A member keeps what it has
/// up to its share, the lowest numbers of all topics first, so that what it gives up is of all topics too; what is left
/// goes to those that have too little, in turn.
pub(super) fn share_out(layout: &Layout<'_>, claims: &[Claim]) -> Vec<Option<usize>> {
    let members = layout.members.len().max(1);
    let share = layout.partitions / members;
    let mut extras = layout.partitions % members;
    let mut owners = vec![None; layout.partitions];
    let mut loads = Vec::with_capacity(members);
    for (member, owned) in owned_by(layout, claims).into_iter().enumerate() {
        let more = owned.len() > share && extras > 0;
        extras -= usize::from(more);
        let kept = owned.len().min(share + usize::from(more));
        for place in owned.into_iter().take(kept) {
            owners.get_mut(place).into_iter().for_each(|owner| *owner = Some(member));
        }
        loads.push(kept);
    }

    // Whoever had it before its last owner gets it back, if there is room.
    for (owner, claim) in owners.iter_mut().zip(claims).filter(|(owner, _)| owner.is_none()) {
        let Some(member) = claim.former else { continue };
        let Some(load) = loads.get_mut(member) else { continue };
        if *load < share || (*load == share && extras > 0) {
            extras -= usize::from(*load == share);
            *load += 1;
            *owner = Some(member);
        }
    }

    let with = |wanted: fn(&usize, &usize) -> bool| {
        let found = loads.iter().enumerate().filter(move |(_, load)| wanted(load, &share));
        found.map(|(member, &load)| (member, load)).collect::<VecDeque<_>>()
    };
    let (mut below, mut even) = (with(usize::lt), with(usize::eq));
    for owner in owners.iter_mut().filter(|owner| owner.is_none()) {
        let Some((member, load)) = below.pop_front().or_else(|| even.pop_front()) else { break };
        *owner = Some(member);
        match load + 1 {
            load if load < share => below.push_back((member, load)),
            load if load == share => even.push_back((member, load)),
            _ => {}
        }
    }
    owners
}

/// The places of what each member has, in the order in which it keeps them.
fn owned_by(layout: &Layout<'_>, claims: &[Claim]) -> Vec<Vec<usize>> {
    let mut owned = vec![Vec::new(); layout.members.len()];
    for (place, ((topic, partition), claim)) in layout.every_partition().zip(claims).enumerate() {
        if let Some(list) = claim.owner.and_then(|owner| owned.get_mut(owner)) {
            list.push((claim.former.is_some(), partition, topic, place));
        }
    }
    let in_order = |mut list: Vec<(bool, u32, usize, usize)>| {
        list.sort_unstable();
        list.into_iter().map(|(.., place)| place).collect()
    };
    owned.into_iter().map(in_order).collect()
}
