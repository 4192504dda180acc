//! How annals works, for those who use it and those who change it. Pages only, no code.
//!
//! - [`architecture`]: the map of the tree, what each part may know, and one append, one read and one recovery
//!   walked through by file.
//! - [`mod@format`]: every file in a store, whose format it is, and what reads, writes and proves it.
//! - [`durability`]: what is assumed of disks, what each [`Durability`](crate::Durability) promises, and every crash
//!   point with its outcome.
//! - [`delivery`]: producers, consumers, groups, transactions and queues: who gets a record, how often, and what each
//!   guarantee costs.
//! - [`operations`]: what a store has to have done from time to time, and every figure and event by which it can be
//!   watched.

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("format.md")]
pub mod format {}

#[doc = include_str!("durability.md")]
pub mod durability {}

#[doc = include_str!("delivery.md")]
pub mod delivery {}

#[doc = include_str!("operations.md")]
pub mod operations {}

/// Compiles the code in the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
