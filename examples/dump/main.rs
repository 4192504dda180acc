//! Shows what is in a partition directory, a file of one, or a whole store, and checks it.
//!
//!   dump [--records] [--json] [--verify] DIR|FILE
//!
//! Without options every batch, index entry and checkpoint is listed, a line for each; `--records` adds the records,
//! `--json` prints one object per line. `--verify` lists nothing: it holds everything against everything and
//! says what is wrong. Nothing is written and no lock is taken, so it works on a store in use and on the log directory
//! of a Kafka broker.
//!
//! Exit codes: 0 nothing wrong, 1 damage was found (only with `--verify`), 2 something could not be read, 64 usage.

#![allow(clippy::print_stderr, missing_docs)]

mod batches;
mod files;
mod output;
mod store;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use files::Kind;
use output::Output;
use store::Store;

/// What was asked for.
pub(crate) struct Options {
    path: PathBuf,
    pub(crate) records: bool,
    verify: bool,
    json: bool,
}

fn main() -> ExitCode {
    let Some(options) = parse(std::env::args_os().skip(1).map(PathBuf::from)) else {
        eprintln!("usage: dump [--records] [--json] [--verify] DIR|FILE");
        return ExitCode::from(64);
    };
    let mut out = Output::new(options.json);
    let done = run(&options, &mut out).and_then(|()| out.finish());
    match done {
        // Whoever reads our output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dump: {error}");
            ExitCode::from(2)
        }
        Ok(()) if out.damages > 0 => ExitCode::from(1),
        Ok(()) if out.unreadable > 0 => ExitCode::from(2),
        Ok(()) => ExitCode::SUCCESS,
    }
}

fn parse(arguments: impl Iterator<Item = PathBuf>) -> Option<Options> {
    let mut options = Options { path: PathBuf::new(), records: false, verify: false, json: false };
    for argument in arguments {
        match argument.to_str() {
            Some("--records") => options.records = true,
            Some("--json") => options.json = true,
            Some("--verify") => options.verify = true,
            Some(option) if option.starts_with("--") => return None,
            _ if options.path.as_os_str().is_empty() => options.path = argument,
            _ => return None,
        }
    }
    (!options.path.as_os_str().is_empty()).then_some(options)
}

/// An error is one of the output, or of the path that was asked for; other files only count as unreadable.
fn run(options: &Options, out: &mut Output) -> io::Result<()> {
    let named = |error| io::Error::other(format!("{}: {error}", options.path.display()));
    // So that `.` has a name, too.
    let path = options.path.canonicalize().map_err(named)?;
    if !path.is_dir() {
        return one_file(&path, options, out);
    }
    let names = files::list(&path).map_err(named)?;
    if names.iter().any(|(_, kind)| kind.belongs_to_partition()) {
        return one_partition(&path, options, out);
    }
    let store = Store::read(&path, out)?;
    if options.verify {
        return store.verify(out);
    }
    for (name, kind) in &names {
        files::dump(&path.join(name), kind, options, out)?;
    }
    for id in store.partitions() {
        one_partition(&path.join(id.to_string()), options, out)?;
    }
    Ok(())
}

fn one_partition(directory: &Path, options: &Options, out: &mut Output) -> io::Result<()> {
    if options.verify {
        let store = Store::around(directory, out)?;
        return verify::partition(directory, None, &store.knows_of(directory), out);
    }
    match files::list(directory) {
        Ok(names) => {
            names.iter().try_for_each(|(name, kind)| files::dump(&directory.join(name), kind, options, out))
        }
        Err(error) => {
            out.begin(directory);
            out.unreadable(error)
        }
    }
}

fn one_file(path: &Path, options: &Options, out: &mut Output) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let kind = Kind::of(&name);
    let directory = path.parent().unwrap_or(Path::new("."));
    match kind.segment().filter(|_| options.verify) {
        Some(base_offset) => {
            let store = Store::around(directory, out)?;
            verify::partition(directory, Some(base_offset), &store.knows_of(directory), out)
        }
        None if options.verify => files::check(path, &kind, out),
        None => files::dump(path, &kind, options, out),
    }
}
