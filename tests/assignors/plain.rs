//! `range` and `roundrobin`, which know nothing of before.

use annals::group::{Assignor, RangeAssignor, RoundRobinAssignor};

use super::{Group, assert_is};

/// Topics, the members with what they want and what each gets of `range` and of `roundrobin`.
type Case = (&'static str, &'static [(&'static str, &'static str, &'static str, &'static str)]);

const CASES: [Case; 13] = [
    ("", &[("a", "", "", "")]),
    ("", &[("a", "gone", "", "")]),
    ("t1:0", &[("a", "t1", "", "")]),
    ("t1:3", &[("a", "t1", "t1-0 t1-1 t1-2", "t1-0 t1-1 t1-2")]),
    ("t1:3 other:3", &[("a", "t1", "t1-0 t1-1 t1-2", "t1-0 t1-1 t1-2")]),
    ("t1:1 t2:2", &[("a", "t2 t1", "t1-0 t2-0 t2-1", "t1-0 t2-0 t2-1")]),
    ("t1:1", &[("a", "t1", "t1-0", "t1-0"), ("b", "t1", "", "")]),
    ("t1:2", &[("a", "t1", "t1-0", "t1-0"), ("b", "t1", "t1-1", "t1-1")]),
    (
        "t1:3 t2:2",
        &[
            ("a", "t1", "t1-0", "t1-0"),
            ("b", "t1 t2", "t1-1 t2-0 t2-1", "t1-1 t2-0 t2-1"),
            ("c", "t1", "t1-2", "t1-2"),
        ],
    ),
    (
        "t1:3 t2:3",
        &[
            ("a", "t1 t2", "t1-0 t1-1 t2-0 t2-1", "t1-0 t1-2 t2-1"),
            ("b", "t1 t2", "t1-2 t2-2", "t1-1 t2-0 t2-2"),
        ],
    ),
    // To ask twice is no use.
    ("t1:2 t2:1", &[("a", "t2 t1 t1", "t1-0 t2-0", "t1-0 t2-0"), ("b", "t1 t2", "t1-1", "t1-1")]),
    // Members that want nothing are passed over, and so are those that want something else.
    (
        "t1:7 t2:1",
        &[
            ("a", "", "", ""),
            ("b", "t1", "t1-0 t1-1 t1-2 t1-3", "t1-0 t1-2 t1-4 t1-6"),
            ("c", "t2", "t2-0", "t2-0"),
            ("d", "t1 gone", "t1-4 t1-5 t1-6", "t1-1 t1-3 t1-5"),
        ],
    ),
    // Where `roundrobin` does badly: c has nothing, and could have had half of what a and b have.
    (
        "t1:2 t2:1 t3:2 t4:1 t5:2",
        &[
            ("a", "t1 t2 t3 t4 t5", "t1-0 t2-0 t3-0 t4-0 t5-0", "t1-0 t3-0 t5-0"),
            ("b", "t1 t3 t5", "t1-1 t3-1 t5-1", "t1-1 t3-1 t5-1"),
            ("c", "t1 t3 t5", "", ""),
            ("d", "t1 t2 t3 t4 t5", "", "t2-0 t4-0"),
        ],
    ),
];

#[test]
fn each_case_comes_out_as_in_kafka() {
    for (topics, members) in CASES {
        let mut group = Group::new(topics);
        for (id, wanted, ..) in members {
            group.join(id, wanted);
        }
        let range: Vec<_> = members.iter().map(|&(id, _, range, _)| (id, range)).collect();
        assert_is(&group.assign(&RangeAssignor), &range);
        let round_robin: Vec<_> = members.iter().map(|&(id, _, _, round_robin)| (id, round_robin)).collect();
        assert_is(&group.assign(&RoundRobinAssignor), &round_robin);
    }
}

#[test]
fn names_are_those_of_kafka() {
    assert_eq!(RangeAssignor.name(), "range");
    assert_eq!(RoundRobinAssignor.name(), "roundrobin");
    for assignor in [&RangeAssignor as &dyn Assignor, &RoundRobinAssignor] {
        assert_eq!(assignor.user_data(&[], 3), None, "they want to know nothing");
    }
}

#[test]
fn static_members_come_first_by_their_places() {
    let mut group = Group::new("t1:3 t2:3");
    group.join("consumer-b", "t1 t2").instance_id = Some("instance1".to_owned());
    group.join("consumer-a", "t1 t2").instance_id = Some("instance2".to_owned());
    for dynamic in [false, true] {
        if dynamic {
            group.join("consumer-a", "t1 t2").instance_id = None;
        }
        assert_is(
            &group.assign(&RangeAssignor),
            &[("consumer-b", "t1-0 t1-1 t2-0 t2-1"), ("consumer-a", "t1-2 t2-2")],
        );
        assert_is(
            &group.assign(&RoundRobinAssignor),
            &[("consumer-b", "t1-0 t1-2 t2-1"), ("consumer-a", "t1-1 t2-0 t2-2")],
        );
    }
}

/// A group of static members at three places, under whatever ids they have this time, and one without a place.
fn with_static_members(topics: &str, ids: [&str; 3], dynamic: Option<&str>) -> Group {
    let mut group = Group::new(topics);
    for (place, id) in ids.into_iter().enumerate() {
        group.join(id, "t1 t2").instance_id = Some(format!("instance{place}"));
    }
    if let Some(id) = dynamic {
        group.join(id, "t1 t2");
    }
    group
}

#[test]
fn static_members_keep_theirs_whoever_comes_and_goes() {
    for dynamic in ["d", "e"] {
        let group = with_static_members("t1:5 t2:4", ["a", "b", "c"], Some(dynamic));
        assert_is(
            &group.assign(&RangeAssignor),
            &[("a", "t1-0 t1-1 t2-0"), ("b", "t1-2 t2-1"), ("c", "t1-3 t2-2"), (dynamic, "t1-4 t2-3")],
        );
        let group = with_static_members("t1:3 t2:3", ["a", "b", "c"], Some(dynamic));
        assert_is(
            &group.assign(&RoundRobinAssignor),
            &[("a", "t1-0 t2-1"), ("b", "t1-1 t2-2"), ("c", "t1-2"), (dynamic, "t2-0")],
        );
    }
}

#[test]
fn static_members_keep_theirs_when_they_come_back_under_other_ids() {
    for [one, two, three] in [["a", "b", "c"], ["a", "e", "d"], ["z", "y", "x"]] {
        let group = with_static_members("t1:5 t2:5", [one, two, three], None);
        assert_is(
            &group.assign(&RangeAssignor),
            &[(one, "t1-0 t1-1 t2-0 t2-1"), (two, "t1-2 t1-3 t2-2 t2-3"), (three, "t1-4 t2-4")],
        );
        assert_is(
            &group.assign(&RoundRobinAssignor),
            &[(one, "t1-0 t1-3 t2-1 t2-4"), (two, "t1-1 t1-4 t2-2"), (three, "t1-2 t2-0 t2-3")],
        );
    }
}

#[test]
fn range_gives_the_same_numbers_of_topics_alike() {
    let mut group = Group::new("left:7 right:7 other:4");
    group.join("a", "left right other");
    group.join("b", "left right");
    group.join("c", "left right");
    let numbers = |list: &[annals::TopicPartition], topic: &str| -> Vec<u32> {
        let of_topic = list.iter().filter(|partition| partition.topic.as_str() == topic);
        of_topic.map(|partition| partition.partition).collect()
    };
    for list in group.assign(&RangeAssignor).values() {
        assert_eq!(numbers(list, "left"), numbers(list, "right"));
    }
}
