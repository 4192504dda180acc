//! How one thread tells another: [`Reply`], an answer that comes later, [`WakeupHandle`], by which a poll is ended, and
//! the signal that a sleeper waits for.
//!
//! All speak through [`std::task::Waker`], so that who waits may be a thread or a task of any runtime.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};

/// An answer that comes later: a [`Future`] that needs no runtime, or a call that waits.
///
/// Dropped, nobody waits any more; what was asked for happens nevertheless.
///
/// ```
/// use std::time::Duration;
/// use annals::Reply;
///
/// let (replier, reply) = Reply::<u32>::pair();
/// let answering = std::thread::spawn(|| replier.send(Ok(7)));
/// assert_eq!(reply.wait(Duration::from_secs(10))?, 7);
/// # answering.join().unwrap();
/// # Ok::<(), annals::Error>(())
/// ```
#[must_use = "it brings the answer"]
pub struct Reply<T>(oneshot::AsyncReceiver<Result<T>>);

/// The other end of a [`Reply`]: whoever has it answers, once. Dropped without an answer, it answers
/// [`Error::Closed`].
pub struct Replier<T>(oneshot::Sender<Result<T>>);

impl<T> Reply<T> {
    /// An answer to come, and the end that gives it.
    pub fn pair() -> (Replier<T>, Reply<T>) {
        let (sender, receiver) = oneshot::async_channel();
        (Replier(sender), Reply(receiver))
    }

    /// An answer that is there already.
    pub fn ready(answer: Result<T>) -> Reply<T> {
        let (replier, reply) = Reply::pair();
        replier.send(answer);
        reply
    }

    /// Waits for it, at most for `timeout`.
    ///
    /// # Errors
    /// The answer's own; [`Error::Timeout`] if there is none by then.
    pub fn wait(mut self, timeout: Duration) -> Result<T> {
        let signal = Signal::new();
        let waker = signal.waker();
        let mut context = Context::from_waker(&waker);
        if let Poll::Ready(answer) = Pin::new(&mut self).poll(&mut context) {
            return answer;
        }
        // Woken for the answer alone, so one wait is enough.
        signal.wait(timeout);
        match Pin::new(&mut self).poll(&mut context) {
            Poll::Ready(answer) => answer,
            Poll::Pending => Err(Error::Timeout { what: "the answer".into(), waited: timeout }),
        }
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let closed = |_| Err(Error::Closed { what: "who should have answered".into() });
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or_else(closed))
    }
}

impl<T> Replier<T> {
    /// Answers. If nobody waits any more, the answer is lost.
    pub fn send(self, answer: Result<T>) {
        // Dropped with the answer in it: nobody wanted it.
        let _ = self.0.send(answer);
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Replier<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replier").finish_non_exhaustive()
    }
}

/// Wakes a [`Consumer`](crate::Consumer) or a [`ShareConsumer`](crate::share::ShareConsumer) from another thread. Clone
/// it, send it, share it; it does not keep the consumer.
///
/// ```
/// use std::time::Duration;
/// use annals::consumer::ConsumerConfig;
/// use annals::{Error, Store, TopicConfig};
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// let topic = store.create_topic("clicks", TopicConfig::new())?;
/// let mut consumer = store.consumer(ConsumerConfig::new())?;
/// consumer.assign([topic.partition(0)?.id().clone()])?;
/// let handle = consumer.wakeup_handle();
/// let waking = std::thread::spawn(move || handle.wakeup());
/// assert!(matches!(consumer.poll(Duration::from_secs(3600)), Err(Error::Woken)));
/// # waking.join().unwrap();
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
pub struct WakeupHandle(Arc<dyn Wakeup>);

/// What a [`WakeupHandle`] wakes.
pub(crate) trait Wakeup: Send + Sync {
    fn wakeup(&self);
}

impl WakeupHandle {
    pub(crate) fn new(wakes: Arc<dyn Wakeup>) -> Self {
        WakeupHandle(wakes)
    }

    /// Makes the poll under way, or else the next one, fail with [`Error::Woken`], once. Nothing is lost by that: the
    /// next poll goes on where it was.
    pub fn wakeup(&self) {
        self.0.wakeup();
    }
}

impl fmt::Debug for WakeupHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WakeupHandle").finish_non_exhaustive()
    }
}

/// What a sleeping thread waits for. Set by anybody, any number of times; taken by the one who sleeps.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(crate) fn new() -> Arc<Signal> {
        Arc::default()
    }

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    /// Sleeps until it is set, at most for `timeout` of real time. Returns whether it was, and takes that back.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let mut set = self.set.lock();
        if !*set {
            self.changed.wait_for(&mut set, timeout);
        }
        std::mem::take(&mut *set)
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        *self.set.lock() = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_set_before_the_wait_is_not_lost_and_taken_once() {
        let signal = Signal::new();
        signal.waker().wake();
        assert!(signal.wait(Duration::from_secs(3600)));
        assert!(!signal.wait(Duration::ZERO));
    }

    #[test]
    fn a_replier_that_goes_without_a_word_answers_that_it_is_closed() {
        let (replier, reply) = Reply::<()>::pair();
        drop(replier);
        assert!(matches!(reply.wait(Duration::ZERO), Err(Error::Closed { .. })));
        let (replier, reply) = Reply::<()>::pair();
        assert!(matches!(reply.wait(Duration::ZERO), Err(Error::Timeout { .. })));
        replier.send(Ok(()));
    }
}
