//! Rows of named values, printed as a line for people or as one JSON object for programs.
//!
//! In JSON, bytes that are UTF-8 become a text under their own name; others become base64 under the name with `Base64`
//! behind it. In lines for people, what cannot be printed is escaped.

use std::fmt::{self, Display, Write as _};
use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::{Path, PathBuf};

/// One value of a row.
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(i128),
    Text(String),
    Bytes(Vec<u8>),
    /// Names and values, for headers of records.
    Pairs(Vec<(String, Value)>),
    /// A timestamp, whose kind is a value in JSON and the name in a line, as Kafka's tool prints it.
    Time(&'static str, i64),
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl From<$number> for Value {
            fn from(number: $number) -> Self {
                Value::Number(number as i128)
            }
        })*
    };
}
numbers!(u8, u32, u64, usize, i16, i32, i64);

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Value::Bytes(bytes.to_vec())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// One line of output.
pub(crate) struct Row {
    kind: &'static str,
    /// What a line for people begins with.
    prefix: &'static str,
    fields: Vec<(&'static str, Value)>,
}

impl Row {
    pub(crate) fn new(kind: &'static str, prefix: &'static str) -> Self {
        Row { kind, prefix, fields: Vec::new() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push((name, value.into()));
        self
    }
}

/// Where rows go, and what was found so far.
pub(crate) struct Output {
    out: BufWriter<StdoutLock<'static>>,
    json: bool,
    file: PathBuf,
    pub(crate) damages: u64,
    pub(crate) notes: u64,
    pub(crate) unreadable: u64,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let out = BufWriter::new(io::stdout().lock());
        Output { out, json, file: PathBuf::new(), damages: 0, notes: 0, unreadable: 0 }
    }

    /// Rows from here on are about this file.
    pub(crate) fn begin(&mut self, file: &Path) {
        self.file = file.to_path_buf();
    }

    /// As [`begin`](Self::begin), with a line that says so.
    pub(crate) fn announce(&mut self, file: &Path, bytes: u64) -> io::Result<()> {
        self.begin(file);
        if !self.json {
            return writeln!(self.out, "Dumping {} ({bytes} bytes)", file.display());
        }
        self.row(Row::new("file", "").with("bytes", bytes))
    }

    pub(crate) fn row(&mut self, row: Row) -> io::Result<()> {
        if self.json {
            let line = JsonRow(&row, &self.file).to_string();
            return writeln!(self.out, "{line}");
        }
        write!(self.out, "{}", row.prefix)?;
        for (index, (name, value)) in row.fields.iter().enumerate() {
            let space = if index > 0 { " " } else { "" };
            match value {
                Value::Time(kind, millis) => write!(self.out, "{space}{kind}: {millis}")?,
                value => write!(self.out, "{space}{name}: {}", Plain(value))?,
            }
        }
        writeln!(self.out)
    }

    /// Something is wrong with the file at hand.
    pub(crate) fn damage(&mut self, place: Place, what: impl Display) -> io::Result<()> {
        self.damages += 1;
        self.finding("damage", "DAMAGE ", place, &what)
    }

    /// Something worth knowing that is not wrong.
    pub(crate) fn note(&mut self, place: Place, what: impl Display) -> io::Result<()> {
        self.notes += 1;
        self.finding("note", "note   ", place, &what)
    }

    /// The operating system did not let us look.
    pub(crate) fn unreadable(&mut self, what: impl Display) -> io::Result<()> {
        self.unreadable += 1;
        self.finding("unreadable", "ERROR  ", Place::default(), &what)
    }

    fn finding(
        &mut self,
        kind: &'static str,
        prefix: &'static str,
        place: Place,
        what: &dyn Display,
    ) -> io::Result<()> {
        let mut row = Row::new(kind, prefix);
        if !self.json {
            row = row.with("file", self.file.display().to_string());
        }
        if let Some(position) = place.position {
            row = row.with("position", position);
        }
        if let Some(offset) = place.offset {
            row = row.with("offset", offset);
        }
        self.row(row.with("what", what.to_string()))
    }

    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Where in a file, and at which offset of the log, as far as that can be said.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place {
    pub(crate) position: Option<u64>,
    pub(crate) offset: Option<u64>,
}

impl Place {
    pub(crate) fn at(position: u64, offset: u64) -> Self {
        Place { position: Some(position), offset: Some(offset) }
    }

    pub(crate) fn offset(offset: u64) -> Self {
        Place { position: None, offset: Some(offset) }
    }
}

/// A value as people read it.
struct Plain<'a>(&'a Value);

impl Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("-"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Text(text) => f.write_str(text),
            Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => text.chars().try_for_each(|c| plain_character(f, c)),
                Err(_) => write!(f, "{}", bytes.escape_ascii()),
            },
            Value::Pairs(pairs) => {
                f.write_char('[')?;
                for (index, (name, value)) in pairs.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{}: {}", name.escape_debug(), Plain(value))?;
                }
                f.write_char(']')
            }
            Value::Time(kind, millis) => write!(f, "{kind} {millis}"),
        }
    }
}

fn plain_character(f: &mut fmt::Formatter<'_>, character: char) -> fmt::Result {
    match character {
        '"' | '\'' => f.write_char(character),
        other => write!(f, "{}", other.escape_debug()),
    }
}

/// A row as a JSON object.
struct JsonRow<'a>(&'a Row, &'a Path);

impl Display for JsonRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{\"kind\":{}", JsonText(self.0.kind))?;
        write!(f, ",\"file\":{}", JsonText(&self.1.to_string_lossy()))?;
        for (name, value) in &self.0.fields {
            f.write_char(',')?;
            json_field(f, name, value)?;
        }
        f.write_char('}')
    }
}

fn json_field(f: &mut fmt::Formatter<'_>, name: &str, value: &Value) -> fmt::Result {
    match value {
        Value::Null => write!(f, "{}:null", JsonText(name)),
        Value::Bool(value) => write!(f, "{}:{value}", JsonText(name)),
        Value::Number(number) => write!(f, "{}:{number}", JsonText(name)),
        Value::Text(text) => write!(f, "{}:{}", JsonText(name), JsonText(text)),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => write!(f, "{}:{}", JsonText(name), JsonText(text)),
            Err(_) => write!(f, "{}:\"{}\"", JsonText(&format!("{name}Base64")), Base64(bytes)),
        },
        Value::Pairs(pairs) => {
            // An array of objects, since the name of a header may come more than once.
            write!(f, "{}:[", JsonText(name))?;
            for (index, (key, value)) in pairs.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                write!(f, "{comma}{{\"key\":{},", JsonText(key))?;
                json_field(f, "value", value)?;
                f.write_char('}')?;
            }
            f.write_char(']')
        }
        Value::Time(kind, millis) => write!(f, "\"timestampType\":{},\"{name}\":{millis}", JsonText(kind)),
    }
}

struct JsonText<'a>(&'a str);

impl Display for JsonText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                // Lines must stay lines for readers that also split at the separators of Unicode.
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    write!(f, "\\u{:04x}", c as u32)?
                }
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

struct Base64<'a>(&'a [u8]);

impl Display for Base64<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for chunk in self.0.chunks(3) {
            let byte = |n: usize| u32::from(chunk.get(n).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for n in 0..4 {
                let digit = DIGITS.get((bits >> (18 - 6 * n) & 0x3f) as usize).copied().unwrap_or(b'=');
                f.write_char(if n <= chunk.len() { char::from(digit) } else { '=' })?;
            }
        }
        Ok(())
    }
}
