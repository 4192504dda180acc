//! [`State`]: the files and names of a simulated disk, what is cached of them, what is durable, what is between.
//!
//! Files and directories are nodes. A node never has two names (there are no hard links). What is not durable is
//! a list of operations in the order of the calls: those on bytes in their file, those on names in one list for
//! the whole disk, since a rename can concern two directories.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use rustix::io::Errno;

use super::chance::Chance;
use super::fault::Faults;
use crate::fs::{DirEntry, EntryKind};

/// What a file or directory takes of the capacity besides its bytes.
pub(super) const NODE_CHARGE: u64 = 256;

/// The length that no file can pass, so that a wrong position does not eat the machine's memory.
pub(super) const FILE_SIZE_MAX: u64 = 1 << 30;

/// The time of the first change, in milliseconds since the epoch; each call takes a millisecond.
const TIME_START: i64 = 1_700_000_000_000;

pub(super) type NodeId = usize;
pub(super) type Content = Arc<Vec<u8>>;
type Names = Arc<BTreeMap<OsString, NodeId>>;

pub(super) const ROOT: NodeId = 0;

/// An operation on bytes that no sync has made durable yet.
#[derive(Debug, Clone)]
pub(super) enum ByteOperation {
    Write { position: usize, bytes: Arc<[u8]> },
    SetSize(usize),
}

impl ByteOperation {
    pub(super) fn apply(&self, content: &mut Vec<u8>) {
        match self {
            ByteOperation::Write { position, bytes } => put(content, *position, bytes),
            ByteOperation::SetSize(size) => content.resize(*size, 0),
        }
    }
}

/// An operation on names that is not durable yet.
#[derive(Debug, Clone)]
pub(super) enum NameOperation {
    Link {
        at: Place,
        node: NodeId,
    },
    Unlink {
        at: Place,
        node: NodeId,
    },
    Rename {
        from: Place,
        to: Place,
        node: NodeId,
        replaced: Option<NodeId>,
        from_synced: bool,
        to_synced: bool,
    },
}

/// A directory and a name in it.
pub(super) type Place = (NodeId, OsString);

impl NameOperation {
    fn node(&self) -> NodeId {
        match self {
            NameOperation::Link { node, .. }
            | NameOperation::Unlink { node, .. }
            | NameOperation::Rename { node, .. } => *node,
        }
    }

    fn touches(&self, directory: NodeId) -> bool {
        match self {
            NameOperation::Link { at, .. } | NameOperation::Unlink { at, .. } => at.0 == directory,
            NameOperation::Rename { from, to, .. } => from.0 == directory || to.0 == directory,
        }
    }

    /// The place that gets this node, and the place that loses it.
    fn places(&self) -> (Option<&Place>, Option<&Place>) {
        match self {
            NameOperation::Link { at, .. } => (Some(at), None),
            NameOperation::Unlink { at, .. } => (None, Some(at)),
            NameOperation::Rename { from, to, .. } => (Some(to), Some(from)),
        }
    }

    /// The node that this operation leaves without a name.
    fn removes(&self) -> Option<NodeId> {
        match self {
            NameOperation::Link { .. } => None,
            NameOperation::Unlink { node, .. } => Some(*node),
            NameOperation::Rename { replaced, .. } => *replaced,
        }
    }

    /// Whether a later operation cannot be durable without this one, lest it destroy what nobody removed: it gives
    /// away a name that this one made free, removes a directory that this one emptied, or moves a file to another
    /// directory, which file systems do in the order of the calls.
    pub(super) fn must_precede(&self, later: &NameOperation) -> bool {
        let (_, vacated) = self.places();
        vacated.is_some() && vacated == later.places().0
            || later.removes().is_some_and(|directory| self.touches(directory))
            || matches!(later, NameOperation::Rename { from, to, .. } if from.0 != to.0)
    }

    fn shares_name(&self, other: &NameOperation, directory: NodeId) -> bool {
        let (mine, others) = (self.places(), other.places());
        let shared = |place: Option<&Place>| {
            place.is_some_and(|place| place.0 == directory) && (place == others.0 || place == others.1)
        };
        shared(mine.0) || shared(mine.1)
    }

    /// Notes that a directory was synced; says whether no other directory is waited for.
    fn complete_after(&mut self, directory: NodeId) -> bool {
        let NameOperation::Rename { from, to, from_synced, to_synced, .. } = self else { return true };
        *from_synced |= from.0 == directory;
        *to_synced |= to.0 == directory;
        *from_synced && *to_synced
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeKind {
    Free,
    File,
    Directory,
    Other,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) kind: NodeKind,
    /// What reads see.
    pub(super) cache: Content,
    /// What a power cut leaves for sure.
    pub(super) durable: Content,
    pub(super) pending: Vec<ByteOperation>,
    /// The names of a directory, as calls see them.
    pub(super) names: Names,
    pub(super) durable_names: Names,
    /// The one durable name.
    pub(super) durable_at: Option<Place>,
    pub(super) modified: i64,
    /// Whether the node has a name, as calls see it.
    pub(super) linked: bool,
    pub(super) opened: usize,
    /// Whether its charge is part of the space used.
    charged: bool,
    /// How many pending operations on names concern this node.
    waiting: usize,
}

impl Node {
    pub(super) fn new(kind: NodeKind) -> Self {
        Node {
            kind,
            cache: Content::default(),
            durable: Content::default(),
            pending: Vec::new(),
            names: Names::default(),
            durable_names: Names::default(),
            durable_at: None,
            modified: 0,
            linked: false,
            opened: 0,
            charged: false,
            waiting: 0,
        }
    }

    /// A node as a machine finds it that starts again: at rest, under its durable name.
    pub(super) fn at_rest(&self, content: Content) -> Self {
        Node {
            cache: content.clone(),
            durable: content,
            names: self.durable_names.clone(),
            durable_names: self.durable_names.clone(),
            durable_at: self.durable_at.clone(),
            modified: self.modified,
            linked: true,
            ..Node::new(self.kind)
        }
    }

    fn charge(&self) -> u64 {
        NODE_CHARGE + self.cache.len() as u64
    }

    pub(super) fn entry_kind(&self) -> EntryKind {
        match self.kind {
            NodeKind::File => EntryKind::File,
            NodeKind::Directory => EntryKind::Directory,
            NodeKind::Other | NodeKind::Free => EntryKind::Other,
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    /// Ids are positions here; nodes are freed but never taken out, so every id stays good.
    pub(super) nodes: Vec<Node>,
    pub(super) free: Vec<NodeId>,
    pub(super) pending: Vec<NameOperation>,
    pub(super) locked: BTreeSet<NodeId>,
    pub(super) faults: Faults,
    pub(super) chance: Chance,
    pub(super) capacity: Option<u64>,
    pub(super) used: u64,
    pub(super) open_files: usize,
    pub(super) open_files_peak: usize,
    pub(super) open_files_max: Option<usize>,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        let mut root = Node::new(NodeKind::Directory);
        (root.linked, root.modified) = (true, TIME_START);
        State::of_nodes(vec![root], seed)
    }

    /// A machine that has just started: no fault planned, nothing open, nothing locked.
    pub(super) fn of_nodes(mut nodes: Vec<Node>, seed: u64) -> Self {
        nodes.iter_mut().for_each(|node| node.charged = node.linked);
        let used = nodes.iter().filter(|node| node.charged).map(Node::charge).sum();
        let free = nodes.iter().enumerate().filter(|(_, node)| node.kind == NodeKind::Free);
        State {
            free: free.map(|(id, _)| id).collect(),
            nodes,
            pending: Vec::new(),
            locked: BTreeSet::new(),
            faults: Faults::default(),
            chance: Chance::new(seed),
            capacity: None,
            used,
            open_files: 0,
            open_files_peak: 0,
            open_files_max: None,
        }
    }

    #[expect(clippy::indexing_slicing, reason = "ids are made by `add` only, and `nodes` never shrinks")]
    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    #[expect(clippy::indexing_slicing, reason = "ids are made by `add` only, and `nodes` never shrinks")]
    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id]
    }

    fn now(&self) -> i64 {
        TIME_START.saturating_add_unsigned(self.faults.calls)
    }

    // Names.

    /// The node that a name leads to.
    pub(super) fn resolve(&self, name: &Path) -> io::Result<NodeId> {
        let mut id = ROOT;
        for part in name.components() {
            let Component::Normal(part) = part else { return Err(Errno::INVAL.into()) };
            id = self.directory(id)?.names.get(part).copied().ok_or(Errno::NOENT)?;
        }
        Ok(id)
    }

    /// The directory and the last part of a name, which need not exist.
    fn place(&self, name: &Path) -> io::Result<Place> {
        let last = name.file_name().ok_or(Errno::INVAL)?;
        let directory = self.resolve(crate::fs::parent(name))?;
        self.directory(directory)?;
        Ok((directory, last.to_os_string()))
    }

    fn directory(&self, id: NodeId) -> io::Result<&Node> {
        let node = self.node(id);
        if node.kind == NodeKind::Directory { Ok(node) } else { Err(Errno::NOTDIR.into()) }
    }

    fn at(&self, (directory, name): &Place) -> Option<NodeId> {
        self.node(*directory).names.get(name).copied()
    }

    pub(super) fn list(&self, directory: NodeId) -> io::Result<Vec<DirEntry>> {
        let names = self.directory(directory)?.names.iter();
        Ok(names
            .map(|(name, id)| DirEntry { name: name.clone(), kind: self.node(*id).entry_kind() })
            .collect())
    }

    pub(super) fn create(&mut self, name: &Path, kind: NodeKind) -> io::Result<NodeId> {
        let place = self.place(name)?;
        if self.at(&place).is_some() {
            return Err(Errno::EXIST.into());
        }
        if self.capacity.is_some_and(|capacity| self.used + NODE_CHARGE > capacity) {
            return Err(Errno::NOSPC.into());
        }
        let id = self.add(kind);
        Arc::make_mut(&mut self.node_mut(place.0).names).insert(place.1.clone(), id);
        self.note(NameOperation::Link { at: place, node: id });
        Ok(id)
    }

    fn add(&mut self, kind: NodeKind) -> NodeId {
        self.used += NODE_CHARGE;
        let mut node = Node::new(kind);
        (node.linked, node.charged, node.modified) = (true, true, self.now());
        match self.free.pop() {
            Some(id) => {
                *self.node_mut(id) = node;
                id
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    pub(super) fn remove_file(&mut self, name: &Path) -> io::Result<()> {
        let place = self.place(name)?;
        let id = self.at(&place).ok_or(Errno::NOENT)?;
        if self.node(id).kind == NodeKind::Directory {
            return Err(Errno::ISDIR.into());
        }
        self.unlink(place, id);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, name: &Path) -> io::Result<()> {
        let place = self.place(name)?;
        let id = self.at(&place).ok_or(Errno::NOENT)?;
        if !self.directory(id)?.names.is_empty() {
            return Err(Errno::NOTEMPTY.into());
        }
        self.unlink(place, id);
        Ok(())
    }

    fn unlink(&mut self, place: Place, id: NodeId) {
        Arc::make_mut(&mut self.node_mut(place.0).names).remove(&place.1);
        self.note(NameOperation::Unlink { at: place, node: id });
        self.lose_name(id);
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        let id = self.at(&from).ok_or(Errno::NOENT)?;
        let replaced = self.at(&to);
        if replaced == Some(id) {
            return Ok(());
        }
        if self.holds(id, to.0) {
            return Err(Errno::INVAL.into());
        }
        if let Some(replaced) = replaced {
            if self.holds(replaced, from.0) {
                return Err(Errno::NOTEMPTY.into());
            }
            self.may_replace(id, replaced)?;
        }
        Arc::make_mut(&mut self.node_mut(from.0).names).remove(&from.1);
        Arc::make_mut(&mut self.node_mut(to.0).names).insert(to.1.clone(), id);
        let (from_synced, to_synced) = (false, false);
        self.note(NameOperation::Rename { from, to, node: id, replaced, from_synced, to_synced });
        if let Some(replaced) = replaced {
            self.lose_name(replaced);
        }
        Ok(())
    }

    fn may_replace(&self, id: NodeId, replaced: NodeId) -> io::Result<()> {
        let is_directory = |id| self.node(id).kind == NodeKind::Directory;
        match (is_directory(id), is_directory(replaced)) {
            (false, true) => Err(Errno::ISDIR.into()),
            (true, false) => Err(Errno::NOTDIR.into()),
            _ if self.node(replaced).names.is_empty() => Ok(()),
            _ => Err(Errno::NOTEMPTY.into()),
        }
    }

    /// Whether `inner` is `outer` or lies below it.
    fn holds(&self, outer: NodeId, inner: NodeId) -> bool {
        outer == inner || self.node(outer).names.values().any(|child| self.holds(*child, inner))
    }

    fn note(&mut self, operation: NameOperation) {
        self.node_mut(operation.node()).waiting += 1;
        self.pending.push(operation);
    }

    fn lose_name(&mut self, id: NodeId) {
        self.node_mut(id).linked = false;
        self.release(id);
    }

    /// Gives back the space of a node that has neither name nor handle, and its memory if no crash can bring it
    /// back. A directory keeps its id: pending operations may name it.
    fn release(&mut self, id: NodeId) {
        let node = self.node(id);
        if node.linked || node.opened > 0 || node.kind == NodeKind::Free {
            return;
        }
        if node.charged {
            self.used -= node.charge();
            self.node_mut(id).charged = false;
        }
        let node = self.node(id);
        if node.waiting == 0 && node.durable_at.is_none() && node.kind != NodeKind::Directory {
            *self.node_mut(id) = Node::new(NodeKind::Free);
            self.free.push(id);
        }
    }

    /// Releases what was only held by handles that are gone.
    pub(super) fn release_all(&mut self) {
        (0..self.nodes.len()).for_each(|id| self.release(id));
    }

    /// Makes the names of a directory durable.
    ///
    /// A rename between two directories waits for both, and until then a crash leaves either the old name or the
    /// new one. It cannot wait, nor can what it builds on, if a later operation on its name is made durable.
    pub(super) fn sync_names(&mut self, directory: NodeId) -> io::Result<()> {
        self.directory(directory)?;
        let mut operations = std::mem::take(&mut self.pending);
        let mut done: Vec<bool> = operations
            .iter_mut()
            .map(|operation| operation.touches(directory) && operation.complete_after(directory))
            .collect();
        add_dependencies(&operations, &mut done, |earlier, later| {
            earlier.shares_name(later, directory) || earlier.must_precede(later)
        });
        for (operation, done) in operations.into_iter().zip(done) {
            if done {
                self.complete(&operation);
            } else {
                self.pending.push(operation);
            }
        }
        Ok(())
    }

    fn complete(&mut self, operation: &NameOperation) {
        self.node_mut(operation.node()).waiting -= 1;
        self.apply(operation);
        self.release(operation.node());
    }

    /// Applies an operation to the durable names. Those that must precede it have been applied.
    pub(super) fn apply(&mut self, operation: &NameOperation) {
        match operation {
            NameOperation::Link { at, node } => self.set_durable(at, *node),
            NameOperation::Unlink { at, node } => {
                if self.node(*node).durable_at.as_ref() == Some(at) {
                    self.clear_durable(*node);
                }
            }
            NameOperation::Rename { to, node, .. } => {
                self.clear_durable(*node);
                self.set_durable(to, *node);
            }
        }
    }

    fn set_durable(&mut self, place: &Place, id: NodeId) {
        let names = Arc::make_mut(&mut self.node_mut(place.0).durable_names);
        let replaced = names.insert(place.1.clone(), id);
        self.node_mut(id).durable_at = Some(place.clone());
        if let Some(replaced) = replaced.filter(|replaced| *replaced != id) {
            self.node_mut(replaced).durable_at = None;
            self.release(replaced);
        }
    }

    fn clear_durable(&mut self, id: NodeId) {
        if let Some((directory, name)) = self.node_mut(id).durable_at.take() {
            Arc::make_mut(&mut self.node_mut(directory).durable_names).remove(&name);
        }
    }

    // Bytes.

    pub(super) fn read(&self, id: NodeId, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let position = to_size(position)?;
        let rest = self.node(id).cache.get(position..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }

    /// Writes what there is room for.
    pub(super) fn write(&mut self, id: NodeId, bytes: &[u8], position: u64) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let size = self.node(id).cache.len() as u64;
        to_size(position)?;
        let end_max = size.saturating_add(self.room()).min(FILE_SIZE_MAX).max(size);
        let len = end_max.saturating_sub(position).min(bytes.len() as u64) as usize;
        let Some(bytes) = bytes.get(..len).filter(|bytes| !bytes.is_empty()) else {
            return Err(if position >= FILE_SIZE_MAX { Errno::FBIG } else { Errno::NOSPC }.into());
        };
        self.used += (position + len as u64).saturating_sub(size);
        let now = self.now();
        let node = self.node_mut(id);
        let operation = ByteOperation::Write { position: position as usize, bytes: bytes.into() };
        operation.apply(Arc::make_mut(&mut node.cache));
        node.pending.push(operation);
        node.modified = now;
        Ok(len)
    }

    pub(super) fn set_size(&mut self, id: NodeId, size: u64) -> io::Result<()> {
        let old = self.node(id).cache.len() as u64;
        let new = to_size(size)?;
        if size > FILE_SIZE_MAX {
            return Err(Errno::FBIG.into());
        }
        if size > old && size - old > self.room() {
            return Err(Errno::NOSPC.into());
        }
        self.used = self.used + size - old;
        let now = self.now();
        let node = self.node_mut(id);
        Arc::make_mut(&mut node.cache).resize(new, 0);
        node.pending.push(ByteOperation::SetSize(new));
        node.modified = now;
        Ok(())
    }

    fn room(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used))
    }

    pub(super) fn sync_bytes(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        if node.pending.is_empty() {
            return;
        }
        let durable = Arc::make_mut(&mut node.durable);
        node.pending.drain(..).for_each(|operation| operation.apply(durable));
    }

    // Descriptors.

    /// Whether one more file can be opened; if so, it counts towards the peak.
    pub(super) fn spare_descriptor(&mut self) -> io::Result<()> {
        if self.open_files_max.is_some_and(|max| self.open_files >= max) {
            return Err(Errno::MFILE.into());
        }
        self.open_files_peak = self.open_files_peak.max(self.open_files + 1);
        Ok(())
    }

    pub(super) fn opened(&mut self, id: NodeId) {
        self.open_files += 1;
        self.node_mut(id).opened += 1;
    }

    pub(super) fn closed(&mut self, id: NodeId) {
        self.open_files -= 1;
        self.node_mut(id).opened -= 1;
        self.release(id);
    }

    /// The paths of all files, as calls see them.
    pub(super) fn files(&self, directory: NodeId, path: &Path, found: &mut Vec<std::path::PathBuf>) {
        for (name, id) in self.node(directory).names.iter() {
            let path = path.join(name);
            match self.node(*id).kind {
                NodeKind::File => found.push(path),
                NodeKind::Directory => self.files(*id, &path, found),
                NodeKind::Other | NodeKind::Free => {}
            }
        }
    }

    /// Makes everything durable.
    pub(super) fn settle(&mut self) {
        for operation in std::mem::take(&mut self.pending) {
            self.complete(&operation);
        }
        for node in &mut self.nodes {
            node.pending.clear();
            node.durable = node.cache.clone();
        }
    }
}

/// Adds to the chosen operations the earlier ones that they need, and those that these need.
pub(super) fn add_dependencies(
    operations: &[NameOperation],
    chosen: &mut [bool],
    needs: impl Fn(&NameOperation, &NameOperation) -> bool,
) {
    for last in (0..operations.len()).rev() {
        let (earlier, later) = operations.split_at(last);
        let (chosen_earlier, chosen_later) = chosen.split_at_mut(last);
        if let (Some(later), Some(true)) = (later.first(), chosen_later.first()) {
            for (earlier, chosen) in earlier.iter().zip(chosen_earlier) {
                *chosen |= needs(earlier, later);
            }
        }
    }
}

/// Writes into a content, growing it with zeroes if need be.
pub(super) fn put(content: &mut Vec<u8>, position: usize, bytes: &[u8]) {
    let end = position.saturating_add(bytes.len());
    if content.len() < end {
        content.resize(end, 0);
    }
    if let Some(place) = content.get_mut(position..end) {
        place.copy_from_slice(bytes);
    }
}

/// The system calls take positions up to `i64::MAX`.
fn to_size(position: u64) -> io::Result<usize> {
    if position > i64::MAX as u64 {
        return Err(Errno::INVAL.into());
    }
    usize::try_from(position).map_err(|_| Errno::FBIG.into())
}
