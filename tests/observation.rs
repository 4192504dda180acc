//! What listeners of the facades hear: events with the feature `tracing`, figures with the feature `metrics`.
#![cfg(any(feature = "tracing", feature = "metrics"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/logs.rs"]
mod logs;

/// Held by each test: whoever listens hears what happens in the whole process.
#[cfg(any(feature = "tracing", feature = "metrics"))]
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[cfg(feature = "tracing")]
mod events {
    use std::fmt;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use annals::consumer::{ConsumerConfig, ConsumerInterceptor, ConsumerRecords};
    use annals::fs::{Call, Fault, When};
    use annals::{Record, TopicConfig};
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record as SpanRecord};
    use tracing::{Event, Metadata, Subscriber};

    use super::logs::{Machine, append, file};

    /// Keeps every event as one line.
    #[derive(Clone, Default)]
    struct Listener(Arc<Mutex<Vec<String>>>);

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0.push_str(&format!(" {}={value:?}", field.name()));
        }
    }

    impl Subscriber for Listener {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "annals"
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &SpanRecord<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut line = Line(event.metadata().level().to_string());
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[derive(Debug)]
    struct Broken;

    impl ConsumerInterceptor for Broken {
        fn on_consume(&self, _: ConsumerRecords) -> ConsumerRecords {
            panic!("out of order")
        }
    }

    // The only test with events: a listener is for the whole process.
    #[test]
    fn what_happens_is_told() {
        let _alone = super::ALONE.lock();
        let listener = Listener::default();
        tracing::subscriber::set_global_default(listener.clone()).unwrap();
        let heard = |what: &str| {
            let lines = std::mem::take(&mut *listener.0.lock().unwrap());
            assert_eq!(lines.iter().filter(|line| line.contains(what)).count(), 1, "{what} in {lines:?}");
        };
        let machine = Machine::new();
        let (store, log) = machine.start(TopicConfig::new().retention_bytes(Some(1)));
        listener.0.lock().unwrap().clear();
        append(&log, &["a"]);
        append(&log, &["b"]);
        assert!(listener.0.lock().unwrap().is_empty(), "nothing is told per record");
        log.roll().unwrap();
        heard("DEBUG message=segment rolled partition=t-0 base_offset=2");
        append(&log, &["c"]);
        store.maintain().unwrap();
        heard("INFO message=segments expired partition=t-0 log_start=2 segments=1");
        append(&log, &["d"]);
        log.truncate_to(3).unwrap();
        heard("INFO message=log truncated partition=t-0 log_end=3");
        machine.clock.set(machine.restart_time());
        store.maintain().unwrap();
        heard("WARN message=maintenance warns warning=\"the wall clock jumped ahead");
        let _ = machine.killed().restart();
        heard("INFO message=partition recovered partition=t-0 scanned_bytes=0 truncated_bytes=0");
        machine.disk.fail(When::next().of(&[Call::Write]).under("t-0"), Fault::Error(5));
        log.append(&Record::new("e")).unwrap_err();
        heard("ERROR message=partition poisoned partition=t-0 action=\"an append\"");
        store.maintain().unwrap_err();
        heard("ERROR message=maintenance failed cause=");
        log.reopen().unwrap();
        machine.clock.advance(Duration::from_secs(60));
        store.maintain().unwrap();
        let config = ConsumerConfig::new().interceptor(Broken);
        let mut consumer = store.consumer(config).unwrap();
        consumer.assign([log.id().clone()]).unwrap();
        consumer.seek_to_beginning([log.id()]).unwrap();
        assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 1);
        heard(
            "ERROR message=callback panicked callback=\"on_consume of an interceptor\" cause=\"out of order\"",
        );
        drop((store, log));
        assert!(machine.disk.remove(file(2, "log")));
        assert!(machine.disk.remove(".kafka_cleanshutdown"));
        let _ = machine.restart();
        heard("ERROR message=damage found partition=t-0 from=2");
    }

    impl Machine {
        /// Days after now.
        fn restart_time(&self) -> i64 {
            super::logs::NOW + Duration::from_secs(10 * 86_400).as_millis() as i64
        }
    }
}

#[cfg(feature = "metrics")]
mod figures {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use annals::TopicConfig;
    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    use super::logs::{Machine, append};

    /// Keeps every figure under its name and labels.
    #[derive(Default)]
    struct Collector {
        counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
        gauges: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    }

    fn name_of(key: &Key) -> String {
        let labels = key.labels().map(|label| format!(" {}={}", label.key(), label.value()));
        labels.fold(key.name().to_string(), |name, label| name + &label)
    }

    fn cell(kept: &Mutex<BTreeMap<String, Arc<AtomicU64>>>, key: &Key) -> Arc<AtomicU64> {
        Arc::clone(kept.lock().unwrap().entry(name_of(key)).or_default())
    }

    impl Recorder for Collector {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(cell(&self.counters, key))
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(cell(&self.gauges, key))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    impl Collector {
        fn counter(&self, name: &str) -> u64 {
            self.counters.lock().unwrap()[name].load(Ordering::SeqCst)
        }

        fn gauge(&self, name: &str) -> f64 {
            f64::from_bits(self.gauges.lock().unwrap()[name].load(Ordering::SeqCst))
        }
    }

    #[test]
    fn a_pass_hands_over_what_was_counted_since_the_last() {
        let _alone = super::ALONE.lock();
        let collector = Collector::default();
        let machine = Machine::new();
        metrics::with_local_recorder(&collector, || {
            let (store, log) = machine.start(TopicConfig::new());
            append(&log, &["a", "b", "c"]);
            assert!(collector.counters.lock().unwrap().is_empty(), "appends do not know of it");
            let records = "annals_partition_appended_records_total topic=t partition=0";
            let log_end = "annals_partition_log_end topic=t partition=0";
            for (more, expected) in [(0, 3), (0, 3), (1, 4)] {
                for _ in 0..more {
                    append(&log, &["d"]);
                }
                store.maintain().unwrap();
                let seen = (collector.counter(records), collector.gauge(log_end) as u64);
                assert_eq!(seen, (expected, expected));
            }
            assert_eq!(collector.gauge("annals_store_topics") as u64, 1);
            assert_eq!(collector.gauge("annals_partition_accepts_appends topic=t partition=0") as u64, 1);
            store.delete_topic("t").unwrap();
            let anew = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
            append(&anew, &["e"]);
            store.maintain().unwrap();
            assert_eq!((collector.counter(records), collector.gauge(log_end) as u64), (5, 1));
            store.delete_topic("t").unwrap();
            store.maintain().unwrap();
            assert_eq!((collector.counter(records), collector.gauge(log_end) as u64), (5, 0));
            assert_eq!(collector.gauge("annals_store_topics") as u64, 0);
        });
    }
}
