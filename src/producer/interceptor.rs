//! [`ProducerInterceptor`]: who sees every record on its way into a log.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use super::delivery::RecordMetadata;
use crate::error::{Error, Result};
use crate::format::Record;

/// Sees records before they are sent, and may change them; and hears what became of them.
///
/// # Contract
/// - [`on_send`](Self::on_send) is called by the thread that sends, before the partition is chosen.
///   [`on_acknowledgement`](Self::on_acknowledgement) is called on the producer's own thread, once for every record
///   that a send has taken, before its callback. Both hold up who calls them.
/// - One that panics is passed over: the record goes on as it was before. The producer is none the worse.
///
/// ```
/// use annals::{OutgoingRecord, ProducerConfig, ProducerInterceptor, Record, Store, TopicConfig};
///
/// /// Says where each record came from.
/// #[derive(Debug)]
/// struct Origin(String);
///
/// impl ProducerInterceptor for Origin {
///     fn on_send(&self, record: &mut OutgoingRecord) {
///         record.headers.push(("origin".into(), Some(self.0.clone().into())));
///     }
/// }
///
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// let topic = store.create_topic("events", TopicConfig::new())?;
/// let producer = store.producer(ProducerConfig::new().interceptor(Origin("shop".into())))?;
/// producer.send("events", &Record::new("it happened"))?.wait()?;
/// let first = topic.partition(0)?.read_from(0)?.next().unwrap()?;
/// assert_eq!(first.headers().next().unwrap().value, Some(&b"shop"[..]));
/// # Ok::<(), annals::Error>(())
/// ```
pub trait ProducerInterceptor: Debug + Send + Sync {
    /// A record is about to be sent.
    fn on_send(&self, record: &mut OutgoingRecord) {
        let _ = record;
    }

    /// A record that was sent is in its log, or will never be.
    fn on_acknowledgement(&self, result: Result<&RecordMetadata, &Error>) {
        let _ = result;
    }
}

/// A record on its way, for interceptors to change. Made only where there are any: it owns copies.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutgoingRecord {
    /// The topic that it goes to.
    pub topic: String,
    /// The partition, if the sender has said which.
    pub partition: Option<u32>,
    /// Its timestamp in milliseconds since the epoch, if the sender has given one.
    pub timestamp: Option<i64>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` for a tombstone.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl OutgoingRecord {
    pub(super) fn new(topic: &str, partition: Option<u32>, record: &Record<'_>) -> Self {
        let header = |header: &crate::format::Header<'_>| {
            (header.key.to_owned(), header.value.map(Bytes::copy_from_slice))
        };
        OutgoingRecord {
            topic: topic.to_owned(),
            partition,
            timestamp: record.timestamp_millis(),
            key: record.key_bytes().map(Bytes::copy_from_slice),
            value: record.value_bytes().map(Bytes::copy_from_slice),
            headers: record.headers().iter().map(header).collect(),
        }
    }

    /// The same record, borrowed.
    pub(super) fn record(&self) -> Record<'_> {
        let mut record = self.value.as_ref().map_or_else(Record::tombstone, Record::new);
        if let Some(key) = &self.key {
            record = record.key(key);
        }
        if let Some(timestamp) = self.timestamp {
            record = record.timestamp(timestamp);
        }
        for (key, value) in &self.headers {
            record = match value {
                Some(value) => record.header(key, value),
                None => record.null_header(key),
            };
        }
        record
    }

    /// The record after all interceptors have had it.
    pub(super) fn pass(mut self, interceptors: &[Arc<dyn ProducerInterceptor>]) -> Self {
        for interceptor in interceptors {
            let before = self.clone();
            if catch_unwind(AssertUnwindSafe(|| interceptor.on_send(&mut self))).is_err() {
                self = before;
            }
        }
        self
    }
}
