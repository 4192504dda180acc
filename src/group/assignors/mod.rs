//! Kafka's four assignors, which are what an [`Assignor`](super::Assignor) may be without writing one.
//!
//! | file | owns |
//! | --- | --- |
//! | `layout` | a group in numbers: members in order, topics, partitions |
//! | `range`, `round_robin` | the two that know nothing of before |
//! | `sticky` | the two that do, and who has a right to what |
//! | `uniform`, `general` | how those share out, if all members want the same topics and if they do not |

mod general;
mod layout;
mod range;
mod round_robin;
mod sticky;
mod uniform;

pub use range::RangeAssignor;
pub use round_robin::RoundRobinAssignor;
pub use sticky::{CooperativeStickyAssignor, StickyAssignor};
