//! The settings of the coordinator of transactions.

use std::time::Duration;

use crate::error::{Error, Result};

/// How transactions are coordinated. Names and defaults are those of Kafka's broker.
///
/// ```
/// use std::time::Duration;
/// use annals::{Store, transaction::TransactionConfig};
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// store.transactions()?.configure(TransactionConfig::new().max_timeout(Duration::from_secs(60)))?;
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionConfig {
    pub(super) max_timeout: Duration,
    pub(super) id_expiration: Duration,
    pub(super) partitions: u32,
    pub(super) ids_max: usize,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        TransactionConfig::new()
    }
}

impl TransactionConfig {
    /// The defaults.
    pub fn new() -> Self {
        TransactionConfig {
            max_timeout: Duration::from_secs(15 * 60),
            id_expiration: Duration::from_secs(7 * 24 * 60 * 60),
            partitions: 50,
            ids_max: 1_000_000,
        }
    }

    /// The longest timeout that a producer may ask for (`transaction.max.timeout.ms`); 15 minutes.
    #[must_use]
    pub fn max_timeout(mut self, timeout: Duration) -> Self {
        self.max_timeout = timeout;
        self
    }

    /// After how long a transactional id that is not used is forgotten (`transactional.id.expiration.ms`); 7 days.
    #[must_use]
    pub fn id_expiration(mut self, time: Duration) -> Self {
        self.id_expiration = time;
        self
    }

    /// With how many partitions `__transaction_state` is made (`transaction.state.log.num.partitions`); 50. If it
    /// exists, it stays as it is, and must
    /// not be given more: transactional ids would be looked for in others than those they are in.
    #[must_use]
    pub fn partitions(mut self, count: u32) -> Self {
        self.partitions = count;
        self
    }

    /// How many transactional ids there may be; 1,000,000. Those found in the log are taken whatever their number.
    #[must_use]
    pub fn ids_max(mut self, ids: usize) -> Self {
        self.ids_max = ids;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let positive = [
            ("transaction.max.timeout.ms", self.max_timeout.as_millis()),
            ("transactional.id.expiration.ms", self.id_expiration.as_millis()),
            ("transaction.state.log.num.partitions", self.partitions.into()),
        ];
        for (key, value) in positive {
            if value == 0 {
                let reason = "it must be at least 1".into();
                return Err(Error::InvalidConfig { key: key.into(), value: value.to_string(), reason });
            }
        }
        Ok(())
    }

    /// A producer's timeout in milliseconds, if it may have it.
    pub(super) fn timeout_ms(&self, timeout: Duration) -> Result<i32> {
        let max = i32::try_from(self.max_timeout.as_millis()).unwrap_or(i32::MAX);
        match i32::try_from(timeout.as_millis()) {
            Ok(millis) if (1..=max).contains(&millis) => Ok(millis),
            _ => Err(Error::InvalidConfig {
                key: "transaction.timeout.ms".into(),
                value: timeout.as_millis().to_string(),
                reason: format!("it must be 1 to transaction.max.timeout.ms={max}"),
            }),
        }
    }
}
