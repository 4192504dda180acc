//! `sticky` and `cooperative-sticky`: first assignments, and what stays where it is as members and topics come and go.

use std::collections::BTreeSet;

use annals::group::{Assignor, CooperativeStickyAssignor, RebalanceProtocol, StickyAssignor};

use super::{Group, STICKY, assert_is, loads, partitions};

/// A group of members that all want the same.
fn alike(topics: &str, ids: &[&str]) -> Group {
    let mut group = Group::new(topics);
    let names: Vec<String> = group.topics.keys().map(ToString::to_string).collect();
    for id in ids {
        group.join(id, &names.join(" "));
    }
    group
}

#[test]
fn names_and_protocols_are_those_of_kafka() {
    assert_eq!(StickyAssignor.name(), "sticky");
    assert_eq!(StickyAssignor.protocols(), [RebalanceProtocol::Eager]);
    assert_eq!(CooperativeStickyAssignor.name(), "cooperative-sticky");
    assert_eq!(
        CooperativeStickyAssignor.protocols(),
        [RebalanceProtocol::Cooperative, RebalanceProtocol::Eager]
    );
}

/// Topics, and members with what they want and what each gets at first.
type Case = (&'static str, &'static [(&'static str, &'static str, &'static str)]);

const FIRST: [Case; 13] = [
    ("", &[("a", "", "")]),
    ("t:0", &[("a", "t", "")]),
    ("", &[("a", "t", "")]),
    ("t:3", &[("a", "t", "t-0 t-1 t-2")]),
    ("t1:1 t2:2", &[("a", "t1 t2", "t1-0 t2-0 t2-1")]),
    ("t:1", &[("a", "t", "t-0"), ("b", "t", "")]),
    ("t:2", &[("a", "t", "t-0"), ("b", "t", "t-1")]),
    ("t1:3 t2:3", &[("a", "t1 t2", "t1-0 t1-2 t2-1"), ("b", "t1 t2", "t1-1 t2-0 t2-2")]),
    ("t1:2 t2:1", &[("a", "t2 t1 t1", "t1-0 t2-0"), ("b", "t1 t2", "t1-1")]),
    // A topic that is gone is no reason not to share out the others.
    ("t1:1 t3:3", &[("a", "t1 t2 t3", "t1-0 t3-0 t3-1 t3-2")]),
    ("t1:3 t2:2", &[("a", "t1", "t1-0 t1-2"), ("b", "t1 t2", "t2-0 t2-1"), ("c", "t1", "t1-1")]),
    (
        "t1:6 t2:7 t3:2",
        &[
            ("a", "t1 t2 t3", "t1-0 t1-3 t2-0 t2-3 t2-6"),
            ("b", "t1 t2 t3", "t1-1 t1-4 t2-1 t2-4 t3-0"),
            ("c", "t1 t2 t3", "t1-2 t1-5 t2-2 t2-5 t3-1"),
        ],
    ),
    (
        "t1:6 t2:7 t3:2",
        &[
            ("a", "t1 t2 t3", "t1-5 t2-0 t2-2 t2-4 t2-6"),
            ("b", "t1 t2 t3", "t1-3 t2-1 t2-3 t2-5 t3-0"),
            ("c", "t1 t3", "t1-0 t1-1 t1-2 t1-4 t3-1"),
        ],
    ),
];

#[test]
fn first_assignments_come_out_as_in_kafka_and_then_nothing_moves() {
    for (topics, members) in FIRST {
        let mut group = Group::new(topics);
        for (id, wanted, _) in members {
            group.join(id, wanted);
        }
        let expected: Vec<_> = members.iter().map(|&(id, _, gets)| (id, gets)).collect();
        for assignor in STICKY {
            let mut group = group.clone();
            for _ in 0..3 {
                assert_eq!(group.rebalance(assignor), 1);
                assert_is(&group.assignment(), &expected);
            }
        }
    }
}

#[test]
fn what_round_robin_does_badly_comes_out_even() {
    let mut group = Group::new("t1:2 t2:1 t3:2 t4:1 t5:2");
    for (id, wanted) in
        [("a", "t1 t2 t3 t4 t5"), ("b", "t1 t3 t5"), ("c", "t1 t3 t5"), ("d", "t1 t2 t3 t4 t5")]
    {
        group.join(id, wanted);
    }
    for assignor in STICKY {
        let mut group = group.clone();
        group.rebalance(assignor);
        assert_eq!(loads(&group.assignment()), [2, 2, 2, 2]);
    }
}

/// Topics, and members that want them all, with what each had and what it gets in the end.
const KEPT: [Case; 7] = [
    // What is not wanted any more is not kept.
    ("t:2", &[("a", "t-0 t-1 other-0 other-1", "t-0 t-1")]),
    // A partition that is no more, as a topic was made anew with fewer, is not kept either.
    ("t:2", &[("a", "t-1 t-5", "t-0 t-1")]),
    // Whoever has its share may get one more.
    ("t1:2 t2:3", &[("a", "t1-0 t2-1", "t1-0 t2-0 t2-1"), ("b", "t1-1 t2-2", "t1-1 t2-2")]),
    // Two have one more than their share, and only one can keep it.
    ("t1:2 t2:2", &[("a", "t1-0 t2-0", "t1-0 t2-0"), ("b", "t1-1 t2-1", "t1-1"), ("c", "", "t2-1")]),
    // All have less than their share.
    ("t1:2 t2:3", &[("a", "t1-0", "t1-0 t2-1"), ("b", "t1-1", "t1-1 t2-2"), ("c", "", "t2-0")]),
    // All have their share; nobody may get more than one of them has.
    ("t:4", &[("a", "t-0 t-1", "t-0 t-1"), ("b", "t-2", "t-2"), ("c", "", "t-3")]),
    // The newcomer gets what nobody has, and nothing moves.
    (
        "t:3 t1:3 t2:3 t3:3",
        &[
            ("a", "", "t1-2 t2-1 t3-0"),
            ("b", "t-0 t2-0 t1-0", "t-0 t1-0 t2-0"),
            ("c", "t3-2 t2-2 t1-1", "t1-1 t2-2 t3-2"),
            ("d", "t3-1 t-1 t-2", "t-1 t-2 t3-1"),
        ],
    ),
];

#[test]
fn what_may_stay_stays() {
    for (topics, members) in KEPT {
        let mut group = alike(topics, &members.iter().map(|(id, ..)| *id).collect::<Vec<_>>());
        for (id, had, _) in members {
            group.claim(id, partitions(had), 1);
        }
        let expected: Vec<_> = members.iter().map(|&(id, _, gets)| (id, gets)).collect();
        for assignor in STICKY {
            let mut group = group.clone();
            group.rebalance(assignor);
            assert_is(&group.assignment(), &expected);
        }
    }
}

#[test]
fn members_come_and_go() {
    for assignor in STICKY {
        let cooperative = assignor.protocols().len() == 2;
        let mut group = alike("t1:3 t2:4", &["a", "b"]);
        group.rebalance(assignor);
        assert_is(&group.assignment(), &[("a", "t1-0 t1-2 t2-1 t2-3"), ("b", "t1-1 t2-0 t2-2")]);

        // Both give up what is of the highest numbers.
        group.join("c", "t1 t2");
        group.join("d", "t1 t2");
        assert_eq!(group.rebalance(assignor), if cooperative { 2 } else { 1 });
        let joined = [("a", "t1-0 t2-1"), ("b", "t1-1 t2-0"), ("c", "t1-2 t2-3"), ("d", "t2-2")];
        assert_is(&group.assignment(), &joined);

        group.leave("a");
        group.leave("b");
        assert_eq!(group.rebalance(assignor), 1, "nobody gives up anything");
        assert_is(&group.assignment(), &[("c", "t1-0 t1-2 t2-1 t2-3"), ("d", "t1-1 t2-0 t2-2")]);
    }
}

#[test]
fn a_cooperative_member_gets_nothing_that_another_still_reads() {
    let mut group = alike("t:3", &["a"]);
    group.rebalance(&CooperativeStickyAssignor);
    group.join("b", "t");
    assert_is(&group.assign(&CooperativeStickyAssignor), &[("a", "t-0 t-1"), ("b", "")]);
    assert!(group.generation(&CooperativeStickyAssignor), "a finds one missing");
    assert_is(&group.assign(&CooperativeStickyAssignor), &[("a", "t-0 t-1"), ("b", "t-2")]);
    assert!(!group.generation(&CooperativeStickyAssignor));
    // Eager members have given up everything already.
    let mut group = alike("t:3", &["a"]);
    group.rebalance(&StickyAssignor);
    group.join("b", "t");
    assert_is(&group.assign(&StickyAssignor), &[("a", "t-0 t-1"), ("b", "t-2")]);
}

#[test]
fn a_cooperative_member_that_no_longer_wants_a_topic_gives_it_up_first() {
    let mut group = Group::new("t1:1 t2:1");
    group.join("a", "t1 t2");
    group.join("b", "t1 t2");
    group.rebalance(&CooperativeStickyAssignor);
    assert_is(&group.assignment(), &[("a", "t1-0"), ("b", "t2-0")]);
    group.join("a", "t2");
    // They are to swap, so both are without at first.
    assert_is(&group.assign(&CooperativeStickyAssignor), &[("a", ""), ("b", "")]);
    assert_eq!(group.rebalance(&CooperativeStickyAssignor), 2);
    assert_is(&group.assignment(), &[("a", "t2-0"), ("b", "t1-0")]);
}

#[test]
fn each_topic_stays_spread_over_all() {
    for assignor in STICKY {
        let mut group = alike("t1:12 t2:12", &["a"]);
        group.rebalance(assignor);
        let steps: [(&[&str], &[&str], usize); 3] =
            [(&["b"], &[], 6), (&["c", "d"], &[], 3), (&[], &["a", "b"], 6)];
        for (joining, leaving, each) in steps {
            for id in joining {
                group.join(id, "t1 t2");
            }
            for id in leaving {
                group.leave(id);
            }
            group.rebalance(assignor);
            for list in group.assignment().values() {
                for topic in ["t1", "t2"] {
                    let of_topic = list.iter().filter(|partition| partition.topic.as_str() == topic);
                    assert_eq!(of_topic.count(), each, "{topic} after {joining:?} and {leaving:?}");
                }
            }
        }
    }
}

#[test]
fn topics_come_and_go() {
    for assignor in STICKY {
        let mut group = alike("t:3", &["a", "b"]);
        group.rebalance(assignor);
        let before = group.clone();
        group.topics("t:3 t2:3");
        group.join("a", "t t2");
        group.join("b", "t t2");
        assert_eq!(group.rebalance(assignor), 1, "nothing moves");
        assert_eq!(loads(&group.assignment()), [3, 3]);
        for id in ["a", "b"] {
            assert!(group.owned(id).is_superset(&before.owned(id)));
        }

        let both = group.clone();
        group.topics("t2:3");
        group.join("a", "t2");
        group.join("b", "t2");
        group.rebalance(assignor);
        for id in ["a", "b"] {
            assert!(group.owned(id).is_subset(&both.owned(id)), "what is left of t2 is with whom it was");
        }

        group.topics("");
        group.rebalance(assignor);
        assert_eq!(loads(&group.assignment()), [0, 0]);
    }
}

#[test]
fn whoever_has_little_stays_with_it_as_the_leader_goes() {
    for assignor in STICKY {
        let mut group = alike("t:3", &["a", "b", "c", "d"]);
        group.rebalance(assignor);
        let before = group.clone();
        group.leave("a");
        group.rebalance(assignor);
        assert_eq!(loads(&group.assignment()), [1, 1, 1]);
        for id in ["b", "c", "d"] {
            assert!(group.owned(id).is_superset(&before.owned(id)), "{id}");
        }
    }
}

#[test]
fn members_that_want_different_topics_even_out_by_small_steps() {
    // a could take t2-0 from b, and b then t4-0 from c.
    for assignor in STICKY {
        let mut group = Group::new("t1:1 t2:1 t3:1 t4:1 t5:1 t6:1");
        group.join("a", "t1 t2");
        group.join("b", "t1 t2 t3 t4");
        group.join("c", "t2 t3 t4 t5 t6");
        group.claims(&[("a", "t1-0", 1), ("b", "t2-0 t3-0", 1), ("c", "t4-0 t5-0 t6-0", 1)]);
        group.rebalance(assignor);
        assert_is(&group.assignment(), &[("a", "t1-0"), ("b", "t2-0 t3-0"), ("c", "t4-0 t5-0 t6-0")]);
        // One more for c, and c has two more than b.
        group.topics("t1:1 t2:1 t3:1 t4:1 t5:1 t6:2");
        group.rebalance(assignor);
        assert_is(&group.assignment(), &[("a", "t1-0 t2-0"), ("b", "t3-0 t4-0"), ("c", "t5-0 t6-0 t6-1")]);
    }
}

#[test]
fn what_nobody_has_moves_before_what_somebody_has() {
    // t-0 goes to b and then s-0 too, as x and y have more; b can pass t-0 on to c, so that a need not give one.
    let mut group = Group::new("q:8 r:2 s:1 t:1");
    for (id, wanted) in [("a", "r"), ("b", "s t"), ("c", "r t"), ("x", "q s"), ("y", "q s")] {
        group.join(id, wanted);
    }
    let had = [("a", "r-0 r-1", 1), ("x", "q-0 q-1 q-2 q-3", 1), ("y", "q-4 q-5 q-6 q-7", 1)];
    group.claims(&had);
    for assignor in STICKY {
        let mut group = group.clone();
        assert_eq!(group.rebalance(assignor), 1);
        let [a, x, y] = had.map(|(id, owned, _)| (id, owned));
        assert_is(&group.assignment(), &[a, ("b", "s-0"), ("c", "t-0"), x, y]);
    }
}

#[test]
fn a_member_that_leaves_one_of_many_leaves_it_to_those_with_least() {
    // Nineteen topics of 1 to 19 partitions; member n wants the first n of them.
    let topics: Vec<String> = (1..20).map(|number| format!("t{number:02}:{number}")).collect();
    for assignor in STICKY {
        let mut group = Group::new(&topics.join(" "));
        for number in 1..20 {
            let wanted: Vec<String> = (1..=number).map(|number| format!("t{number:02}")).collect();
            group.join(&format!("c{number:02}"), &wanted.join(" "));
        }
        group.rebalance(assignor);
        let before = group.clone();
        group.leave("c10");
        group.rebalance(assignor);
        let moved: BTreeSet<_> =
            group.members.keys().flat_map(|id| &before.owned(id) - &group.owned(id)).collect();
        assert!(moved.is_empty(), "{moved:?}");
    }
}

#[test]
fn a_newcomer_is_the_only_one_to_gain() {
    let ids: Vec<String> = (1..10).map(|number| format!("c{number}")).collect();
    for assignor in STICKY {
        let mut group = alike("t:20", &ids.iter().map(String::as_str).collect::<Vec<_>>());
        group.rebalance(assignor);
        let before = group.clone();
        group.join("new", "t");
        group.rebalance(assignor);
        assert_eq!(group.owned("new").len(), 2);
        for id in &ids {
            assert!(group.owned(id).is_subset(&before.owned(id)), "{id}");
        }
    }
}
