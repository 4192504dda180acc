//! One act, struck by a fault at each of its calls to the disk in turn, and what is found afterwards.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking, and not every test that shares this module needs all of it"
)]

use std::sync::Arc;

use annals::fs::{Crash, Fault, When};
use annals::{Partition, Result, Store};

use crate::logs::Machine;

/// No act of these tests makes so many calls.
const CALLS_MAX: u64 = 2_000;

/// A kill, and power cuts that leave nothing, everything and some of what was not synced.
fn crashes() -> impl Iterator<Item = Crash> {
    let cuts = (0..5).map(|seed| Crash::PowerCut { seed });
    std::iter::once(Crash::ProcessKill).chain(cuts)
}

fn found(machine: &Machine, crash: Crash) -> Machine {
    Machine { disk: machine.disk.crash(crash), clock: Arc::clone(&machine.clock) }
}

/// Does an act with the power going at its first call, its second, and so on until it goes through, and hands out
/// every machine that may be found then: the machine, whether the act was reported done, and words for a failure.
/// With the machines on which the recovery itself was cut off, at each of its calls.
pub fn at_every_call(
    prepare: impl Fn(&Machine) -> (Store, Partition),
    act: impl Fn(&Partition) -> Result<()>,
    mut check: impl FnMut(&Machine, bool, &str),
) {
    for call in 1..CALLS_MAX {
        let machine = Machine::new();
        let (store, log) = prepare(&machine);
        let before = machine.disk.calls();
        machine.disk.fail(When::nth(call), Fault::PowerOff);
        let done = act(&log).is_ok();
        let calls = machine.disk.calls() - before;
        for crash in crashes() {
            let name = format!("call {call}, {crash:?}");
            check(&found(&machine, crash), done, &name);
        }
        interrupt_recovery(&machine, call, |machine, name| check(machine, done, name));
        drop((store, log));
        if calls < call {
            assert!(done, "it fails without a fault");
            return;
        }
    }
    panic!("too many calls");
}

/// The machine found after a crash, cut off again at each call of its opening.
fn interrupt_recovery(machine: &Machine, outer: u64, mut check: impl FnMut(&Machine, &str)) {
    let first = Crash::PowerCut { seed: outer };
    for call in 1..CALLS_MAX {
        let machine = found(machine, first);
        machine.disk.fail(When::nth(call), Fault::PowerOff);
        let opened = machine.try_open();
        let through = machine.disk.calls() < call;
        // Alternately a kill, a power cut that leaves nothing unsynced, and one that leaves some.
        let second = match call % 3 {
            0 => Crash::ProcessKill,
            1 => Crash::PowerCut { seed: 0 },
            _ => Crash::PowerCut { seed: call },
        };
        check(
            &found(&machine, second),
            &format!("call {outer}, {first:?}, call {call} of opening, {second:?}"),
        );
        drop(opened);
        if through {
            return;
        }
    }
}

/// Does an act with one failing call, its first, its second, and so on until it goes through, and hands out what is
/// left each time, with the disk well again.
pub fn with_every_call_failing(
    errno: i32,
    prepare: impl Fn(&Machine) -> (Store, Partition),
    act: impl Fn(&Partition) -> Result<()>,
    mut check: impl FnMut(&Machine, Store, Partition, bool, &str),
) {
    for late in [false, true] {
        for call in 1..CALLS_MAX {
            let machine = Machine::new();
            let (store, log) = prepare(&machine);
            let before = machine.disk.calls();
            let fault = if late { Fault::Late(errno) } else { Fault::Error(errno) };
            machine.disk.fail(When::nth(call), fault);
            let done = act(&log).is_ok();
            let calls = machine.disk.calls() - before;
            machine.disk.heal();
            check(&machine, store, log, done, &format!("call {call}, {fault:?}"));
            if calls < call {
                assert!(done, "it fails without a fault");
                break;
            }
        }
    }
}
