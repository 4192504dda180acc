//! Several owners of one thing: a file that the pool syncs while a partition does, a name that another topic had.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fmt, io};

use annals::clock::ManualClock;
use annals::fs::{
    Call, Crash, DirEntry, Fault, File, FileSystem, Lock, Mapping, Metadata, OpenMode, SimulatedDisk, When,
};
use annals::{Durability, Error, Partition, Record, Store, StoreOptions, TopicConfig};

/// A disk whose first sync of a log file below a directory waits until it may go on.
#[derive(Clone)]
struct SlowDisk {
    disk: SimulatedDisk,
    below: &'static str,
    waits: Arc<AtomicBool>,
    arrived: Sender<()>,
    go_on: Arc<Mutex<Receiver<()>>>,
}

impl fmt::Debug for SlowDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SlowDisk")
    }
}

#[derive(Debug)]
struct SlowFile {
    file: Arc<dyn File>,
    disk: SlowDisk,
    slow: bool,
}

impl FileSystem for SlowDisk {
    fn root(&self) -> &Path {
        self.disk.root()
    }
    fn open(&self, name: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let slow =
            name.starts_with(self.below) && name.extension().is_some_and(|extension| extension == "log");
        Ok(Arc::new(SlowFile { file: self.disk.open(name, mode)?, disk: self.clone(), slow }))
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(directory)
    }
    fn metadata(&self, name: &Path) -> io::Result<Metadata> {
        self.disk.metadata(name)
    }
    fn create_dir(&self, name: &Path) -> io::Result<()> {
        self.disk.create_dir(name)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove_file(&self, name: &Path) -> io::Result<()> {
        self.disk.remove_file(name)
    }
    fn remove_dir(&self, name: &Path) -> io::Result<()> {
        self.disk.remove_dir(name)
    }
    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.disk.sync_dir(directory)
    }
    fn lock(&self, name: &Path) -> io::Result<Box<dyn Lock>> {
        self.disk.lock(name)
    }
    fn random(&self) -> u64 {
        self.disk.random()
    }
}

impl File for SlowFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.file.write_at(bytes, position)
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_size(size)
    }
    fn sync(&self) -> io::Result<()> {
        if self.slow && self.disk.waits.swap(false, Ordering::SeqCst) {
            self.disk.arrived.send(()).unwrap();
            self.disk.go_on.lock().unwrap().recv().unwrap();
        }
        self.file.sync()
    }
    fn set_modified(&self, millis: i64) -> io::Result<()> {
        self.file.set_modified(millis)
    }
    fn map(&self, len: usize) -> io::Result<Mapping> {
        self.file.map(len)
    }
}

fn options() -> StoreOptions {
    Store::options().recovery_threads(1).clock(Arc::new(ManualClock::new(1_700_000_000_000)))
}

fn open(disk: &SimulatedDisk) -> Store {
    options().open_in(Arc::new(disk.clone())).unwrap()
}

fn values(partition: &Partition) -> Vec<Vec<u8>> {
    let records = partition.read_from(partition.log_start()).unwrap();
    records.map(|record| record.unwrap().value().unwrap_or_default().to_vec()).collect()
}

#[test]
fn a_sync_that_the_pool_began_is_waited_for() {
    let disk = SimulatedDisk::new(1);
    let (arrived, arrives) = channel();
    let (goes_on, go_on) = channel();
    let waits = Arc::new(AtomicBool::new(false));
    let go_on = Arc::new(Mutex::new(go_on));
    let slow = SlowDisk { disk: disk.clone(), below: "t-0", waits: Arc::clone(&waits), arrived, go_on };
    let store = options().max_open_files(1).open_in(Arc::new(slow)).unwrap();
    let config = TopicConfig::new().partitions(2).durability(Durability::Process);
    let topic = store.create_topic("t", config).unwrap();
    let (one, other) = (topic.partition(0).unwrap(), topic.partition(1).unwrap());
    one.append(&Record::new("kept")).unwrap();

    // The other partition needs the one descriptor there is.
    waits.store(true, Ordering::SeqCst);
    let evicts = std::thread::spawn(move || other.append(&Record::new("x")));
    arrives.recv().unwrap();
    let (flushed, flushes) = channel();
    let flusher = std::thread::spawn(move || flushed.send(one.flush()).unwrap());
    let early = flushes.recv_timeout(Duration::from_millis(200));
    let image = disk.crash(Crash::PowerCut { seed: 0 });
    goes_on.send(()).unwrap();
    evicts.join().unwrap().unwrap();
    flusher.join().unwrap();
    if early.is_ok() {
        let kept = values(&open(&image).topic("t").unwrap().partition(0).unwrap());
        assert_eq!(kept, [b"kept"], "flushed, and not on disk");
    }
    assert_eq!(
        values(&open(&disk.crash(Crash::PowerCut { seed: 0 })).topic("t").unwrap().partition(0).unwrap()),
        [b"kept"]
    );
}

#[test]
fn a_topic_inherits_no_position_from_one_that_had_its_name() {
    let disk = SimulatedDisk::new(1);
    let store = open(&disk);
    let old = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    for _ in 0..10 {
        old.append(&Record::new("old")).unwrap();
    }
    store.flush().unwrap();
    store.delete_topic("t").unwrap();
    let new = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    assert_eq!(new.append(&Record::new("new")).unwrap(), 0);
    let after = open(&disk.crash(Crash::ProcessKill));
    let new = after.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(new.recovery_report().damage, []);
    assert_eq!(new.append(&Record::new("newer")).unwrap(), 1);
}

#[test]
fn a_deletion_finished_by_the_next_opening_stays_finished() {
    for call in 1..60 {
        let disk = SimulatedDisk::new(1);
        let store = open(&disk);
        let topic = store.create_topic("t", TopicConfig::new()).unwrap();
        topic.partition(0).unwrap().append(&Record::new("a")).unwrap();
        disk.fail(When::nth(1).of(&[Call::Rename]).under("t-0"), Fault::PowerOff);
        assert!(store.delete_topic("t").is_err());
        let marked = disk.crash(Crash::PowerCut { seed: 1 });
        marked.fail(When::nth(call), Fault::PowerOff);
        drop(options().open_in(Arc::new(marked.clone())));
        for seed in 0..20 {
            let store = open(&marked.crash(Crash::PowerCut { seed }));
            assert!(store.topic("t").is_err(), "it is back after a cut at call {call}, seed {seed}");
        }
    }
}

#[test]
fn indexes_of_sealed_segments_are_not_kept_in_memory() {
    let disk = SimulatedDisk::new(1);
    let store = open(&disk);
    let config = TopicConfig::new().segment_bytes(2_000).index_interval_bytes(10);
    let log = store.create_topic("t", config).unwrap().partition(0).unwrap();
    while log.segments().len() < 4 {
        log.append(&Record::new("x")).unwrap();
    }
    disk.record(true);
    assert_eq!(values(&log).len() as u64, log.log_end());
    let from_file = |base: &u64| {
        let name = format!("t-0/{base:020}.index");
        disk.recorded().contains(&(Call::Open, name.into()))
    };
    let sealed = log.segments();
    log.read_from(sealed[1]).unwrap().next().unwrap().unwrap();
    assert!(from_file(&sealed[1]), "the index was still in memory");
}

#[test]
fn a_handle_of_a_deleted_topic_changes_nothing() {
    let disk = SimulatedDisk::new(1);
    let store = open(&disk);
    let old = store.create_topic("t", TopicConfig::new()).unwrap();
    store.delete_topic("t").unwrap();
    assert!(matches!(old.add_partitions(3), Err(Error::Closed { .. })));
    assert!(matches!(old.configure([("retention.ms", Some("5"))]), Err(Error::Closed { .. })));
    store.close().unwrap();
    assert!(open(&disk).topic("t").is_err());
}
