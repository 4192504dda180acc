//! What becomes of a record that was sent: [`Delivery`], and the result that all records of a batch share.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::types::TopicPartition;

/// Where a record is in its log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordMetadata {
    /// The partition.
    pub partition: TopicPartition,
    /// Its offset there.
    pub offset: u64,
    /// Its timestamp in milliseconds since the epoch: its own, that of the send, or, where the topic stamps records,
    /// that of the append; -1 if it was sent without.
    pub timestamp: i64,
}

/// What becomes of a record that was sent: a [`Future`] that needs no runtime, or a call that waits.
///
/// Dropped, nobody hears of it; the record is delivered nevertheless. The answer may be asked for more than once.
///
/// ```
/// use annals::{ProducerConfig, Record, Store, TopicConfig};
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// store.create_topic("clicks", TopicConfig::new())?;
/// let producer = store.producer(ProducerConfig::new())?;
/// let deliveries: Vec<_> = ["one", "two"]
///     .iter()
///     .map(|value| producer.send("clicks", &Record::new(*value)))
///     .collect::<Result<_, _>>()?;
/// producer.flush()?;
/// assert_eq!(deliveries[0].wait()?.offset, 0);
/// assert_eq!(deliveries[1].try_get().unwrap()?.offset, 1);
/// # Ok::<(), annals::Error>(())
/// ```
pub struct Delivery {
    result: Arc<BatchResult>,
    index: u32,
    timestamp: i64,
    /// Where in the result its waker is, once it was polled, and how many pieces were decided then: each takes all
    /// wakers.
    waker: Option<(usize, usize)>,
}

/// What the deliveries of a producer have in common.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) clock: Arc<dyn Clock>,
    /// The producer's thread, which must not wait for what only it can do.
    pub(super) sender: OnceLock<ThreadId>,
}

impl Waiting {
    /// Whether the caller is the producer's own thread.
    pub(super) fn is_sender(&self) -> bool {
        self.sender.get().is_some_and(|sender| *sender == std::thread::current().id())
    }

    pub(super) fn refuse_sender(&self, action: &'static str) -> Result<()> {
        if self.is_sender() {
            let reason = "the producer's own thread, which calls callbacks, cannot wait for itself".into();
            return Err(Error::InvalidState { action, reason });
        }
        Ok(())
    }
}

/// What became of the records of one batch.
#[derive(Debug)]
pub(super) struct BatchResult {
    partition: TopicPartition,
    waiting: Arc<Waiting>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// One, unless the batch was split: then each piece is decided by itself.
    pieces: Vec<Piece>,
    /// How many records are decided, and of how many, once that is known.
    decided: u32,
    total: Option<u32>,
    wakers: Vec<Waker>,
}

/// Records of the batch that were decided together.
#[derive(Debug)]
struct Piece {
    first: u32,
    end: u32,
    outcome: Outcome,
}

/// How the records of a piece fared.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// The first of them has this offset; all have this time, if the topic stamps them.
    Appended { base_offset: u64, append_time: Option<i64> },
    /// None of them is known to be in the log.
    Failed(Error),
}

impl Outcome {
    /// What it means for the record `place` places after the first of the piece.
    pub(super) fn of(
        &self,
        partition: &TopicPartition,
        place: u32,
        timestamp: i64,
    ) -> Result<RecordMetadata> {
        match self {
            Outcome::Failed(error) => Err(error.clone()),
            Outcome::Appended { base_offset, append_time } => Ok(RecordMetadata {
                partition: partition.clone(),
                offset: base_offset + u64::from(place),
                timestamp: append_time.unwrap_or(timestamp),
            }),
        }
    }
}

impl BatchResult {
    pub(super) fn new(partition: TopicPartition, waiting: Arc<Waiting>) -> Arc<Self> {
        Arc::new(BatchResult { partition, waiting, state: Mutex::default(), changed: Condvar::new() })
    }

    pub(super) fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// Decides the records from `first` to `end`, which are the last of the batch if so said. Returns whether all are
    /// decided now.
    pub(super) fn decide(&self, first: u32, end: u32, last: bool, outcome: Outcome) -> bool {
        let (wakers, finished) = {
            let mut state = self.state.lock();
            state.pieces.push(Piece { first, end, outcome });
            state.decided += end - first;
            if last {
                state.total = Some(end);
            }
            self.changed.notify_all();
            (std::mem::take(&mut state.wakers), state.is_finished())
        };
        wakers.into_iter().for_each(Waker::wake);
        finished
    }

    /// Waits until all of it is decided.
    pub(super) fn wait_finished(&self) {
        let mut state = self.state.lock();
        while !state.is_finished() {
            self.changed.wait(&mut state);
        }
    }
}

impl State {
    fn piece(&self, index: u32) -> Option<&Piece> {
        self.pieces.iter().find(|piece| (piece.first..piece.end).contains(&index))
    }

    fn is_finished(&self) -> bool {
        self.total == Some(self.decided)
    }
}

impl Delivery {
    pub(super) fn new(result: Arc<BatchResult>, index: u32, timestamp: i64) -> Self {
        Delivery { result, index, timestamp, waker: None }
    }

    /// The partition that the record goes to.
    pub fn partition(&self) -> &TopicPartition {
        &self.result.partition
    }

    /// The answer, if it is there.
    pub fn try_get(&self) -> Option<Result<RecordMetadata>> {
        self.answer(&self.result.state.lock())
    }

    /// Waits for the answer. It comes within the delivery timeout, unless the disk itself hangs.
    ///
    /// # Errors
    /// Why the record was not delivered; [`Error::class`] says what to do about it. [`Error::InvalidState`] in a
    /// callback of the same producer, which could wait for ever.
    pub fn wait(&self) -> Result<RecordMetadata> {
        let mut state = self.result.state.lock();
        loop {
            if let Some(answer) = self.answer(&state) {
                return answer;
            }
            self.result.waiting.refuse_sender("wait for a delivery")?;
            self.result.changed.wait(&mut state);
        }
    }

    /// As [`wait`](Self::wait), for at most so long.
    ///
    /// # Errors
    /// As [`wait`](Self::wait); [`Error::Timeout`] if there is no answer by then, and it may still come.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<RecordMetadata> {
        let waiting = &self.result.waiting;
        let deadline = waiting.clock.monotonic().saturating_add(timeout);
        let mut state = self.result.state.lock();
        loop {
            if let Some(answer) = self.answer(&state) {
                return answer;
            }
            waiting.refuse_sender("wait for a delivery")?;
            let left = deadline.saturating_sub(waiting.clock.monotonic());
            if left.is_zero() {
                let what = format!("the delivery of a record to {}", self.result.partition);
                return Err(Error::Timeout { what, waited: timeout });
            }
            self.result.changed.wait_for(&mut state, left);
        }
    }

    fn answer(&self, state: &State) -> Option<Result<RecordMetadata>> {
        let piece = state.piece(self.index)?;
        Some(piece.outcome.of(&self.result.partition, self.index - piece.first, self.timestamp))
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = Arc::clone(&self.result);
        let mut state = result.state.lock();
        if let Some(answer) = self.answer(&state) {
            return Poll::Ready(answer);
        }
        let decided = state.pieces.len();
        let place = self.waker.filter(|(_, then)| *then == decided).map(|(place, _)| place);
        match place.and_then(|place| state.wakers.get_mut(place)) {
            Some(waker) => waker.clone_from(context.waker()),
            None => {
                self.waker = Some((state.wakers.len(), decided));
                state.wakers.push(context.waker().clone());
            }
        }
        Poll::Pending
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("partition", &self.result.partition)
            .field("result", &self.try_get())
            .finish_non_exhaustive()
    }
}
