//! The records that a partition directory written by Kafka must give, read from its list: one JSON object a line.
//!
//! This reads exactly what `tests/compat/kafka/*.expected.jsonl` holds and panics at anything else.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

/// One record as Kafka's own classes read it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub offset: u64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub codec: String,
    /// `none`, `committed`, `aborted` or `open`.
    pub transaction: String,
    /// `COMMIT` or `ABORT` of a transaction marker.
    pub control: Option<String>,
    pub leader_epoch: i64,
    pub producer_id: i64,
}

/// All records of a list, in order.
pub fn read_expected(path: &Path) -> Vec<Expected> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(parse_line).collect()
}

fn parse_line(line: &str) -> Expected {
    let mut reader = Reader { rest: line };
    let Json::Object(mut fields) = reader.value() else { panic!("no object: {line}") };
    assert_eq!(reader.rest, "", "something behind the object");
    let mut field = |name: &str| fields.remove(name).unwrap_or_else(|| panic!("no {name} in {line}"));
    let record = Expected {
        offset: field("offset").number() as u64,
        timestamp: field("timestamp").number(),
        key: field("key").bytes(),
        value: field("value").bytes(),
        headers: field("headers").headers(),
        codec: field("codec").text().unwrap(),
        transaction: field("txn").text().unwrap(),
        control: field("control").text(),
        leader_epoch: field("leader_epoch").number(),
        producer_id: field("pid").number(),
    };
    assert!(fields.is_empty(), "more fields than are known: {fields:?}");
    record
}

#[derive(Debug)]
enum Json {
    Null,
    Number(i64),
    Text(String),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    fn number(self) -> i64 {
        let Json::Number(number) = self else { panic!("no number: {self:?}") };
        number
    }

    fn text(self) -> Option<String> {
        match self {
            Json::Null => None,
            Json::Text(text) => Some(text),
            other => panic!("no text: {other:?}"),
        }
    }

    fn bytes(self) -> Option<Vec<u8>> {
        self.text().map(|text| base64(&text))
    }

    fn headers(self) -> Vec<(String, Option<Vec<u8>>)> {
        let Json::List(pairs) = self else { panic!("no list: {self:?}") };
        let header = |pair| match pair {
            Json::List(pair) => {
                let [key, value] = <[Json; 2]>::try_from(pair).unwrap();
                (key.text().unwrap(), value.bytes())
            }
            other => panic!("no pair: {other:?}"),
        };
        pairs.into_iter().map(header).collect()
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn value(&mut self) -> Json {
        match self.rest.as_bytes()[0] {
            b'{' => {
                let fields = self.items('{', '}', |reader| {
                    let name = reader.string();
                    reader.expect(":");
                    (name, reader.value())
                });
                Json::Object(fields.into_iter().collect())
            }
            b'[' => Json::List(self.items('[', ']', Reader::value)),
            b'"' => Json::Text(self.string()),
            b'n' => {
                self.expect("null");
                Json::Null
            }
            _ => {
                let end =
                    self.rest.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(self.rest.len());
                let (number, rest) = self.rest.split_at(end);
                self.rest = rest;
                Json::Number(number.parse().unwrap())
            }
        }
    }

    fn items<T>(&mut self, open: char, close: char, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut items = Vec::new();
        self.rest = self.rest.strip_prefix(open).unwrap();
        while !self.rest.starts_with(close) {
            if !items.is_empty() {
                self.expect(",");
            }
            items.push(item(self));
        }
        self.rest = &self.rest[1..];
        items
    }

    /// A string; nothing in these lists needs an escape.
    fn string(&mut self) -> String {
        self.expect("\"");
        let (text, rest) = self.rest.split_once('"').unwrap();
        assert!(!text.contains('\\'), "an escape: {text}");
        self.rest = rest;
        text.to_owned()
    }

    fn expect(&mut self, text: &str) {
        self.rest = self.rest.strip_prefix(text).unwrap_or_else(|| panic!("no {text:?} at {}", self.rest));
    }
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = DIGITS.iter().position(|&known| known == digit).unwrap();
        bits = (bits << 6) | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    assert_eq!(bits, 0, "stray bits at the end of {text}");
    bytes
}
