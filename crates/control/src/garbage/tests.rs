use schema::api::Time;

use super::*;

/// `name[ deleting][ foreground][ orphan][ <owner][ <!owner]` (`!`: it blocks the owner's deletion).
fn meta(text: &str) -> ObjectMeta {
    let mut words = text.split(' ');
    let name = words.next().unwrap().to_owned();
    let mut meta = ObjectMeta { uid: name.clone(), name, ..ObjectMeta::default() };
    for word in words {
        match word.strip_prefix('<') {
            Some(owner) => {
                let uid = owner.trim_start_matches('!').to_owned();
                meta.owner_references.push(OwnerReference {
                    name: uid.clone(),
                    uid,
                    block_owner_deletion: Some(owner.starts_with('!')),
                    ..OwnerReference::default()
                });
            }
            None if word == "deleting" => meta.deletion_timestamp = Some(Time { seconds: 1 }),
            None => meta.finalizers.push(if word == "orphan" { ORPHAN } else { FOREGROUND }.to_owned()),
        }
    }
    meta
}

/// Steps: an object's state, `-name` its end, `?name` an owner that was found, `~` events were missed. What is to be looked at after the last.
#[track_caller]
fn check(steps: &[&str], expected: &[&str]) -> Graph {
    let mut graph = Graph::default();
    let mut looked = Vec::new();
    for step in steps {
        looked.clear();
        match step.split_at(1) {
            ("-", name) => graph.remove(name),
            ("?", name) => graph.found(name),
            ("~", _) => graph.doubt_owners(),
            _ => {
                let meta = meta(step);
                graph.observe(&meta.uid, Node::new(0, &meta));
            }
        }
        while let Some(uid) = graph.take() {
            looked.push(uid.to_string());
        }
    }
    looked.sort();
    assert_eq!(looked, expected, "{steps:?}");
    graph
}

#[test]
fn what_cannot_matter_costs_nothing() {
    assert!(check(&["a", "b deleting", "c foreground"], &[]).is_empty());
    assert!(check(&["a <o", "a"], &[]).is_empty());
    let graph = check(&["a <o", "-a"], &[]);
    assert!(graph.is_empty() && graph.owned.is_empty());
}

#[test]
fn a_new_owner_is_asked_for_once() {
    check(&["a <o"], &["a"]);
    check(&["a <o", "a <o"], &[]);
    check(&["a <o", "?o", "b <o"], &[]);
    check(&["a <o", "b <o"], &["b"]);
    check(&["a <o", "?o", "a <o <p"], &["a"]);
    check(&["a <o", "?o", "~"], &["a"]);
    // An answer that is older than the owner's end.
    check(&["a <o", "-o", "?o", "b <o"], &["b"]);
}

#[test]
fn the_end_of_an_owner_concerns_its_dependents() {
    check(&["a <o", "b <o", "c <p", "?o", "-o"], &["a", "b"]);
}

#[test]
fn foreground_deletion_waits_for_those_that_block() {
    check(&["a <!o", "?o", "o deleting foreground"], &["a", "o"]);
    check(&["a <!o", "?o", "o deleting foreground", "-a"], &["o"]);
    check(&["a <!o", "?o", "o deleting foreground", "a <o"], &["o"]);
    check(&["a <!o", "?o", "o deleting foreground", "a"], &["o"]);
    check(&["a <!o", "?o", "o deleting foreground", "b <!o"], &["b"]);
    let graph = check(&["a <!o", "b <o", "o deleting foreground"], &["a", "b", "o"]);
    assert_eq!(graph.blocking("o").map(|(uid, _)| &**uid).collect::<Vec<_>>(), ["a"]);
    check(&["o deleting orphan"], &["o"]);
    check(&["o deleting orphan", "o deleting orphan"], &[]);
}

#[test]
fn a_list_tells_what_is_gone() {
    let mut graph = Graph::default();
    let node = |text: &str| {
        let meta = meta(text);
        (Uid::from(meta.uid.as_str()), Node::new(7, &meta))
    };
    graph.replace(7, vec![node("a <o"), node("b <a")]);
    while graph.take().is_some() {}
    graph.replace(7, vec![node("b <a")]);
    assert_eq!(graph.take().as_deref(), Some("b"));
    assert_eq!(graph.take(), None);
    graph.drop_resource(7);
    assert!(graph.is_empty());
}

#[test]
fn verdicts() {
    #[track_caller]
    fn check(object: &str, standings: &str, dependents: &[bool], expected: Verdict) {
        let standings: Vec<_> = standings
            .chars()
            .enumerate()
            .map(|(index, c)| {
                (
                    index.to_string(),
                    match c {
                        's' => Standing::Solid,
                        'd' => Standing::Dangling,
                        _ => Standing::Waiting,
                    },
                )
            })
            .collect();
        assert_eq!(decide(&meta(object), &standings, dependents), expected);
    }
    let release = |uids: &[&str]| Verdict::Release(uids.iter().map(|uid| (*uid).to_owned()).collect());
    check("a", "", &[], Verdict::Keep);
    check("a", "s", &[], Verdict::Keep);
    check("a", "sdw", &[], release(&["1", "2"]));
    check("a", "d", &[], Verdict::DeleteBackground);
    check("a", "dw", &[], Verdict::DeleteBackground);
    check("a", "dw", &[false], Verdict::DeleteForeground { unblock: false });
    check("a", "w", &[false, true], Verdict::DeleteForeground { unblock: true });
    check("a", "d", &[false], Verdict::DeleteBackground);
    check("a orphan", "d", &[], Verdict::DeleteOrphaning);
    check("a foreground", "d", &[], Verdict::DeleteForeground { unblock: false });
}

#[test]
fn standings() {
    let reference = OwnerReference { uid: "o".into(), ..OwnerReference::default() };
    for (live, expected) in [
        (None, Standing::Dangling),
        (Some("other"), Standing::Dangling),
        (Some("o"), Standing::Solid),
        (Some("o deleting"), Standing::Solid),
        (Some("o foreground"), Standing::Solid),
        (Some("o deleting foreground"), Standing::Waiting),
    ] {
        assert_eq!(Standing::of(&reference, live.map(meta).as_ref()), expected, "{live:?}");
    }
}
