//! [`Group`]: a share group while it has members.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

use super::config::Settings;
use super::partition::SharePartition;
use crate::error::Error;
use crate::types::{TopicName, Uuid};

/// A share group while it has members.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) settings: Settings,
    pub(super) members: Mutex<BTreeMap<u64, Member>>,
    pub(super) partitions: Mutex<BTreeMap<(Uuid, u32), Arc<SharePartition>>>,
    waiting: Mutex<BTreeMap<u64, Waker>>,
    next_waiting: AtomicU64,
}

/// A consumer of the group.
#[derive(Debug, Clone, Default)]
pub(super) struct Member {
    pub(super) client_id: String,
    pub(super) topics: Vec<TopicName>,
}

/// Has a waker told of what is given back, as long as it lives.
pub(super) struct Waiting<'a> {
    group: &'a Group,
    key: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.group.waiting.lock().remove(&self.key);
    }
}

impl Group {
    pub(super) fn new(name: String, settings: Settings) -> Self {
        Group {
            name,
            settings,
            members: Mutex::default(),
            partitions: Mutex::default(),
            waiting: Mutex::default(),
            next_waiting: AtomicU64::new(0),
        }
    }

    /// Has the waker told when records may have become available.
    pub(super) fn listen(&self, waker: &Waker) -> Waiting<'_> {
        let key = self.next_waiting.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().insert(key, waker.clone());
        Waiting { group: self, key }
    }

    /// Says that records may have become available.
    pub(super) fn notify(&self) {
        self.waiting.lock().values().for_each(Waker::wake_by_ref);
    }

    /// All partitions that some member has been on.
    pub(super) fn open_partitions(&self) -> Vec<Arc<SharePartition>> {
        self.partitions.lock().values().cloned().collect()
    }

    /// Why others with these settings cannot be in it.
    pub(super) fn check(&self, settings: &Settings) -> Result<(), Error> {
        let Some(what) = self.settings.difference(settings) else { return Ok(()) };
        let reason = format!("its members have another {what}");
        Err(Error::InconsistentProtocol { group: self.name.clone(), reason })
    }
}
