//! Claims that contradict each other: of members that missed a generation, of two at once, of older clients; and the
//! user data in which they stand.

use std::collections::BTreeSet;

use annals::format::consumer_protocol::{StickyUserData, decode_generation, encode_generation};
use annals::group::{Assignor, CooperativeStickyAssignor, StickyAssignor};
use annals::{FormatError, TopicPartition};

use super::{Group, STICKY, assert_is, loads, partitions};

fn set(text: &str) -> BTreeSet<TopicPartition> {
    partitions(text).into_iter().collect()
}

#[test]
fn of_two_claims_the_later_generation_holds() {
    for stale in [9, 8, -1] {
        let mut group = Group::new("t:3 t2:3");
        group.join("a", "t t2");
        group.join("b", "t t2");
        group.claims(&[("a", "t-0 t-2 t2-1", 10), ("b", "t-0 t-2 t2-1", stale)]);
        for assignor in STICKY {
            let mut group = group.clone();
            group.rebalance(assignor);
            assert_is(&group.assignment(), &[("a", "t-0 t-2 t2-1"), ("b", "t-1 t2-0 t2-2")]);
        }
    }
}

#[test]
fn a_stale_claim_holds_where_nobody_contradicts() {
    let mut group = Group::new("t:3 t2:3");
    group.join("a", "t t2");
    group.join("b", "t t2");
    group.claims(&[("a", "t-0 t2-1 t-1", 10), ("b", "t-0 t2-1 t2-2", 8)]);
    for assignor in STICKY {
        let mut group = group.clone();
        group.rebalance(assignor);
        assert_is(&group.assignment(), &[("a", "t-0 t-1 t2-1"), ("b", "t-2 t2-0 t2-2")]);
    }

    let mut group = Group::new("t:3 t2:3 t3:3");
    for id in ["a", "b", "c"] {
        group.join(id, "t t2 t3");
    }
    group.claims(&[("a", "t-0 t2-0 t3-0", 10), ("b", "t-1 t2-1 t3-1", 9), ("c", "t2-1 t3-0 t3-2", 8)]);
    for assignor in STICKY {
        let mut group = group.clone();
        group.rebalance(assignor);
        assert_is(
            &group.assignment(),
            &[("a", "t-0 t2-0 t3-0"), ("b", "t-1 t2-1 t3-1"), ("c", "t-2 t2-2 t3-2")],
        );
    }
}

#[test]
fn two_claims_of_one_generation_are_none() {
    let cases = [
        ("t:3", [("a", "t-1"), ("b", "t-2"), ("c", "t-0")]),
        ("t:4", [("a", "t-1 t-3"), ("b", "t-2"), ("c", "t-0")]),
    ];
    for (topics, expected) in cases {
        let mut group = Group::new(topics);
        for id in ["a", "b", "c"] {
            group.join(id, "t");
        }
        group.claims(&[("a", "t-0 t-1", 1), ("b", "t-0 t-2", 1), ("c", "", 1)]);
        assert_is(&group.assign(&StickyAssignor), &expected);
        // Both have to give it up before c gets it.
        let at_first = group.assign(&CooperativeStickyAssignor);
        assert_is(&at_first, &[expected[0], expected[1], ("c", "")]);
        assert_eq!(group.rebalance(&CooperativeStickyAssignor), 2);
        assert_is(&group.assignment(), &expected);
    }
}

#[test]
fn two_claims_of_one_generation_do_not_let_a_third_one_in() {
    // In whatever order they are read: t-0 is neither a's nor b's, and c's claim is of before.
    for ids in [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"]] {
        let [one, two, third] = ids;
        let mut group = Group::new("t:3");
        for id in ids {
            group.join(id, "t");
        }
        group.claims(&[(one, "t-0 t-1", 5), (two, "t-0 t-2", 5), (third, "t-0", 4)]);
        let expected = [(one, "t-1"), (two, "t-2"), (third, "t-0")];
        assert_is(&group.assign(&StickyAssignor), &expected);
        assert_is(&group.assign(&CooperativeStickyAssignor), &[expected[0], expected[1], (third, "")]);
    }
}

#[test]
fn one_who_comes_back_gets_its_own_back() {
    // c missed a generation in which b got all that c had.
    for (alike, topics) in [(true, "t t2"), (false, "t")] {
        let mut group = Group::new("t:6 t2:6");
        group.join("a", "t t2");
        group.join("b", topics);
        group.join("c", "t t2");
        group.rebalance(&StickyAssignor);
        assert_eq!(loads(&group.assignment()), [4, 4, 4]);
        let before = group.clone();
        let mut c = group.members["c"].clone();

        group.leave("c");
        group.rebalance(&StickyAssignor);
        assert_eq!(loads(&group.assignment()), [6, 6]);
        assert!(group.owned("b").is_superset(&before.owned("b")));
        if alike {
            assert!(group.owned("a").is_superset(&before.owned("a")));
        }

        c.subscription.topics = group.join("a", "t t2").subscription.topics.clone();
        group.members.insert("c".to_owned(), c);
        group.rebalance(&StickyAssignor);
        assert_eq!(loads(&group.assignment()), [4, 4, 4]);
        if alike {
            assert_eq!(group.owned("c"), before.owned("c"));
        }
    }
}

#[test]
fn whoever_had_it_last_gets_back_what_its_owner_gives_up() {
    let cases = [
        ([("a", "", 3), ("c", "t-1 t-2", 1)], [("a", "t-4 t-5"), ("c", "t-1 t-2")]),
        ([("a", "t-1", 2), ("c", "t-1 t-2", 1)], [("a", "t-1 t-4"), ("c", "t-2 t-5")]),
        ([("a", "t-1", 1), ("c", "t-1 t-2", 2)], [("a", "t-4 t-5"), ("c", "t-1 t-2")]),
    ];
    for (claims, [a, c]) in cases {
        let mut group = Group::new("t:6 other:2");
        for id in ["a", "b", "c"] {
            group.join(id, "t");
        }
        group.claims(&claims);
        group.claims(&[("b", "t-0 t-1 t-2 t-3 t-4 t-5", 3)]);
        assert_is(&group.assign(&StickyAssignor), &[a, ("b", "t-0 t-3"), c]);
        // The same where not all want the same.
        group.join("d", "other");
        let d = ("d", "other-0 other-1");
        assert_is(&group.assign(&StickyAssignor), &[a, ("b", "t-0 t-3"), c, d]);
    }
}

#[test]
fn who_claims_twice_does_not_contradict_itself() {
    let mut group = Group::new("t:4");
    group.join("a", "t");
    group.join("b", "t");
    group.claims(&[("a", "t-3 t-2 t-3", 1), ("b", "t-0 t-1", 1)]);
    assert_is(&group.assign(&CooperativeStickyAssignor), &[("a", "t-2 t-3"), ("b", "t-0 t-1")]);
}

#[test]
fn all_come_back_with_what_they_had_before_one_had_everything() {
    for (first, last) in [("t t2 t3", "t t2 t3"), ("t", "t t2")] {
        let mut group = Group::new("t:4 t2:4 t3:4");
        group.join("a", first);
        group.join("b", "t t2 t3");
        group.join("c", last);
        group.rebalance(&StickyAssignor);
        assert_eq!(loads(&group.assignment()), [4, 4, 4]);
        let before = group.clone();
        group.leave("a");
        group.leave("c");
        group.rebalance(&StickyAssignor);
        assert_eq!(loads(&group.assignment()), [12]);
        for id in ["a", "c"] {
            group.members.insert(id.to_owned(), before.members[id].clone());
        }
        group.rebalance(&StickyAssignor);
        assert_eq!(group.assignment(), before.assignment(), "everything is back where it was");
    }
}

#[test]
fn claims_that_contradict_each_other_in_three_generations() {
    for first in ["t t2 t3", "t"] {
        let mut group = Group::new("t:4 t2:4 t3:4");
        group.join("a", first);
        group.join("b", if first == "t" { "t t2" } else { first });
        group.join("c", "t t2 t3");
        let stale = if first == "t" { "t-0 t-1 t-2 t-3" } else { "t-0 t-1 t-2 t2-2 t2-3 t3-0" };
        let (b, c) = ("t-0 t-1 t2-0 t2-1 t2-2 t2-3", "t-2 t-3 t3-0 t3-1 t3-2 t3-3");
        group.claims(&[("a", stale, 1), ("b", b, 2), ("c", c, 2)]);
        for assignor in STICKY {
            let mut group = group.clone();
            group.rebalance(assignor);
            assert_eq!(loads(&group.assignment()), [4, 4, 4]);
            assert!(group.owned("b").is_subset(&set(b)));
            assert!(group.owned("c").is_subset(&set(c)));
        }
    }

    for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
        let mut group = Group::new("t:6 t1:1");
        for id in ["a", "b", "c"] {
            group.join(id, "t");
        }
        group.join("d", "t1");
        group.claims(&[
            ("a", "t-0 t-2", order[0]),
            ("b", "t-1 t-2 t-3", order[1]),
            ("c", "t-2 t-4 t-5", order[2]),
            ("d", "t1-0", 2),
        ]);
        for assignor in STICKY {
            let mut group = group.clone();
            group.rebalance(assignor);
            assert_eq!(loads(&group.assignment()), [2, 2, 2, 1]);
        }
    }
}

#[test]
fn user_data_of_sticky() {
    assert_eq!(StickyAssignor.user_data(&[], -1), None, "before the first assignment");
    let owned = partitions("orders-2 clicks-1 orders-0");
    let data = StickyAssignor.user_data(&owned, 7).unwrap();
    assert_eq!(
        data,
        &b"\0\0\0\x02\0\x06clicks\0\0\0\x01\0\0\0\x01\
           \0\x06orders\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\x07"[..]
    );
    let sorted = partitions("clicks-1 orders-0 orders-2");
    assert_eq!(
        StickyUserData::decode(&data),
        Ok(StickyUserData { partitions: sorted.clone(), generation: 7 })
    );
    // Version 0 has no generation.
    let version_0 = &data[..data.len() - 4];
    assert_eq!(StickyUserData::decode(version_0), Ok(StickyUserData { partitions: sorted, generation: -1 }));
    assert!(matches!(StickyUserData::decode(&data[..9]), Err(FormatError::Short { .. })));
    let nothing = StickyAssignor.user_data(&[], 3).unwrap();
    assert_eq!(
        StickyUserData::decode(&nothing),
        Ok(StickyUserData { partitions: Vec::new(), generation: 3 })
    );
}

#[test]
fn user_data_of_cooperative_sticky() {
    assert_eq!(encode_generation(258), [0, 0, 1, 2]);
    assert_eq!(decode_generation(&[0, 0, 1, 2, 9]), Ok(258));
    assert!(decode_generation(&[0, 0, 1]).is_err());
    let data = CooperativeStickyAssignor.user_data(&partitions("t-0"), -1);
    assert_eq!(data.as_deref(), Some(&[0xff; 4][..]), "even before the first assignment");
}

#[test]
fn sticky_believes_its_user_data_alone() {
    let mut group = Group::new("t:4");
    group.join("a", "t");
    group.join("b", "t");
    group.claims(&[("a", "t-2 t-3", 5), ("b", "t-0 t-1", 5)]);
    for id in ["a", "b"] {
        let subscription = &mut group.members.get_mut(id).unwrap().subscription;
        subscription.owned = partitions("t-0 t-1 t-2 t-3");
        subscription.generation = 9;
    }
    assert_is(&group.assign(&StickyAssignor), &[("a", "t-2 t-3"), ("b", "t-0 t-1")]);

    // User data of version 0, and of an assignor that nobody knows.
    let subscription = &mut group.members.get_mut("b").unwrap().subscription;
    subscription.user_data = subscription.user_data.take().map(|data| data.slice(..data.len() - 4));
    assert_is(&group.assign(&StickyAssignor), &[("a", "t-2 t-3"), ("b", "t-0 t-1")]);
    group.members.get_mut("a").unwrap().subscription.user_data = Some("what is this".into());
    assert_is(&group.assign(&StickyAssignor), &[("a", "t-2 t-3"), ("b", "t-0 t-1")]);
    group.members.get_mut("b").unwrap().subscription.user_data = None;
    assert_is(&group.assign(&StickyAssignor), &[("a", "t-0 t-2"), ("b", "t-1 t-3")]);
}

#[test]
fn cooperative_sticky_believes_the_subscription() {
    let mut group = Group::new("t:4");
    group.join("a", "t");
    group.join("b", "t");
    group.claims(&[("a", "t-2 t-3", 5), ("b", "t-2 t-3", 4)]);
    // What sticky would believe says the contrary.
    let other = StickyAssignor.user_data(&partitions("t-0 t-1"), 6);
    group.members.get_mut("b").unwrap().subscription.user_data = other;
    assert_is(&group.assign(&CooperativeStickyAssignor), &[("a", "t-2 t-3"), ("b", "t-0 t-1")]);

    // A subscription of version 1 has no generation; it is in the user data, if anywhere.
    let old = |group: &mut Group, id: &str, generation: Option<i32>| {
        let subscription = &mut group.members.get_mut(id).unwrap().subscription;
        subscription.generation = -1;
        subscription.user_data = generation.map(|generation| encode_generation(generation).to_vec().into());
    };
    old(&mut group, "b", Some(6));
    assert_is(&group.assign(&CooperativeStickyAssignor), &[("a", "t-0 t-1"), ("b", "t-2 t-3")]);
    old(&mut group, "b", None);
    assert_is(&group.assign(&CooperativeStickyAssignor), &[("a", "t-2 t-3"), ("b", "t-0 t-1")]);
    old(&mut group, "a", None);
    let neither = group.assign(&CooperativeStickyAssignor);
    assert_is(&neither, &[("a", "t-0"), ("b", "t-1")]);
}
