//! Transactions: all of what a producer writes between `begin` and `commit`, to any number of partitions and with the
//! offsets of what it read, or nothing of it; and who decides which ([`TransactionCoordinator`]).
//!
//! - who may do what when, and what a call changes (`coordinator.rs`); how a decision is carried out (`finish.rs`);
//!   what administrators ask (`admin.rs`); its settings (`config.rs`).
//! - one transactional id, and whose turn it is to change it (`entry.rs`).
//! - `__transaction_state`, where all of it is kept (`log.rs`).

mod admin;
mod config;
mod coordinator;
mod entry;
mod finish;
mod log;

pub use admin::{TransactionDescription, TransactionListing};
pub use config::TransactionConfig;
pub use coordinator::{ProducerIdAndEpoch, TransactionCoordinator};
