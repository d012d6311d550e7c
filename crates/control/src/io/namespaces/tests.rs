use super::*;

fn left(what: &str, count: u64, finalizers: &[(&str, u64)]) -> Remaining {
    let finalizers = finalizers.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    Remaining { what: what.to_owned(), count, finalizers, path: String::new(), revision: String::new() }
}

/// Conditions after reports at seconds 1, 2, …: `Type=Status@since reason: message` of those that are true or changed.
#[track_caller]
fn check(reports: Vec<Report>, expected: &[&str]) {
    let mut conditions = Vec::new();
    for (at, report) in reports.iter().enumerate() {
        update_conditions(&mut conditions, &bad_conditions(report), Time { seconds: at as i64 + 1 });
    }
    assert_eq!(conditions.len(), CONDITIONS.len());
    let told: Vec<_> = conditions
        .iter()
        .filter(|condition| condition.status == "True" || condition.last_transition_time.seconds > 1)
        .map(|condition| {
            format!(
                "{}={}@{} {}: {}",
                condition.r#type,
                condition.status,
                condition.last_transition_time.seconds,
                condition.reason,
                condition.message
            )
        })
        .collect();
    assert_eq!(told, expected);
}

#[test]
fn conditions_say_what_is_left_and_when_it_went() {
    check(vec![Report::default()], &[]);
    let waiting = || Report {
        remaining: vec![left("pods.", 2, &[("a/b", 1)]), left("as.x.io", 1, &[("a/b", 1)])],
        ..Report::default()
    };
    check(
        vec![waiting(), waiting()],
        &[
            "NamespaceContentRemaining=True@1 SomeResourcesRemain: Some resources are remaining: as.x.io has 1 resource instances, pods. has 2 resource instances",
            "NamespaceFinalizersRemaining=True@1 SomeFinalizersRemain: Some content in the namespace has finalizers remaining: a/b in 2 resource instances",
        ],
    );
    check(
        vec![waiting(), Report::default()],
        &[
            "NamespaceContentRemaining=False@2 ContentRemoved: All content successfully removed",
            "NamespaceFinalizersRemaining=False@2 ContentHasNoFinalizers: All content-preserving finalizers finished",
        ],
    );
    let failing = Report { errors: vec!["b".into(), "a".into()], undiscovered: Some("no".into()), ..Report::default() };
    check(
        vec![Report::default(), failing],
        &[
            "NamespaceDeletionDiscoveryFailure=True@2 DiscoveryFailed: no",
            "NamespaceDeletionContentFailure=True@2 ContentDeletionFailed: Failed to delete all resource types, 2 remaining: a, b",
        ],
    );
}
