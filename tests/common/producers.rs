//! Producers on a machine whose clock only tests move, and a gate that holds their syncs up.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking, and not every test that shares this module needs all of it"
)]

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use annals::fs::{Call, SimulatedDisk};
use annals::{
    Delivery, Partition, Producer, ProducerConfig, Record, RecordMetadata, Result, SendOptions, Store,
    TopicConfig,
};

use crate::hooked::Hooked;
use crate::logs::{Machine, values};

pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;

/// So long that nothing is written for having waited.
pub const HOUR: Duration = Duration::from_secs(3600);

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Batches wait until they are full or flushed, and are tried again at once and for ever.
pub fn config() -> ProducerConfig {
    ProducerConfig::new().linger(HOUR).delivery_timeout(1000 * HOUR).retry_backoff(ms(1), ms(1))
}

/// A store with one topic `t` of one partition, that partition, and a producer.
pub fn start(config: ProducerConfig) -> (Machine, Store, Partition, Producer) {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let producer = store.producer(config).unwrap();
    (machine, store, log, producer)
}

/// Lets time pass until something is so.
pub fn until(machine: &Machine, mut so: impl FnMut() -> bool) {
    while !so() {
        machine.clock.advance(ms(1));
        std::thread::yield_now();
    }
}

/// Lets time pass until a delivery is decided.
pub fn decided(machine: &Machine, delivery: &Delivery) -> Result<RecordMetadata> {
    until(machine, || delivery.try_get().is_some());
    delivery.try_get().unwrap()
}

pub fn offset(delivery: &Delivery) -> u64 {
    delivery.wait().unwrap().offset
}

/// The values `from..to`, as text.
pub fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| format!("{number:03}")).collect()
}

/// Sends these values to topic `t`.
pub fn send_all(producer: &Producer, values: &[String]) -> Vec<Delivery> {
    values.iter().map(|value| producer.send("t", &Record::new(value)).unwrap()).collect()
}

/// The values of a log, in order, without their offsets.
pub fn contents(log: &Partition) -> Vec<String> {
    values(log, 0).into_iter().map(|(_, value)| value).collect()
}

/// Sends to one of the partitions of topic `t`.
pub fn send_to(producer: &Producer, partition: u32) -> Delivery {
    producer.send_with("t", &Record::new("v"), SendOptions::new().partition(partition)).unwrap()
}

/// Flushes while time passes.
pub fn flush(machine: &Machine, producer: &Producer) {
    std::thread::scope(|scope| {
        let flushing = scope.spawn(|| producer.flush().unwrap());
        until(machine, || flushing.is_finished());
    });
}

/// Holds up whoever comes to it while it is shut, and says how many wait.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    shut: bool,
    waiting: usize,
}

impl Gate {
    pub fn shut(&self) {
        self.state.lock().unwrap().shut = true;
    }

    pub fn open(&self) {
        self.state.lock().unwrap().shut = false;
        self.changed.notify_all();
    }

    pub fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        while state.shut {
            state = self.changed.wait(state).unwrap();
        }
        state.waiting -= 1;
    }

    /// Returns once somebody waits at it.
    pub fn wait_for_one(&self) {
        let mut state = self.state.lock().unwrap();
        while state.waiting == 0 {
            state = self.changed.wait(state).unwrap();
        }
    }
}

/// A store in which syncs of log files of topic `t` have to pass the gate.
pub fn gated(machine: &Machine, gate: &Arc<Gate>) -> Store {
    gated_at(machine, gate, "t-")
}

/// A store in which syncs of log files of the topic named so, with a `-` behind, have to pass the gate.
pub fn gated_at(machine: &Machine, gate: &Arc<Gate>, topic: &'static str) -> Store {
    let gate = Arc::clone(gate);
    let hook = move |call: Call, name: &Path| {
        let log = name.to_str().is_some_and(|name| name.starts_with(topic) && name.ends_with(".log"));
        if call == Call::Sync && log {
            gate.pass();
        }
    };
    machine.options().open_in(Hooked::new(SimulatedDisk::clone(&machine.disk), hook)).unwrap()
}
