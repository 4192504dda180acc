//! Rules of this repository that no lint can say, kept by reading its files: layers, who may touch the world,
//! file heads, lengths, leftovers, and files that nobody refers to.

#![allow(clippy::panic, reason = "a test that cannot read its files has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `src/` and how high each stands. A module uses lower ones only; equals do not know each other.
const LAYERS: [(&str, u32); 15] = [
    ("error", 0),
    ("types", 1),
    ("wake", 1),
    ("clock", 1),
    ("observe", 5),
    ("fs", 10),
    ("format", 10),
    ("storage", 20),
    ("partition", 30),
    ("topic", 40),
    ("group", 50),
    ("transaction", 60),
    ("share", 60),
    ("producer", 70),
    ("consumer", 80),
];

/// rustfmt keeps code to 110; this holds for what it leaves alone, comments and texts.
const WIDTH_MAX: usize = 120;
const FUNCTION_LINES_MAX: usize = 70;

/// What only some modules may name, and which.
const RESERVED: [(&str, &[&str], &str); 10] = [
    ("std::fs", &["fs"], "only fs/ touches files"),
    ("memmap2", &["fs"], "only fs/ maps files"),
    ("rustix::fs", &["fs"], "only fs/ touches files"),
    ("unsafe", &["fs"], "only fs/ is unsafe"),
    ("SystemTime", &["clock"], "only clock.rs asks the time"),
    ("Instant", &["clock"], "only clock.rs asks the time"),
    ("thread::spawn", &[], "a thread has a name, and failing to start one is an error"),
    ("process::exit", &[], "a library does not end its process"),
    ("std::net", &[], "the crate opens no socket"),
    ("std::env", &[], "settings are passed, not found"),
];

/// The files that may start a thread which outlives the call.
const THREADS: [&str; 2] = ["src/topic/maintenance.rs", "src/producer/mod.rs"];

/// What must not be left behind. In two parts each, so that this file does not find itself.
const LEFTOVERS: [&str; 6] = [
    concat!("todo", "!("),
    concat!("dbg", "!("),
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("XX", "X"),
    concat!("HA", "CK:"),
];

#[test]
fn the_tree_keeps_its_rules() {
    let files = rust_files();
    assert!(files.len() > 30, "the sources were not found: {files:?}");
    let mut problems = Vec::new();
    for file in &files {
        problems.extend(check_file(&name_of(file), &read(file)));
    }
    problems.extend(orphans(&files));
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn the_documents_name_files_that_exist() {
    let mut problems = Vec::new();
    let mut checked = 0;
    for file in documents() {
        for named in named_files(&read(&file)) {
            checked += 1;
            if !root().join(named).exists() {
                problems.push(format!("{}: there is no {named}", name_of(&file)));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
    assert!(checked > 20, "only {checked} names were found");
}

/// Everything wrong with one file, each as `name:line: what`.
fn check_file(name: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let mut problems = Vec::new();
    let mut report = |line: usize, what: String| problems.push(format!("{name}:{line}: {what}"));
    if !text.starts_with("//!") {
        report(1, "a file begins with a `//!` sentence on what it owns".into());
    }
    if !text.ends_with('\n') || text.ends_with("\n\n") {
        report(text.lines().count(), "a file ends with one line end".into());
    }
    check_lines(text, &mut report);
    // A table of cases is as long as it has cases.
    if !name.starts_with("tests/") {
        check_functions(&code, &mut report);
    }
    if let Some(module) = module_of(name) {
        let production = without_tests(name, &code);
        check_layers(module, production, &mut report);
        check_reserved(module, production, &mut report);
        if !THREADS.contains(&name) {
            check_threads(production, &mut report);
        }
    }
    problems
}

type Report<'a> = dyn FnMut(usize, String) + 'a;

fn check_lines(text: &str, report: &mut Report<'_>) {
    let mut skipping = false;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        skipping |= line.starts_with("#[rustfmt::skip]");
        let width = line.chars().count();
        // A row of a table cannot be broken.
        let row = line.trim_start().trim_start_matches(['/', '!']).starts_with(" |");
        if width > WIDTH_MAX && !skipping && !row {
            report(number, format!("{width} characters, at most {WIDTH_MAX}"));
        }
        if skipping && matches!(line, "}" | "];" | "};") {
            skipping = false;
        }
        if line.ends_with([' ', '\t']) || line.contains('\t') {
            report(number, "a tab, or space at the end".into());
        }
        for leftover in LEFTOVERS.iter().filter(|leftover| line.contains(**leftover)) {
            report(number, format!("`{leftover}` is left over"));
        }
    }
}

/// Functions that do not fit a screen.
fn check_functions(code: &str, report: &mut Report<'_>) {
    let lines: Vec<&str> = code.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = function_on(line) else { continue };
        let length = body_length(lines.get(index..).unwrap_or_default());
        if length > FUNCTION_LINES_MAX {
            report(index + 1, format!("fn {name} has {length} lines, at most {FUNCTION_LINES_MAX}"));
        }
    }
}

/// The name of the function that begins on a line of code.
fn function_on(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let qualifiers = ["pub", "const", "async", "unsafe", "extern", ""];
    let item = before.split(' ').all(|word| qualifiers.contains(&word.split('(').next().unwrap_or("")));
    let name = after.split(['(', '<']).next()?.trim();
    let named = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    (item && named).then_some(name)
}

/// The lines from the head of a function to the brace that closes it; 0 if it has no body.
fn body_length(lines: &[&str]) -> usize {
    let mut depth = 0i64;
    let mut opened = false;
    for (index, line) in lines.iter().enumerate() {
        for character in line.chars() {
            match character {
                '{' => (depth, opened) = (depth + 1, true),
                '}' => depth -= 1,
                ';' if !opened && depth == 0 && !line.contains('[') => return 0,
                _ => {}
            }
            if opened && depth == 0 {
                return index + 1;
            }
        }
    }
    lines.len()
}

/// Every use of another module must go down.
fn check_layers(module: &str, code: &str, report: &mut Report<'_>) {
    let Some(own) = layer_of(module) else { return };
    for (number, line) in numbered(code) {
        for used in modules_used(line) {
            match layer_of(used) {
                _ if used == module => {}
                Some(layer) if layer < own => {}
                Some(_) => report(number, format!("{module} must not know {used}: it is not below")),
                None => report(number, format!("`crate::{used}` hides where it comes from: name its module")),
            }
        }
    }
}

fn check_reserved(module: &str, code: &str, report: &mut Report<'_>) {
    for (number, line) in numbered(code) {
        for (word, allowed, why) in RESERVED {
            if !allowed.contains(&module) && has_word(line, word) {
                report(number, format!("`{word}`: {why}"));
            }
        }
        if module == "format" && (has_word(line, "Mutex") || has_word(line, "RwLock")) {
            report(number, "format/ takes no lock".into());
        }
    }
}

/// Threads of a scope end with the call; others do not.
fn check_threads(code: &str, report: &mut Report<'_>) {
    for (number, line) in numbered(code).filter(|(_, line)| has_word(line, "spawn")) {
        if !has_word(line, "thread::spawn") {
            report(number, format!("`spawn`: no thread but those of {THREADS:?} outlives a call"));
        }
    }
}

/// The first names of the paths on a line that begin with `crate::`, those in braces included.
fn modules_used(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let path = &line[at + "crate::".len()..];
        let Some(list) = path.strip_prefix('{') else {
            found.extend(first_name(path));
            continue;
        };
        let (mut depth, mut start) = (1, 0);
        for (index, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => {}
                _ => continue,
            }
            if depth == 0 || (character == ',' && depth == 1) {
                found.extend(first_name(list[start..index].trim()));
                start = index + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

fn first_name(path: &str) -> Option<&str> {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    Some(&path[..end]).filter(|name| !name.is_empty())
}

fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

fn layer_of(module: &str) -> Option<u32> {
    LAYERS.iter().find(|(known, _)| *known == module).map(|(_, layer)| *layer)
}

/// The module that a file of `src/` belongs to; none for the front page and for other folders.
fn module_of(name: &str) -> Option<&str> {
    let module = name.strip_prefix("src/")?.split('/').next()?;
    Some(module.strip_suffix(".rs").unwrap_or(module)).filter(|module| *module != "lib")
}

/// What of a file is compiled for users: tests stand last, or in a file of their own.
fn without_tests<'a>(name: &str, code: &'a str) -> &'a str {
    if name.ends_with("/tests.rs") {
        return "";
    }
    code.find("\n#[cfg(test)]\nmod tests {").map_or(code, |at| &code[..at])
}

fn numbered(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// Files that no `mod` line and no document brings in.
fn orphans(files: &[PathBuf]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        let name = name_of(file);
        let Some(inner) = name.strip_prefix("src/").filter(|inner| *inner != "lib.rs") else { continue };
        let path = Path::new(inner);
        let module = if path.ends_with("mod.rs") { path.parent().unwrap_or(path) } else { path };
        let stem = module.file_stem().unwrap_or_default().to_string_lossy();
        let parent = match module.parent() {
            Some(parent) if parent.as_os_str().is_empty() => root().join("src/lib.rs"),
            Some(parent) => root().join("src").join(parent).join("mod.rs"),
            None => continue,
        };
        if !has_word(&code_of(&read(&parent)), &format!("mod {stem}")) {
            problems.push(format!("{name}: {} has no `mod {stem};`", name_of(&parent)));
        }
    }
    for page in documents() {
        let name = name_of(&page);
        if let Some(inner) = name.strip_prefix("src/docs/") {
            if !read(&root().join("src/docs/mod.rs")).contains(&format!("include_str!(\"{inner}\")")) {
                problems.push(format!("{name}: src/docs/mod.rs does not include it"));
            }
        }
    }
    problems
}

/// The files of the tree that a text names in backticks.
fn named_files(text: &str) -> Vec<&str> {
    let folders = ["src/", "tests/", "examples/", "benches/", ".ci/"];
    let quoted = text.split('`').skip(1).step_by(2);
    let is_file =
        |name: &&str| folders.iter().any(|folder| name.starts_with(folder)) && !name.contains([' ', '*']);
    quoted.filter(is_file).collect()
}

/// A Rust file with its comments, texts and characters blanked out, line by line as it was.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => text_length(rest),
            'r' | 'b' if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') => raw_text_length(rest),
            '\'' => character_length(rest),
            _ => 0,
        };
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[length..];
    }
    code
}

/// The length of the text in quotes at the front.
fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    for (index, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return index + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of the raw text (`r"…"`, `br#"…"#`) at the front, or 0.
fn raw_text_length(rest: &str) -> usize {
    let prefix = if rest.starts_with("br") { 2 } else { 1 };
    let hashes = rest[prefix..].chars().take_while(|&c| c == '#').count();
    if !rest.starts_with(['r', 'b']) || (prefix == 1 && rest.starts_with('b')) {
        return 0;
    }
    let opened = prefix + hashes;
    if !rest[opened..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    rest[opened + 1..].find(&end).map_or(rest.len(), |at| opened + 1 + at + end.len())
}

/// The length of the character in quotes at the front, or 0 for a lifetime.
fn character_length(rest: &str) -> usize {
    let inner = &rest[1..];
    if let Some(escape) = inner.strip_prefix('\\') {
        return escape.char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 3);
    }
    let mut characters = inner.char_indices();
    match (characters.next(), characters.next()) {
        (Some(_), Some((at, '\''))) => at + 2,
        _ => 0,
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn name_of(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

fn rust_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["src", "tests", "examples", "benches"] {
        collect(&root().join(folder), "rs", &mut files);
    }
    files
}

fn documents() -> Vec<PathBuf> {
    let mut files = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    collect(&root().join("src/docs"), "md", &mut files);
    files
}

fn collect(directory: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, extension, files);
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
}

/// The rules themselves are tested: each must find what it is for, and nothing in a good file.
mod rules {
    use super::*;

    const GOOD: &str = "//! Owns nothing.\n\nuse crate::error::Error;\n\nfn small() -> Error {\n    0\n}\n";

    fn found(name: &str, text: &str) -> String {
        check_file(name, text).join("\n")
    }

    #[test]
    fn a_good_file_passes() {
        assert_eq!(found("src/storage/x.rs", GOOD), "");
        let comment = "//! Uses `crate::topic` and unsafe in words, \"std::fs\" too.\n";
        assert_eq!(found("src/format/x.rs", comment), "");
        let text = "//! T.\nconst A: &str = \"crate::topic unsafe\";\nconst B: &str = r#\"std::fs \" x\"#;\n";
        assert_eq!(found("src/format/x.rs", text), "");
    }

    #[test]
    fn layers_go_down_only() {
        for (module, used, allowed) in [
            ("storage", "crate::fs::File", true),
            ("storage", "crate::storage::Segment", true),
            ("storage", "crate::partition::Partition", false),
            ("fs", "crate::format::Record", false),
            ("format", "crate::fs::File", false),
            ("clock", "crate::types::Uuid", false),
            ("error", "crate::types::Uuid", false),
            ("types", "crate::error::Error", true),
            ("partition", "crate::{error::Error, topic::Store}", false),
            ("partition", "crate::{error::{Error, Result}, storage::Segment}", true),
            ("topic", "crate::Error", false),
        ] {
            let text = format!("//! M.\n\nuse {used};\n");
            let problems = found(&format!("src/{module}/x.rs"), &text);
            assert_eq!(problems.is_empty(), allowed, "{module} uses {used}: {problems}");
        }
        let inline = "//! M.\n\nfn f() {\n    crate::topic::g();\n}\n";
        assert!(found("src/fs/x.rs", inline).contains("src/fs/x.rs:4: fs must not know topic"));
    }

    #[test]
    fn reserved_words_are_found_outside_their_module() {
        for (word, module) in [
            ("std::fs::File", "fs"),
            ("memmap2::Mmap", "fs"),
            ("unsafe { x }", "fs"),
            ("Instant::now()", "clock"),
            ("SystemTime::now()", "clock"),
        ] {
            let text = format!("//! M.\n\nfn f() {{\n    {word};\n}}\n");
            assert_eq!(found(&format!("src/{module}/x.rs"), &text), "", "{word}");
            assert!(found("src/partition/x.rs", &text).contains(":4: "), "{word}");
        }
        let tests = "//! M.\n\n#[cfg(test)]\nmod tests {\n    use std::fs::File;\n}\n";
        assert_eq!(found("src/partition/x.rs", tests), "");
        assert!(found("src/format/x.rs", "//! M.\n\nuse parking_lot::Mutex;\n").contains("no lock"));
        assert!(
            found("src/topic/x.rs", "//! M.\n\nfn f() {\n    std::thread::spawn(g);\n}\n").contains("thread")
        );
        let started = |thread: &str| format!("//! M.\n\nfn f() {{\n    Builder::new().{thread};\n}}\n");
        assert!(found("src/topic/x.rs", &started("spawn(g)")).contains(":4: `spawn`"));
        assert_eq!(found(THREADS[0], &started("spawn(g)")), "");
        assert_eq!(found("src/topic/x.rs", &started("spawn_scoped(scope, g)")), "", "it ends with the call");
        let unsafe_code = "//! M.\n\n#[expect(unsafe_code)]\nfn f() {}\n";
        assert_eq!(found("src/topic/x.rs", unsafe_code), "", "a word that only begins alike");
    }

    #[test]
    fn heads_ends_widths_and_leftovers_are_checked() {
        assert!(found("src/fs/x.rs", "fn f() {}\n").contains("begins with"));
        assert!(found("src/fs/x.rs", "//! M.").contains("line end"));
        assert!(found("src/fs/x.rs", "//! M.\n\n").contains("line end"));
        assert!(found("src/fs/x.rs", "//! M.\nfn f() {} \n").contains("space at the end"));
        let wide = format!("//! M.\nconst A: u8 = {};\n", "1".repeat(WIDTH_MAX));
        assert!(found("tests/x.rs", &wide).contains("at most 120"));
        let comment = |width: usize| format!("//! M.\n//{}\n", "x".repeat(width - 2));
        assert_eq!(found("tests/x.rs", &comment(WIDTH_MAX)), "");
        assert!(found("tests/x.rs", &comment(WIDTH_MAX + 1)).contains("at most 120"));
        let table = format!("//! M.\n#[rustfmt::skip]\nconst A: [u8; 1] = [\n    {},\n];\n", "1".repeat(200));
        assert_eq!(found("src/topic/x.rs", &table), "");
        assert_eq!(found("src/topic/x.rs", &format!("//! | {} |\n", "x".repeat(200))), "");
        for leftover in LEFTOVERS {
            let text = format!("//! M.\n// {leftover}\n");
            assert!(found("examples/x.rs", &text).contains("left over"), "{leftover}");
        }
    }

    #[test]
    fn long_functions_are_found_with_their_names() {
        let function = |lines: usize| {
            let body = "    let brace = '{'; // }\n".repeat(lines - 3);
            format!("//! M.\n\npub(crate) fn many(\n) {{\n{body}}}\n")
        };
        assert_eq!(found("src/fs/x.rs", &function(FUNCTION_LINES_MAX)), "");
        let problems = found("src/fs/x.rs", &function(FUNCTION_LINES_MAX + 1));
        assert!(problems.contains(":3: fn many has 71 lines"), "{problems}");
        let declared =
            format!("//! M.\n\ntrait T {{\n    fn one(&self);\n{}}}\n", "    // more\n".repeat(90));
        assert_eq!(found("src/fs/x.rs", &declared), "", "a method without a body");
        assert_eq!(function_on("    pub const unsafe fn f<T>(x: T) {"), Some("f"));
        assert_eq!(function_on("    take: impl Fn(u8) -> fn (u8),"), None);
    }

    #[test]
    fn code_is_told_from_texts() {
        let text = "a \"x\\\"y\" b // c\n'\\'' '\"' d 'e' br#\"f\"#\n/* g */ h<'i>(r\"j\") for'k: 'l'";
        let code = code_of(text);
        let words: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(words, ["a", "b", "d", "h<'i>(", ")", "for'k:"]);
        assert_eq!(code.lines().count(), text.lines().count());
    }

    #[test]
    fn names_of_files_are_found_in_documents() {
        let text = "See `src/lib.rs`, `Store`, and `tests/a.rs`; not `src/ x` or src/b.rs.";
        assert_eq!(named_files(text), ["src/lib.rs", "tests/a.rs"]);
    }
}
