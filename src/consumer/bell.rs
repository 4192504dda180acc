//! What wakes a consumer that waits: an append, its group, a change of topics, or somebody's
//! [`WakeupHandle`](crate::WakeupHandle).
//!
//! Partitions and coordinators are given wakers that ring the consumer's [`Bell`]; the bell notes what it was about
//! and wakes whoever waits for the consumer just then, a sleeping thread or a task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use parking_lot::Mutex;

use crate::error::Result;
use crate::topic::Attendant;
use crate::types::TopicPartition;
use crate::wake::{Signal, Wakeup};

/// Rung by anybody, any number of times; heard by the consumer alone.
#[derive(Debug)]
pub(super) struct Bell {
    /// Somebody wants the call to give up.
    woken: AtomicBool,
    /// The membership may not be what it was.
    group: AtomicBool,
    /// Partitions in which something may be found.
    ready: Mutex<Vec<Arc<TopicPartition>>>,
    waiter: Mutex<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    waker: Waker,
    /// A task has no clock of its own to wake it.
    is_task: bool,
}

impl Bell {
    /// Wakes the signal until it is told of a task.
    pub(super) fn new(signal: &Arc<Signal>) -> Arc<Self> {
        Arc::new(Bell {
            woken: AtomicBool::new(false),
            group: AtomicBool::new(false),
            ready: Mutex::default(),
            waiter: Mutex::new(Waiter { waker: signal.waker(), is_task: false }),
        })
    }

    /// From now on the thread waits that sleeps on the signal.
    pub(super) fn wake_thread(&self, signal: &Arc<Signal>) {
        let mut waiter = self.waiter.lock();
        if waiter.is_task {
            *waiter = Waiter { waker: signal.waker(), is_task: false };
        }
    }

    /// From now on the task waits.
    pub(super) fn wake_task(&self, waker: &Waker) {
        let mut waiter = self.waiter.lock();
        if !waiter.is_task || !waiter.waker.will_wake(waker) {
            *waiter = Waiter { waker: waker.clone(), is_task: true };
        }
    }

    /// Whether a wakeup was asked for, once.
    pub(super) fn take_wakeup(&self) -> bool {
        // Looked at first: it is the way of every poll, and stores cost more.
        self.woken.load(Ordering::Acquire) && self.woken.swap(false, Ordering::AcqRel)
    }

    /// Whether the group has called, once.
    pub(super) fn take_group_call(&self) -> bool {
        self.group.load(Ordering::Acquire) && self.group.swap(false, Ordering::AcqRel)
    }

    /// The partitions that have called since.
    pub(super) fn take_ready(&self) -> Vec<Arc<TopicPartition>> {
        std::mem::take(&mut *self.ready.lock())
    }

    /// To be told of a partition.
    pub(super) fn partition_waker(self: &Arc<Self>, partition: &Arc<TopicPartition>) -> Waker {
        let (bell, partition) = (Arc::clone(self), Arc::clone(partition));
        Waker::from(Arc::new(PartitionCall { bell, partition }))
    }

    /// To be told of the group.
    pub(super) fn group_waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::new(GroupCall(Arc::clone(self))))
    }

    fn ring(&self) {
        // Outside the lock: a task's waker may do anything.
        let waker = self.waiter.lock().waker.clone();
        waker.wake();
    }
}

impl Attendant for Bell {
    fn attend(&self) -> Result<()> {
        let task = self.waiter.lock().is_task;
        if task {
            self.ring();
        }
        Ok(())
    }

    fn topics_changed(&self) {
        self.ring();
    }
}

struct PartitionCall {
    bell: Arc<Bell>,
    partition: Arc<TopicPartition>,
}

impl Wake for PartitionCall {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bell.ready.lock().push(Arc::clone(&self.partition));
        self.bell.ring();
    }
}

struct GroupCall(Arc<Bell>);

impl Wake for GroupCall {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.group.store(true, Ordering::Release);
        self.0.ring();
    }
}

impl Wakeup for Bell {
    fn wakeup(&self) {
        self.woken.store(true, Ordering::Release);
        self.ring();
    }
}
