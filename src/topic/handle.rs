//! [`StoreHandle`]: what the layers above hold of a store, and what they keep with it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::config::TopicConfig;
use super::store::{Shared, Store};
use super::topic::Topic;
use crate::clock::Clock;
use crate::error::{Error, Result};

/// A store, without keeping it open: every call fails with [`Error::Closed`] once it is closed.
#[derive(Clone)]
pub(crate) struct StoreHandle {
    shared: Weak<Shared>,
    clock: Arc<dyn Clock>,
}

/// Something of a layer above that is looked after with the store.
pub(crate) trait Attendant: Send + Sync {
    /// Does what is due; called by each pass of [`Store::maintain`].
    fn attend(&self) -> Result<()>;

    /// The store is being closed: whoever waits for it should be sent home.
    fn closing(&self) {}

    /// Takes note that a topic was made, deleted or given more partitions, or that the store is closed. Called by
    /// whoever changed that, who may hold locks of the store: nothing may be asked of it here.
    fn topics_changed(&self) {}
}

/// What layers above keep with a store, one of each type. The store knows none of these types.
#[derive(Default)]
pub(super) struct Extensions {
    kept: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    attendants: Mutex<Vec<Weak<dyn Attendant>>>,
    /// Counts the changes of the set of topics and of their numbers of partitions.
    topics_version: AtomicU64,
}

impl Extensions {
    /// The attendants that are still there.
    pub(super) fn attendants(&self) -> Vec<Arc<dyn Attendant>> {
        let mut attendants = self.attendants.lock();
        attendants.retain(|attendant| attendant.strong_count() > 0);
        attendants.iter().filter_map(Weak::upgrade).collect()
    }

    /// Tells them that topics are not what they were, after the change can be seen.
    pub(super) fn topics_changed(&self) {
        self.topics_version.fetch_add(1, Ordering::AcqRel);
        self.attendants().iter().for_each(|attendant| attendant.topics_changed());
    }
}

impl Store {
    /// What the layers above hold of it.
    pub(crate) fn weak_handle(&self) -> StoreHandle {
        let clock = Arc::clone(&self.shared.options.clock);
        StoreHandle { shared: Arc::downgrade(&self.shared), clock }
    }
}

impl StoreHandle {
    fn shared(&self) -> Result<Arc<Shared>> {
        let closed = || Error::Closed { what: "the store".into() };
        self.shared.upgrade().filter(|shared| !shared.is_closed()).ok_or_else(closed)
    }

    /// Where the store gets its time from.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Chance.
    pub(crate) fn random(&self) -> Result<u64> {
        Ok(self.shared()?.fs.random())
    }

    /// An id for a producer, which no other has been given or will be.
    pub(crate) fn producer_id(&self) -> Result<i64> {
        self.shared()?.producer_id()
    }

    /// Keeps a producer id, and those below it, from being given: somebody has it already.
    pub(crate) fn avoid_producer_id(&self, id: i64) -> Result<()> {
        self.shared()?.producer_ids.avoid(id);
        Ok(())
    }

    /// As [`Store::topic`].
    pub(crate) fn topic(&self, name: &str) -> Result<Topic> {
        self.shared()?.topic(name)
    }

    /// As [`Store::topics`].
    pub(crate) fn topics(&self) -> Result<Vec<Topic>> {
        Ok(self.shared()?.topics())
    }

    /// A number that is another one once topics were made, deleted or given more partitions.
    pub(crate) fn topics_version(&self) -> Result<u64> {
        Ok(self.shared()?.extensions.topics_version.load(Ordering::Acquire))
    }

    /// The topic of that name, made if there is none.
    pub(crate) fn topic_or_create(&self, name: &str, config: TopicConfig) -> Result<Topic> {
        let shared = self.shared()?;
        match shared.topic(name) {
            Err(Error::UnknownTopic { .. }) => {}
            known => return known,
        }
        match shared.create(name, config) {
            // By somebody else, in between.
            Err(Error::TopicExists { .. }) => shared.topic(name),
            made => made,
        }
    }

    /// What is kept with the store under this type, made the first time.
    pub(crate) fn extension<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Result<Arc<T>> {
        let shared = self.shared()?;
        let mut kept = shared.extensions.kept.lock();
        let found = kept.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(make()));
        let mistaken = |_| Error::InvalidState { action: "extend the store", reason: "types differ".into() };
        Arc::clone(found).downcast::<T>().map_err(mistaken)
    }

    /// What is kept with the store under this type, if it was ever made.
    pub(crate) fn kept<T: Any + Send + Sync>(&self) -> Result<Option<Arc<T>>> {
        let kept = self.shared()?.extensions.kept.lock().get(&TypeId::of::<T>()).cloned();
        Ok(kept.and_then(|kept| kept.downcast::<T>().ok()))
    }

    /// Has it looked after with each pass of maintenance, as long as somebody else keeps it.
    pub(crate) fn attend(&self, attendant: Weak<dyn Attendant>) -> Result<()> {
        let shared = self.shared()?;
        let mut attendants = shared.extensions.attendants.lock();
        // Those that are gone hold memory, and maintenance may never come.
        attendants.retain(|attendant| attendant.strong_count() > 0);
        attendants.push(attendant);
        Ok(())
    }
}

impl fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreHandle").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Idle;

    impl Attendant for Idle {
        fn attend(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn attendants_that_are_gone_take_no_room() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let handle = store.weak_handle();
        for _ in 0..3 {
            let attendant = Arc::new(Idle);
            let weak: Weak<Idle> = Arc::downgrade(&attendant);
            handle.attend(weak).unwrap();
            assert_eq!(store.shared.extensions.attendants.lock().len(), 1);
        }
    }
}
