//! Processes that are killed: a test program starts itself again as a child, which does something for ever and says
//! what it does, and kills it at some moment.

#![allow(dead_code, reason = "not every test that shares this module needs all of it")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const CHILD: &str = "ANNALS_KILL_CHILD";
const DIRECTORY: &str = "ANNALS_KILL_DIRECTORY";

/// How often each test kills (`ANNALS_KILL_CYCLES`).
pub(crate) fn cycles() -> u64 {
    std::env::var("ANNALS_KILL_CYCLES").ok().and_then(|cycles| cycles.parse().ok()).unwrap_or(8)
}

/// What this process is to do, and where, if it is a child. The program needs a test named `child` that asks.
pub(crate) fn role() -> Option<(String, PathBuf)> {
    let kind = std::env::var(CHILD).ok()?;
    Some((kind, PathBuf::from(std::env::var(DIRECTORY).unwrap())))
}

/// Says a line, by the child. A line that ends with a full stop was said whole.
pub(crate) fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what}").unwrap();
    out.flush().unwrap();
}

/// When to kill.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    /// Not before the child has said a line that begins so.
    word: &'static str,
    micros: u64,
}

impl Moment {
    /// So many times as late.
    pub(crate) fn times(self, factor: u64) -> Moment {
        Moment { micros: factor * self.micros, ..self }
    }
}

/// When to kill: some time after the child is ready, but the first not before it has come to say `word`, however slow
/// the machine is.
pub(crate) fn moments(word: &'static str) -> impl Iterator<Item = Moment> {
    (1..=cycles()).map(move |cycle| {
        let micros = cycle.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 40_000;
        Moment { word: if cycle == 1 { word } else { "" }, micros }
    })
}

/// Runs the child until it is killed at a moment; returns what it said.
pub(crate) fn killed(kind: &str, directory: &Path, moment: Moment) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, kind)
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let ready = lines.any(|line| line.ends_with("ready"));
    let mut said = Vec::new();
    let mut waits = ready && !moment.word.is_empty();
    while waits {
        let Some(line) = lines.next() else { break };
        waits = !line.starts_with(moment.word);
        said.push(line);
    }
    std::thread::sleep(Duration::from_micros(moment.micros));
    child.kill().unwrap();
    child.wait().unwrap();
    said.extend(lines);
    // The last line may have been cut in the middle.
    said.retain(|line| line.ends_with('.'));
    said.iter().map(|line| line.trim_end_matches('.').to_string()).collect()
}

/// The number after the last line that begins with a word.
pub(crate) fn last(said: &[String], word: &str) -> Option<u64> {
    said.iter().rev().find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
}
