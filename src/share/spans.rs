//! [`Spans`]: a value for each of many offsets, kept as ranges; neighbours with equal values are one.

use std::collections::BTreeMap;

/// Offsets from `first` to `last`, both included, and what they have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span<T> {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) value: T,
}

impl<T> Span<T> {
    pub(super) fn len(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// Ranges of offsets that do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spans<T> {
    /// The last offset and the value, by the first offset.
    by_first: BTreeMap<u64, (u64, T)>,
}

impl<T> Default for Spans<T> {
    fn default() -> Self {
        Spans { by_first: BTreeMap::new() }
    }
}

impl<T: Copy + Eq> Spans<T> {
    pub(super) fn len(&self) -> usize {
        self.by_first.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    /// The span that holds the offset.
    pub(super) fn at(&self, offset: u64) -> Option<Span<T>> {
        let (&first, &(last, value)) = self.by_first.range(..=offset).next_back()?;
        (offset <= last).then_some(Span { first, last, value })
    }

    /// All spans, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Span<T>> + '_ {
        self.by_first.iter().map(|(&first, &(last, value))| Span { first, last, value })
    }

    /// The spans from an offset on, in order; of the first, what lies there.
    pub(super) fn from(&self, offset: u64) -> impl Iterator<Item = Span<T>> + '_ {
        let begins = self.at(offset).map_or(offset, |span| span.first);
        let clipped = move |span: Span<T>| Span { first: span.first.max(offset), ..span };
        let spans = self.by_first.range(begins..);
        spans.map(move |(&first, &(last, value))| clipped(Span { first, last, value }))
    }

    /// The spans between two offsets, both included; of those at the ends, what lies between.
    pub(super) fn within(&self, first: u64, last: u64) -> Vec<Span<T>> {
        let inside = self.from(first).take_while(|span| span.first <= last);
        inside.map(|span| Span { last: span.last.min(last), ..span }).collect()
    }

    /// Gives the offsets from `first` to `last` a value, whatever they had.
    pub(super) fn set(&mut self, first: u64, last: u64, value: T) {
        self.clear(first, last);
        let (mut first, mut last) = (first, last);
        if let Some(before) = first.checked_sub(1).and_then(|before| self.at(before)) {
            if before.value == value {
                self.by_first.remove(&before.first);
                first = before.first;
            }
        }
        if let Some(&(end, next)) = self.by_first.get(&(last + 1)) {
            if next == value {
                self.by_first.remove(&(last + 1));
                last = end;
            }
        }
        self.by_first.insert(first, (last, value));
    }

    /// Takes the offsets from `first` to `last` out.
    pub(super) fn clear(&mut self, first: u64, last: u64) {
        if let Some(span) = self.at(first).filter(|span| span.first < first) {
            self.by_first.insert(span.first, (first - 1, span.value));
            if span.last > last {
                self.by_first.insert(last + 1, (span.last, span.value));
                return;
            }
        }
        while let Some((&begins, &(ends, value))) = self.by_first.range(first..=last).next() {
            self.by_first.remove(&begins);
            if ends > last {
                self.by_first.insert(last + 1, (ends, value));
            }
        }
    }

    /// Takes out everything below an offset.
    pub(super) fn clear_below(&mut self, offset: u64) {
        if let Some(last) = offset.checked_sub(1) {
            self.clear(0, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn model_of(spans: &Spans<u8>) -> Vec<Option<u8>> {
        (0..64).map(|offset| spans.at(offset).map(|span| span.value)).collect()
    }

    proptest! {
        #[test]
        fn spans_are_what_an_array_would_be(
            steps in prop::collection::vec((0u64..60, 0u64..8, prop::option::of(0u8..3)), 0..40)
        ) {
            let (mut spans, mut model) = (Spans::default(), vec![None; 64]);
            for (first, more, value) in steps {
                let last = (first + more).min(63);
                match value {
                    Some(value) => spans.set(first, last, value),
                    None => spans.clear(first, last),
                }
                model[first as usize..=last as usize].fill(value);
                prop_assert_eq!(model_of(&spans), model.clone());
                let all: Vec<_> = spans.iter().collect();
                for pair in all.windows(2) {
                    let touches = pair[0].last + 1 == pair[1].first;
                    prop_assert!(pair[0].last < pair[1].first, "they overlap: {:?}", all);
                    prop_assert!(!touches || pair[0].value != pair[1].value, "not one: {:?}", all);
                }
                let inside = spans.within(first, last);
                let counted: u64 = inside.iter().map(Span::len).sum();
                prop_assert_eq!(counted, value.map_or(0, |_| last - first + 1));
                let behind: u64 = spans.from(last).map(|span| span.len()).sum();
                prop_assert_eq!(behind, model[last as usize..].iter().flatten().count() as u64);
            }
        }
    }
}
