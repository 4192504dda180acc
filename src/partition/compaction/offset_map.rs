//! [`OffsetMap`]: the last offset of each key, in memory that is bounded (Kafka's `SkimpyOffsetMap`).
//!
//! Keys are not kept, only a hash of each. Two keys with the same hash would be one key, and the older record
//! would be lost; so the hash has 128 bits and a secret that nobody who writes records can know. (Kafka takes
//! MD5, of which anybody can make two keys.)

use std::fmt;

use siphasher::sip128::SipHasher24;

/// The hash of a key in two words, and its offset plus one: 0 is a slot that is free.
type Slot = [u64; 3];

const FREE: Slot = [0; 3];

/// Key to last offset, with open addressing. The memory is taken at once but touched only where a key falls,
/// so a small log does not cost more because a large one is allowed to.
pub(super) struct OffsetMap {
    slots: Vec<Slot>,
    pub(super) len: usize,
    capacity: usize,
    hasher: SipHasher24,
}

impl OffsetMap {
    /// What one slot takes, in bytes.
    pub(super) const SLOT_BYTES: usize = size_of::<Slot>();

    /// A map that takes `memory_bytes`, rounded down to whole slots. `secret` must be random and new.
    pub(super) fn new(memory_bytes: usize, secret: (u64, u64)) -> Self {
        let slots = memory_bytes / Self::SLOT_BYTES;
        OffsetMap {
            // Zeros come from the system as pages that do not exist until they are written.
            slots: vec![FREE; slots],
            len: 0,
            // Nine in ten, as in Kafka; so at least one slot is free, at which a search ends.
            capacity: slots / 10 * 9 + slots % 10 * 9 / 10,
            hasher: SipHasher24::new_with_keys(secret.0, secret.1),
        }
    }

    /// A map for at most so many keys, or for as many as fit into `memory_bytes`.
    pub(super) fn with_capacity_for(keys: u64, memory_bytes: usize, secret: (u64, u64)) -> Self {
        let slots = keys.saturating_add(keys / 9).saturating_add(2);
        let bytes = slots.saturating_mul(Self::SLOT_BYTES as u64);
        Self::new(usize::try_from(bytes).unwrap_or(usize::MAX).min(memory_bytes), secret)
    }

    /// Sets the last offset of a key. If the key is new and the map is full it returns false and changes
    /// nothing.
    pub(super) fn put(&mut self, key: &[u8], offset: u64) -> bool {
        let (hash, start) = self.locate(key);
        let (before, from) = self.slots.split_at_mut(start);
        let Some(slot) = from.iter_mut().chain(before).find(|slot| fits(slot, hash)) else { return false };
        if is_free(slot) {
            if self.len >= self.capacity {
                return false;
            }
            self.len += 1;
        }
        // Offsets have 63 bits.
        *slot = [hash[0], hash[1], offset.saturating_add(1)];
        true
    }

    /// The last offset of a key, if it was put.
    pub(super) fn get(&self, key: &[u8]) -> Option<u64> {
        let (hash, start) = self.locate(key);
        let (before, from) = self.slots.split_at(start);
        let [_, _, offset] = from.iter().chain(before).find(|slot| fits(slot, hash))?;
        offset.checked_sub(1)
    }

    /// How many keys it can hold.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The hash of a key, and the slot where the search for it begins.
    fn locate(&self, key: &[u8]) -> ([u64; 2], usize) {
        let hash = self.hasher.hash(key);
        // The product is spread over the slots as the hash is over 64 bits, without a division.
        let start = (u128::from(hash.h1) * self.slots.len() as u128) >> 64;
        ([hash.h1, hash.h2], start as usize)
    }
}

fn is_free(slot: &Slot) -> bool {
    slot[2] == 0
}

/// Whether a search for this hash ends here.
fn fits(slot: &Slot, hash: [u64; 2]) -> bool {
    is_free(slot) || [slot[0], slot[1]] == hash
}

impl fmt::Debug for OffsetMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the secret nor what it hides.
        f.debug_struct("OffsetMap").field("len", &self.len).field("capacity", &self.capacity).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const SECRET: (u64, u64) = (0x0123_4567_89ab_cdef, 42);

    #[test]
    fn nine_in_ten_slots_are_used_and_the_memory_is_kept_to() {
        let map = OffsetMap::new(24 * 100 + 23, SECRET);
        assert_eq!((map.capacity(), map.slots.len()), (90, 100));
        assert_eq!(OffsetMap::new(24 * 19, SECRET).capacity(), 17);
        assert_eq!(OffsetMap::new(24 * 2, SECRET).capacity(), 1);
    }

    #[test]
    fn a_map_without_room_holds_nothing() {
        for bytes in [0, 23, 24, 47] {
            let mut map = OffsetMap::new(bytes, SECRET);
            assert_eq!((map.capacity(), map.put(b"k", 1), map.get(b"k"), map.len), (0, false, None, 0));
        }
    }

    #[test]
    fn a_full_map_refuses_new_keys_and_takes_known_ones() {
        let mut map = OffsetMap::new(24 * 10, SECRET);
        for key in 0..9u8 {
            assert!(map.put(&[key], key.into()));
        }
        assert!(!map.put(b"new", 100));
        assert_eq!((map.get(b"new"), map.len), (None, 9));
        assert!(map.put(&[4], 101));
        assert_eq!((map.get(&[4]), map.get(&[5]), map.len), (Some(101), Some(5), 9));
    }

    #[test]
    fn offset_zero_and_the_largest_offset_and_the_empty_key_are_kept() {
        let mut map = OffsetMap::new(2400, SECRET);
        assert!(map.put(b"", 0) && map.put(b"a", crate::types::OFFSET_MAX));
        assert_eq!((map.get(b""), map.get(b"a")), (Some(0), Some(crate::types::OFFSET_MAX)));
    }

    #[test]
    fn room_for_so_many_keys_is_room_for_them_and_not_for_all_memory() {
        for keys in [0, 1, 8, 9, 10, 100, 12_345] {
            let map = OffsetMap::with_capacity_for(keys, 1 << 30, SECRET);
            assert!(map.capacity() as u64 >= keys, "{keys}");
            assert!(map.slots.len() as u64 <= keys * 10 / 9 + 2, "{keys}");
        }
        assert_eq!(OffsetMap::with_capacity_for(u64::MAX, 2400, SECRET).capacity(), 90);
    }

    #[test]
    fn the_secret_decides_where_keys_go() {
        let map = |secret| OffsetMap::new(24 << 20, secret);
        let (one, other) = (map(SECRET), map((SECRET.0, SECRET.1 + 1)));
        assert_eq!(one.locate(b"k"), map(SECRET).locate(b"k"));
        assert_ne!(one.locate(b"k"), other.locate(b"k"));
    }

    proptest! {
        #[test]
        fn it_says_what_a_hash_map_says(
            slots in 0usize..40,
            steps in vec((vec(0u8..6, 0..3), 0..=crate::types::OFFSET_MAX), 0..200),
        ) {
            let (mut map, mut model) = (OffsetMap::new(slots * 24, SECRET), HashMap::new());
            for (key, offset) in &steps {
                let room = model.contains_key(key) || model.len() < slots * 9 / 10;
                prop_assert_eq!(map.put(key, *offset), room);
                if room {
                    model.insert(key.clone(), *offset);
                }
                prop_assert_eq!(map.len, model.len());
            }
            for (key, _) in &steps {
                prop_assert_eq!(map.get(key), model.get(key).copied());
            }
        }
    }
}
