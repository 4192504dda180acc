//! [`Fault`], [`When`] and [`Call`]: what goes wrong on a simulated disk, at which call, and the count of calls.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// A kind of call to a file system. Closing, releasing a lock and drawing a random number are not calls: they
/// cannot fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Opening an existing file.
    Open,
    /// Opening a file that must not exist.
    Create,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Asking an open file for its length.
    Size,
    /// Cutting or extending a file.
    SetSize,
    /// Setting the time of the last change.
    SetModified,
    /// Syncing a file.
    Sync,
    /// Mapping a file.
    Map,
    /// Listing a directory.
    List,
    /// Asking what a name stands for.
    Metadata,
    /// Making a directory.
    CreateDir,
    /// Renaming a file or a directory.
    Rename,
    /// Removing a file.
    RemoveFile,
    /// Removing a directory.
    RemoveDir,
    /// Syncing a directory.
    SyncDir,
    /// Taking a lock.
    Lock,
}

/// What goes wrong in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The call fails with this error number and has no effect.
    Error(i32),
    /// The call takes effect and fails all the same with this error number; half of the bytes of a write are
    /// written.
    Late(i32),
    /// The call is interrupted (`EINTR`) and has no effect.
    Interrupted,
    /// A read or write does half of the bytes, rounded up. Other calls are not affected.
    Short,
    /// A file's sync fails (`EIO`) and what was pending is given up: it can still be read, but unless written
    /// again it will not survive a power cut, though the next sync succeeds. So do real kernels. Other calls just
    /// fail.
    Forget,
    /// The power goes: this call and all later ones fail (`EIO`), until [`SimulatedDisk::crash`] gives the disk
    /// that is found afterwards.
    ///
    /// [`SimulatedDisk::crash`]: super::SimulatedDisk::crash
    PowerOff,
}

/// The calls in which a [`Fault`] strikes.
///
/// ```
/// use annals::fs::{Call, When};
/// let third_write_below_a_directory = When::nth(3).of(&[Call::Write]).under("clicks-0");
/// let every_sync_from_the_second_on = When::nth(2).of(&[Call::Sync]).and_ever_after();
/// ```
#[derive(Debug, Clone)]
pub struct When {
    /// How many calls that match are still let through.
    skip: u64,
    calls: Option<Vec<Call>>,
    under: Option<PathBuf>,
    ever_after: bool,
}

impl When {
    /// The `n`-th call from now on, counted from 1; 0 is taken as 1.
    pub fn nth(n: u64) -> Self {
        When { skip: n.saturating_sub(1), calls: None, under: None, ever_after: false }
    }

    /// The very next call.
    pub fn next() -> Self {
        When::nth(1)
    }

    /// Counts calls of these kinds only.
    #[must_use]
    pub fn of(mut self, calls: &[Call]) -> Self {
        self.calls = Some(calls.to_vec());
        self
    }

    /// Counts only calls that concern this name or one below it; for an open file, the name under which it was
    /// opened, and for a rename either name.
    #[must_use]
    pub fn under(mut self, name: impl AsRef<Path>) -> Self {
        self.under = Some(name.as_ref().to_path_buf());
        self
    }

    /// Not once, but from then on in every call that counts.
    #[must_use]
    pub fn and_ever_after(mut self) -> Self {
        self.ever_after = true;
        self
    }

    fn counts(&self, call: Call, names: &[&Path]) -> bool {
        self.calls.as_ref().is_none_or(|calls| calls.contains(&call))
            && self.under.as_ref().is_none_or(|under| names.iter().any(|name| name.starts_with(under)))
    }
}

/// How a call goes on that was not refused outright.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Whole,
    Short,
    Forget,
    Late(i32),
}

impl Effect {
    /// How much of a transfer of `len` bytes is done.
    pub(super) fn part_of(self, len: usize) -> usize {
        match self {
            Effect::Short => len.div_ceil(2),
            Effect::Late(_) => len / 2,
            Effect::Whole | Effect::Forget => len,
        }
    }
}

/// The faults to come, and the calls so far.
#[derive(Debug, Default)]
pub(super) struct Faults {
    plans: Vec<(When, Fault)>,
    power_off: bool,
    pub(super) calls: u64,
    pub(super) trace: Option<Vec<(Call, PathBuf)>>,
}

impl Faults {
    pub(super) fn plan(&mut self, when: When, fault: Fault) {
        self.plans.push((when, fault));
    }

    /// Forgets the plans. Power stays off.
    pub(super) fn heal(&mut self) {
        self.plans.clear();
    }

    /// Counts a call and says how it goes.
    pub(super) fn begin(&mut self, call: Call, names: &[&Path]) -> io::Result<Effect> {
        self.calls += 1;
        if let (Some(trace), Some(name)) = (&mut self.trace, names.first()) {
            trace.push((call, name.to_path_buf()));
        }
        if self.power_off {
            return Err(Errno::IO.into());
        }
        match self.strike(call, names) {
            None => Ok(Effect::Whole),
            Some(Fault::Error(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Late(errno)) => Ok(Effect::Late(errno)),
            Some(Fault::Interrupted) => Err(Errno::INTR.into()),
            Some(Fault::Short) => Ok(Effect::Short),
            Some(Fault::Forget) if call == Call::Sync => Ok(Effect::Forget),
            Some(Fault::Forget) => Err(Errno::IO.into()),
            Some(Fault::PowerOff) => {
                self.power_off = true;
                Err(Errno::IO.into())
            }
        }
    }

    /// The fault planned for this call. Every plan that counts the call counts it, but only the first strikes.
    fn strike(&mut self, call: Call, names: &[&Path]) -> Option<Fault> {
        let mut struck = None;
        self.plans.retain_mut(|(when, fault)| {
            if !when.counts(call, names) {
                return true;
            }
            if when.skip > 0 {
                when.skip -= 1;
                return true;
            }
            struck = struck.or(Some(*fault));
            when.ever_after
        });
        struck
    }
}
