//! Tests of the rules above system calls, on a disk that breaks them.

use rustix::io::Errno;

use super::*;

const EIO: i32 = Errno::IO.raw_os_error();
const OLD: &[u8] = b"old content";

/// A disk with a file whose content is durable.
fn disk_with_old() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    disk.write("d/checkpoint", OLD).unwrap();
    disk
}

fn new_content() -> Vec<u8> {
    (0..2_000).map(|number| number as u8).collect()
}

fn replace(disk: &SimulatedDisk) -> Result<()> {
    replace_file(disk, Path::new("d/checkpoint"), &new_content())
}

/// How many calls a replacement makes that nothing disturbs.
fn calls_of_replace() -> u64 {
    let disk = disk_with_old();
    replace(&disk).unwrap();
    disk.calls()
}

fn is_old_or_new(content: Option<Vec<u8>>) -> bool {
    content.is_some_and(|content| content == OLD || content == new_content())
}

#[test]
fn a_replaced_file_is_old_or_new_after_a_crash_at_any_call() {
    assert!(calls_of_replace() >= 6);
    for call in 1..=calls_of_replace() + 1 {
        let disk = disk_with_old();
        disk.fail(When::nth(call), Fault::PowerOff);
        let replaced = replace(&disk).is_ok();
        assert_eq!(replaced, call > calls_of_replace());
        for seed in 0..300 {
            let image = disk.crash(Crash::PowerCut { seed });
            let content = image.read("d/checkpoint");
            assert!(is_old_or_new(content.clone()), "call {call}, seed {seed}: {content:?}");
            assert!(!replaced || content.unwrap() == new_content(), "seed {seed}");
            replace(&image).unwrap();
            let again = image.crash(Crash::PowerCut { seed: 0 });
            assert_eq!(again.read("d/checkpoint").unwrap(), new_content());
            assert_eq!(again.names().len(), 1, "{:?}", again.names());
        }
        let image = disk.crash(Crash::ProcessKill);
        assert!(is_old_or_new(image.read("d/checkpoint")), "call {call}");
        // Killed, run on, then the power goes.
        for seed in 0..50 {
            assert!(is_old_or_new(image.crash(Crash::PowerCut { seed }).read("d/checkpoint")), "call {call}");
        }
    }
}

#[test]
fn a_replaced_file_is_old_or_new_after_any_error() {
    for fault in
        [Fault::Error(EIO), Fault::Late(EIO), Fault::Error(Errno::NOSPC.raw_os_error()), Fault::Forget]
    {
        for call in 1..=calls_of_replace() {
            let disk = disk_with_old();
            disk.fail(When::nth(call), fault);
            disk.record(true);
            let replaced = replace(&disk).is_ok();
            // The first call removes what is not there: a fault after its effect has nothing to strike.
            assert_eq!(replaced, call == 1 && matches!(fault, Fault::Late(_)), "{fault:?} at {call}");
            let trace = disk.recorded();
            assert!(is_old_or_new(disk.read("d/checkpoint")), "{fault:?} at {call}: {trace:?}");
            for seed in 0..100 {
                let image = disk.crash(Crash::PowerCut { seed });
                assert!(
                    is_old_or_new(image.read("d/checkpoint")),
                    "{fault:?} at {call}, seed {seed}: {trace:?}"
                );
            }
            replace(&disk).unwrap();
            assert_eq!(disk.names().len(), 1);
            assert_eq!(disk.crash(Crash::PowerCut { seed: 0 }).read("d/checkpoint").unwrap(), new_content());
        }
    }
}

#[test]
fn interruptions_and_short_writes_are_overcome() {
    for fault in [Fault::Interrupted, Fault::Short] {
        for call in 1..=calls_of_replace() {
            let disk = disk_with_old();
            disk.fail(When::nth(call), fault);
            replace(&disk).unwrap();
            assert_eq!(disk.crash(Crash::PowerCut { seed: 0 }).read("d/checkpoint").unwrap(), new_content());
        }
    }
    let disk = disk_with_old();
    disk.fail(When::next().of(&[Call::Write]).and_ever_after(), Fault::Short);
    replace(&disk).unwrap();
    assert_eq!(disk.read("d/checkpoint").unwrap(), new_content());
}

#[test]
fn a_full_disk_keeps_the_old_file_and_frees_what_it_tried() {
    let disk = disk_with_old();
    let used = disk.used();
    for room in [0, 100, 256, 300, 2_255] {
        disk.set_capacity(Some(used + room));
        assert!(matches!(replace(&disk), Err(Error::StorageFull { .. })), "{room}");
        assert_eq!(disk.read("d/checkpoint").unwrap(), OLD);
        assert_eq!(disk.used(), used, "{room}");
    }
    disk.set_capacity(Some(used + 2_256));
    replace(&disk).unwrap();
}

#[test]
fn whole_files_are_read_through_short_reads_and_interruptions() {
    let disk = SimulatedDisk::new(1);
    disk.write("a", &new_content()).unwrap();
    disk.fail(When::nth(3).of(&[Call::Read]), Fault::Interrupted);
    disk.fail(When::next().of(&[Call::Read]).and_ever_after(), Fault::Short);
    assert_eq!(read_file(&disk, Path::new("a"), 2_000).unwrap(), new_content());
    assert!(disk.calls() > 10);
    let error = read_file(&disk, Path::new("a"), 1_999).unwrap_err();
    assert!(matches!(error, Error::TooLarge { size: 2_000, limit: 1_999, .. }));
    assert!(matches!(read_file(&disk, Path::new("b"), 9), Err(Error::Io { .. })));
}

#[test]
fn a_read_ends_with_the_file_and_a_write_that_does_nothing_is_an_error() {
    let disk = SimulatedDisk::new(1);
    disk.write("a", b"0123").unwrap();
    let file = disk.open(Path::new("a"), OpenMode::Read).unwrap();
    let mut buffer = [b'x'; 6];
    assert_eq!(read_full_at(&*file, &mut buffer, 1).unwrap(), 3);
    assert_eq!(&buffer, b"123xxx");

    #[derive(Debug)]
    struct Refusing;
    impl File for Refusing {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Ok(0)
        }
        fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
            Ok(0)
        }
        fn size(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn set_size(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
        fn set_modified(&self, _: i64) -> io::Result<()> {
            Ok(())
        }
        fn map(&self, _: usize) -> io::Result<Mapping> {
            Ok(Mapping::from_bytes(Vec::new()))
        }
    }
    assert_eq!(write_all_at(&Refusing, b"x", 0).unwrap_err().kind(), io::ErrorKind::WriteZero);
    assert!(write_all_at(&Refusing, b"", 0).is_ok());
}

#[test]
fn messages_name_the_whole_path() {
    let disk = SimulatedDisk::new(1);
    disk.fail(When::next().and_ever_after(), Fault::Error(EIO));
    let error = sync_dir(&disk, Path::new("d")).unwrap_err();
    assert!(error.to_string().starts_with("cannot sync simulated/d: "), "{error}");
    let error = sync_dir(&disk, Path::new("")).unwrap_err();
    assert!(error.to_string().starts_with("cannot sync simulated: "), "{error}");
    assert_eq!(parent(Path::new("a")), Path::new(""));
    assert_eq!(parent(Path::new("d/a")), Path::new("d"));
}
