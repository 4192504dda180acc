//! What a crash leaves of a simulated disk.

use std::sync::Arc;

use super::chance::Chance;
use super::state::{
    ByteOperation, Content, NameOperation, Node, NodeKind, ROOT, State, add_dependencies, put,
};

/// Disks write sectors of this many bytes whole; the boundaries are those of the file.
const SECTOR_SIZE: usize = 512;

/// A crash of a simulated machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Crash {
    /// The process is killed and the machine runs on: everything written is there, and what was not synced is
    /// still not durable. Handles and locks are gone.
    ProcessKill,
    /// The power goes: what was synced is there; of the rest, `seed` chooses what survives.
    ///
    /// Seed 0 leaves nothing of it, seed 1 all of it. Every other seed draws a subset: each write is torn into
    /// sectors of 512 bytes, and each of them is new, old or, rarely, garbage or zeroes; a length changes with
    /// its data, without it (the gap reads as zeroes), or not at all; each creation, renaming and removal
    /// happens or does not, by itself. Bytes that were synced keep their value, whatever lies in the same sector.
    PowerCut {
        /// Chooses what survives.
        seed: u64,
    },
}

/// What is left after a process was killed.
pub(super) fn after_kill(state: &State, seed: u64) -> State {
    let mut nodes = state.nodes.clone();
    nodes.iter_mut().for_each(|node| node.opened = 0);
    let mut image = State::of_nodes(nodes, seed);
    image.pending.clone_from(&state.pending);
    image.release_all();
    image
}

/// What is left after the power went.
pub(super) fn after_power_cut(state: &State, cut: u64, seed: u64) -> State {
    let mut chance = Chance::new(cut);
    let names = durable_tree(state, cut, &mut chance);
    let mut nodes: Vec<Node> = names.nodes.iter().map(|_| Node::new(NodeKind::Free)).collect();
    let mut reachable = vec![ROOT];
    while let Some(id) = reachable.pop() {
        let found = names.node(id);
        reachable.extend(found.durable_names.values().copied());
        if let Some(node) = nodes.get_mut(id) {
            *node = found.at_rest(content(found, cut, &mut chance));
        }
    }
    State::of_nodes(nodes, seed)
}

/// A copy of the disk in which the surviving operations on names are applied.
fn durable_tree(state: &State, cut: u64, chance: &mut Chance) -> State {
    let mut tree = State::of_nodes(state.nodes.clone(), 0);
    let odds = match cut {
        0 => 0,
        1 => 256,
        _ => some_odds(chance),
    };
    let mut survives: Vec<bool> = state.pending.iter().map(|_| chance.of_256(odds)).collect();
    add_dependencies(&state.pending, &mut survives, NameOperation::must_precede);
    for (operation, _) in state.pending.iter().zip(survives).filter(|(_, survives)| *survives) {
        tree.apply(operation);
    }
    tree
}

/// How likely an operation is to survive, out of 256: often all or nothing, since faults hide in the extremes.
fn some_odds(chance: &mut Chance) -> u64 {
    match chance.below(8) {
        0 => 0,
        1 => 256,
        2 => 16,
        3 => 240,
        _ => 128,
    }
}

fn content(node: &Node, cut: u64, chance: &mut Chance) -> Content {
    if node.pending.is_empty() || cut == 0 {
        return node.durable.clone();
    }
    let mut content = node.durable.to_vec();
    if cut == 1 {
        node.pending.iter().for_each(|operation| operation.apply(&mut content));
    } else if chance.below(4) == 0 {
        tear_after_prefix(&node.pending, &mut content, chance);
    } else {
        let damaged = if chance.of_256(128) { 0 } else { 32 };
        let tear = Tear { whole: some_odds(chance), damaged };
        node.pending.iter().for_each(|operation| tear.apply(operation, &mut content, chance));
    }
    Arc::new(content)
}

/// As a disk leaves it that writes in order: the first operations whole, one torn, the rest lost.
fn tear_after_prefix(pending: &[ByteOperation], content: &mut Vec<u8>, chance: &mut Chance) {
    let torn = chance.below(pending.len() as u64 + 1) as usize;
    pending.iter().take(torn).for_each(|operation| operation.apply(content));
    if let Some(operation) = pending.get(torn) {
        Tear { whole: 128, damaged: 0 }.apply(operation, content, chance);
    }
}

/// How likely a sector is, out of 256, to survive, and if it does not, to be spoilt instead of old.
struct Tear {
    whole: u64,
    damaged: u64,
}

impl Tear {
    fn apply(&self, operation: &ByteOperation, content: &mut Vec<u8>, chance: &mut Chance) {
        match operation {
            ByteOperation::SetSize(_) if chance.of_256(self.whole) => operation.apply(content),
            ByteOperation::SetSize(_) => {}
            ByteOperation::Write { position, bytes } => {
                let end = position + bytes.len();
                if end > content.len() && chance.of_256(self.whole) {
                    content.resize(end, 0);
                }
                self.sectors(*position, bytes, content, chance);
            }
        }
    }

    fn sectors(&self, position: usize, bytes: &[u8], content: &mut Vec<u8>, chance: &mut Chance) {
        let (mut position, mut rest) = (position, bytes);
        while !rest.is_empty() {
            let sector = (SECTOR_SIZE - position % SECTOR_SIZE).min(rest.len());
            let (bytes, after) = rest.split_at(sector);
            if chance.of_256(self.whole) {
                put(content, position, bytes);
            } else if chance.of_256(self.damaged) {
                put(content, position, &spoilt(sector, chance));
            }
            (position, rest) = (position + sector, after);
        }
    }
}

fn spoilt(len: usize, chance: &mut Chance) -> Vec<u8> {
    if chance.of_256(128) {
        return vec![0; len];
    }
    (0..len).map(|_| chance.next() as u8).collect()
}
