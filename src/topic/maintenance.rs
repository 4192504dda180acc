//! What a store does from time to time: one pass over everything that is due, and the thread that asks for it if
//! the user wants one.
//!
//! A pass stops at nothing: what fails is noted, and the rest is done. Decisions ask the store's clock; only the
//! wait between two passes of the thread is real time.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::stats::Published;
use super::store::Shared;
use crate::error::{Error, Result};
use crate::fs::full_path;
use crate::observe;
use crate::partition::{CompactionReport, Expired, Partition};
use crate::types::TopicPartition;

/// How far ahead of monotonic time the wall clock may move between two passes before it is not believed.
const JUMP_MAX: Duration = Duration::from_secs(10 * 60);
/// How long nothing is deleted for its age after such a jump: time for somebody to look.
const HOLD: Duration = Duration::from_secs(60 * 60);

/// How often the indexes and the snapshot of a partition are written whole, at most: Kafka's
/// `log.flush.offset.checkpoint.interval.ms`. A roll, or many bytes, writes them at once.
const WRITE_DOWN_INTERVAL: Duration = Duration::from_secs(60);

/// What a pass of [`Store::maintain`](crate::Store::maintain) did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaintenanceReport {
    /// Partitions that were synced because their interval had passed.
    pub synced: Vec<TopicPartition>,
    /// Partitions of which something went that is not to be kept any longer, and what.
    pub expired: Vec<(TopicPartition, Expired)>,
    /// The partition that was compacted, if one was, and what became of it.
    pub compacted: Vec<(TopicPartition, CompactionReport)>,
    /// Producers that were forgotten because they had not appended for long.
    pub producers_expired: usize,
    /// Files of deleted segments and directories of deleted topics that were removed for good.
    pub removed: Vec<PathBuf>,
    /// What somebody should hear about, though nothing failed.
    pub warnings: Vec<String>,
}

/// How the passes of maintenance went since the store was opened, whoever asked for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaintenanceStatus {
    /// The passes that ended.
    pub passes: u64,
    /// What the last one did that came to its end, whether or not something of it failed.
    pub last_report: Option<MaintenanceReport>,
    /// The last failure, in words. It stays when later passes succeed.
    pub last_error: Option<String>,
    /// The passes of which something failed.
    pub errors: u64,
    /// Whether the thread of [`StoreOptions::background`](crate::StoreOptions::background) is running.
    pub running: bool,
}

/// What the store keeps for its maintenance.
#[derive(Debug, Default)]
pub(super) struct Maintenance {
    /// Held during a pass: there is one at a time.
    memory: Mutex<Memory>,
    status: Mutex<MaintenanceStatus>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stop: Arc<Stop>,
}

/// What one pass has to know of those before.
#[derive(Debug, Default)]
struct Memory {
    guard: ClockGuard,
    /// Up to which recovery point the small files of each partition were written, and when.
    persisted: HashMap<TopicPartition, (u64, Duration)>,
    published: Published,
}

/// One pass, as far as it has come.
#[derive(Debug, Default)]
struct Pass {
    report: MaintenanceReport,
    failed: Option<Error>,
    /// Whether age may be a reason to delete something.
    by_time: bool,
}

impl Pass {
    /// What was done, unless it failed: then that is noted.
    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(done) => return Some(done),
            // Closed or deleted meanwhile, or to be looked at by somebody first: nothing is due.
            Err(Error::Closed { .. } | Error::Damaged { .. }) => {}
            Err(error) => {
                observe::maintenance_failed(&error.to_string());
                self.failed.get_or_insert(error);
            }
        }
        None
    }

    fn warn(&mut self, warning: String) {
        observe::maintenance_warned(&warning);
        self.report.warnings.push(warning);
    }
}

impl Shared {
    /// One pass over everything that is due.
    pub(super) fn maintain(&self) -> Result<MaintenanceReport> {
        self.check_writable("maintain")?;
        let mut memory = self.maintenance.memory.lock();
        let open = self.open_partitions_now();
        let mut pass = Pass { by_time: true, ..Pass::default() };
        self.look_at_clock(&mut memory.guard, &mut pass);
        report_poisoned(&open, &mut pass);
        sync_due(&open, &mut pass);
        self.expire(&open, &mut pass);
        self.compact_due(&open, &mut pass);
        expire_producers(&open, &mut pass);
        for attendant in self.extensions.attendants() {
            pass.note(attendant.attend());
        }
        // Removed first: on a full disk that is the room for the rest.
        self.remove_due(&open, &mut pass);
        self.write_down(&open, &mut memory, &mut pass);
        self.publish_figures(&mut memory.published);
        let Pass { report, failed, .. } = pass;
        self.maintenance.note(Some(&report), failed.as_ref().map(Error::to_string));
        failed.map_or(Ok(report), Err)
    }

    fn look_at_clock(&self, guard: &mut ClockGuard, pass: &mut Pass) {
        let clock = &self.options.clock;
        let (wall, monotonic) = (clock.now(), clock.monotonic());
        if let Some(ahead) = guard.look(wall, monotonic) {
            pass.warn(format!(
                "the wall clock jumped ahead by {} s: nothing is deleted for its age for {} s",
                ahead.as_secs(),
                HOLD.as_secs()
            ));
        }
        pass.by_time = !guard.holds(monotonic);
    }

    /// What the settings no longer keep: log starts are raised everywhere and written down once, then files go.
    fn expire(&self, open: &[Partition], pass: &mut Pass) {
        let mut raised = Vec::new();
        for partition in open {
            if pass.note(partition.expire(pass.by_time)) == Some(true) {
                raised.push((partition, partition.log_start()));
            }
        }
        if raised.is_empty() {
            return;
        }
        let saved = match self.write_positions() {
            Ok(()) => true,
            // What goes now makes room to write it down; until then the names of the files say it.
            Err(Error::StorageFull { .. }) => false,
            Err(error) => {
                pass.note::<()>(Err(error));
                return;
            }
        };
        for (partition, log_start) in raised {
            if let Some(expired) = pass.note(partition.drop_expired(saved.then_some(log_start))) {
                pass.report.expired.push((partition.id().clone(), expired));
            }
        }
    }

    /// Compacts the dirtiest partition for which that is due. One in a pass: the others' syncs must not wait long.
    fn compact_due(&self, open: &[Partition], pass: &mut Pass) {
        if !pass.by_time {
            // Tombstones go by wall time, too.
            return;
        }
        let compacted = open.iter().filter(|partition| partition.config().cleanup_policy.compact);
        let mut due: Vec<(f64, &Partition)> = compacted
            .map(|partition| (partition.compaction_status(), partition))
            .filter(|(status, _)| status.due)
            .map(|(status, partition)| (status.dirty_ratio, partition))
            .collect();
        due.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        for (_, partition) in due {
            // `None` is one that has failed lately, or that somebody else is at: then the next may be done.
            match pass.note(partition.compact_if_due()) {
                Some(None) => {}
                Some(Some(report)) => {
                    return pass.report.compacted.push((partition.id().clone(), report));
                }
                None => return,
            }
        }
    }

    /// Writes indexes, snapshots and checkpoints where the log moved on, so that opening after a crash is quick.
    fn write_down(&self, open: &[Partition], memory: &mut Memory, pass: &mut Pass) {
        let mut written = HashMap::with_capacity(open.len());
        let now = self.options.clock.monotonic();
        for partition in open {
            let (id, recovery_point) = (partition.id(), partition.recovery_point());
            let before = memory.persisted.get(id).copied();
            let rests = |(point, at): (u64, Duration)| {
                point == recovery_point || now.saturating_sub(at) < WRITE_DOWN_INTERVAL
            };
            if let Some(before) = before.filter(|before| rests(*before)) {
                written.insert(id.clone(), before);
            } else if pass.note(partition.persist_indexes()).is_some() {
                written.insert(id.clone(), (recovery_point, now));
            }
        }
        // Those of topics that are no more are forgotten with it.
        memory.persisted = written;
        pass.note(self.write_positions_if_moved());
    }

    /// Removes for good what was deleted long enough ago.
    fn remove_due(&self, open: &[Partition], pass: &mut Pass) {
        for partition in open {
            let removed = pass.note(partition.remove_due());
            pass.report.removed.extend(removed.into_iter().flatten());
        }
        pass.note(self.finish_deleting());
        let topics = self.remove_doomed();
        pass.report.removed.extend(topics.iter().map(|directory| full_path(&*self.fs, directory)));
    }

    /// How the passes went.
    pub(super) fn maintenance_status(&self) -> MaintenanceStatus {
        let running = self.maintenance.thread.lock().as_ref().is_some_and(|thread| !thread.is_finished());
        MaintenanceStatus { running, ..self.maintenance.status.lock().clone() }
    }

    /// Begins to run a pass every interval, in a thread of its own that keeps nothing alive.
    pub(super) fn start_background(self: &Arc<Self>) -> Result<()> {
        let (shared, stop) = (Arc::downgrade(self), Arc::clone(&self.maintenance.stop));
        let interval = self.options.maintenance_interval;
        let started = Builder::new()
            .name("annals-maintenance".into())
            .spawn(move || run(&shared, &stop, interval))
            .map_err(|error| Error::io("start the maintenance of", self.fs.root(), error))?;
        *self.maintenance.thread.lock() = Some(started);
        Ok(())
    }

    /// Ends the thread and waits for the pass under way.
    pub(super) fn stop_background(&self) {
        self.maintenance.stop.ask();
        let Some(thread) = self.maintenance.thread.lock().take() else { return };
        self.open_partitions_now().iter().for_each(Partition::end_compaction);
        // A pass may run code of the user's that lets go of the store; nobody can wait for himself.
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl Maintenance {
    fn note(&self, report: Option<&MaintenanceReport>, failed: Option<String>) {
        let mut status = self.status.lock();
        status.passes += 1;
        if let Some(report) = report {
            status.last_report = Some(report.clone());
        }
        if let Some(failed) = failed {
            status.errors += 1;
            status.last_error = Some(failed);
        }
    }
}

/// What the thread does.
fn run(shared: &Weak<Shared>, stop: &Stop, interval: Duration) {
    while !stop.wait(interval) {
        let Some(shared) = shared.upgrade() else { return };
        // A failure is in the status already, where those who asked for a thread look for it.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| shared.maintain())) {
            let said = format!("a pass panicked: {}", observe::text_of(&*panic));
            observe::maintenance_failed(&said);
            shared.maintenance.note(None, Some(said));
        }
    }
}

/// A partition that takes no appends any more is for somebody to look at, as long as that is so.
fn report_poisoned(open: &[Partition], pass: &mut Pass) {
    for partition in open {
        if let Err(error @ Error::Poisoned { .. }) = partition.check() {
            pass.note::<()>(Err(error));
        }
    }
}

fn sync_due(open: &[Partition], pass: &mut Pass) {
    for partition in open {
        if pass.note(partition.sync_if_due()) == Some(true) {
            pass.report.synced.push(partition.id().clone());
        }
    }
}

/// Age is wall time here, too: after a jump nobody is forgotten for it.
fn expire_producers(open: &[Partition], pass: &mut Pass) {
    if pass.by_time {
        pass.report.producers_expired = open.iter().map(Partition::expire_producers).sum();
    }
}

/// Tells the thread to end.
#[derive(Debug, Default)]
struct Stop {
    asked: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn ask(&self) {
        *self.asked.lock() = true;
        self.changed.notify_all();
    }

    /// Waits so long, or until it is asked to end. Returns whether it was.
    fn wait(&self, at_most: Duration) -> bool {
        let mut asked = self.asked.lock();
        self.changed.wait_while_for(&mut asked, |asked| !*asked, at_most);
        *asked
    }
}

/// Notices a wall clock that jumps ahead: to whom everything would look too old at once.
#[derive(Debug, Default)]
pub(crate) struct ClockGuard {
    last: Option<(i64, Duration)>,
    held_until: Option<Duration>,
}

impl ClockGuard {
    /// Compares with the last look. Returns by how much the clock jumped ahead, if it did.
    pub(crate) fn look(&mut self, wall: i64, monotonic: Duration) -> Option<Duration> {
        // The first look has nothing to compare with.
        let (last_wall, last_monotonic) = self.last.replace((wall, monotonic))?;
        let moved = Duration::from_millis(wall.saturating_sub(last_wall).max(0) as u64);
        let ahead = moved.saturating_sub(monotonic.saturating_sub(last_monotonic));
        if ahead <= JUMP_MAX {
            return None;
        }
        self.held_until = Some(monotonic.saturating_add(HOLD));
        Some(ahead)
    }

    /// Whether that was so lately that nothing is to be deleted for its age.
    pub(crate) fn holds(&self, monotonic: Duration) -> bool {
        self.held_until.is_some_and(|until| monotonic < until)
    }
}
