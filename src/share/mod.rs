//! Share groups.

mod in_flight;
mod spans;

pub use in_flight::{AcquiredRecords, Acknowledge, InFlight, Limits, NotAcquired, RecordState, StateUpdate};
