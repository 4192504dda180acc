//! Queues: consumers that share out records instead of partitions, by offset or by priority.
//!
//! In a consumer group each partition belongs to one member, and progress is one offset. In a **share group** (Kafka's
//! KIP-932) every member may get records of every partition of its topics, and each record has a state of its own. So
//! there may be more consumers than partitions, one slow record holds nobody up, and what a consumer that dies had is
//! delivered to another:
//!
//! ```
//! use std::time::Duration;
//! use annals::share::{Acknowledge, AcknowledgementMode, ShareConfig, ShareOffsetReset};
//! use annals::{Record, Store, TopicConfig};
//!
//! # let directory = tempfile::tempdir().unwrap();
//! let store = Store::open(directory.path())?;
//! let tasks = store.create_topic("tasks", TopicConfig::new())?;
//! for task in ["sweep", "mop", "dust"] {
//!     tasks.append(&Record::new(task))?;
//! }
//!
//! // As many of these, in as many threads, as there is work for.
//! let config = ShareConfig::new()
//!     .group("workers")
//!     .offset_reset(ShareOffsetReset::Earliest)
//!     .acknowledgement_mode(AcknowledgementMode::Explicit);
//! let mut worker = store.share_consumer(config)?;
//! worker.subscribe(["tasks"])?;
//! for task in worker.poll(Duration::from_millis(100))? {
//!     let word = match task.value() {
//!         Some(b"mop") => Acknowledge::Release, // not now: somebody gets it again
//!         _ => Acknowledge::Accept,             // done, for good
//!     };
//!     worker.acknowledge(&task, word)?;
//! }
//! worker.commit()?; // durable
//!
//! let again = worker.poll(Duration::from_millis(100))?;
//! assert_eq!((again[0].value(), again[0].delivery_count()), (Some(&b"mop"[..]), 2));
//! worker.close()?;
//! # Ok::<(), annals::Error>(())
//! ```
//!
//! # What is guaranteed
//! - A record is with one consumer at a time. It stays there until it is acknowledged, until its lock runs out
//!   ([`lock_duration`](ShareConfig::lock_duration), 30 s; [`Acknowledge::Renew`] begins it anew), or until the
//!   consumer is closed or dropped.
//! - What a commit returned for is as durable as the store's topics. After a restart every record that is not finished
//!   is delivered again, and none that is. (A topic that is less durable than that may lose records to a power cut
//!   whose acknowledgements stay. The group notices when it looks and finds the log shorter than it knows it; what is
//!   appended before, at the same offsets, counts as acknowledged.)
//! - A record is delivered at least once, and at most so often as the
//!   [limit](ShareConfig::delivery_count_limit) says (5): then it is given up for this group. Deliveries are counted
//!   when a record is given back; a process that dies takes the count of what it had with it, as Kafka's broker does,
//!   unless [asked not to](ShareConfig::durable_delivery_count).
//! - Records come by rising offset, but for those that are delivered again.
//!
//! Consumers of a process need no protocol to find each other: there is no assignment, no heartbeat and no rebalance.
//! Whoever asks gets what is available; consumers begin to look at different partitions. A consumer that waits is
//! woken by an append, by what others give back, and by a lock that runs out.
//!
//! # Priority
//! With [`ShareConfig::priority`] the best of the available records goes first instead of the oldest: lower keys first
//! ([`LowestKeyFirst`]), or by whatever [`PriorityOrder`] says; records that compare as equal go by offset. Each
//! poll first takes in what is new, so that **a newcomer overtakes** everything that was read ahead and not delivered;
//! a poll returns one record unless [told otherwise](ShareConfig::max_poll_records). Everything else is as above.
//!
//! ```
//! use std::time::Duration;
//! use annals::share::{LowestKeyFirst, ShareConfig, ShareOffsetReset};
//! use annals::{Record, Store, TopicConfig};
//!
//! # let directory = tempfile::tempdir().unwrap();
//! let store = Store::open(directory.path())?;
//! let calls = store.create_topic("calls", TopicConfig::new())?;
//! calls.append(&Record::new("a question").key("3"))?;
//! calls.append(&Record::new("a broken pipe").key("2"))?;
//!
//! let config = ShareConfig::new()
//!     .group("desk")
//!     .offset_reset(ShareOffsetReset::Earliest)
//!     .priority(LowestKeyFirst)
//!     .max_wait(Duration::from_secs(600)); // nobody waits for ever
//! let mut desk = store.share_consumer(config)?;
//! desk.subscribe(["calls"])?;
//! let mut take = || -> annals::Result<_> {
//!     let call = desk.next(Duration::from_millis(100))?;
//!     Ok(call.and_then(|call| call.into_record().value_bytes()).unwrap_or_default())
//! };
//! assert_eq!(take()?, "a broken pipe");
//! calls.append(&Record::new("a fire").key("1"))?;
//! assert_eq!(take()?, "a fire");
//! assert_eq!(take()?, "a question");
//! # Ok::<(), annals::Error>(())
//! ```
//!
//! What can be seen is bounded: of each partition, [`max_in_flight`](ShareConfig::max_in_flight) records that are not
//! finished (2000) and [`read_ahead_bytes`](ShareConfig::read_ahead_bytes) (16 MiB) are read ahead, from the first
//! unfinished one on. A record beyond that cannot overtake yet, however urgent it is; each that is finished lets one
//! more be seen. Finished ones do not count: what is written down is the offset below which all are finished, and
//! ranges of those that are finished beyond it. Only if there are more than 16,000 of these (neighbours that ended
//! alike after equally many deliveries are in one; accepted and rejected by turns, each is one), nothing more is read
//! before the first unfinished record is finished.
//!
//! # Where it is kept
//! In the topic `__share_group_state`, in Kafka's own schemas and partitions: an update for each commit, and from time
//! to time a snapshot ([`format::ShareSnapshot`](crate::format::ShareSnapshot),
//! [`format::ShareUpdate`](crate::format::ShareUpdate)). Leave that topic alone. [`ShareGroups`] lists,
//! describes, resets and deletes groups. Groups whose progress may be damaged cannot be used, unless the loss was
//! [accepted](crate::Partition::accept_loss): then they go on from what can still be read.
//!
//! | file | owns |
//! | --- | --- |
//! | `in_flight`, `words`, `spans` | the state machine of a partition, what is said of it, ranges of offsets |
//! | `partition`, `queue`, `order` | the records themselves: read again, read on, read ahead by priority |
//! | `journal` | what is written down |
//! | `group`, `coordinator` | who is in a group, and what a store has of groups |
//! | `consumer`, `pending`, `record`, `config` | what an application uses |
//! | `admin` | looking at groups, and changing them |

mod admin;
mod config;
mod consumer;
mod coordinator;
mod group;
mod in_flight;
mod journal;
mod order;
mod partition;
mod pending;
mod queue;
mod record;
mod spans;
mod words;

pub use admin::{
    ShareGroupDescription, ShareGroupListing, ShareGroups, ShareMemberDescription, SharePartitionDescription,
};
pub use config::{AcknowledgementMode, ShareConfig, ShareOffsetReset};
pub use consumer::ShareConsumer;
pub use in_flight::InFlight;
pub use order::{LowestKeyFirst, PriorityOrder, RankOrder};
pub use record::ShareRecord;
pub use words::{Acknowledge, AcquiredRecords, Limits, NotAcquired, RecordState, StateUpdate};
